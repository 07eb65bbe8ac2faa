"""Links x86-64 object files into this process: what the compiler's kernels need of a linker, without LLVM's 60 MB.

ELF-64 and the relocations of the System V ABI (https://gitlab.com/x86-psABIs/x86-64-ABI): sections are copied into one private
mapping, code and data on pages of their own. Files call each other; calls out of them all (memset, powf …) go through stubs, as their
targets may be far.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import ArtifactError
from .address import address

_PAGE = 4096
_STUB = b"\xff\x25\x02\x00\x00\x00\x0f\x0b"  # jmp *2(%rip); ud2; then the target
_STUB_SIZE = 16
_MACHINE_X86_64 = 62
_PROGBITS, _RELA, _NOBITS = 1, 4, 8  # section types
_WRITE, _ALLOC, _EXEC = 1, 2, 4  # section flags
_ABS64, _PC32, _PLT32 = 1, 2, 4  # relocation types
_CODE, _CONST, _DATA = range(3)  # parts of the image, by what their pages allow
_ALLOWED = (mmap.PROT_READ | mmap.PROT_EXEC, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE)


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int

    @property
    def part(self) -> int:
        return _CODE if self.flags & _EXEC else _DATA if self.flags & _WRITE else _CONST

    @property
    def loaded(self) -> bool:
        return bool(self.flags & _ALLOC) and self.type in (_PROGBITS, _NOBITS)


def is_x86_64(blob: bytes) -> bool:
    return len(blob) >= 64 and blob[:6] == b"\x7fELF\x02\x01" and struct.unpack_from("<HH", blob, 16) == (1, _MACHINE_X86_64)


class Image:
    """Object files in memory, ready to run; freed with this object. Raises ArtifactError for what cannot be linked."""

    def __init__(self, objects: Sequence[bytes]) -> None:
        self._symbols: dict[str, int] = {}
        self._stubs: dict[str, int] = {}  # places in the image
        self._ends = [0, 0, 0]
        try:
            files = [_File(blob) for blob in objects]
            for f in files:
                f.place(self._ends)
            inside = {name for f in files for name in f.defined}
            outside = sorted({name for f in files for name in f.outside} - inside)
            first_stub = _up(self._ends[_CODE], _STUB_SIZE)
            self._stubs = {name: first_stub + i * _STUB_SIZE for i, name in enumerate(outside)}
            self._ends[_CODE] = first_stub + len(outside) * _STUB_SIZE
            self._load(files)
        except (struct.error, LookupError, ValueError, OverflowError, OSError) as e:
            raise ArtifactError(f"the object code is malformed ({str(e)[:60]})") from None

    def address(self, symbol: str) -> int:
        """Address of a function, 0 when absent."""
        return self._symbols.get(symbol, 0)

    def _load(self, files: Sequence[_File]) -> None:
        starts, size = [], 0
        for end in self._ends:
            starts.append(size)
            size += _up(end, _PAGE)
        self._map = mmap.mmap(-1, max(size, _PAGE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._array = np.frombuffer(self._map, np.uint8)  # holds the mapping open as long as this object lives
        base = address(self._array)
        for name, at in self._stubs.items():
            self._map[at : at + _STUB_SIZE] = _STUB + struct.pack("<Q", _resolve(name))
        places = dict(self._stubs)
        for f in files:
            f.copy(self._map, starts)
            places |= f.symbols()
        for f in files:
            f.relocate(self._map, base, places)
        self._symbols = {name: base + at for name, at in places.items() if name not in self._stubs}
        protect = ctypes.CDLL(None).mprotect
        for start, end, allowed in zip(starts, self._ends, _ALLOWED, strict=True):
            if end and protect(ctypes.c_void_p(base + start), ctypes.c_size_t(_up(end, _PAGE)), allowed):
                raise ArtifactError("the system does not let code be loaded (mprotect)", remedy="Allow executable memory.")


class _File:
    """One object file, and where its sections go."""

    def __init__(self, blob: bytes) -> None:
        if not is_x86_64(blob):
            raise ValueError("no x86-64 object file")
        self.blob = blob
        (table,), (entry, count) = struct.unpack_from("<Q", blob, 40), struct.unpack_from("<HH", blob, 58)
        if entry != 64:
            raise ValueError(f"section headers of {entry} bytes")
        self.sections = [_Section._make(s) for s in struct.iter_unpack("<IIQQQQIIQQ", blob[table : table + 64 * count])]
        if len(self.sections) != count:
            raise ValueError("section headers reach beyond the end")
        for s in self.sections:
            if s.type != _NOBITS and s.offset + s.size > len(blob):
                raise ValueError("a section reaches beyond the end")
        self.loaded = {i: s for i, s in enumerate(self.sections) if s.loaded}
        self.places: dict[int, int] = {}  # by section, within its part of the image
        self.at: dict[int, int] = {}  # the same within the image
        tables = [s for s in self.sections if s.type == 2]
        self.entries = [e for s in tables for e in struct.iter_unpack("<IBBHQQ", self._content(s))]
        self.names = self._content(self.sections[tables[0].link]) if tables else b""
        self.outside = [self._name(e[0]) for e in self.entries[1:] if e[3] == 0]
        others = [(self._name(name), section, value) for name, info, _, section, value, _ in self.entries[1:] if info >> 4]
        self.defined = {name: (section, value) for name, section, value in others if section in self.loaded}

    def place(self, ends: list[int]) -> None:
        """Reserve room behind `ends` of the parts."""
        for i, s in self.loaded.items():
            if s.align & (s.align - 1) or s.align > _PAGE or s.size >= 1 << 31:
                raise ValueError(f"a section of {s.size} bytes aligned to {s.align}")
            self.places[i] = at = _up(ends[s.part], max(1, s.align))
            ends[s.part] = at + s.size

    def copy(self, image: mmap.mmap, starts: Sequence[int]) -> None:
        for i, s in self.loaded.items():
            self.at[i] = at = starts[s.part] + self.places[i]
            if s.type == _PROGBITS:
                image[at : at + s.size] = self._content(s)

    def symbols(self) -> dict[str, int]:
        """Offsets in the image of what is defined here."""
        return {name: self.at[section] + value for name, (section, value) in self.defined.items()}

    def relocate(self, image: mmap.mmap, base: int, places: dict[str, int]) -> None:
        for r in self.sections:
            if r.type != _RELA or r.info not in self.at:
                continue
            room, start = self.loaded[r.info].size, self.at[r.info]
            for offset, info, addend in struct.iter_unpack("<QQq", self._content(r)):
                kind, (name, _, _, section, value, _) = info & 0xFFFFFFFF, self.entries[info >> 32]
                size = 8 if kind == _ABS64 else 4
                if offset + size > room:
                    raise ValueError("a relocation outside of its section")
                if section == 0:
                    symbol = places[self._name(name)]
                elif section in self.at:
                    symbol = self.at[section] + value
                else:
                    raise ValueError(f"a reference to section {section}")
                place = start + offset
                match kind:
                    case 1:
                        struct.pack_into("<Q", image, place, base + symbol + addend)
                    case 2 | 4:
                        struct.pack_into("<i", image, place, symbol + addend - place)
                    case _:
                        raise ValueError(f"relocation type {kind}")

    def _content(self, s: _Section) -> bytes:
        return self.blob[s.offset : s.offset + s.size]

    def _name(self, at: int) -> str:
        return self.names[at : self.names.index(b"\0", at)].decode("ascii")


def _resolve(name: str) -> int:
    """Address of a function of this process, the C library, or its mathematical part."""
    for library in (None, "libm.so.6"):
        try:
            found = ctypes.cast(ctypes.CDLL(library)[name], ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
        if found:
            return found
    raise ArtifactError(f"the object code calls {name[:60]}, which this system lacks")


def _up(at: int, to: int) -> int:
    return -(-at // to) * to
