"""All ops, by kind: elementwise, move, reduce, nn, contract, recurrent, control."""

from .contract import Attention, MatMul
from .control import If, Loop
from .elementwise import (
    Abs, Acos, Acosh, Add, And, Asin, Asinh, Atan, Atanh, BitAnd, BitNot, BitOr, BitXor, Cast, Ceil, Celu, Cos, Cosh, Div, Elu,
    Equal, Erf, Exp, Floor, Fmod, Gelu, Greater, GreaterEqual, HardSigmoid, HardSwish, IsInf, IsNaN, LeakyRelu, Less,
    LessEqual, Log, Max, Min, Mish, Mod, Mul, Neg, Not, Or, Pow, PRelu, Reciprocal, Relu, Round, Selu, ShiftLeft, ShiftRight,
    Sigmoid, Sign, Silu, Sin, Sinh, Softplus, Softsign, Sqrt, Sub, Tan, Tanh, ThresholdedRelu, Where, Xor,
)  # fmt: skip
from .move import (
    Concat, DimTensor, Expand, Gather, GatherElements, GatherND, Iota, OneHot, Pad, Reshape, Resize, ScatterElements, ScatterND,
    Slice, Transpose,
)  # fmt: skip
from .nn import LRN, Conv, ConvTranspose, Pool
from .recurrent import Recurrent
from .reduce import ArgReduce, CumSum, LayerNorm, Reduce, RMSNorm, Softmax, TopK

__all__ = [
    "LRN", "Abs", "Acos", "Acosh", "Add", "And", "ArgReduce", "Asin", "Asinh", "Atan", "Atanh", "Attention", "BitAnd", "BitNot",
    "BitOr", "BitXor", "Cast", "Ceil", "Celu", "Concat", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DimTensor", "Div",
    "Elu", "Equal", "Erf", "Exp", "Expand", "Floor", "Fmod", "Gather", "GatherElements", "GatherND", "Gelu", "Greater",
    "GreaterEqual", "HardSigmoid", "HardSwish", "If", "Iota", "IsInf", "IsNaN", "LayerNorm", "LeakyRelu", "Less", "LessEqual",
    "Log", "Loop", "MatMul", "Max", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "PRelu", "Pad", "Pool", "Pow",
    "RMSNorm", "Reciprocal", "Recurrent", "Reduce", "Relu", "Reshape", "Resize", "Round", "ScatterElements", "ScatterND", "Selu",
    "ShiftLeft", "ShiftRight", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "Slice", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub",
    "Tan", "Tanh", "ThresholdedRelu", "TopK", "Transpose", "Where", "Xor",
]  # fmt: skip
