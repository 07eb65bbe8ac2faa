"""The graph IR: types, dims, ops, graphs."""

from .bind import bind, sizes_of
from .dims import (
    Dim,
    Expr,
    Shape,
    Sym,
    ceildiv,
    depth_of,
    dim_max,
    dim_min,
    floordiv,
    is_static,
    is_symbol,
    lower,
    mod,
    prod,
    sym,
    symbols_of,
    upper,
)
from .dtypes import DType
from .graph import Graph, Limit, RunTimeSize
from .node import Const, Input, Node, Value, const
from .op import Elementwise, Op, Trait, broadcast
from .scalar import COMPARISONS, NUMPY, SCALAR_FNS, S, ScalarOps
from .stretch import dim_stretch, may_stretch
from .substitute import evaluate, substitute
from .types import TensorType

__all__ = [
    "COMPARISONS", "NUMPY", "SCALAR_FNS", "Const", "DType", "Dim", "Elementwise", "Expr", "Graph", "Input", "Limit",
    "Node", "Op", "RunTimeSize", "S", "ScalarOps", "Shape", "Sym", "TensorType", "Trait", "Value", "bind", "broadcast", "ceildiv", "const",
    "depth_of", "dim_max", "dim_min", "dim_stretch", "evaluate", "floordiv", "is_static",
    "is_symbol", "lower", "may_stretch", "mod", "prod", "sizes_of",
    "substitute", "sym", "symbols_of", "upper",
]  # fmt: skip
