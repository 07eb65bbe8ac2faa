"""What modules give, compared with what onnxruntime gives."""

from __future__ import annotations

from typing import Any

import mlc
import numpy as np
import onnx.parser
import onnxruntime

SILENT = 4  # as a level of its log: it warns of shapes that models declare on purpose


def parsed(signature: str, body: str, opset: int = 18) -> onnx.ModelProto:
    """A model of one graph in ONNX's text form, such as ("(float[N] x) => (float[N] y)", "y = Relu(x)")."""
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\nagraph {signature} {{ {body} }}')


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def same(got: Any, want: Any, name: str = "") -> None:
    """Tensors, sequences and optionals: of one shape and dtype, floats as near as float32 is behind a few operations."""
    if isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want), name
        for g, w in zip(got, want, strict=True):
            same(g, w, name)
    elif want is None:
        assert got is None, name
    else:
        want = np.asarray(want)
        fits = got.dtype == want.dtype or want.dtype.kind in "OU"
        assert got.shape == want.shape and fits, (name, got.dtype, got.shape, want.dtype, want.shape)
        if want.dtype.kind in "OUSbiu":
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)


def agree(model: onnx.ModelProto, *feeds: dict[str, Any], levels: tuple[int, ...] = (0, 3), threads: int = 2) -> mlc.Module:
    """Outputs are onnxruntime's for every feed, from one compilation a level, and again in another order. Returns the last module."""
    oracle = session(model)
    names = [o.name for o in oracle.get_outputs()]
    wanted = [(feed, oracle.run(None, feed)) for feed in feeds]
    for level in levels:
        module = mlc.compile(model, opt_level=level, threads=threads)
        for feed, want in (*wanted, *reversed(wanted)):
            got = module.run(feed)
            for name, w in zip(names, want, strict=True):
                same(got[name], w, f"{name} at -O{level}")
    return module
