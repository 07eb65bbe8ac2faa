"""Float32 products, timed against multiply-adds in registers: sizes, models and the table."""

import mlc
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from mlc.errors import InputError
from mlc.models import __main__ as models
from mlc.models import products


def test_sizes_of_a_product_are_read_or_refused():
    assert products.parsed("128x768x3072") == (128, 768, 3072)
    for text in ("128x768", "0x2x3", "axbxc", "1x2x3x4", "1x2x-3"):
        with pytest.raises(InputError, match="MxNxK"):
            products.parsed(text)


def test_random_sizes_are_the_same_again_and_within_limits():
    found = products.drawn(40, seed=3)
    assert found == products.drawn(40, seed=3) != products.drawn(40, seed=4)
    assert all(256 <= d <= 2048 for size in found for d in size)
    assert all(m * n * k <= 10**9 for m, n, k in found)


def test_the_model_sums_products_by_different_weights():
    text = products.model_of((5, 7, 3), 4)
    weights = [onnx.numpy_helper.to_array(w) for w in onnx.load_from_string(text).graph.initializer]
    assert len({w.tobytes() for w in weights}) == 4
    x = np.random.default_rng(2).standard_normal((5, 3)).astype(np.float32)
    y = mlc.compile(text)(x)
    np.testing.assert_allclose(y, x @ sum(weights), rtol=1e-4, atol=1e-5)


def test_the_table_has_a_row_for_each_product():
    result = CliRunner().invoke(models.cli, ["bench-products", "16x32x48", "33x65x17"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["16 × 32 × 48", "33 × 65 × 17"]
    assert all(float(line.split("|")[3]) > 0 for line in lines[2:])
    assert "2 products: " in result.stdout
