"""Small random decoders, and models that generate with them."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

F, I = TensorProto.FLOAT, TensorProto.INT32
HEADS, SIZE = 2, 4
WIDTH = HEADS * SIZE


class Weights:
    """Random initializers by name."""

    def __init__(self, seed):
        self.random, self.made = np.random.default_rng(seed), []

    def __call__(self, name, *shape, scale=1.0):
        return self.add(name, (self.random.standard_normal(shape) * scale).astype(np.float32))

    def add(self, name, array):
        self.made.append(numpy_helper.from_array(np.asarray(array), name))
        return name


def info(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def gpt(layers=2, vocabulary=17, seed=0, favour=None, positions=64):
    """(graph, weights): GPT-2's signature; `favour` = (token, how much) raises the logits of a token."""
    w, nodes = Weights(seed), []

    def node(op, ins, outs, **attributes):
        nodes.append(helper.make_node(op, ins, outs, **attributes))
        return outs[0]

    words = node("Gather", [w("words", vocabulary, WIDTH), "input_ids"], ["word"])
    place = node("Gather", [w("places", positions, WIDTH), "position_ids"], ["place"])
    x = node("Add", [words, place], ["x0"])
    for k in range(layers):
        matrix, bias = w(f"w{k}", WIDTH, 3 * WIDTH, scale=0.5), w(f"b{k}", 3 * WIDTH)
        ins = [x, matrix, bias, "attention_mask", f"past_{k}"]
        a = node("Attention", ins, [f"a{k}", f"present_{k}"], domain="com.microsoft", num_heads=HEADS, unidirectional=1)
        x = node("Add", [x, node("MatMul", [a, w(f"o{k}", WIDTH, WIDTH, scale=0.5)], [f"ao{k}"])], [f"x{k + 1}"])
    logits = node("MatMul", [x, w("head", WIDTH, vocabulary)], ["raw"])
    lift = np.zeros(vocabulary, np.float32)
    if favour:
        lift[favour[0]] = favour[1]
    node("Add", [logits, w.add("lift", lift)], ["logits"])
    inputs = [info("input_ids", I, "b", "s"), info("position_ids", I, "b", "s"), info("attention_mask", I, "b", "t")]
    inputs += [info(f"past_{k}", F, 2, "b", HEADS, "p", SIZE) for k in range(layers)]
    outputs = [info("logits", F, "b", "s", vocabulary), *(info(f"present_{k}", F, 2, "b", HEADS, "t", SIZE) for k in range(layers))]
    return helper.make_graph(nodes, "decoder", inputs, outputs), w.made


def attended(node, w, name, x, keys, values, extra=None):
    """Heads of x attend to keys and values [B, H, L, D]: the result [B, S, WIDTH]."""
    q = node("MatMul", [x, w(f"{name}_q", WIDTH, WIDTH, scale=0.7)], [f"{name}_q1"])
    q = split(node, w, q, f"{name}_q2")
    scores = node("MatMul", [q, node("Transpose", [keys], [f"{name}_kt"], perm=[0, 1, 3, 2])], [f"{name}_s"])
    if extra:
        scores = node("Add", [scores, extra], [f"{name}_sm"])
    y = node("MatMul", [node("Softmax", [scores], [f"{name}_p"], axis=-1), values], [f"{name}_y"])
    y = node("Transpose", [y], [f"{name}_yt"], perm=[0, 2, 1, 3])
    return node("Reshape", [y, w.add(f"{name}_shape", np.array([0, 0, WIDTH]))], [f"{name}_out"])


def split(node, w, x, name):
    x = node("Reshape", [x, w.add(f"{name}_shape", np.array([0, 0, HEADS, SIZE]))], [f"{name}_r"])
    return node("Transpose", [x], [name], perm=[0, 2, 1, 3])


def t5(layers=1, vocabulary=13, seed=0, favour=None, whisper=False, hidden=True, whole=False, plain=False):
    """(encoder, decoder, weights) of T5's signature, or Whisper's; `whole`: the decoder is given whole sequences, and takes the last;
    `plain`: the encoder gives its caches only."""
    w, nodes = Weights(seed), []

    def node(op, ins, outs, **attributes):
        nodes.append(helper.make_node(op, ins, outs, **attributes))
        return outs[0]

    words = w("words", vocabulary, WIDTH)
    lift = np.zeros(vocabulary, np.float32)
    if favour:
        lift[favour[0]] = favour[1]
    lift = w.add("lift", lift)
    head = w("head", WIDTH, vocabulary)
    matrices = {
        f"{k}{side}{part}": w(f"m{k}{side}{part}", WIDTH, WIDTH, scale=0.7) for k in range(layers) for side in "sc" for part in "kv"
    }

    def decode(ids, pasts, crosses, mask):
        """Logits and new caches of all layers."""
        x = node("Gather", [words, ids], ["dx"])
        presents = []
        for k in range(layers):
            caches = []
            for part in "kv":
                new = split(node, w, node("MatMul", [x, matrices[f"{k}s{part}"]], [f"n{k}{part}"]), f"ns{k}{part}")
                out = f"present_{'key' if part == 'k' else 'value'}_self_{k}"
                caches.append(node("Concat", [pasts[k][part], new], [out], axis=2) if pasts else node("Identity", [new], [out]))
            presents += caches
            x = node("Add", [x, attended(node, w, f"self{k}", x, *caches)], [f"xs{k}"])
            x = node("Add", [x, attended(node, w, f"cross{k}", x, *crosses[k], mask)], [f"xc{k}"])
        node("Add", [node("MatMul", [x, head], ["raw"]), lift], ["logits"])
        return presents

    def bias():
        if whisper:
            return None
        far = node("Mul", [node("Sub", [w.add("one", np.float32(1)), node("Cast", ["encoder_attention_mask"], ["mf"], to=F)], ["m0"]),
                           w.add("far", np.float32(-1e4))], ["m1"])  # fmt: skip
        return node("Unsqueeze", [far, w.add("axes", np.array([1, 2]))], ["m2"])

    # encoder
    if whisper:
        hid = node("Transpose", ["encoder_input_ids"], ["encoder_hidden_states"], perm=[0, 2, 1])
    else:
        hid = node("Gather", [words, "encoder_input_ids"], ["encoder_hidden_states"])
    crosses = []
    for k in range(layers):
        pair = []
        for part, long in (("k", "key"), ("v", "value")):
            y = split(node, w, node("MatMul", [hid, matrices[f"{k}c{part}"]], [f"c{k}{part}"]), f"present_{long}_cross_{k}")
            pair.append(y)
        crosses.append(pair)
    own = [] if plain else decode("decoder_input_ids", None, crosses, bias())
    across = [name for pair in crosses for name in pair]
    kinds = [info("encoder_input_ids", F, "b", WIDTH, "t")] if whisper else [info("encoder_input_ids", I, "b", "t")]
    kinds += [] if whisper else [info("encoder_attention_mask", I, "b", "t")]
    kinds += [] if plain else [info("decoder_input_ids", I, "b", "s")]
    outs = [] if plain else [info("logits", F, "b", "s", vocabulary), info("encoder_hidden_states", F, "b", "t", WIDTH)]
    outs += [info(n, F, "b", HEADS, "s", SIZE) for n in own] + [info(n, F, "b", HEADS, "t", SIZE) for n in across]
    encoder = helper.make_graph(nodes, "encoder", kinds, outs)

    # decoder
    nodes = []
    pasts = [{"k": f"past_key_self_{k}", "v": f"past_value_self_{k}"} for k in range(layers)]
    crosses = [[f"past_key_cross_{k}", f"past_value_cross_{k}"] for k in range(layers)]
    ids = "input_ids"
    if whole:
        last = [w.add(f"last{i}", np.array([v])) for i, v in enumerate((-1, 2**31, 1))]
        ids = node("Slice", ["input_ids", *last], ["last_ids"])
    own = decode(ids, pasts, crosses, bias())
    inputs = [info("input_ids", I, "b", "l" if whole else 1)] + ([] if whisper else [info("encoder_attention_mask", I, "b", "t")])
    inputs += [info("encoder_hidden_states", F, "b", "t", WIDTH)] if hidden else []
    inputs += [info(p[part], F, "b", HEADS, "p", SIZE) for p in pasts for part in "kv"]
    inputs += [info(n, F, "b", HEADS, "t", SIZE) for pair in crosses for n in pair]
    outs = [info("logits", F, "b", 1, vocabulary)] + [info(n, F, "b", HEADS, "q", SIZE) for n in own]
    decoder = helper.make_graph(nodes, "decoder", inputs, outs)
    made = list({t.name: t for t in w.made}.values())
    return encoder, decoder, made


def holding(graph, weights):
    """The graph with the initializers that it reads."""
    read = {name for n in graph.node for name in n.input}
    graph.initializer.extend(t for t in weights if t.name in read)
    return graph


def model_of(op, feeds, order, outs, graphs, weights, fixed=(), **attributes):
    """A model of one search. `order`: its operands by name, "" for absent ones; those in `fixed` are initializers."""
    node = helper.make_node(op, order, outs, domain="com.microsoft", name="search", **graphs, **attributes)
    kinds = {"f": F, "i": I}
    inputs = [info(n, kinds[x.dtype.kind], *(f"{n}{k}" if x.ndim > 1 else d for k, d in enumerate(x.shape)))
              for n, x in feeds.items() if n not in fixed]  # fmt: skip
    results = [helper.make_tensor_value_info(o, I if o == "sequences" else F, None) for o in outs if o]
    constants = [numpy_helper.from_array(feeds[n], n) for n in fixed]
    graph = helper.make_graph([node], "generation", inputs, results, [*weights, *constants])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8)
