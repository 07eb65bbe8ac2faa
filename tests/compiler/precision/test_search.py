"""The search over assignments, against losses that are known in closed form."""

import pytest
from mlc.compiler.precision.search import search
from mlc.errors import InputError

LOSS = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}


def loss(assignment):
    return sum(LOSS[n] * (1.0 if p == "int8" else 0.1) for n, p in assignment.items())


def ladders():
    return {n: ["int8", "bf16"] for n in LOSS}


def test_everything_is_lowered_when_the_bound_allows():
    found = search(ladders(), {}, loss, 15.0)
    assert set(found.assignment.values()) == {"int8"} and found.loss == 15.0 and not found.kept


def test_least_sensitive_layers_go_first_and_the_rest_one_rung_up():
    found = search(ladders(), dict.fromkeys(LOSS, 1.0), loss, 7.9)
    assert found.assignment == {"a": "int8", "b": "int8", "c": "int8", "d": "bf16"}
    assert found.loss == pytest.approx(7.8) and found.loss == pytest.approx(loss(found.assignment))
    assert list(found.kept) == ["d"] and "8" in found.kept["d"]


def test_gains_weigh_against_losses():
    found = search({n: ["int8"] for n in LOSS}, {"a": 1, "b": 1, "c": 1, "d": 100}, loss, 9.0)
    assert found.assignment == {"d": "int8", "a": "int8"}


def test_a_bound_that_nothing_meets_says_what_came_nearest():
    with pytest.raises(InputError, match="a, alone loses 1"):
        search({n: ["int8"] for n in LOSS}, {}, loss, 0.5)
