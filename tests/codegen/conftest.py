"""Makes the helpers beside these tests importable: `running` (one kernel), `loop_kernels` (by hand) and `lowering` (graphs to kernels)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
