"""The table of all handlers, and the rule that picks one."""

from __future__ import annotations

import onnx

from .context import Handler
from .control_handlers import CONTROL_HANDLERS
from .elementwise_handlers import ELEMENTWISE_HANDLERS
from .grouped_handlers import GROUPED_HANDLERS
from .legacy_handlers import LEGACY_HANDLERS
from .load import REVIEWED_OPSET
from .move_handlers import MOVE_HANDLERS
from .nn_handlers import NN_HANDLERS
from .reduce_handlers import REDUCE_HANDLERS
from .resize_handlers import RESIZE_HANDLERS
from .select_handlers import SELECT_HANDLERS
from .sequence_handlers import SEQUENCE_HANDLERS
from .shape_handlers import SHAPE_HANDLERS
from .string_handlers import STRING_HANDLERS

HANDLERS: dict[tuple[str, int], Handler] = {
    **LEGACY_HANDLERS,
    **GROUPED_HANDLERS,
    **ELEMENTWISE_HANDLERS,
    **MOVE_HANDLERS,
    **SHAPE_HANDLERS,
    **SELECT_HANDLERS,
    **SEQUENCE_HANDLERS,
    **STRING_HANDLERS,
    **RESIZE_HANDLERS,
    **REDUCE_HANDLERS,
    **CONTROL_HANDLERS,
    **NN_HANDLERS,
}

# Versions at which each operator's handler changes, newest first.
_VERSIONS: dict[str, tuple[int, ...]] = {name: tuple(sorted((v for n, v in HANDLERS if n == name), reverse=True)) for name, _ in HANDLERS}


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
