"""Cases of the onnx suite that are not run, each with its reason."""

from __future__ import annotations

EXCLUDED: dict[str, str] = {}
