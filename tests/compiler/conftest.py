"""Lets the tests here import `onnx_nodes` and `imported`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
