"""All ops, by kind: elementwise, activation, move, reduce, nn, contract, recurrent, control."""

from .activation import (
    Celu,
    Elu,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Mish,
    Relu,
    Selu,
    Sigmoid,
    Silu,
    Softplus,
    Softsign,
    ThresholdedRelu,
)
from .contract import Attention, MatMul
from .control import If, Loop
from .dot import DotConv, DotMatMul
from .elementwise import (
    Add,
    BitCast,
    Cast,
    Div,
    Fmod,
    Max,
    Min,
    Mod,
    Mul,
    Pow,
    PRelu,
    Sub,
    Where,
)  # fmt: skip
from .functions import (
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Ceil,
    Cos,
    Cosh,
    Erf,
    Exp,
    Floor,
    IsInf,
    IsNaN,
    Log,
    Neg,
    NormalCdf,
    Reciprocal,
    Round,
    Sign,
    Sin,
    Sinh,
    Sqrt,
    Tan,
    Tanh,
)  # fmt: skip
from .grouped import GroupedMatMul
from .host import (
    CastString,
    ConcatFromSequence,
    DictVectorizer,
    Host,
    ImageDecode,
    ListAppend,
    ListStack,
    OptionalGet,
    OptionalHas,
    OptionalHold,
    RegexFullMatch,
    SequenceAt,
    SequenceConstruct,
    SequenceErase,
    SequenceInsert,
    SequenceLength,
    SplitToSequence,
    StringConcat,
    StringNormalizer,
    StringSplit,
    TfIdf,
    UniqueRows,
    ZipMap,
)
from .logic import (
    And,
    BitAnd,
    BitNot,
    BitOr,
    BitXor,
    Equal,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Not,
    Or,
    ShiftLeft,
    ShiftRight,
    Xor,
)  # fmt: skip
from .move import (
    Concat,
    DimTensor,
    Expand,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    OneHot,
    Pad,
    Reshape,
    Resize,
    ScatterElements,
    ScatterND,
    Slice,
    Transpose,
)  # fmt: skip
from .nn import LRN, Conv, ConvTranspose, Pool
from .quantized import Dequantize, IntegerConv, IntegerMatMul, Quantize
from .random import Clock
from .recurrent import Recurrent
from .reduce import ArgReduce, CumProd, CumSum, LayerNorm, Reduce, RMSNorm, Softmax, TopK
from .select import SORTABLE, Positions, Sort, Suppress
from .trees import TreeLeaves, TreeSum

__all__ = [
    "LRN", "SORTABLE", "Abs", "Acos", "Acosh", "Add", "And", "ArgReduce", "Asin", "Asinh", "Atan", "Atanh", "Attention",
    "BitAnd", "BitCast", "BitNot", "BitOr", "BitXor", "Cast", "Ceil", "Celu", "Clock", "Concat", "Conv", "ConvTranspose", "Cos",
    "Cosh", "CumProd", "CumSum", "Dequantize", "DimTensor", "Div", "DotConv", "DotMatMul", "Elu",
    "Equal", "Erf", "Exp", "Expand", "Floor", "Fmod", "Gather",
    "GatherElements", "GatherND", "Gelu", "Greater", "GreaterEqual", "GroupedMatMul", "HardSigmoid", "HardSwish",
    "If", "ImageDecode", "IntegerConv",
    "IntegerMatMul", "Iota", "IsInf", "IsNaN", "LayerNorm", "LeakyRelu", "Less", "LessEqual", "Log", "Loop", "MatMul",
    "Max", "Min", "Mish", "Mod", "Mul", "Neg", "NormalCdf", "Not", "OneHot", "Or", "PRelu", "Pad", "Pool", "Positions", "Pow",
    "Quantize", "RMSNorm", "Reciprocal", "Recurrent", "Reduce", "Relu", "Reshape", "Resize", "Round", "ScatterElements",
    "ScatterND", "Selu", "ShiftLeft", "ShiftRight", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "Slice", "Softmax",
    "Softplus", "Softsign", "Sort", "Sqrt", "Sub", "Suppress", "Tan", "Tanh", "ThresholdedRelu", "TopK", "Transpose",
    "TreeLeaves", "TreeSum", "Where", "Xor",
]  # fmt: skip

__all__ += [
    "CastString", "ConcatFromSequence", "DictVectorizer", "Host", "ListAppend", "ListStack", "OptionalGet", "OptionalHas", "OptionalHold",
    "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SplitToSequence", "StringConcat", "StringNormalizer", "StringSplit", "TfIdf", "UniqueRows", "ZipMap",
]  # fmt: skip
