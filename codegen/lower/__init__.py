"""Graph -> Plan: which kernels run on which buffers. Producers and consumers fuse here."""

from .driver import lower
from .options import LowerOptions

__all__ = ["LowerOptions", "lower"]
