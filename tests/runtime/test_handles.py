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
            table().encode(odd, "input x")


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
