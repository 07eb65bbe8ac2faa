"""The helpers of the lowering tests, which build graphs, serve here too."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "codegen")]
