"""A Loop of which some states grow by one element an iteration, such as caches and sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ......ir import Dim, DType, RunTimeSize, TensorType, Value, lower, sym
from ......ir import ops as O
from ....compose import Build
from ....context import ImportContext
from ....region import Region, formal, iteration

Inside = Callable[[Value], Value]  # what a value from outside is inside of the Loop's body
Body = Callable[[Inside, list[Value], Dim], tuple[Value, list[Value]]]  # (states, length) -> (whether to go on, next states)


def growing_loop(
    ctx: ImportContext, states: Sequence[Value], axes: Sequence[int | None], first: Dim, trips: Value, start: Value, body: Body, name: str
) -> tuple[list[Value], Dim]:  # fmt: skip
    """The states behind at most `trips` iterations, while what the body says first (`start` before it) is true; and the length.

    The length is `first` and grows by one; `axes` says along which axis a state grows with it. Sizes there differ from the length
    by what they differ from it at the start.
    """
    b, region = Build(ctx), Region()
    names = ctx.fresh(), ctx.fresh()
    inner, outer = (sym(name, lower(first)) for name in names)
    counter, running = iteration(ctx.loc)
    extent = formal(TensorType(DType.I64, (1,)), ctx.loc)
    region.sizes.append(RunTimeSize(names[0], extent))

    def types(length: Dim) -> list[TensorType]:
        return [_grown(v.type, axis, length - first) for v, axis in zip(states, axes, strict=True)]

    formals = [formal(t, ctx.loc) for t in types(inner)]
    with ctx.inside(region):
        go, following = body(lambda v: ctx.captured(region, v), formals, inner)
        for i, (v, wanted) in enumerate(zip(following, types(inner + 1), strict=True)):
            if v.dtype is not wanted.dtype or v.type.rank != wanted.rank:
                raise ctx.unsupported(f"a decoder that turns a state of {formals[i].type} into {v.type}, expected {wanted}")
            following[i] = b.reshape(v, wanted.shape)
        after = ctx.dim_vector([inner + 1])
    graph = region.graph([go, *following, after], (counter, running, *formals, extent), name)
    op = O.Loop(graph, len(states) + 1, 0, None, (*types(outer), extent.type))
    node = ctx.emit(op, trips, start, *states, ctx.dim_vector([first]), *region.captures)
    ctx.sizes.append(RunTimeSize(names[1], node.outputs[len(states)]))
    return list(node.outputs[: len(states)]), outer


def _grown(t: TensorType, axis: int | None, by: Dim) -> TensorType:
    return t if axis is None else TensorType(t.dtype, tuple(d + by if k == axis else d for k, d in enumerate(t.shape)))
