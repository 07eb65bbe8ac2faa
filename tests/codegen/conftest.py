"""Makes the helpers beside these tests importable: `running` (compile and run one kernel) and `lowering` (graphs to kernels)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
