"""Cases of the onnx suite that are not run, each with its reason; "NAME MODE" leaves out one mode only."""

from __future__ import annotations

EXCLUDED: dict[str, str] = {}

# What is drawn at random cannot be what NumPy drew: every result is compared with what it may be, `cases.assert_drawn`. That the
# distribution is right shows tests/compiler/importer/test_random_nodes.py.
DRAWN = frozenset({
    "test_bernoulli", "test_bernoulli_double", "test_bernoulli_double_expanded", "test_bernoulli_expanded", "test_bernoulli_seed",
    "test_bernoulli_seed_expanded", "test_training_dropout", "test_training_dropout_default", "test_training_dropout_default_mask",
    "test_training_dropout_mask",
})  # fmt: skip
