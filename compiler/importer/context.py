"""What an operator handler sees of the import: attributes, known contents, and a way to emit nodes.

A handler is `def handler(ctx, node, ins) -> Sequence[Value]`: `ins` are the node's input values (None where an
optional input is absent), the result are its outputs in order (trailing optional ones may be left out).
Handlers are listed in literal tables `{(operator, since_version): handler}`; an operator outside the default
domain is written "domain::Operator".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from ...ir import (
    Const,
    Dim,
    DType,
    Expr,
    Node,
    Op,
    RunTimeSize,
    TensorType,
    Trait,
    Value,
    is_static,
    lower,
    sym,
    upper,
)  # fmt: skip
from ...ir.ops import Cast, Concat, Host, Reshape, Stretch, Within
from ...ir.ops.host import OBJECT, is_open
from .constraints import assumptions, constraints, contracted, narrowed, stretched
from .contents import Contents
from .held import Element, Held
from .index_ranges import ends
from .node_view import NodeView, UnsupportedError
from .region import Region
from .requirements import Requirements

Handler = Callable[["ImportContext", NodeProto, list[Value | None]], Sequence[Value]]
HandlerTable = Mapping[tuple[str, int], Handler]

# Emitted nodes whose inputs are constants are evaluated at once up to this many elements, so that shapes and scales
# computed from constants are known to later handlers. Larger ones are left to the folding pass.
FOLD_LIMIT = 4096

_MOST_SIZES = 1 << 16  # that a node reads from one tensor at run time, each a symbol


class ImportContext(NodeView, Contents, Requirements):
    """State of one import. `loc` is that of the node being imported; `opsets` those of the enclosing model or function."""

    def __init__(self, opsets: Mapping[str, int], tensor: Callable[[TensorProto], np.ndarray]) -> None:
        self.opsets = dict(opsets)
        NodeView.__init__(self, tensor)
        Contents.__init__(self)
        Requirements.__init__(self)
        self._checked: dict[Op, dict[Value, Value]] = {}
        self._size_of: dict[tuple[Value, int], Dim] = {}
        self._fresh = itertools.count()
        self.held: dict[Value, Held] = {}  # of values that are no tensors

    def opset(self, domain: str = "") -> int:
        """Version of the operator set in force (0 when the model does not import the domain)."""
        return self.opsets.get("" if domain == "ai.onnx" else domain, 0)

    def emit(self, op: Op, *inputs: Value) -> Node:
        """Append a node; small pure nodes of constants become constants."""
        node = Node.make(op, self._settled(op, inputs), self.loc)
        if not self.in_region:
            self.extents.update(d for t in node.types for d in t.shape if isinstance(d, Expr) and lower(d) < 0)
        for pair in constraints(node):
            self.require(*pair)
        for pair in assumptions(node):
            self.equal.setdefault(pair, False)
        foldable = (
            Trait.PURE in op.traits
            and not isinstance(op, Const)
            and len(node.types) == 1
            and is_static(node.types[0].shape)
            and all(isinstance(v.node.op, Const) for v in inputs)
            and upper(sum((v.type.numel for v in (*inputs, node.out)), 0)) <= FOLD_LIMIT
            and not _symbolic(op)
        )
        if not foldable:
            return node
        (result,) = op.reference(*(v.data for v in inputs))
        return Node.make(Const(np.asarray(result, node.types[0].dtype.np)), (), self.loc)

    def _settled(self, op: Op, inputs: Sequence[Value]) -> Sequence[Value]:
        """Operands with a number for a dim that has to equal that of the other operand."""
        settled = list(inputs)
        for i, axis, e in contracted(op, inputs):
            d = inputs[i].shape[axis]
            if isinstance(d, Expr) and isinstance(e, int):
                self.require_equal(d, e)
                shape = list(inputs[i].shape)
                shape[axis] = e
                settled[i] = self.emit(Reshape(tuple(shape)), inputs[i]).out
        if isinstance(op, Concat) and self.in_region:  # parts are written where the whole has room for them, in every run
            whole = Node.make(op, settled, self.loc).types[0].shape
            for i, v in enumerate(settled):
                part = tuple(d if axis == op.axis else e for axis, (d, e) in enumerate(zip(v.shape, whole, strict=True)))
                for d, e in zip(v.shape, part, strict=True):
                    self.require_equal(d, e)
                settled[i] = v if part == v.shape else self.emit(Reshape(part), v).out
        if self.stretch:
            for i, wide in list(stretched(op, settled)):
                settled[i] = self.emit(Stretch(wide), settled[i]).out
        else:
            for i, narrow in list(narrowed(op, settled)):
                self.equal.update({(d, 1): False for d, e in zip(settled[i].shape, narrow, strict=True) if d != e})
                settled[i] = self.emit(Reshape(narrow), settled[i]).out
        return settled

    def stretched(self, x: Value, shape: Sequence[Dim]) -> Value:
        """x, with axes that are not 1 for sure as long as those of `shape` (aligned at the end), if sizes may be stretched."""
        if not self.stretch:
            return x
        wide = tuple(d if d == 1 else e for d, e in zip(x.shape, shape[len(shape) - x.type.rank :], strict=True))
        return x if wide == x.shape else self.emit(Stretch(wide), x).out

    def require_dims(self, value: Value | None, what: str) -> tuple[Dim, ...]:
        """`dims`, or an OnnxImportError that says `what` has to be known at compile time."""
        found = self.dims(value)
        if found is None:
            raise UnsupportedError(
                f"{what} is computed from data at run time",
                expected="a value known at compile time (a constant, or arithmetic on dimensions)",
                remedy="fix the input's shape with shapes= / --shape, or simplify the model",
                loc=", ".join(self.loc),
            )
        return found

    def fresh(self) -> str:
        """Name of a new symbol (those of inputs have no dot)."""
        return f"n.{next(self._fresh)}"

    def size(self, value: Value, index: int = 0, lo: int = 0, hi: int = 2**62) -> Dim:
        """Element `index` (row-major) of an integer tensor as a dim: what is known of it, else a symbol read at run time.

        A run fails with an InputError where the element is not within lo and hi. Equal elements of one value are one symbol.
        """
        content = self.content(value)
        if content is not None:
            known = content.ravel()[index]
            if isinstance(known, (int, Expr)) and not isinstance(known, bool):
                return known
        key = (value, index)
        if key not in self._size_of:
            source = value if value.dtype is DType.I64 else self.emit(Cast(DType.I64), value).out
            name = self.fresh()
            self.sizes.append(RunTimeSize(name, source, index))
            self._size_of[key] = sym(name, lo, hi)
        return self._size_of[key]

    def require_sizes(self, value: Value | None, what: str, lo: int = 0) -> tuple[Dim, ...]:
        """Elements of a tensor of rank 0 or 1 as dims, read at run time where they are not known. Its length has to be."""
        found = self.dims(value)
        if found is not None:
            return found
        if value is None or not isinstance(value.type.numel, int) or value.type.rank > 1 or not value.dtype.is_int:
            return self.require_dims(value, what)
        if value.type.numel > _MOST_SIZES:
            raise self.unsupported(f"{what}, {value.type.numel} numbers that are computed at run time (at most {_MOST_SIZES})")
        return tuple(self.size(value, i, lo) for i in range(value.type.numel))

    def holding(self, value: Value) -> Element | Held:
        """What a sequence that holds the value holds."""
        return self.held[value] if value.dtype is DType.OBJECT else Element(value.dtype, value.shape)

    def object(self, op: Host, inputs: Sequence[Value], held: Held) -> Value:
        """Emit a host op whose result is no tensor."""
        value = self.emit(op, *inputs).out
        self.held[value] = held
        return value

    def run_host(self, make: Callable[[tuple[TensorType, ...]], Host], inputs: Sequence[Value], *results: Element) -> list[Value]:
        """Emit a host op whose results are tensors; dims that are None become symbols, read from what the op gives."""
        types, named = [], []
        for element in results:
            assert element.shape is not None
            names = [self.fresh() if d is None else "" for d in element.shape]
            types.append(TensorType(element.dtype, tuple(sym(n) if d is None else d for d, n in zip(element.shape, names, strict=True))))
            if is_open(types[-1]):
                named.append(names)
        node = self.emit(make(tuple(types)), *inputs)
        for names, shape in zip(named, node.outputs[len(results) :], strict=True):
            self.sizes += [RunTimeSize(n, shape, axis) for axis, n in enumerate(names) if n]
        return list(node.outputs[: len(results)])

    def taken(
        self, node: NodeProto, make: Callable[[tuple[TensorType, ...]], Host], inputs: Sequence[Value], element: Element | Held | None
    ) -> Value:
        """Emit a host op that takes an element out of a sequence or optional."""
        if isinstance(element, Held):
            return self.object(make((OBJECT,)), inputs, element)
        if element is None or element.shape is None:
            said = self.declared(node.output[0])
            if isinstance(said, Held):
                return self.object(make((OBJECT,)), inputs, said)
            shape = None if said is None or (element is not None and said.dtype is not element.dtype) else said.shape
            if said is None or shape is None:
                raise self.unsupported(f"{node.op_type} gives a tensor of unknown rank")
            element = Element(said.dtype, shape)
        return self.run_host(make, inputs, element)[0]

    def declared(self, name: str) -> Element | Held | None:
        """The type that the file gives a value, if any."""
        raise NotImplementedError

    def require_known(self, value: Value | None, what: str) -> np.ndarray:
        """`known`, or an OnnxImportError that says `what` has to be a constant."""
        found = self.known(value)
        if found is None:
            raise UnsupportedError(f"{what} is not a constant", expected="a constant", loc=", ".join(self.loc))
        return found

    def checked(self, index: Value, lo: Sequence[Dim], hi: Sequence[Dim]) -> Value:
        """Integers, each within lo to hi (`Within`): as they are where that is known, else compared when the model runs."""
        if index.dtype not in (DType.I32, DType.I64):
            index = self.emit(Cast(DType.I64), index).out
        found = ends(self, index)
        if found is not None and all(lower(found[0] - a) >= 0 and upper(found[1] - b) <= 0 for a, b in zip(lo, hi, strict=True)):
            return index
        op = Within(tuple(lo), tuple(hi))
        made = self._checked.setdefault(op, {})
        if index not in made:
            made[index] = self.emit(op, index).out
        return made[index]

    def index_of(self, index: Value, *sizes: Dim) -> Value:
        """Indices into axes of these sizes, where negative ones count from the end, compared with them if need be."""
        return self.checked(index, [d * -1 for d in sizes], [d - 1 for d in sizes])

    def named(self, name: str) -> Value:
        """The value that a name stands for where the node is."""
        raise NotImplementedError

    def expanded(self, node: NodeProto, opset: int, ins: Sequence[Value | None]) -> Sequence[Value]:
        """A node of the default domain by the function body that ONNX gives its operator. Raises UnsupportedError without one."""
        raise NotImplementedError

    def inline(self, graph: GraphProto, args: Sequence[Value]) -> list[Value]:
        """Import a subgraph in place: its inputs are `args`, what it reads from outside is read directly."""
        raise NotImplementedError

    def captured(self, region: Region, value: Value) -> Value:
        """What a value from outside is inside of a region."""
        raise NotImplementedError

    def inside(self, region: Region) -> AbstractContextManager[None]:
        """What is imported meanwhile belongs to a region; values from outside have to be `captured`."""
        raise NotImplementedError

    def trace(self, graph: GraphProto, args: Sequence[Value], region: Region) -> list[Value]:
        """Import a subgraph as a region of its own; values from outside become `Input` values in its captures."""
        raise NotImplementedError


def _symbolic(op: Op) -> bool:
    """True when a field of the op holds a symbolic dim (its reference cannot run)."""
    for name in op.__dataclass_fields__:
        value = getattr(op, name)
        if isinstance(value, Expr) or (isinstance(value, tuple) and any(isinstance(x, Expr) for x in value)):
            return True
    return False
