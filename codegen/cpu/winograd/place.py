"""Where a tile of the image is: its first output along each axis, how far its outputs are apart, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir import Dim, ceildiv, prod
from ...kernel import WinogradKernel
from ..build import Builder


class Places:
    """Tiles are counted over images, then depth, height and width. Along a dilated axis every `dilation`-th pixel is a line of its
    own, and tiles walk through the lines first: tile t covers line t % dilation, outputs t / dilation · tile on."""

    def __init__(self, kernel: WinogradKernel) -> None:
        c = kernel.conv
        self.tile = kernel.tile
        self.flat = c.spatial[0] == 1 and c.out_spatial[0] == 1 and c.kernel[0] == 1
        self.dilated = any(d != 1 for d in c.dilations)
        self.counts = [
            d * ceildiv(ceildiv(o, d), m) if d != 1 else ceildiv(o, m)
            for o, m, d in zip(c.out_spatial, kernel.tile, c.dilations, strict=True)
        ]  # fmt: skip
        self.tiles: Dim = kernel.images * prod(self.counts)
        self.dims: dict[str, Dim] = {}
        for axis, name in enumerate("zyx"):
            self.dims |= {
                f"in_{name}": c.spatial[axis], f"out_{name}": c.out_spatial[axis], f"pad_{name}": c.pads_lo[axis],
                f"count_{name}": self.counts[axis], f"step_{name}": c.dilations[axis],
            }  # fmt: skip

    def place(self, b: Builder, p: dict[str, Any], tile: Any) -> tuple[Any, list[Any]]:
        """(image, first output along depth, height and width) of a tile."""
        i, rest = b.ir, tile
        at: list[Any] = []
        for axis in (2, 1, 0):
            if axis == 0 and self.flat:
                return rest, [b.i64(0), *at]
            count, step = p[f"count_{'zyx'[axis]}"], p[f"step_{'zyx'[axis]}"]
            index, rest = i.urem(rest, count), i.udiv(rest, count)
            if self.dilated:
                line, index = i.urem(index, step), i.udiv(index, step)
                at.insert(0, i.add(line, i.mul(i.mul(index, b.i64(self.tile[axis])), step)))
            else:
                at.insert(0, i.mul(index, b.i64(self.tile[axis])))
        return rest, at

    def ahead(self, b: Builder, p: dict[str, Any], axis: int, outputs: Any) -> Any:
        """Pixels that so many outputs of a tile are apart."""
        return b.ir.mul(outputs, p[f"step_{'zyx'[axis]}"]) if self.dilated else outputs

    def inside(self, b: Builder, p: dict[str, Any], axis: int, first: Any) -> Any:
        """Outputs of a tile that the image has."""
        i, left = b.ir, b.ir.sub(p[f"out_{'zyx'[axis]}"], first)
        if self.dilated:
            step = p[f"step_{'zyx'[axis]}"]
            left = i.sdiv(i.add(left, i.sub(step, b.i64(1))), step)
        return b.smin(b.i64(self.tile[axis]), left)

    def line(self, b: Builder, p: dict[str, Any], into: str, image: Any, at: Sequence[Any]) -> Any:
        """The number of a pixel of the input ("in") or the output ("out")."""
        i, index = b.ir, image
        for axis, x in enumerate(at):
            if axis or not self.flat:
                index = i.add(i.mul(index, p[f"{into}_{'zyx'[axis]}"]), x)
        return index
