"""The search over assignments, against losses that are known in closed form."""

import pytest
from mlc.compiler.precision.search import _most, search
from mlc.errors import InputError

LOSS = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}


def loss(assignment):
    return sum(LOSS[n] * (1.0 if p == "int8" else 0.1) for n, p in assignment.items())


def savings(int8=1.0, bf16=0.5):
    return {n: {"int8": int8, "bf16": bf16} for n in LOSS}


def test_everything_is_lowered_when_the_bound_allows():
    found = search(savings(), loss, 15.0)
    assert set(found.assignment.values()) == {"int8"} and found.loss == 15.0 and not found.kept


def test_least_sensitive_layers_go_first_and_the_rest_one_step_up():
    found = search(savings(), loss, 7.9)
    assert found.assignment == {"a": "int8", "b": "int8", "c": "int8", "d": "bf16"}
    assert found.loss == pytest.approx(7.8) and found.loss == pytest.approx(loss(found.assignment))
    assert list(found.kept) == ["d"] and "8" in found.kept["d"]


def test_what_costs_little_is_not_given_up_for_the_fastest_of_a_few_layers():
    """All in bf16 lose 1.5 and save 3.6; spending the bound on int8 first would leave nothing for the others."""
    assert search(savings(bf16=0.9), loss, 1.6).assignment == dict.fromkeys(LOSS, "bf16")


def test_gains_weigh_against_losses():
    found = search({"a": {"int8": 1}, "b": {"int8": 1}, "c": {"int8": 1}, "d": {"int8": 100}}, loss, 9.0)
    assert found.assignment == {"d": "int8", "a": "int8"}


def test_a_precision_that_loses_more_and_saves_less_is_never_taken():
    found = search({"a": {"bf16": 2.0, "int8": 1.0}, "b": {"int8": 1.0}}, loss, 0.5)
    assert found.assignment == {"a": "bf16"}


def test_what_was_asked_for_is_taken_though_it_saves_nothing():
    assert search({"a": {"int8": -1.0, "bf16": -2.0}}, loss, 0.5).assignment == {"a": "bf16"}


def test_estimates_guide_and_true_losses_decide():
    measured = []

    def true(assignment):
        measured.append(assignment)
        return loss(assignment) * 1.25

    found = search(savings(), true, 7.9, estimate=loss)
    assert found.loss <= 7.9 and found.loss == pytest.approx(1.25 * loss(found.assignment))
    assert len(measured) <= 5  # all, what the estimate says, one and two steps fewer, and the one between


def test_a_bound_that_nothing_meets_says_what_came_nearest():
    with pytest.raises(InputError, match="a, alone loses 1 in int8"):
        search({n: {"int8": 1.0} for n in LOSS}, loss, 0.5)


@pytest.mark.parametrize("total", [0, 1, 2, 7, 20])
def test_the_largest_count_is_found_from_any_guess(total):
    for most in range(total + 1):
        for guess in (0, 1, most, total, total + 3):
            tried = []
            assert _most(total, lambda c, most=most, tried=tried: tried.append(c) or c <= most, guess) == most
            assert all(1 <= c <= total for c in tried) and (guess != most or len(tried) <= 2)


def test_without_estimates_the_count_is_guessed_from_weights_and_few_losses_are_measured():
    """Errors of layers are independent: squares add up, so that the guess is right at once."""
    layers = {f"l{i}": 0.1 + 0.01 * i for i in range(60)}
    measured = []

    def true(assignment):
        measured.append(assignment)
        return sum(layers[n] ** 2 for n in assignment) ** 0.5

    found = search({n: {"int8": 1.0} for n in layers}, true, 2.0, weight=lambda a: 3 * sum(layers[n] ** 2 for n in a), power=2.0)
    assert found.loss <= 2.0 and len(measured) <= 3
    assert set(found.assignment) == set(list(layers)[: len(found.assignment)]) and found.loss > 1.9
    assert not found.alone and set(found.kept) == set(layers) - set(found.assignment)


def test_a_wrong_guess_ends_within_a_grain():
    tried = []
    assert 56 <= _most(100, lambda c: tried.append(c) or c <= 60, 20, 4) <= 60 and len(tried) <= 8
    assert _most(100, lambda c: c <= 1, 90, 4) == 1  # one step is better than none
