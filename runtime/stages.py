"""What each stage of a run adds: stage 0 follows from the input sizes, stage k from the k-th `BindHandler`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .manifest import Manifest

if TYPE_CHECKING:
    from .handlers import SizeRead


class Stage:
    """Buffers and checks whose sizes are known from this stage on (numbers of buffers, dim slots)."""

    def __init__(self, reads: tuple[SizeRead, ...] = ()) -> None:
        self.reads = reads
        self.slots: list[int] = []
        self.sizes: list[int] = []  # slots that must not be negative
        self.equal: list[tuple[int, int]] = []
        self.limits: list[tuple[int, int, int, str]] = []  # a size, its limits, where
        self.buffers: list[int] = []  # owners of memory before aliases
        self.control: list[tuple[int, int]] = []


class Stages:
    """The stages of a program; `of` is that of each buffer, `aliases` those of each owner of memory."""

    def __init__(self, m: Manifest) -> None:
        self.of = _buffer_stages(m) if m.handlers else [0] * len(m.buffers)
        reads: list[tuple[SizeRead, ...]] = []
        if m.handlers:
            from .handlers import BindHandler  # only where they are needed: loading is to be quick

            reads = [h.sizes for h in m.handlers if isinstance(h, BindHandler)]
        self.all = [Stage(), *(Stage(r) for r in reads)]
        slot_stage = m.dims.slot_stages
        for slot, k in enumerate(slot_stage):
            self.all[k].slots.append(slot)
        for slot in m.sizes:
            self.all[slot_stage[slot]].sizes.append(slot)
        for a, b in m.equal:
            self.all[max(slot_stage[a], slot_stage[b])].equal.append((a, b))
        for limit in m.limits:
            self.all[max(slot_stage[s] for s in limit[:3])].limits.append(limit)
        for i in sorted(range(len(m.buffers)), key=lambda i: m.buffers[i].kind == "alias"):
            self.all[self.of[i]].buffers.append(i)
        for touched, need in m.control:
            self.all[self.of[touched]].control.append((touched, need))
        self.aliases: dict[int, list[int]] = {}
        for i, spec in enumerate(m.buffers):
            if spec.kind == "alias":
                self.aliases.setdefault(spec.place, []).append(i)
        self.freed = _freed(m, self.of)
        # those that own memory while a program runs
        self.staged = [i for i, b in enumerate(m.buffers) if b.kind == "given" or (b.kind == "arena" and self.of[i])]


def _buffer_stages(m: Manifest) -> list[int]:
    slot_stage = m.dims.slot_stages
    stages = []
    for b in m.buffers:
        known: Sequence[int] = ()
        if b.kind == "output":
            known = (b.size, *m.output_shapes[b.place])
        elif b.kind == "alias":
            owner = m.buffers[b.place]
            more = m.output_shapes[owner.place] if owner.kind == "output" else ()
            known = (b.size, b.shift, *(() if owner.kind == "const" else (owner.size, *more)))
        elif b.kind != "const":
            known = (b.size,)
        stages.append(max((slot_stage[s] for s in known), default=0))
    return stages


def _freed(m: Manifest, stage_of: Sequence[int]) -> list[list[int]]:
    """By handler: buffers of later stages that nothing touches from there on."""
    freed: list[list[int]] = [[] for _ in m.yields]
    for i, b in enumerate(m.buffers):
        if b.kind == "given" or (b.kind == "arena" and stage_of[i]):
            after = next((k for k, word in enumerate(m.yields) if word > b.last), None)
            if after is not None:
                freed[after].append(i)
    return freed
