"""mlc as a backend of the ONNX test suite: `onnx.backend.test.BackendTest(mlc.backend, __name__)`.

See `onnx.backend.base.Backend` for the interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper
from onnx.backend.base import Backend, BackendRep

from .compiler.api import compile
from .errors import CodegenError, MlcError, OnnxImportError
from .runtime.module import Module

__all__ = ["MlcBackend", "MlcBackendRep", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]

_FIXED_SIZE = 1024  # elements of inputs that may become constants
_SPECIALISATIONS = 16  # compilations that a model keeps for different values of such inputs


class MlcBackendRep(BackendRep):
    """A compiled model. One in which small inputs decide what only a compiler can (axes, say) is compiled for their values."""

    def __init__(self, model: ModelProto, **options: Any) -> None:
        self.model, self.options = model, options
        self.module: Module | None = None
        self.refusal: MlcError | None = None
        self.specialised: dict[tuple[Any, ...], Module] = {}
        known = {t.name for t in model.graph.initializer}
        self.names = [i.name for i in model.graph.input if i.name not in known]
        self.outputs = [o.name for o in model.graph.output]
        try:
            self.module = compile(model, **options)
        except (CodegenError, OnnxImportError) as e:
            if not _fixable(model, self.names):
                raise
            self.refusal = e

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in order; `inputs` by position, by name, or a single array."""
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            listed = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            feeds = dict(zip(self.names, listed, strict=False))
        if self.module is None:
            module, feeds = self._specialise(feeds)
        else:
            module = self.module
        got = module.run(feeds)
        return tuple(got[name] for name in self.outputs)

    def _specialise(self, feeds: dict[str, Any]) -> tuple[Module, dict[str, Any]]:
        fixed = {n: np.asarray(v) for n, v in feeds.items() if isinstance(v, (np.ndarray, np.generic)) and _small(v)}
        key = tuple((n, v.dtype.str, v.shape, v.tolist().__repr__()) for n, v in sorted(fixed.items()))
        if key not in self.specialised:
            try:
                module = compile(self.model, constants=fixed, **self.options)
            except (CodegenError, OnnxImportError):
                assert self.refusal is not None
                raise self.refusal from None
            if len(self.specialised) >= _SPECIALISATIONS:
                self.specialised.pop(next(iter(self.specialised)))
            self.specialised[key] = module
        return self.specialised[key], {n: v for n, v in feeds.items() if n not in fixed}


class MlcBackend(Backend):
    """Compiles for the CPU."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> MlcBackendRep:
        """Compile; keyword arguments that `mlc.compile` has go there. Raises MlcError."""
        options = {k: kwargs[k] for k in ("opt_level", "threads", "shapes", "exact") if k in kwargs}
        return MlcBackendRep(model, **options)

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence[tuple[Any, Sequence[int]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        """One node on arrays. `opset_version` and `outputs_info` (dtype and shape of each output) as in the base class."""
        given = dict(inputs) if isinstance(inputs, Mapping) else dict(zip([n for n in node.input if n], inputs, strict=False))
        infos = [helper.make_tensor_value_info(n, _onnx_type(v), np.shape(v)) for n, v in given.items()]
        outputs = [n for n in node.output if n]
        if outputs_info is None:
            results = [onnx.ValueInfoProto(name=n) for n in outputs]
        else:
            types = [helper.np_dtype_to_tensor_dtype(np.dtype(d)) for d, _ in outputs_info]
            results = [helper.make_tensor_value_info(n, t, s) for n, t, (_, s) in zip(outputs, types, outputs_info, strict=True)]
        opset = helper.make_opsetid(node.domain, kwargs.get("opset_version", onnx.defs.onnx_opset_version()))
        graph = helper.make_graph([node], "node", infos, results)
        model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[opset]))
        return cls.run_model(model, [np.asarray(v) for v in given.values()], device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.partition(":")[0] == "CPU"


def _onnx_type(value: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype))


def _small(value: Any) -> bool:
    return np.size(value) <= _FIXED_SIZE and np.ndim(value) <= 1


def _fixable(model: ModelProto, names: Sequence[str]) -> bool:
    """Whether some input may become a constant: a scalar or vector."""
    inputs = (i for i in model.graph.input if i.name in names)
    return any(i.type.HasField("tensor_type") and len(i.type.tensor_type.shape.dim) <= 1 for i in inputs)


is_compatible = MlcBackend.is_compatible
prepare = MlcBackend.prepare
run_model = MlcBackend.run_model
run_node = MlcBackend.run_node
supports_device = MlcBackend.supports_device
