"""What an import takes sizes to be: which have to agree, between what they lie, and choices about those that only a run knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import OnnxImportError
from ...ir import Dim, Expr, Limit, RunTimeSize, broadcast, dim_stretch, lower, symbols_of, upper
from .dim_arithmetic import equal, equality_of

_MOST = 2**62  # of any size


class Requirements:
    """What the graph being imported needs of sizes, or the region, at the node whose place is `loc`."""

    loc: tuple[str, ...]

    def __init__(self) -> None:
        # pairs of dims that must agree at run time; False where one of them might be 1 instead
        self.equal: dict[tuple[Dim, Dim], bool] = {}
        self.limits: list[Limit] = []  # of the region that is being imported,
        self.bound_limits: list[Limit] = []  # and of sizes that data decide inside of regions
        self.met: list[tuple[Dim, ...]] = []  # dims that a region needs something of together, or that a value has in turn
        self.extents: set[Dim] = set()  # sizes of tensors that may seem negative, and are not: a run with such sizes is refused
        self.stretch = False  # broadcast sizes that may turn out to be 1, instead of assuming that they do not
        self.in_region = False  # inside a graph that may not run at all
        self.sizes: list[RunTimeSize] = []  # symbols of the region being imported that data decide
        self.open_sizes = [self.sizes]  # those of the main graph and of each region that this one is in

    def broadcast(self, a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape that two shapes broadcast to. Sizes that might be 1 are assumed equal (then it is a's), or stretched; those
        that are never more are assumed to be 1."""
        shape = broadcast(tuple(a), tuple(b))
        ones = (1,) * len(shape)
        out: list[Dim] = []
        for d, *sides in zip(shape, (*ones[len(a) :], *a), (*ones[len(b) :], *b), strict=True):
            narrow = [] if self.stretch else [side for side in sides if upper(side) == 1 != side]
            if isinstance(d, Expr) and self.stretch:
                d = dim_stretch(*sides)
            elif narrow:
                d = next((side for side in sides if side not in narrow), d)
            out.append(d)
            for side in sides:
                if side in (1, d):
                    continue
                if self.stretch:
                    self.require_equal((side - d) * (side - 1), 0)
                else:
                    self.equal.setdefault((side, 1 if side in narrow else d), False)
        return tuple(out)

    def natural(self, d: Dim) -> bool:
        """Whether d is not negative in any run."""
        return lower(d) >= 0 or d in self.extents

    def require_equal(self, a: Dim, b: Dim) -> None:
        """Two dims have to agree whenever the model runs, or the region that is being imported."""
        if isinstance(a, int) and isinstance(b, int) and a != b:
            raise OnnxImportError(f"dimension {a}", expected=str(b), loc=", ".join(self.loc))
        if a != b:
            self.require(a, b)

    def require(self, a: Dim, b: Dim) -> None:
        """`require_equal` of dims that differ, and may be equal."""
        if self.in_region and not self._data_decide(a, b):
            self.limits.append(Limit(a, b, b, ", ".join(self.loc)))
            self.met.append((a, b))
        else:
            self.equal[a, b] = True

    def require_within(self, d: Dim, lo: Dim, hi: Dim) -> bool:
        """A dim has to be within lo to hi, both included, whenever the model runs. False inside a graph that may not run: nothing
        is required then, as memory could not be addressed there in runs that it is not for. Raises OnnxImportError where it never is."""
        if lower(d - lo) >= 0 and upper(d - hi) <= 0:
            return True
        if self.in_region:
            return False
        if upper(d - lo) < 0 or lower(d - hi) > 0:
            raise OnnxImportError(f"{d}", expected=f"{lo} to {hi}", loc=", ".join(self.loc))
        self.limits.append(Limit(d, lo, hi, ", ".join(self.loc)))
        return True

    def require_at_most(self, d: Dim, most: Dim) -> None:
        """A dim has to be at most another whenever the model runs, or the region that is being imported."""
        self._ordered(d, most, f"dimension {d}", f"at most {most}", Limit(d, 0, most, ", ".join(self.loc)))

    def require_at_least(self, d: Dim, least: Dim) -> None:
        """A dim has to be at least another whenever the model runs, or the region that is being imported."""
        self._ordered(least, d, f"dimension {d}", f"at least {least}", Limit(d, least, _MOST, ", ".join(self.loc)))

    def _ordered(self, small: Dim, large: Dim, found: str, expected: str, limit: Limit) -> None:
        if upper(small - large) <= 0:
            return
        if lower(small - large) > 0:
            raise OnnxImportError(found, expected=expected, loc=", ".join(self.loc))
        (self.bound_limits if self.in_region and self._data_decide(small, large) else self.limits).append(limit)
        self.met.append((small, large))

    def is_one(self, d: Dim) -> bool:
        """Whether an axis of size d goes where axes of size 1 go, which changes the rank of a result.

        A symbolic size is first taken as another than 1, unless something before needs it to be 1.
        """
        if not isinstance(d, Expr) or not lower(d) <= 1 <= upper(d):
            return d == 1
        return self._needs_one(d) or self.assume(equal(d, 1), False)

    def assume(self, truth: Dim, first: bool) -> bool:
        """`decide`, and this graph is for runs of that answer only; the others are left to graphs of the other choice."""
        taken = self.decide(truth, first)
        asked = symbols_of((truth,))
        for sizes in self.open_sizes:
            sizes[:] = [replace(s, wanted=True) if s.symbol in asked else s for s in sizes]
        self.equal[_stated(truth, taken)] = True
        return taken

    def choose(self, truth: Dim, first: bool) -> bool:
        """`decide`, and what is being imported, be it a region, is for runs of that answer only."""
        if not self.in_region or self._data_decide(truth):
            return self.assume(truth, first)
        taken = self.decide(truth, first)
        self.require(*_stated(truth, taken))
        return taken

    def _data_decide(self, *dims: Dim) -> bool:
        """Whether sizes depend on data that an open region computes: what is required of them is compared where they are bound."""
        return bool(symbols_of(dims) & {s.symbol for sizes in self.open_sizes[1:] for s in sizes})

    def _needs_one(self, d: Dim) -> bool:
        """Whether the sizes that have to be equal make d equal 1."""
        seen, left = {d}, [d]
        while left:
            x = left.pop()
            found = [b if a == x else a for (a, b), required in self.equal.items() if required and x in (a, b)]
            left += [y for y in found if y not in seen]
            seen.update(found)
        return 1 in seen

    def decide(self, truth: Dim, first: bool) -> bool:
        """Whether to take it that a dim that is 0 or 1 is 1: as `first` says, but where that choice failed or is done with."""
        raise NotImplementedError


def _stated(truth: Dim, taken: bool) -> tuple[Dim, Dim]:
    """Two dims that are equal exactly when a truth value is that."""
    return (equality_of(truth) if taken else None) or (truth, int(taken))
