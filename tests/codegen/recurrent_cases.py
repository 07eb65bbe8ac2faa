"""Recurrent kernels with their operands, and what the op's own reference makes of these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mlc.codegen.kernel import Operand, RecurrentKernel
from mlc.ir import DType, sym
from mlc.ir.ops import Recurrent
from mlc.ir.ops.recurrent import GATES

DEFAULT = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
ACTIVATIONS = ("Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus")
UNTOUCHED = 7  # what outputs hold before, and must hold afterwards outside of their part


@dataclass(frozen=True)
class Case:
    """`buffers`: gates, recurrent weights, bias, h0, c0, peepholes, lengths, then Y, Y_h, Y_c and the state, flat and contiguous."""

    kernel: RecurrentKernel
    buffers: list[np.ndarray]
    want: list[np.ndarray]
    bindings: dict[str, int]

    @property
    def y(self) -> np.ndarray:
        """[T, D + 1, B, H]: one direction more than the kernel writes."""
        return self.buffers[7].reshape(self.bindings["T"], len(self.kernel.directions) + 1, self.bindings["B"], self.kernel.hidden)

    def results(self) -> list[np.ndarray]:
        d = len(self.kernel.directions)
        shape = (d, self.bindings["B"], self.kernel.hidden)
        ends = [b[: np.prod(shape, dtype=int)].reshape(shape) for b in self.buffers[8:10]]
        return [self.y[:, :d], *ends][: len(self.want)]

    def check(self, tolerance: float) -> None:
        """Results are near the reference (relative L2), and nothing outside of them is written."""
        near(self.results(), self.want, tolerance)
        d = len(self.kernel.directions)
        written = d * self.bindings["B"] * self.kernel.hidden
        outside = (self.y[:, d], *(b[written:] for b in self.buffers[8:10]))
        assert all((b == UNTOUCHED).all() for b in outside), "wrote outside"


def near(got, want, tolerance):
    for g, v in zip(got, want, strict=True):
        assert np.linalg.norm(g - v) <= tolerance * max(np.linalg.norm(v), 1e-30)


def pack(r, cell, before, block):
    """[D, G·H, H] -> [D, blocks, per stage of a step: [H, gates, block]]"""
    d, _, h = r.shape
    blocks = -(-h // block)
    padded = np.zeros((d, GATES[cell], blocks * block, h), r.dtype)
    padded[:, :, :h] = r.reshape(d, GATES[cell], h, h)
    stages = [slice(0, 2), slice(2, 3)] if cell == "gru" and not before else [slice(None)]
    parts = [padded[:, s].reshape(d, -1, blocks, block, h).transpose(0, 2, 4, 1, 3).reshape(d, blocks, -1) for s in stages]
    return np.concatenate(parts, 2)


def case(cell, steps, batch, hidden, *, directions=(False,), lens=None, activations=None, clip=0.0, before=False, coupled=False,
         dtype=DType.F32, symbolic=False) -> Case:  # fmt: skip
    r = np.random.default_rng(3)
    gh, inner, d = GATES[cell] * hidden, 5, len(directions)

    def array(*shape):
        return (r.standard_normal(shape) * 0.5).astype(dtype.np)

    acts = tuple((a, 0.3, 0.6) for a in activations or DEFAULT[cell])
    x, w, rr = array(steps, batch, inner), array(d, gh, inner), array(d, gh, hidden)
    bias, h0, c0, peephole = array(d, 2 * gh), array(d, batch, hidden), array(d, batch, hidden), array(d, 3 * hidden)
    lens = np.asarray(lens if lens is not None else [steps] * batch, np.int32)
    op = Recurrent(cell, hidden, directions, acts * d, clip, before, coupled)
    want = op.reference(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in (x, w, rr, bias, lens, h0, c0, peephole)))

    gates = np.stack([x @ w[n].T + bias[n, :gh] for n in range(d)], 2).astype(dtype.np)
    block = 64 // dtype.itemsize
    y = np.full((steps, d + 1, batch, hidden), UNTOUCHED, dtype.np)
    h_n, c_n = (np.full(d * batch * hidden + 64, UNTOUCHED, dtype.np) for _ in range(2))
    state = np.full(4 * d * batch * -(-hidden // block) * block, np.nan, dtype.np)
    buffers = [gates, pack(rr, cell, before, block), bias[:, gh:], h0, c0, peephole, lens, y, h_n, c_n, state]
    operands = tuple(Operand(DType.I32 if a is lens else dtype, a.size, i >= 7) for i, a in enumerate(buffers))
    T, B = (sym("T"), sym("B")) if symbolic else (steps, batch)
    kernel = RecurrentKernel(cell, T, B, hidden, directions, acts, clip, before, coupled, operands, (d + 1) * B * hidden, B * hidden,
                             hidden, block)  # fmt: skip
    return Case(kernel, [np.ascontiguousarray(b).reshape(-1) for b in buffers], list(want), {"T": steps, "B": batch})
