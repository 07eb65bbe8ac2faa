"""Graph -> Plan: which kernels run on which buffers. Producers and consumers fuse here."""

from .driver import LowerOptions, lower

__all__ = ["LowerOptions", "lower"]
