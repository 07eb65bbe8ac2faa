"""GreedySearch, Sampling, BeamSearch and WhisperBeamSearch on small random decoders, compared with onnxruntime."""

import mlc
import numpy as np
import pytest
from against_onnxruntime import session
from generation_models import WIDTH, gpt, holding, model_of, t5
from mlc.compiler.inputs import generate, specs_of_onnx
from mlc.errors import InputError, OnnxImportError
from onnx import helper

PROMPTS = np.int32([[0, 0, 5, 6, 7], [1, 2, 4, 8, 9], [0, 9, 9, 9, 9]])
BEAMS = ["ids", "max_length", "min_length", "num_beams", "num_return_sequences", "length_penalty", "repetition_penalty"]
OUTS = ["sequences", "sequences_scores", "scores"]


def number(value, kind=np.int32):
    return np.asarray([value], kind)


def beams(ids, longest, width, count, least=0, length_penalty=1.0, repetition_penalty=1.0):
    return {
        "ids": ids, "max_length": number(longest), "min_length": number(least), "num_beams": number(width), "num_return_sequences": number(count),
        "length_penalty": number(length_penalty, np.float32), "repetition_penalty": number(repetition_penalty, np.float32),
    }  # fmt: skip


def agrees(model, *feeds, until_end=None):
    """One compilation serves all feeds. `until_end`: of greedy results, columns that onnxruntime leaves open are not compared."""
    oracle, compiled = session(model), mlc.compile(model, threads=1)
    for given in feeds:
        want = dict(zip([o.name for o in oracle.get_outputs()], oracle.run(None, given), strict=True))
        got = compiled.run(given)
        for name, expected in want.items():
            if expected is None:
                continue
            assert got[name].shape == expected.shape, name
            if name == "sequences":
                columns = expected.shape[-1]
                while until_end is not None and (got[name][:, columns - 1] == until_end).all():
                    columns -= 1
                np.testing.assert_array_equal(got[name][..., :columns], expected[..., :columns])
            else:
                np.testing.assert_allclose(got[name], expected, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("ngram", [0, 2])
def test_greedy_search(ngram):
    graph, weights = gpt(seed=1, favour=(3, 2.0))
    feeds = {"ids": PROMPTS, "max_length": number(14), "penalty": number(1.3, np.float32), "mask": np.ones((3, 5), np.int32)}
    order = ["ids", "max_length", "", "penalty", "", "", "mask"] if ngram else ["ids", "max_length"]
    feeds = {n: feeds[n] for n in order if n}
    model = model_of(
        "GreedySearch", feeds, order, ["sequences"], {"decoder": graph}, weights, eos_token_id=3, pad_token_id=0, no_repeat_ngram_size=ngram
    )
    more = feeds | {"ids": PROMPTS[1:2, :3], "max_length": number(4)}
    agrees(model, feeds, more | ({"mask": np.ones((1, 3), np.int32)} if ngram else {}), until_end=0)


def test_greedy_search_with_constant_sizes_and_a_decoder_of_its_own_for_prompts():
    graph, weights = gpt(seed=2, layers=1)
    start, more = gpt(seed=2, layers=1)
    feeds = {"ids": PROMPTS, "max_length": number(9)}
    graphs = {"decoder": holding(graph, weights), "init_decoder": holding(start, more)}
    model = model_of(
        "GreedySearch", feeds, ["ids", "max_length"], ["sequences"], graphs, [], ("max_length",), eos_token_id=3, pad_token_id=3
    )
    agrees(model, {"ids": PROMPTS}, until_end=3)


@pytest.mark.parametrize("early", [0, 1])
def test_beam_search(early):
    graph, weights = gpt(seed=1, favour=(3, 2.0))
    feeds = beams(PROMPTS, 10, 3, 2, 7, 1.5, 1.2)
    model = model_of(
        "BeamSearch", feeds, BEAMS, OUTS, {"decoder": graph}, weights,
        eos_token_id=3, pad_token_id=0, no_repeat_ngram_size=2, early_stopping=early,
    )  # fmt: skip
    agrees(model, feeds, beams(PROMPTS[:1, 2:], 6, 4, 4, 0, 0.5), beams(PROMPTS, 6, 1, 1))


def test_beam_search_with_masks_and_constant_beams():
    graph, weights = gpt(seed=5, favour=(3, 4.0))
    random = np.random.default_rng(0)
    words, first = (random.integers(0, 4, shape).clip(0, 1).astype(np.int32) for shape in (17, (3, 17)))
    words[5], first[:, 6] = 1, 1
    feeds = beams(PROMPTS, 9, 4, 3) | {"allowed": words, "opening": first, "mask": (PROMPTS != 9).astype(np.int32)}
    order = [*BEAMS, "allowed", "opening", "mask"]
    fixed = ("num_beams", "num_return_sequences", "max_length", "min_length", "length_penalty", "repetition_penalty")
    model = model_of("BeamSearch", feeds, order, OUTS, {"decoder": graph}, weights, fixed, eos_token_id=3, pad_token_id=3)
    agrees(model, {n: feeds[n] for n in ("ids", "allowed", "opening", "mask")})


@pytest.mark.parametrize("kind", [{}, {"whole": True, "hidden": False}, {"plain": True, "hidden": False}])
def test_beam_search_of_encoder_and_decoder(kind):
    encoder, decoder, weights = t5(layers=2, seed=3, favour=(3, 3.0), **kind)
    feeds = beams(PROMPTS, 9, 3, 2, 3, 0.7, 1.1)
    graphs = {"encoder": holding(encoder, weights), "decoder": holding(decoder, weights)}
    attributes = {"eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 1, "model_type": 1}
    agrees(model_of("BeamSearch", feeds, BEAMS, OUTS, graphs, [], **attributes), feeds, beams(PROMPTS[:2, 3:], 5, 2, 1))


def whisper(names=OUTS):
    encoder, decoder, weights = t5(seed=1, vocabulary=80, whisper=True, hidden=False)
    graphs = {"encoder": holding(encoder, weights), "decoder": holding(decoder, weights)}
    sound = np.random.default_rng(0).standard_normal((2, WIDTH, 4)).astype(np.float32)
    feeds = beams(sound, 9, 3, 2) | {"start": np.int32([[1, 2], [1, 20]]), "rules": number(1), "temperature": number(0.8, np.float32)}
    order = [*BEAMS, "", "", "", "start", "rules", "", "", "temperature"]
    tokens = {"translate": 4, "transcribe": 5, "start_of_lm": 6, "no_timestamps": 7, "beginning_timestamp": 9, "no_speech": 8}
    attributes = {f"{name}_token_id": n for name, n in tokens.items()} | {"eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 1}
    return model_of("WhisperBeamSearch", feeds, order, names, graphs, [], model_type=2, **attributes), feeds, encoder


def test_whisper_beam_search_with_timestamps():
    model, feeds, _ = whisper()
    agrees(model, feeds, feeds | {"rules": number(0)}, feeds | {"start": np.int32([[20, 22, 2], [20, 2, 22]]), "num_beams": number(2)})


def test_whisper_beam_search_probability_of_silence():
    """onnxruntime's CPU kernel leaves it 0."""
    model, feeds, encoder = whisper(["sequences", "", "", "", "silence"])
    got = mlc.compile(model, threads=1).run(feeds)["silence"]
    whole = model_of("Identity", {"x": np.float32([0])}, ["x"], ["y"], {}, [])
    whole.graph.CopyFrom(encoder)
    (logits,) = session(whole).run(["logits"], {"encoder_input_ids": feeds["ids"], "decoder_input_ids": feeds["start"]})
    odds = np.exp(logits[:, -1] - logits[:, -1].max(1, keepdims=True))
    np.testing.assert_allclose(got, odds[:, 8] / odds.sum(1), rtol=1e-3)


@pytest.mark.parametrize("custom", [0, 1])
def test_sampling_that_leaves_one_token_each(custom):
    graph, weights = gpt(seed=4, favour=(3, 2.0))
    feeds = {"ids": PROMPTS, "max_length": number(12), "min_length": number(9), "seed": number(7)}
    order = ["ids", "max_length", "min_length", "", "", "", "", "", "seed"]
    model = model_of(
        "Sampling", feeds, order, ["sequences"], {"decoder": graph}, weights, eos_token_id=3, pad_token_id=0,
        custom=custom, top_p=1e-6 if custom else 0.0, min_tokens_to_keep=1, temperature=0.7, no_repeat_ngram_size=3,
    )  # fmt: skip
    agrees(model, feeds, until_end=0)


def test_sampling_draws_by_probability():
    """The first tokens of many equal prompts; of what top_p leaves, as often as their probability says."""
    graph, weights = gpt(seed=8, layers=1)
    ids = np.repeat(PROMPTS[1:2], 4000, 0)
    feeds = {"ids": ids, "max_length": number(6), "seed": number(1), "presence": np.zeros((4000, 17), np.int32)}
    feeds["presence"][:, 8] = 1
    order = ["ids", "max_length", "", "", "", "", "", "presence", "seed"]
    attributes = {"eos_token_id": 3, "pad_token_id": 3, "custom": 1, "top_p": 0.9, "temperature": 8.0, "presence_penalty": 0.5}
    model = model_of("Sampling", feeds, order, ["sequences", "filtered_logits"], {"decoder": graph}, weights, **attributes)
    compiled = mlc.compile(model, threads=1)
    got = compiled.run(feeds)
    plain = model_of("Identity", {"x": np.float32([0])}, ["x"], ["y"], {}, [])
    plain.graph.CopyFrom(holding(gpt(seed=8, layers=1)[0], weights))
    one = {"input_ids": ids[:1], "position_ids": np.int32([[0, 1, 2, 3, 4]]), "attention_mask": np.ones((1, 5), np.int32)}
    (logits,) = session(plain).run(["logits"], one | {"past_0": np.zeros((2, 1, 2, 0, 4), np.float32)})
    scores = logits[0, -1] / 8
    scores[8] -= 0.5
    p = np.exp(scores - scores.max())
    p /= p.sum()
    order_of = np.argsort(-p)
    kept = order_of[: 1 + int((np.cumsum(p[order_of]) <= 0.9).sum())]
    np.testing.assert_allclose(got["filtered_logits"][0, kept], scores[kept], rtol=1e-3, atol=1e-3)
    assert (np.delete(got["filtered_logits"][0], kept) == np.float32(-1e20)).all()
    share = np.bincount(got["sequences"][:, 5], minlength=17) / 4000
    want = np.zeros(17)
    want[kept] = p[kept] / p[kept].sum()
    assert np.abs(share - want).max() < 5 * np.sqrt(0.25 / 4000)
    np.testing.assert_array_equal(compiled.run(feeds)["sequences"], got["sequences"])  # by the seed
    other = compiled.run(feeds | {"seed": number(2)})["sequences"]
    assert (other != got["sequences"]).any()


def test_what_cannot_be_is_said():
    graph, weights = gpt(layers=1)
    feeds = {"ids": PROMPTS, "max_length": number(5)}
    model = model_of(
        "GreedySearch", feeds, ["ids", "max_length"], ["sequences"], {"decoder": graph}, weights, eos_token_id=3, pad_token_id=0
    )
    with pytest.raises(InputError):  # no longer than the prompts
        mlc.compile(model, threads=1).run(feeds)
    with pytest.raises(OnnxImportError, match="model_type=1"):
        bad = model_of("GreedySearch", feeds, ["ids", "max_length"], ["sequences"], {"decoder": graph}, weights,
                       eos_token_id=3, pad_token_id=0, model_type=1)  # fmt: skip
        mlc.compile(bad)
    graph.input.append(helper.make_tensor_value_info("past_1", 1, [2, "b", 2, "p", 4]))
    with pytest.raises(OnnxImportError, match="turns 2 caches into 1"):
        mlc.compile(model_of("GreedySearch", feeds, ["ids", "max_length"], ["sequences"], {"decoder": graph}, weights,
                             eos_token_id=3, pad_token_id=0))  # fmt: skip
    with pytest.raises(OnnxImportError, match="cross_qk"):
        mlc.compile(whisper(["sequences", "", "", "cross_qk"])[0])


def test_inputs_can_be_generated():
    """For check and bench: tokens that the decoder knows, and numbers that make sense."""
    graph, weights = gpt(layers=1)
    feeds = beams(PROMPTS, 9, 2, 1)
    model = model_of("BeamSearch", feeds, BEAMS, OUTS[:1], {"decoder": graph}, weights, eos_token_id=3, pad_token_id=0)
    agrees(model, generate(specs_of_onnx(model), {}))
