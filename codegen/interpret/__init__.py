"""The meaning of kernels and plans, in NumPy. Every access is bounds-checked; slow, exact, used by tests and --validate."""

from .kernels import run_kernel
from .plan import run_plan

__all__ = ["run_kernel", "run_plan"]
