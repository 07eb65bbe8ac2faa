"""LSTM, GRU and simple RNN over a whole sequence, one or two directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import VerifyError
from ..op import Op
from ..types import TensorType

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
ACTIVATION_COUNT = {"lstm": 3, "gru": 2, "rnn": 1}

Activation = tuple[str, float, float]
"""ONNX name ("Sigmoid", "Tanh", "Relu", …), alpha, beta."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


_ACTIVATIONS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "Sigmoid": lambda x, a, b: _sigmoid(x),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "ThresholdedRelu": lambda x, a, b: np.where(x > a, x, 0),
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "Elu": lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "Softplus": lambda x, a, b: np.logaddexp(x, 0),
}


@dataclass(frozen=True)
class Recurrent(Op):
    """(x[T,B,I], w[Dn,G·H,I], r[Dn,G·H,H], bias[Dn,2·G·H], seq_lens[B] i32, h0[Dn,B,H], c0[Dn,B,H], peephole[Dn,3·H])
    -> Y[T,Dn,B,H], Yh[Dn,B,H], and for LSTM Yc[Dn,B,H].

    Formulas and gate order (LSTM iofc with peephole iof, GRU zrh, RNN i) as in ONNX; bias is Wb then Rb. `directions` says for
    each direction whether it runs in reverse; `activations` lists those of direction 0, then of direction 1. `clip` 0 is none;
    it bounds the gates before their activation (as in onnxruntime, not the cell state before h). Steps at or beyond seq_lens[b]
    give zeros in Y and leave the state; a reverse direction starts at seq_lens[b] − 1. GRU and RNN ignore c0 and peephole.
    """

    cell: str
    hidden: int
    directions: tuple[bool, ...]
    activations: tuple[Activation, ...]
    clip: float = 0.0
    linear_before_reset: bool = False
    input_forget: bool = False

    def activations_of(self, direction: int) -> tuple[Activation, ...]:
        """f, g, h of one direction (as many as the cell has)."""
        n = ACTIVATION_COUNT[self.cell]
        return self.activations[direction * n : (direction + 1) * n]

    def infer(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if self.cell not in GATES:
            raise VerifyError(f"recurrent: cell {self.cell!r}", expected="lstm, gru or rnn")
        dn, h = len(self.directions), self.hidden
        if len(self.activations) != dn * ACTIVATION_COUNT[self.cell]:
            raise VerifyError(f"recurrent: {len(self.activations)} activations", expected=str(dn * ACTIVATION_COUNT[self.cell]))
        for name, _, _ in self.activations:
            if name not in _ACTIVATIONS:
                raise VerifyError(f"recurrent: activation {name!r}", expected=", ".join(_ACTIVATIONS))
        if len(types) != 8:
            raise VerifyError(f"recurrent: {len(types)} operands", expected="8")
        x = types[0]
        gh = GATES[self.cell] * h
        if x.rank != 3:
            raise VerifyError(f"recurrent: x of rank {x.rank}", expected="[T, B, I]")
        steps, batch, size = x.shape
        wanted = {"w": (dn, gh, size), "r": (dn, gh, h), "bias": (dn, 2 * gh), "seq_lens": (batch,), "h0": (dn, batch, h),
                  "c0": (dn, batch, h), "peephole": (dn, 3 * h)}  # fmt: skip
        for t, (name, shape) in zip(types[1:], wanted.items(), strict=True):
            clash = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(t.shape, shape, strict=False))
            if t.rank != len(shape) or clash:
                raise VerifyError(f"recurrent: {name} is {t}", expected=f"[{', '.join(map(str, shape))}]")
        state = TensorType(x.dtype, (dn, batch, h))
        out = (TensorType(x.dtype, (steps, dn, batch, h)), state)
        return (*out, state) if self.cell == "lstm" else out

    def reference(self, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w, r, bias, lens, h0, c0, peep = args
        dtype = x.dtype
        acc = np.float32 if dtype.itemsize < 4 else dtype
        x, w, r, bias, h0, c0, peep = (a.astype(acc, copy=False) for a in (x, w, r, bias, h0, c0, peep))
        y = np.zeros((x.shape[0], len(self.directions), x.shape[1], self.hidden), acc)
        yh, yc = np.zeros_like(h0), np.zeros_like(h0)
        with np.errstate(over="ignore"):
            for d in range(len(self.directions)):
                yh[d], yc[d] = self._direction(d, x, w[d], r[d], bias[d], lens, h0[d], c0[d], peep[d], y[:, d])
        out = (y.astype(dtype, copy=False), yh.astype(dtype, copy=False), yc.astype(dtype, copy=False))
        return out if self.cell == "lstm" else out[:2]

    def _direction(
        self, d: int, x: np.ndarray, w: np.ndarray, r: np.ndarray, bias: np.ndarray, lens: np.ndarray, h: np.ndarray,
        c: np.ndarray, peep: np.ndarray, y: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Run one direction, writing y[T, B, H]; returns the last h and c."""
        n = self.hidden
        wb, rb = np.split(bias, 2)
        xg = x @ w.T + wb
        step = {"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[self.cell]
        for t in reversed(range(x.shape[0])) if self.directions[d] else range(x.shape[0]):
            live = (t < lens)[:, None]
            h2, c2 = step(self.activations_of(d), xg[t], r, rb, h, c, peep.reshape(3, n))
            h, c = np.where(live, h2, h), np.where(live, c2, c)
            y[t] = np.where(live, h2, 0)
        return h, c

    def _act(self, act: Activation, x: np.ndarray) -> np.ndarray:
        x = np.clip(x, -self.clip, self.clip) if self.clip else x
        return _ACTIVATIONS[act[0]](x, act[1], act[2])

    def _lstm(self, acts: Sequence[Activation], xg: np.ndarray, r: np.ndarray, rb: np.ndarray, h: np.ndarray, c: np.ndarray,
              p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        f, g, hh = acts
        i, o, fg, cc = np.split(xg + h @ r.T + rb, 4, axis=-1)
        i = self._act(f, i + p[0] * c)
        fg = 1 - i if self.input_forget else self._act(f, fg + p[2] * c)
        c = fg * c + i * self._act(g, cc)
        o = self._act(f, o + p[1] * c)
        return o * _ACTIVATIONS[hh[0]](c, hh[1], hh[2]), c

    def _gru(self, acts: Sequence[Activation], xg: np.ndarray, r: np.ndarray, rb: np.ndarray, h: np.ndarray, c: np.ndarray,
             p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        n = self.hidden
        f, g = acts
        zr = xg[:, : 2 * n] + h @ r[: 2 * n].T + rb[: 2 * n]
        z, rr = self._act(f, zr[:, :n]), self._act(f, zr[:, n:])
        if self.linear_before_reset:
            new = xg[:, 2 * n :] + rr * (h @ r[2 * n :].T + rb[2 * n :])
        else:
            new = xg[:, 2 * n :] + (rr * h) @ r[2 * n :].T + rb[2 * n :]
        return (1 - z) * self._act(g, new) + z * h, c

    def _rnn(self, acts: Sequence[Activation], xg: np.ndarray, r: np.ndarray, rb: np.ndarray, h: np.ndarray, c: np.ndarray,
             p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        return self._act(acts[0], xg + h @ r.T + rb), c
