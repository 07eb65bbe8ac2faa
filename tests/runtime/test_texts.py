"""Native loops over lists of strings, against what Python says of each."""

import re

import numpy as np
import pytest
from mlc.runtime.host import prepared
from mlc.runtime.texts import Texts, all_str, murmur, print_integers, read_integers

ODD = ["", "a", "ab", "abc", "abcd", "é", "日本語x", "\x00a\x00" * 7, "x" * 1001, " \n\t", "😀"]


def hashed(data, seed):
    """The definition, by Appleby."""
    word = 0xFFFFFFFF
    h = seed
    for at in range(0, len(data), 4):
        k = int.from_bytes(data[at : at + 4], "little") * 0xCC9E2D51 & word
        h ^= ((k << 15 | k >> 17) & word) * 0x1B873593 & word
        if at + 4 <= len(data):
            h = (((h << 13 | h >> 19) & word) * 5 + 0xE6546B64) & word
    h ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> shift) * factor & word
    return h ^ h >> 16


@pytest.mark.parametrize("seed", [0, 5, 2**32 - 1])
def test_hashes(seed):
    assert murmur(ODD * 20, seed).tolist() == [hashed(s.encode(), seed) for s in ODD] * 20
    assert murmur([], seed).shape == (0,)
    with pytest.raises(UnicodeEncodeError):
        murmur(["a", "\ud800"], seed)


def test_integers():
    x = np.array([0, -1, 5, 10, -(2**63), 2**63 - 1, *10 ** np.arange(19)], np.int64)
    assert print_integers(x) == [*map(str, x.tolist())] and print_integers(x[:0]) == []
    short = ["0", "-5", "+7", "0012", "9" * 18, "-" + "9" * 18]
    assert read_integers(short).tolist() == [*map(int, short)] and read_integers([]).tolist() == []
    for odd in ("", "-", "+", "1_0", " 1", "9" * 19, "1.0", "١", "\ud800", "1\x00", "--1"):  # some of them Python reads
        assert read_integers(["1", odd]) is None


def test_types():
    for count in (1, 15, 16, 500):
        assert all_str(["é"] * count)
        for odd in (None, b"a", np.str_("a"), 3, []):
            for at in {0, count - 1}:
                items = ["a"] * count
                items[at] = odd
                assert not all_str(items)
    assert all_str([])


def test_integers_in_models_are_those_of_python():
    cast = prepared("cast_string", {"to": "i64"})
    for items in (["1"] * 40, ["1"] * 40 + ["1_0", " 7 ", "9" * 19]):
        if len(items) > 40:
            items[-1] = "-9223372036854775808"
        assert cast(Texts(items, (len(items),))).tolist() == [*map(int, items)]
    with pytest.raises(ValueError, match="invalid literal"):
        cast(Texts(["1"] * 40 + ["x"], (41,)))
    for dtype in (np.int8, np.uint8, np.int32, np.uint64, np.int64):
        x = np.arange(80).reshape(2, 40).astype(dtype)
        x[0, 0] = np.iinfo(dtype).max
        got = prepared("cast_string", {"to": "str"})(x)
        assert got.items == [*map(str, x.ravel().tolist())] and got.shape == x.shape


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_print_alike_one_by_one_and_together(dtype):
    x = np.array([0, -0.0, 1, 1e-7, 12345, 3.3333333333, np.nan, np.inf, -np.inf, 6e4] * 5, dtype)
    together = prepared("cast_string", {"to": "str"})
    assert together(x).items == [s for v in x for s in together(v[None]).items]
    assert together(x).items[6:9] == ["NaN", "INF", "-INF"]


@pytest.mark.parametrize("expression", ["[a-zA-Z0-9_]+", "[abx]+", "[a-z]+", "[^b]+", "[a ]+", "a|b+", "(a)b*", "a*", "a$|^é"])
@pytest.mark.parametrize("least", [1, 2])
def test_tokens_of_many_texts_are_those_of_each(expression, least):
    tokens = prepared("tokenize", {"separators": [], "expression": expression, "least": least, "mark": False, "pad": "#"})
    texts = ["ab cd_1 B-b", "", "é a\nbé", "x y", "a\tb", "zz Z 0", "a\x00b\x00"]
    for items in (texts, texts * 9, texts[:1]):
        want = [[m.group() for m in re.finditer(expression, s) if len(m.group()) >= least] for s in items]
        width = max(map(len, want))
        got = tokens(Texts(items, (len(items), 1)))
        assert got.shape == (len(items), 1, width) and got.items == [t for r in want for t in [*r, *["#"] * (width - len(r))]]


def test_tokens_after_an_error():
    tokens = prepared("tokenize", {"separators": [" "], "expression": "", "least": 1, "mark": False, "pad": "#"})
    for _ in range(2):
        with pytest.raises(UnicodeEncodeError):
            tokens(Texts(["a b", "\ud800"], (2,)))
        assert tokens(Texts(["a b c", "d"], (2,))).items == ["a", "b", "c", "d", "#", "#"]
