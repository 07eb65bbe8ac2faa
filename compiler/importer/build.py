"""The import itself: walks ONNX nodes in order, expands functions, traces subgraphs, collects what is unsupported."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto

from ...errors import MlcError, OnnxImportError, VerifyError
from ...ir import Dim, DType, Graph, Input, Node, TensorType, Value, substitute, sym
from .dim_names import DimNames
from .functions import resolved, schema_function, without_absent
from .handlers.table import find_handler, first_version
from .held import Element, Held, declared, to_proto
from .load import imported_opsets
from .names import Names, PoisonedError, Scope
from .node_view import UnsupportedError
from .order import free_names, node_loc
from .region import Region
from .shapes import evaluate_shapes
from .signature import Signature
from .tensors import TensorReader

_MAX_DEPTH = 64  # of functions and subgraphs inside each other
_MAX_RANK = 64  # as NumPy
_MAX_EXPANDED = 1 << 18  # nodes of all functions that are expanded: n of them that call the next twice make 2ⁿ nodes


class Importer(Names):
    """Imports one model; use `run` once."""

    def __init__(
        self, model: ModelProto, reader: TensorReader, shapes: Mapping[str, Sequence[int]] | None,
        departures: Sequence[bool] = (), pin: bool = False, constants: Mapping[str, np.ndarray] | None = None, stretch: bool = False,
        variable: Container[str] = (), names: DimNames = MappingProxyType({}),
    ) -> None:  # fmt: skip
        super().__init__(imported_opsets(model), reader, model.graph)
        self.model = model
        self.shapes = dict(shapes or {})
        self.names = names
        self.constants = dict(constants or {})
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.problems: list[str] = []
        self.expanded_nodes = 0
        self.in_function = False
        self.attr_bindings: Mapping[str, AttributeProto] = {}  # of the function being expanded
        self.departures = departures  # by question: whether its answer is the other than the first
        self.choices: dict[Dim, bool] = {}
        self.stretch = stretch
        self.variable = variable  # initializers that are inputs here
        self.pin = pin  # keep symbols that `shapes` fixes, and require their sizes
        self.failed_in_region = False

    def run(self) -> Graph:
        """The typed graph. Raises OnnxImportError."""
        proto = self.model.graph
        self.enter_graph(proto)
        self._fix_inputs(proto)
        formals = formal_inputs(proto, self.variable, self.constants)
        signature = Signature(self.shapes, self.names)
        types = [signature.declared(i) for i in formals]
        bindings = signature.bindings([i.name for i in formals], types)
        if self.pin:
            for symbol, size in bindings.items():
                self.require_equal(sym(symbol), size)
            bindings = {}
        inputs = [
            Node.make(Input(TensorType(t.dtype, tuple(substitute(d, bindings) for d in t.shape))), (), (f"input:{i.name}",)).out
            for i, t in zip(formals, types, strict=True)
        ]
        for formal, value in zip(formals, inputs, strict=True):
            self.scope.values[formal.name] = value
            said = declared(formal.type)
            if isinstance(said, Held):
                self.held[value] = said
        self._nodes(proto.node)
        outputs = []
        for o in proto.output:
            with suppress(PoisonedError):
                outputs.append(self._declared_output(o))
        if self.problems:
            shown = "".join(f"\n  - {p}" for p in self.problems)
            raise OnnxImportError(
                f"{len(self.problems)} unsupported operator{'s' if len(self.problems) > 1 else ''}:{shown}",
                remedy="Rewrite these nodes with supported operators, or report them.",
            )
        graph = Graph(
            tuple(inputs), tuple(outputs), tuple(i.name for i in formals), tuple(o.name for o in proto.output),
            proto.name or "main", tuple(self.equal), tuple(self.sizes), (*self.limits, *self.bound_limits),
            {p.key: p.value for p in self.model.metadata_props},
        )  # fmt: skip
        variables = self.variables
        if not variables:
            return graph
        return graph.rewrite(lambda n, _: [self.const(variables[n.outputs[0]])] if n.outputs[0] in variables else None)

    def _declared_output(self, info: ValueInfoProto) -> Value:
        """The value of an output. A model that promises its callers another element type is malformed; dims may be out of date."""
        value, said = self.lookup(info.name), info.type.tensor_type.elem_type
        if said and value not in self.held and DType.from_onnx(said) is not value.type.dtype:
            raise OnnxImportError(f"is computed as {value.type}", expected=_type_text(info.type), loc=f"output {info.name!r}")
        return value

    def _fix_inputs(self, proto: GraphProto) -> None:
        """Inputs that the caller made constants."""
        inputs = {i.name: i for i in proto.input}
        for name, array in self.constants.items():
            loc = f"constant {name!r}"
            if name not in inputs:
                raise OnnxImportError("there is no such input", expected=", ".join(inputs), loc=loc)
            said = declared(inputs[name].type)
            array = np.asarray(array)
            if not isinstance(said, Element) or DType.from_numpy(array.dtype) is not said.dtype:
                raise OnnxImportError(f"is an array of {array.dtype}", expected=_type_text(inputs[name].type), loc=loc)
            dims = inputs[name].type.tensor_type.shape.dim
            fits = len(dims) == array.ndim and all(
                not d.HasField("dim_value") or d.dim_value == n for d, n in zip(dims, array.shape, strict=True)
            )
            if inputs[name].type.tensor_type.HasField("shape") and not fits:
                raise OnnxImportError(f"has shape {list(array.shape)}", expected=_type_text(inputs[name].type), loc=loc)
            self.scope.values[name] = self.constant(name, array.astype(object) if said.dtype is DType.STRING else array, self.scope)

    def related(self) -> Iterator[tuple[Dim, ...]]:
        """Dims of which the model needs something together, or took it."""
        yield from self.equal
        yield from self.met
        yield from ((limit.dim, limit.lo, limit.hi) for limit in (*self.limits, *self.bound_limits))
        yield from ((truth,) for truth in self.choices)

    def decide(self, truth: Dim, first: bool) -> bool:
        if truth not in self.choices:
            asked = len(self.choices)
            self.choices[truth] = first != (asked < len(self.departures) and self.departures[asked])
        return self.choices[truth]

    # --- nodes ----------------------------------------------------------------------------------------------------

    def _nodes(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            outer = self.loc
            if not self.in_function:  # inside a function, the node that calls it is what the user knows
                self.loc = (node_loc(node),)
            try:
                self._node(node)
            except PoisonedError:
                self.poison(node)
            except RecursionError as e:
                raise OnnxImportError("subgraphs or functions are nested too deeply", loc=", ".join(self.loc)) from e
            except Exception as e:
                self.failed_in_region |= self.in_region
                self._failed(node, e)
            finally:
                self.loc = outer

    def _failed(self, node: NodeProto, e: Exception) -> None:
        """Collects that a node is not supported; raises any other error as one of the model."""
        loc = ", ".join(self.loc)
        match e:
            case UnsupportedError():
                self._report(node, str(e.found) + (f"; expected {e.expected}" if e.expected else ""))
                self.poison(node)
            case VerifyError():
                raise OnnxImportError(e.found, expected=e.expected, remedy=e.remedy, loc=loc) from e
            case MlcError():
                raise e
            case _:  # a handler met attributes or operands that the ONNX checker lets through
                raise OnnxImportError(
                    f"{node.op_type}({', '.join(self._input_types(node))}) cannot be imported: {type(e).__name__}: {e}",
                    expected="attributes and operands as the ONNX operator defines them", loc=loc,
                ) from e  # fmt: skip

    def _node(self, node: NodeProto) -> None:
        node = resolved(node, self.attr_bindings)
        domain = "" if node.domain == "ai.onnx" else node.domain
        local = self.functions.get((node.domain, node.op_type, node.overload))
        handler = None if local else find_handler(domain, node.op_type, self.opset(domain))
        body = local
        if handler is None and body is None:
            body = self._schema_function(node, domain)
        if handler is None and body is None:
            first = first_version(domain, node.op_type)
            newer = first is not None and first > self.opset(domain)
            self._report(node, f"there from version {first} on; onnx.version_converter may convert the model" if newer else "")
            raise PoisonedError
        ins = [self.lookup(name) if name else None for name in node.input]
        if domain == "" or local:
            for name in free_names(node) - set(node.input) if any(a.type == AttributeProto.GRAPH for a in node.attribute) else ():
                self.check_poison(name)
        if handler is not None:
            outs: Sequence[Value] | None = evaluate_shapes(self, node, ins, handler)
            if outs is None:
                outs = handler(self, node, ins)
        else:
            assert body is not None
            outs = self._expand(node, body, ins)
        for name, value in zip(node.output, outs, strict=False):
            if value.type.rank > _MAX_RANK:
                raise self.unsupported(f"a result of {value.type.rank} dimensions; at most {_MAX_RANK} are supported")
            if name:
                self.scope.values[name] = value
        missing = [name for name in node.output[len(outs) :] if name]
        if missing:
            raise self.unsupported(f"output {missing[0]!r} of {node.op_type} is not computed")

    def _input_types(self, node: NodeProto) -> list[str]:
        texts = []
        for name in node.input:
            try:
                texts.append(str(self.lookup(name).type) if name else "–")
            except (MlcError, PoisonedError):
                texts.append(_type_text(self.scope.declared[name]) if name in self.scope.declared else "?")
        return texts

    def _report(self, node: NodeProto, reason: str) -> None:
        domain = node.domain or "ai.onnx"
        text = f"{', '.join(self.loc) or node_loc(node)}: {node.op_type} ({domain} {self.opset(node.domain)})"
        text += f" of {', '.join(self._input_types(node)) or 'nothing'}"
        self.problems.append(f"{text}: {reason}" if reason else text)

    # --- functions and subgraphs ----------------------------------------------------------------------------------

    def _schema_function(self, node: NodeProto, domain: str) -> FunctionProto | None:
        return schema_function(
            node,
            domain,
            self.opset(domain),
            lambda: [to_proto(self.holding(self.lookup(n))).SerializeToString() if n else b"" for n in node.input],
        )

    def _expand(self, node: NodeProto, body: FunctionProto, ins: Sequence[Value | None]) -> list[Value]:
        if self.depth >= _MAX_DEPTH:
            raise OnnxImportError(f"function {body.name} is nested more than {_MAX_DEPTH} deep", loc=", ".join(self.loc))
        self.expanded_nodes += len(body.node)
        if self.expanded_nodes > _MAX_EXPANDED:
            raise OnnxImportError(f"functions expand to more than {_MAX_EXPANDED} nodes", loc=", ".join(self.loc))
        bindings: dict[str, AttributeProto] = {a.name: a for a in (*body.attribute_proto, *node.attribute)}
        scope = Scope()
        for i, formal in enumerate(body.input):
            value = ins[i] if i < len(ins) else None
            if value is not None:
                scope.values[formal] = value
        saved = self.scope, self.opsets, self.attr_bindings, self.in_function
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in body.opset_import}
        self.scope, self.opsets, self.attr_bindings = scope, {**self.opsets, **opsets}, bindings
        self.depth += 1
        self.in_function = True
        try:
            self._nodes(without_absent(body, scope.values))
            wanted = [name for name, out in zip(body.output, node.output, strict=False) if out]
            found = {name: self.lookup(name) for name in wanted}
            # A skipped optional output keeps its place; any value will do there.
            return [found.get(name, next(iter(found.values()))) for name in body.output[: len(node.output)]]
        finally:
            self.depth -= 1
            self.scope, self.opsets, self.attr_bindings, self.in_function = saved

    def expanded(self, node: NodeProto, opset: int, ins: Sequence[Value | None]) -> Sequence[Value]:
        types = [to_proto(self.holding(v)).SerializeToString() if v is not None else b"" for v in ins]
        body = schema_function(node, "", opset, lambda: types)
        if body is None:
            raise self.unsupported(f"{node.op_type}: no function body for these operands")
        return self._expand(node, body, ins)

    def named(self, name: str) -> Value:
        return self.lookup(name)

    def inline(self, graph: GraphProto, args: Sequence[Value]) -> list[Value]:
        return self._subgraph(graph, args, None)

    def trace(self, graph: GraphProto, args: Sequence[Value], region: Region) -> list[Value]:
        return self._subgraph(graph, args, region)

    def _subgraph(self, graph: GraphProto, args: Sequence[Value], region: Region | None) -> list[Value]:
        if self.depth >= _MAX_DEPTH:
            raise OnnxImportError(f"subgraphs are nested more than {_MAX_DEPTH} deep", loc=", ".join(self.loc))
        if len(args) != len(graph.input):
            raise OnnxImportError(f"subgraph has {len(graph.input)} inputs", expected=str(len(args)), loc=", ".join(self.loc))
        with self.nested(region):
            self.scope.values.update({formal.name: value for formal, value in zip(graph.input, args, strict=True)})
            self.enter_graph(graph)
            self._nodes(graph.node)
            return [self.lookup(o.name) for o in graph.output]


def formal_inputs(graph: GraphProto, variable: Container[str], constants: Container[str]) -> list[ValueInfoProto]:
    """Inputs that callers give: not those with a value, unless it is `variable`."""
    held = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [i for i in graph.input if i.name not in constants and (i.name not in held or i.name in variable)]


def _type_text(type_: TypeProto) -> str:
    kind = type_.WhichOneof("value")
    if kind != "tensor_type":
        return kind or "?"
    t = type_.tensor_type
    dtype = DType.from_onnx(t.elem_type).value if t.elem_type else "?"
    dims = ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in t.shape.dim)
    return f"{dtype}[{dims}]" if t.HasField("shape") else f"{dtype}[…]"
