"""Strings as numbers and back, and rows of scores as maps."""

import numpy as np
import pytest
from mlc.errors import InputError, MlcError
from mlc.runtime.handles import Handles, maps, words

CONSTANT = ["no", "yes", ""]


def table():
    return Handles(np.array(CONSTANT, object), dict(zip(CONSTANT, words(range(3)), strict=True)))


def texts(*items, shape=None):
    out = np.empty(len(items), object)
    out[:] = items
    return out.reshape(shape or out.shape)


@pytest.mark.parametrize(
    "items", [("yes",), ("no", "yes"), (), ("", "new"), ("a", "b", "a", "no"), (np.str_("yes"), "no"), (np.str_("x"),)]
)
def test_there_and_back(items):
    handles = table()
    numbers = handles.encode(texts(*items))
    assert numbers.dtype == np.int64 and numbers.shape == (len(items),)
    assert [items[i] == items[j] for i in range(len(items)) for j in range(i)] == [
        numbers[i] == numbers[j] for i in range(len(items)) for j in range(i)
    ]
    assert [int(n) for n, s in zip(numbers, items, strict=True) if s in CONSTANT] == [CONSTANT.index(s) for s in items if s in CONSTANT]
    back = handles.decode(numbers)
    assert back.dtype == object and back.tolist() == [str(s) for s in items] and {*map(type, back.tolist())} <= {str}


def test_strings_met_twice_are_the_same():
    handles = table()
    handles.of([1])
    first = handles.encode(texts("a", "b"))
    again = handles.encode(texts("b", "c", "no", "a", shape=(2, 2)))
    assert again.shape == (2, 2) and again[0, 0] == first[1] and again[1, 1] == first[0] and len({*first, *again.ravel()}) == 4


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1)])
def test_shapes(shape):
    numbers = np.ones(shape, np.int64)
    assert table().decode(numbers).shape == shape and table().encode(np.full(shape, "yes", object)).tolist() == numbers.tolist()


def test_bytes_are_decoded_and_other_elements_refused():
    assert table().encode(texts(b"yes", "no")).tolist() == [1, 0]
    for odd in (texts(3, 4), texts("no", None), texts("no", []), texts(b"\xff")):
        with pytest.raises(InputError, match="input x"):
            table().encode(odd, loc="input x")


def test_numbers_that_are_no_handles():
    for shape in ((), (1,)):
        with pytest.raises(MlcError, match="refers to nothing"):
            table().decode(np.full(shape, 7, np.int64))


@pytest.mark.parametrize("labels", [[5], ["a", "b"], [1, 2, 3], list(range(9))])
def test_maps(labels):
    x = np.arange(4 * len(labels), dtype=np.float32).reshape(4, -1)
    assert maps(x, labels) == [{k: float(v) for k, v in zip(labels, row, strict=True)} for row in x]
    assert maps(x[0], labels) == maps(x[:1], labels) and maps(x[:0], labels) == []
    with pytest.raises(InputError, match="labels"):
        maps(x, [*labels, -1])


def test_texts_have_handles_of_their_own():
    handles = table()
    first = handles.encode(texts("a", "no", "a", np.str_("b")), "text")
    second = handles.encode(texts("c", "d", shape=(2, 1)), "text")
    assert len({*first.ravel(), *second.ravel(), 0, 1, 2}) == 9
    for numbers, want in ((first, ["a", "no", "a", "b"]), (first[::-1], ["b", "a", "no", "a"]), (second, [["c"], ["d"]])):
        back = handles.decode(np.ascontiguousarray(numbers))
        assert back.tolist() == want and {*map(type, back.ravel().tolist())} == {str}
    assert handles.decode(np.array([first[3], 1, second[0, 0]])).tolist() == ["b", "yes", "c"]
    assert handles.decode(first[2]).shape == () and handles.decode(first[2])[()] == "a"
    with pytest.raises(InputError, match="input x"):
        handles.encode(texts("no", 3), "text", "input x")


def test_what_is_decoded_is_not_what_was_given():
    handles, given = table(), texts("a", "b")
    back = handles.decode(handles.encode(given, "text"))
    back[0] = "changed"
    assert given.tolist() == ["a", "b"]


def test_keys_that_the_model_does_not_know_are_alike():
    handles = table()
    assert handles.encode(texts("no", "new", "yes", "newer", b"no"), "key").tolist() == [0, -1, 1, -1, 0]
    with pytest.raises(InputError, match="element"):
        handles.encode(texts("no", 3), "key")


def test_objects_among_strings():
    handles = table()
    box = handles.of([1, 2])
    numbers = handles.encode(texts("a", "b"), "text")
    assert handles.value(box) == [1, 2] and handles.decode(numbers).tolist() == ["a", "b"] and handles.value(int(numbers[1])) == "b"
    for wrong in (box + 1, -1, 50):
        with pytest.raises(MlcError, match="refers to nothing"):
            handles.value(wrong)
