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
    CastMap,
    CastString,
    ConcatFromSequence,
    DictVectorizer,
    Host,
    ImageDecode,
    ListAppend,
    ListStack,
    MurmurHash,
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
    TimeWarp,
    Tokenize,
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
    Stretch,
    Transpose,
)  # fmt: skip
from .nn import LRN, Conv, ConvTranspose, Pool
from .planes import PlaneConv
from .quantized import Dequantize, IntegerConv, IntegerMatMul, Quantize
from .random import Clock
from .recurrent import Recurrent
from .reduce import ArgReduce, CumProd, CumSum, LayerNorm, Reduce, RMSNorm, Softmax, TopK
from .rotary import Rotary
from .select import SORTABLE, Positions, Sort, Suppress
from .trees import AskedTreeLeaves, AskedTreeSum, TreeLeaves, TreeSum
from .within import Within

__all__ = [
    "AskedTreeLeaves", "AskedTreeSum",
    "LRN", "SORTABLE", "Abs", "Acos", "Acosh", "Add", "And", "ArgReduce", "Asin", "Asinh", "Atan", "Atanh", "Attention", "BitAnd",
    "BitCast", "BitNot", "BitOr", "BitXor", "Cast", "CastMap", "CastString", "Ceil", "Celu", "Clock", "Concat", "ConcatFromSequence",
    "Conv", "ConvTranspose", "Cos", "Cosh", "CumProd", "CumSum", "Dequantize", "DictVectorizer", "DimTensor", "Div", "DotConv",
    "DotMatMul", "Elu", "Equal", "Erf", "Exp", "Expand", "Floor", "Fmod", "Gather", "GatherElements", "GatherND", "Gelu", "Greater",
    "GreaterEqual", "GroupedMatMul", "HardSigmoid", "HardSwish", "Host", "If", "ImageDecode", "IntegerConv", "IntegerMatMul", "Iota",
    "IsInf", "IsNaN", "LayerNorm", "LeakyRelu", "Less", "LessEqual", "ListAppend", "ListStack", "Log", "Loop", "MatMul", "Max", "Min",
    "Mish", "Mod", "Mul", "MurmurHash", "Neg", "NormalCdf", "Not", "OneHot", "OptionalGet", "OptionalHas", "OptionalHold", "Or",
    "PRelu", "Pad", "PlaneConv", "Pool", "Positions", "Pow", "Quantize", "RMSNorm", "Reciprocal", "Recurrent", "Reduce", "RegexFullMatch",
    "Relu",
    "Reshape", "Resize", "Rotary", "Round", "ScatterElements", "ScatterND", "Selu", "SequenceAt", "SequenceConstruct",
    "SequenceErase", "SequenceInsert", "SequenceLength", "ShiftLeft", "ShiftRight", "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "Slice",
    "Softmax", "Softplus", "Softsign", "Sort", "SplitToSequence", "Sqrt", "Stretch", "StringConcat", "StringNormalizer",
    "StringSplit", "Sub", "Suppress", "Tan", "Tanh", "TfIdf", "ThresholdedRelu", "TimeWarp", "Tokenize", "TopK", "Transpose",
    "TreeLeaves", "TreeSum", "UniqueRows", "Where", "Within", "Xor", "ZipMap",
]  # fmt: skip
