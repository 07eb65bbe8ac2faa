"""Graph to graph: each pass a file, `pipelines.py` their order."""

from .base import Pass, PassContext
from .pipelines import optimize, run_passes

__all__ = ["Pass", "PassContext", "optimize", "run_passes"]
