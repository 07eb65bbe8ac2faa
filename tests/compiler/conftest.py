"""Lets the tests here import `imported`, `ms_nodes` and `onnx_nodes`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
