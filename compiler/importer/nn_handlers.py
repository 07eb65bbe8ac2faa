"""The table of all neural-network operators."""

from __future__ import annotations

from .attention_handlers import ATTENTION_HANDLERS
from .attention_ms_handlers import ATTENTION_MS_HANDLERS
from .coded_ms_handlers import CODED_MS_HANDLERS
from .context import HandlerTable
from .contract_handlers import CONTRACT_HANDLERS
from .decoding_ms_handlers import DECODING_MS_HANDLERS
from .expert_ms_handlers import EXPERT_MS_HANDLERS
from .extra_handlers import EXTRA_HANDLERS
from .gated_ms_handlers import GATED_MS_HANDLERS
from .image_handlers import IMAGE_HANDLERS
from .linalg_handlers import LINALG_HANDLERS
from .ml_encoder_handlers import ML_ENCODER_HANDLERS
from .ml_handlers import ML_HANDLERS
from .ml_tree_handlers import ML_TREE_HANDLERS
from .norm_handlers import NORM_HANDLERS
from .quant_handlers import QUANT_HANDLERS
from .quant_ms_handlers import QUANT_MS_HANDLERS
from .random_handlers import RANDOM_HANDLERS
from .recurrent_handlers import RECURRENT_HANDLERS
from .sampling_handlers import SAMPLING_HANDLERS
from .sampling_ms_handlers import SAMPLING_MS_HANDLERS
from .signal_handlers import SIGNAL_HANDLERS
from .small_ms_handlers import SMALL_MS_HANDLERS
from .training_handlers import TRAINING_HANDLERS
from .window_handlers import WINDOW_HANDLERS

NN_HANDLERS: HandlerTable = {
    **WINDOW_HANDLERS,
    **NORM_HANDLERS,
    **CONTRACT_HANDLERS,
    **RECURRENT_HANDLERS,
    **ATTENTION_HANDLERS,
    **QUANT_HANDLERS,
    **ATTENTION_MS_HANDLERS,
    **QUANT_MS_HANDLERS,
    **SMALL_MS_HANDLERS,
    **CODED_MS_HANDLERS,
    **DECODING_MS_HANDLERS,
    **SAMPLING_MS_HANDLERS,
    **EXPERT_MS_HANDLERS,
    **GATED_MS_HANDLERS,
    **ML_TREE_HANDLERS,
    **ML_HANDLERS,
    **ML_ENCODER_HANDLERS,
    **EXTRA_HANDLERS,
    **SAMPLING_HANDLERS,
    **SIGNAL_HANDLERS,
    **IMAGE_HANDLERS,
    **LINALG_HANDLERS,
    **RANDOM_HANDLERS,
    **TRAINING_HANDLERS,
}
