"""The table of all handlers, and the rule that picks one."""

from __future__ import annotations

import onnx

from ..context import Handler
from ..load import REVIEWED_OPSET
from .attention import ATTENTION_HANDLERS
from .contract import CONTRACT_HANDLERS
from .control import CONTROL_HANDLERS
from .elementwise import ELEMENTWISE_HANDLERS
from .grid_sample import GRID_SAMPLE_HANDLERS
from .images import IMAGE_HANDLERS
from .legacy import LEGACY_HANDLERS
from .linalg import LINALG_HANDLERS
from .microsoft.attention import ATTENTION_MS_HANDLERS
from .microsoft.attention_lstm import ATTN_LSTM_HANDLERS
from .microsoft.blocked import BLOCKED_MS_HANDLERS
from .microsoft.coded import CODED_MS_HANDLERS
from .microsoft.decoding import DECODING_MS_HANDLERS
from .microsoft.experts import EXPERT_MS_HANDLERS
from .microsoft.fused import FUSED_HANDLERS
from .microsoft.gated import GATED_MS_HANDLERS
from .microsoft.generation.beams import BEAM_HANDLERS
from .microsoft.generation.greedy import GREEDY_HANDLERS
from .microsoft.grouped import GROUPED_HANDLERS
from .microsoft.masked_pool import MASKED_POOL_HANDLERS
from .microsoft.packed import PACKED_MS_HANDLERS
from .microsoft.quantized import QUANT_MS_HANDLERS
from .microsoft.sampling import SAMPLING_MS_HANDLERS
from .microsoft.small import SMALL_MS_HANDLERS
from .microsoft.stateful import STATEFUL_MS_HANDLERS
from .microsoft.tokens import TOKEN_MS_HANDLERS
from .ml.encoders import ML_ENCODER_HANDLERS
from .ml.models import ML_HANDLERS
from .ml.trees import ML_TREE_HANDLERS
from .moves import MOVE_HANDLERS
from .norm import NORM_HANDLERS
from .qonnx import QONNX_HANDLERS
from .quantized import QUANT_HANDLERS
from .random import RANDOM_HANDLERS
from .recurrent import RECURRENT_HANDLERS
from .reduce import REDUCE_HANDLERS
from .resize import RESIZE_HANDLERS
from .retired import RETIRED_HANDLERS
from .sampling import SAMPLING_HANDLERS
from .select import SELECT_HANDLERS
from .sequence import SEQUENCE_HANDLERS
from .shape import SHAPE_HANDLERS
from .signal import SIGNAL_HANDLERS
from .strings import STRING_HANDLERS
from .training import TRAINING_HANDLERS
from .windows import WINDOW_HANDLERS

HANDLERS: dict[tuple[str, int], Handler] = {
    **LEGACY_HANDLERS,
    **RETIRED_HANDLERS,
    **ELEMENTWISE_HANDLERS,
    **MOVE_HANDLERS,
    **SHAPE_HANDLERS,
    **SELECT_HANDLERS,
    **SEQUENCE_HANDLERS,
    **STRING_HANDLERS,
    **RESIZE_HANDLERS,
    **REDUCE_HANDLERS,
    **CONTROL_HANDLERS,
    **WINDOW_HANDLERS,
    **NORM_HANDLERS,
    **CONTRACT_HANDLERS,
    **RECURRENT_HANDLERS,
    **ATTENTION_HANDLERS,
    **QUANT_HANDLERS,
    **QONNX_HANDLERS,
    **ATTENTION_MS_HANDLERS,
    **QUANT_MS_HANDLERS,
    **SMALL_MS_HANDLERS,
    **CODED_MS_HANDLERS,
    **DECODING_MS_HANDLERS,
    **SAMPLING_MS_HANDLERS,
    **EXPERT_MS_HANDLERS,
    **GATED_MS_HANDLERS,
    **GROUPED_HANDLERS,
    **BLOCKED_MS_HANDLERS,
    **STATEFUL_MS_HANDLERS,
    **PACKED_MS_HANDLERS,
    **BEAM_HANDLERS,
    **GREEDY_HANDLERS,
    **ATTN_LSTM_HANDLERS,
    **MASKED_POOL_HANDLERS,
    **TOKEN_MS_HANDLERS,
    **ML_TREE_HANDLERS,
    **ML_HANDLERS,
    **ML_ENCODER_HANDLERS,
    **GRID_SAMPLE_HANDLERS,
    **FUSED_HANDLERS,
    **SAMPLING_HANDLERS,
    **SIGNAL_HANDLERS,
    **IMAGE_HANDLERS,
    **LINALG_HANDLERS,
    **RANDOM_HANDLERS,
    **TRAINING_HANDLERS,
}

# Versions at which each operator's handler changes, newest first.
_VERSIONS: dict[str, tuple[int, ...]] = {name: tuple(sorted((v for n, v in HANDLERS if n == name), reverse=True)) for name, _ in HANDLERS}


def first_version(domain: str, op_type: str) -> int | None:
    """The oldest version of an operator that has a handler, or None."""
    versions = _VERSIONS.get(f"{domain}::{op_type}" if domain else op_type)
    return versions[-1] if versions else None


def find_handler(domain: str, op_type: str, opset: int) -> Handler | None:
    """The handler of an operator under an opset: that of the newest listed version which is not newer than the operator's.

    An operator changed after the tables were written has none.
    """
    name = f"{domain}::{op_type}" if domain else op_type
    versions = _VERSIONS.get(name)
    if versions is None:
        return None
    try:
        since = onnx.defs.get_schema(op_type, opset, domain).since_version
    except onnx.defs.SchemaError:
        since = max(opset, 1)
    if not domain and since > REVIEWED_OPSET:
        return None
    return next((HANDLERS[name, v] for v in versions if v <= since), None)
