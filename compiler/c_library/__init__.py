"""A compiled model as a library for C: no Python, no mlc where it runs."""

from .write import CLibrary, c_library, write_c_library

__all__ = ["CLibrary", "c_library", "write_c_library"]
