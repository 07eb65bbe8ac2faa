"""Gates of recurrent cells: the ONNX formulas, after the products with R are done. Written once for all backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import CodegenError
from .kernel import RecurrentKernel

Values = Mapping[int, Any]


class Gates:
    """xs, hs, rb: by number of the gate, x·W + Wb, h·R, and Rb (gate order as ONNX: iofc, zrh, i).

    Args:
        call: `call(fn, *values)` computes one of SCALAR_FNS on the backend's values, all of the kernel's dtype.
        const: a number of that dtype.
        logistic: 1 / (1 + e⁻ˣ), where the backend has a shorter way than what `call` makes of it.
    """

    def __init__(
        self, kernel: RecurrentKernel, call: Callable[..., Any], const: Callable[[float], Any], logistic: Callable[[Any], Any] | None = None
    ) -> None:
        self.kernel, self._op, self._k, self._logistic = kernel, call, const, logistic

    def lstm(self, xs: Values, hs: Values, rb: Values, c: Any, peephole: Sequence[Any]) -> tuple[Any, Any]:
        """(h, c): i, o, f = f(…), c' = f∘c + i∘g(…), h = o∘h(c'); o sees the new c through its peephole."""
        f, g, h = self.kernel.activations
        total = [self._sum(xs[q], hs[q], rb[q]) for q in range(4)]
        i = self._act(f, self._fma(peephole[0], c, total[0]))
        if self.kernel.input_forget:
            forget = self._op("sub", self._k(1.0), i)
        else:
            forget = self._act(f, self._fma(peephole[2], c, total[2]))
        c = self._fma(forget, c, self._op("mul", i, self._act(g, total[3])))
        o = self._act(f, self._fma(peephole[1], c, total[1]))
        return self._op("mul", o, self._activate(h, c)), c

    def reset(self, xs: Values, hs: Values, rb: Values, h: Any) -> Any:
        """r∘h, what R of the candidate multiplies (GRU without linear_before_reset)."""
        return self._op("mul", self._act(self.kernel.activations[0], self._sum(xs[1], hs[1], rb[1])), h)

    def gru(self, xs: Values, hs: Values, rb: Values, h: Any) -> Any:
        """(1 − z)∘g(…) + z∘h"""
        f, g = self.kernel.activations
        z = self._act(f, self._sum(xs[0], hs[0], rb[0]))
        candidate = self._op("add", hs[2], rb[2])
        if self.kernel.linear_before_reset:
            candidate = self._op("mul", self._act(f, self._sum(xs[1], hs[1], rb[1])), candidate)
        new = self._act(g, self._op("add", xs[2], candidate))
        return self._op("add", self._op("mul", self._op("sub", self._k(1.0), z), new), self._op("mul", z, h))

    def rnn(self, xs: Values, hs: Values, rb: Values) -> Any:
        return self._act(self.kernel.activations[0], self._sum(xs[0], hs[0], rb[0]))

    # arithmetic ----------------------------------------------------------------------------------------------------
    def _sum(self, x: Any, h: Any, bias: Any) -> Any:
        return self._op("add", self._op("add", x, h), bias)

    def _fma(self, a: Any, b: Any, c: Any) -> Any:
        return self._op("fma", a, b, c)

    def _act(self, act: tuple[str, float, float], x: Any) -> Any:
        """Gate activation, its argument bounded by `clip`."""
        if self.kernel.clip:
            x = self._op("max", self._op("min", x, self._k(self.kernel.clip)), self._k(-self.kernel.clip))
        return self._activate(act, x)

    def _activate(self, act: tuple[str, float, float], x: Any) -> Any:
        name, alpha, beta = act
        op, k = self._op, self._k

        def below(limit: float, yes: Any, no: Any) -> Any:
            """yes where x < limit, else no"""
            return op("select", op("lt", x, k(limit)), yes, no)

        match name:
            case "Sigmoid" if self._logistic is not None:
                return self._logistic(x)
            case "Sigmoid":
                return op("div", k(1.0), op("add", k(1.0), op("exp", op("neg", x))))
            case "Tanh":
                return op("tanh", x)
            case "Relu":
                return op("max", x, k(0.0))
            case "Affine":
                return op("fma", x, k(alpha), k(beta))
            case "LeakyRelu":
                return below(0.0, op("mul", x, k(alpha)), x)
            case "ThresholdedRelu":
                return op("select", op("gt", x, k(alpha)), x, k(0.0))
            case "ScaledTanh":
                return op("mul", k(alpha), op("tanh", op("mul", k(beta), x)))
            case "HardSigmoid":
                return op("max", op("min", op("fma", x, k(alpha), k(beta)), k(1.0)), k(0.0))
            case "Elu":
                return below(0.0, op("mul", k(alpha), op("sub", op("exp", op("min", x, k(0.0))), k(1.0))), x)
            case "Softsign":
                return op("div", x, op("add", k(1.0), op("abs", x)))
            case "Softplus":  # log(1 + eˣ) = max(x, 0) + log(1 + e^−|x|)
                tail = op("log", op("add", k(1.0), op("exp", op("neg", op("abs", x)))))
                return op("add", op("max", x, k(0.0)), tail)
        raise CodegenError(f"activation {name!r} of a recurrent cell")
