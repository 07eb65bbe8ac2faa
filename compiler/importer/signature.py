"""Types of a model's inputs: declared dims, symbols, and the sizes that a user fixes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from onnx import ValueInfoProto

from ...errors import OnnxImportError, VerifyError
from ...ir import Dim, DType, TensorType, substitute, sym
from ...ir.ops.host import OBJECT
from ...ir.printer import RESERVED
from .dim_names import DimNames, dim_name


class Signature:
    """Symbols of one model; `shapes` are the user's sizes by input, `names` what dims are called instead of what the file says."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], names: DimNames) -> None:
        self.shapes = shapes
        self.names = names
        self._symbols: dict[str, str] = {}

    def declared(self, info: ValueInfoProto) -> TensorType:
        """The type of an input; symbols for dims that are not numbers."""
        loc = f"input {info.name!r}"
        kind = info.type.WhichOneof("value")
        if kind in ("sequence_type", "optional_type", "map_type"):
            return OBJECT
        if kind != "tensor_type":
            raise OnnxImportError(f"has type {kind}", expected="a tensor, sequence, optional or map", loc=loc)
        tensor = info.type.tensor_type
        try:
            dtype = DType.from_onnx(tensor.elem_type)
        except VerifyError as e:
            raise OnnxImportError(e.found, expected="an element type of onnx.TensorProto", loc=loc) from None
        if not tensor.HasField("shape"):
            given = self.shapes.get(info.name)
            if given is None:
                raise OnnxImportError("has no shape", remedy=f"Give its shape: --shape {info.name}=…", loc=loc)
            return TensorType(dtype, tuple(self._fresh_dim(f"{info.name}_{i}") for i in range(len(given))))
        dims: list[Dim] = []
        for i, d in enumerate(tensor.shape.dim):
            name = dim_name(d)
            if d.HasField("dim_value") and d.dim_value >= 0:
                dims.append(d.dim_value)
            elif name:
                dims.append(self._symbol(self.names.get((info.name, i), name)))
            else:
                dims.append(self._fresh_dim(f"{info.name}_{i}"))
        return TensorType(dtype, tuple(dims))

    def _symbol(self, name: str) -> Dim:
        """The symbol of a dim_param: one name, one unknown."""
        if name not in self._symbols:
            clean = re.sub(r"\W", "_", name.lstrip("?"), flags=re.ASCII)
            clean = clean if re.match(r"[A-Za-z_]", clean) else f"d_{clean}"
            while clean in self._symbols.values() or clean in RESERVED:
                clean += "_"
            self._symbols[name] = clean
        return sym(self._symbols[name])

    def _fresh_dim(self, hint: str) -> Dim:
        return self._symbol(f"?{hint}")  # the mark keeps it apart from a dim_param of the same name

    def bindings(self, names: Sequence[str], types: Sequence[TensorType]) -> dict[str, Dim]:
        """What `shapes` makes of the symbols."""
        unknown = sorted(set(self.shapes) - set(names))
        if unknown:
            found = f"no input is called {', '.join(map(repr, unknown))}"
            raise OnnxImportError(found, expected=f"one of {', '.join(names)}" if names else "none", loc="shapes")
        bindings: dict[str, Dim] = {}
        for name, type_ in zip(names, types, strict=True):
            given = self.shapes.get(name)
            if given is None:
                continue
            loc = f"shape of input {name!r}"
            if len(given) != type_.rank:
                raise OnnxImportError(f"{[*given]} has {len(given)} dims", expected=f"{type_.rank} as in {type_}", loc=loc)
            for dim, size in zip(type_.shape, given, strict=True):
                if size < 0:
                    continue  # left open
                have = substitute(dim, bindings)
                if isinstance(have, int):
                    if have != size:
                        raise OnnxImportError(f"dimension {dim} is given as {size}", expected=str(have), loc=loc)
                else:
                    bindings[str(have)] = size
        return bindings
