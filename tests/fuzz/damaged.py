"""Small models of every kind of message in onnx.proto, and damage to their fields and bytes (`test_damaged_files.py`)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

HEAD = '<ir_version: 10, opset_import: ["": 21, "own": 1, "com.microsoft": 1, "ai.onnx.ml": 3]>\n'
# Graphs, and functions after them.
TEXTS = {
    "conv": """m (float[n, 2, 6, 5] x) => (float[a, b, c, d] y) <float[3, 2, 2, 2] w = {1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8,1,2,3,4,5,6,7,8}> {
        c = Conv<strides = [1, 2], pads = [1, 0, 0, 1], kernel_shape = [2, 2]>(x, w)
        p = MaxPool<kernel_shape = [2, 2], ceil_mode = 1>(c)
        y = Relu(p)
    }""",
    "rows": """m (float[n, 4] x) => (float[n, 3] y, float[n, 4] s) <float[4, 3] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[3] b = {1,2,3}> {
        m = Gemm<alpha = 0.5>(x, w, b)
        y = Softmax<axis = -1>(m)
        s = LayerNormalization<axis = -1>(x, one)
        one = Constant<value = float[4] {1, 1, 1, 1}>()
    }""",
    "shapes": """m (float[n, 4, 6] x) => (float[a, b, c] y, int64[p] t) <int64[3] e = {2, 1, 1}, int64[2] pads = {1, 1}, int64[1] last = {2}> {
        s = Shape(x)
        n = Gather<axis = 0>(s, zero)
        zero = Constant<value_ints = [0]>()
        rest = Constant<value_ints = [-1, 3]>()
        shape = Concat<axis = 0>(n, rest)
        r = Reshape<allowzero = 0>(x, shape)
        q = Transpose<perm = [0, 2, 1]>(r)
        p = Pad<mode = "constant">(q, pads, , last)
        y = Expand(p, e)
        t = Tile(s, zero)
    }""",
    "slices": """m (float[n, 4, 6] x) => (float[a, b, c] y, float[d, e, f] z, float[k] v, int64[k] i) <int64[2] from = {0, -1}, int64[2] to = {3, -9}, int64[2] axes = {1, 2}, int64[2] steps = {1, -2}, int64[1] k = {2}, float lo = {-1.0}, int64[2] parts = {1, 3}> {
        s = Slice(x, from, to, axes, steps)
        a, b = Split<axis = 1>(x, parts)
        z = Concat<axis = 1>(b, a)
        y = Clip(s, lo)
        flat = ReduceMean<keepdims = 0>(x, axes)
        v, i = TopK<axis = -1>(flat, k)
    }""",
    "branches": """m (float[n] x, bool c, int64 trips) => (float[k] y, float[n] l, float[t, n] scans) {
        y = If(c) <
            then_branch = t () => (float[a] u) { u = Mul(x, x) },
            else_branch = e () => (float[b] w) { w = Concat<axis = 0>(x, x) }>
        l, scans = Loop(trips, c, x) <body = b (int64 i, bool go, float[n] s) => (bool more, float[n] next, float[n] out) {
            more = Identity(go)
            f = CastLike(i, s)
            next = Add(s, f)
            out = Relu(next)
        }>
    }""",
    "scan": """m (float[2] s, float[t, 2] x) => (float[2] last, float[t, 2] all) {
        last, all = Scan<num_scan_inputs = 1, scan_input_axes = [0], body = b (float[2] a, float[2] e) => (float[2] next, float[2] out) {
            next = Add(a, e)
            out = Tanh(next)
        }>(s, x)
    }""",
    "functions": """m (float[n, 3] x) => (float[n, 3] y) { y = own.outer<slope = 0.5>(x) }
        <domain: "own", opset_import: ["": 21, "own": 1]> outer<slope>(x) => (y) { h = own.inner<a: float = @slope>(x)  y = own.inner<a = 2.0>(h) }
        <domain: "own", opset_import: ["": 21, "own": 1]> inner<a: float = 1.0>(x) => (y) { r = LeakyRelu<alpha: float = @a>(x)  y = own.leaf(r, r) }
        <domain: "own", opset_import: ["": 21]> leaf(a, b) => (y) { y = Add(a, b) }""",
    "sequences": """m (seq(float[p]) s, float[n] x, int64 at, optional(float[o]) q) => (float[k] y, seq(float[p]) more, int64 len, bool has) {
        more = SequenceInsert(s, x, at)
        y = SequenceAt(more, at)
        len = SequenceLength(more)
        has = OptionalHasElement(q)
    }""",
    "strings": """m (string[n] s) => (string[n] t, bool[n] e, string[n, k] parts, int64[n] many) {
        bang = Constant<value_strings = ["!"]>()
        t = StringConcat(s, bang)
        e = RegexFullMatch<pattern = "a+b?">(t)
        parts, many = StringSplit<delimiter = "-", maxsplit = 3>(s)
    }""",
    "recurrent": """m (float[t, 2, 3] x) => (float[t, 1, 2, 2] y, float[1, 2, 2] h) <float[1, 8, 3] w = {1,0,0,1,0,0,1,0,0,1,0,0,1,0,0,1,0,0,1,0,0,1,0,0}, float[1, 8, 2] r = {1,0,0,1,0,0,1,0,0,1,0,0,1,0,0,1}> {
        y, h = LSTM<hidden_size = 2, activations = ["Sigmoid", "Tanh", "Tanh"]>(x, w, r)
    }""",
    "quantized": """m (float[n, 4] x) => (float[n, 2] y) <float s = {0.1}, uint8 z = {3}, int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, float[2] ws = {0.1, 0.2}, int8[2] wz = {0, 0}> {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        v = DequantizeLinear<axis = 1>(w, ws, wz)
        y = MatMul(d, v)
    }""",
    "indices": """m (float[n, 3] x, int64[k, 1] i, float[k, 3] u) => (float[n, 3] y, float[k, 1, 3] g, int64[2, z] nz, float[e] o) {
        y = ScatterND<reduction = "add">(x, i, u)
        g = Gather<axis = 0>(x, i)
        nz = NonZero(x)
        o = Einsum<equation = "ij,ij->i">(x, x)
    }""",
    "resized": """m (float[1, 2, 4, 4] x) => (float[1, 2, a, b] y, float[1, 2, 3, 3] g) <float[4] scales = {1, 1, 2, 1.5}, int64[4] theta = {1, 2, 3, 3}, float[1, 2, 3] t = {1, 0, 0, 0, 1, 0}> {
        y = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(x, , scales)
        grid = AffineGrid(t, theta)
        g = GridSample<mode = "bilinear">(x, grid)
    }""",
    "contributed": """m (float[2, t, 8] x) => (float[2, t, 8] y) <float[2, 1] q = {1, 2}, float[8] g = {1,1,1,1,1,1,1,1}> {
        a = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x)
        y = com.microsoft.SkipLayerNormalization<epsilon = 0.00001>(a, x, g)
    }""",
    "trees": """m (float[n, 2] x) => (float[n, 1] y) {
        y = ai.onnx.ml.TreeEnsembleRegressor<n_targets = 1, nodes_treeids = [0, 0, 0], nodes_nodeids = [0, 1, 2], nodes_featureids = [1, 0, 0], nodes_modes = ["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values = [0.5, 0.0, 0.0], nodes_truenodeids = [1, 0, 0], nodes_falsenodeids = [2, 0, 0], target_treeids = [0, 0], target_nodeids = [1, 2], target_ids = [0, 0], target_weights = [1.0, 2.0]>(x)
    }""",
}  # fmt: skip


def _sparse() -> ModelProto:
    """With sparse, external and typed data, metadata, and training information."""
    model = parser.parse_model(HEAD + "m (float[n, 4] x) => (float[n, 4] y) { a = MatMul(x, w)  b = Add(a, v)  y = Mul(b, h) }")
    indices = helper.make_tensor("", TensorProto.INT64, [2], [1, 6])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(helper.make_tensor("w", TensorProto.FLOAT, [2], [1, 2]), indices, [4, 4])
    )
    v = numpy_helper.from_array(np.ones(4, np.float32), "v")
    v.ClearField("raw_data")
    v.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "v.bin"), ("offset", "0"), ("length", "16"), ("checksum", "0" * 40)):
        v.external_data.add(key=key, value=value)
    model.graph.initializer.extend([v, helper.make_tensor("h", TensorProto.FLOAT, [1, 4], [1, 2, 3, 4])])
    model.metadata_props.add(key="k", value="v")
    model.training_info.add().algorithm.name = "t"
    return model


def _typed() -> ModelProto:
    """Weights of each field that holds elements."""
    kinds = {
        "INT64": "FLOAT",
        "INT32": "INT64",
        "INT8": "INT32",
        "DOUBLE": "FLOAT",
        "UINT64": "FLOAT",
        "BFLOAT16": "FLOAT",
        "INT4": "FLOAT",
        "FLOAT8E4M3FN": "FLOAT",
    }
    nodes, weights = [], []
    for i, kind in enumerate(kinds):
        weights.append(helper.make_tensor(f"w{i}", getattr(TensorProto, kind), [3], [1, 2, 3]))
        nodes += [
            helper.make_node("Cast", [f"w{i}"], [f"c{i}"], to=TensorProto.FLOAT),
            helper.make_node("Add", [f"s{i}", f"c{i}"], [f"s{i + 1}"]),
        ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("s0", TensorProto.FLOAT, ["n", 3])], [value(f"s{len(kinds)}", TensorProto.FLOAT, ["n", 3])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def models() -> dict[str, ModelProto]:
    found = {name: parser.parse_model(HEAD + text) for name, text in TEXTS.items()}
    return found | {"sparse": _sparse(), "typed": _typed()}


WHOLE = [0, 1, -1, 2, 3, 7, 16, 255, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63)]
TEXT = [
    "",
    "x",
    "y",
    "w",
    "n",
    "Add",
    "Loop",
    "own",
    "com.microsoft",
    "nowhere",
    "../v.bin",
    "/etc/passwd",
    "v.bin",
    "a\n\x1b[2J",
    "é" * 40,
    "10" * 30,
    "-1",
    "NaN",
]


def messages(top: Message) -> Iterator[Message]:
    """All messages in a message, itself first."""
    stack = [top]
    while stack:
        m = stack.pop()
        yield m
        for field, value in m.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                stack += [value] if isinstance(value, Message) else list(value)


def junk(field: FieldDescriptor, rng: random.Random) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_ENUM:
            if field.type == FieldDescriptor.TYPE_ENUM:
                return rng.choice(field.enum_type.values).number
            return rng.choice([v for v in WHOLE if -(2**31) <= v < 2**31] + list(range(27)))
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice(WHOLE)
        case FieldDescriptor.CPPTYPE_UINT64:
            return rng.choice([v for v in WHOLE if v >= 0])
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice([0.0, -1.0, 0.5, 1e30, float("inf"), float("nan")])
        case _ if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice([b"", b"\0", b"\xff\xfe", bytes(7), bytes(64), b"tanh", b"linear"])
    return rng.choice(TEXT)


def change(model: ModelProto, rng: random.Random) -> None:
    """One field of one message, set or not before."""
    everything = list(messages(model))
    m = rng.choice(everything)
    present = [f for f, _ in m.ListFields()]
    field = rng.choice(present) if present and rng.random() < 0.7 else rng.choice(list(m.DESCRIPTOR.fields))
    held, nested = getattr(m, field.name), field.type == FieldDescriptor.TYPE_MESSAGE
    donors = [d for d in everything if nested and d.DESCRIPTOR is field.message_type]
    repeated = not isinstance(held, Message) and hasattr(held, "extend")
    kind = rng.randrange(6)
    if kind == 0:
        m.ClearField(field.name)
    elif nested and not repeated:
        if donors:
            given = type(held)()
            given.CopyFrom(rng.choice(donors))
            held.CopyFrom(given)
        else:
            held.SetInParent()
    elif not repeated:
        setattr(m, field.name, junk(field, rng))
    elif kind == 1 and held:
        del held[rng.randrange(len(held))]
    elif kind == 2 and held:
        items = [type(v).FromString(v.SerializeToString()) for v in held] if nested else list(held)
        rng.shuffle(items)
        m.ClearField(field.name)
        getattr(m, field.name).extend(items)
    elif nested:
        given = (donors and type(donors[0]).FromString(rng.choice(donors).SerializeToString())) or None
        if given is not None:
            held.append(given)
    elif held and kind > 2:
        held[rng.randrange(len(held))] = junk(field, rng)
    else:
        held.append(junk(field, rng))


def rewire(model: ModelProto, rng: random.Random) -> None:
    """A node's input, output, operator or a value's type: cycles, names twice, names of other scopes, too many or few inputs."""
    everything = list(messages(model))
    nodes = [m for m in everything if isinstance(m, NodeProto)]
    names = [n for m in nodes for n in (*m.input, *m.output)] + ["", "nowhere"]
    if not nodes:
        return
    node = rng.choice(nodes)
    match rng.randrange(6):
        case 0 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        case 1 if node.output:
            node.output[rng.randrange(len(node.output))] = rng.choice(names)
        case 2:
            node.input.append(rng.choice(names))
        case 3 if node.input:
            del node.input[-1]
        case 4:
            other = rng.choice(nodes)
            node.op_type, node.domain = other.op_type, other.domain
        case _:
            rng.choice([node.output, node.input]).extend([rng.choice(names)])


def nest(model: ModelProto, rng: random.Random) -> None:
    """The graph's nodes in branches of branches, as deep as protobuf goes."""
    for _ in range(rng.choice([3, 25])):
        inner = GraphProto(name="n")
        inner.output.append(helper.make_tensor_value_info("inner", TensorProto.FLOAT, None))
        inner.node.extend(model.graph.node)
        inner.node.add(op_type="Identity", input=[model.graph.node[-1].output[0] if model.graph.node[-1].output else ""], output=["inner"])
        outer = NodeProto(op_type="If", input=["condition"], output=["inner"])
        for name in ("then_branch", "else_branch"):
            outer.attribute.add(name=name, type=AttributeProto.GRAPH).g.CopyFrom(inner if name == "then_branch" else GraphProto(name="e"))
        model.graph.ClearField("node")
        model.graph.node.append(outer)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))


def spoil(data: bytes, rng: random.Random) -> bytes:
    """A few bytes set, cut out, doubled or ended at."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out))
        match rng.randrange(5):
            case 0 | 1:
                out[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            case 2:
                del out[at : at + rng.randint(1, 4)]
            case 3:
                out[at:at] = out[at : at + rng.randint(1, 9)]
            case _ if rng.random() < 0.3:
                del out[at + 1 :]
        if not out:
            break
    return bytes(out)


def damaged(model: ModelProto, rng: random.Random) -> bytes:
    copy = ModelProto()
    copy.CopyFrom(model)
    how = rng.random()
    if how < 0.2:
        return spoil(copy.SerializeToString(), rng)
    if how < 0.22:
        nest(copy, rng)
    for _ in range(rng.randint(1, 3)):
        try:
            (rewire if rng.random() < 0.3 else change)(copy, rng)
        except (UnicodeError, ValueError):  # what protobuf would not hold
            continue
    return onnx.ModelProto.SerializeToString(copy)
