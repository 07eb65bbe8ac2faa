"""Kernels: an index space, operands, and scalar bodies. What every backend emits and the interpreter defines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..ir import Dim, DType, Shape, prod
from .expr import E
from .group_blocks import GroupBlocks


@dataclass(frozen=True, slots=True)
class Operand:
    """A flat buffer argument: dtype and number of elements. Row-major; `written` for results; `scratch`: nobody reads it after."""

    dtype: DType
    numel: Dim
    written: bool = False
    scratch: bool = False


def bytes_of(operands: Iterable[Operand]) -> Dim:
    """Of all operands together, each counted once."""
    size: Dim = 0
    for o in operands:
        size = size + o.numel * o.dtype.itemsize
    return size


@dataclass(frozen=True, slots=True)
class Reduction:
    """acc = fn(acc, value) over all reduce axes, from the neutral element of fn in the dtype of value.

    fn: "sum", "prod", "max", "min", "and", "or", or "argmax"/"argmin" (value compared; result I64, the linear
    index over the reduce axes of the first extreme element).
    """

    fn: str
    value: E


# The scalar function of each `Reduction.fn` but those of places.
COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "and": "and_", "or": "or_"}


@dataclass(frozen=True, slots=True)
class Store:
    """operand[offset] = value, for every point of the parallel axes (and of the reduce axes too if `per_element`).

    `guard` (BOOL), if given, suppresses the store where false.
    """

    operand: int
    offset: E
    value: E
    per_element: bool = False
    guard: E | None = None


@dataclass(frozen=True, slots=True)
class LoopKernel:
    """for parallel axes: [for each stage: for reduce axes: accumulate]; then stores.

    Covers maps (no reduce axes), reductions, rows (softmax, norms: several stages, per-element stores) and windows
    (pooling: reduce axes are the window, out-of-range taps selected away). Stage i may read Reduced(j), j < i.
    The last parallel axis is the one meant for vectors unless the scheduler sees better, or `inward` says that they run along
    the last axis, of the reduce axes if there are any: where the others turn out to be short.
    """

    axes: Shape
    reduce_axes: Shape
    operands: tuple[Operand, ...]
    stages: tuple[Reduction, ...]
    stores: tuple[Store, ...]
    inward: bool = False

    @property
    def roots(self) -> list[E]:
        """Every expression of the kernel: of the stages, then of the stores."""
        out = [s.value for s in self.stages]
        for s in self.stores:
            out += [s.offset, s.value, *([s.guard] if s.guard is not None else [])]
        return out


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Rows of A by indirection over a channels-last input [N, *spatial, C]; zero outside. All tuples over spatial dims."""

    spatial: Shape
    out_spatial: Shape
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads_lo: tuple[Dim, ...]
    dilations: tuple[int, ...]

    @property
    def in_place(self) -> bool:
        """Whether every output pixel is a sum over the channels of the input pixel at its place, and nothing else."""
        one_tap = all(k == 1 for k in self.kernel) and all(s == 1 for s in self.strides)
        return one_tap and all(p == 0 for p in self.pads_lo) and self.spatial == self.out_spatial


@dataclass(frozen=True, slots=True)
class Planes:
    """A result with channels first: column n of row m, the pixel m % pixels of image m // pixels, is at
    image·(m // pixels) + plane·n + m % pixels."""

    pixels: Dim
    plane: Dim
    image: Dim


@dataclass(frozen=True, slots=True)
class ContractKernel:
    """C[b, m, n] = epilogue(Σ_k A[b, m, k] · B[b, k, n]); float32 unless said otherwise.

    operand 0 is A, operand 1 is B **packed** (see `codegen/packing.py`), the last operand is C, between them epilogue operands.
    Matmul (`conv is None`): A row-major, row m of batch b at a_batch(b) + m·lda, where lda, batch strides are in elements.
    B batch stride in packed elements (0: shared). With `b_row` B is not packed: its row k
    of batch b is at b·b_batch + k·b_row; with `b_column` neither, and column n, whose elements are neighbours, is at
    b·b_batch + n·b_column. C row m of batch b at b·c_batch + m·ldc.
    Conv: m runs over N·out_spatial, k over kernel taps × channels_per_group; b runs over groups: A channel offset
    b·channels_per_group, C column offset b·n; lda is the pixel stride (C of the input) and ldc that of the output.
    With `planes` these say where column b·n + n of C row m is, instead of ldc and c_batch.

    Epilogue: an expression over Acc() and Loads whose `offset` is built from Axis(0)=b, Axis(1)=m, Axis(2)=n.
    The emitter requires each Load offset to be affine with n-stride 0 or 1; lowering only fuses such ones.
    """

    batch: Dim
    m: Dim
    n: Dim
    k: Dim
    operands: tuple[Operand, ...]
    lda: Dim
    a_batch: Dim
    b_batch: Dim
    ldc: Dim
    c_batch: Dim
    epilogue: E
    conv: ConvGeometry | None = None
    panel: int = 64  # columns per packed panel of B
    last: int = 0  # columns of the last panel (from `last_panel`); 0: as many
    group: int = 1  # elements of K in one lane of packed B: more than 1 for dot instructions (u8 by i8 -> i32, bf16 -> f32)
    border: int = -1  # operand whose first element a convolution reads outside of the image; -1: zero
    b_row: Dim = 0  # of a row-major B
    b_column: Dim = 0  # of a column-major B
    diagonal: int = 1  # B of a convolution is block diagonal with so many blocks, stored side by side: [k/diagonal, n], n ≤ panel
    planes: Planes | None = None

    @property
    def at_a_stride(self) -> bool:
        """Whether row m of A is at m·lda (of its batch, or group), also where that is a convolution's."""
        return self.conv is None or self.conv.in_place


@dataclass(frozen=True, slots=True)
class GroupedKernel:
    """C[m, n] = epilogue(Σ_k A[m, k] · (levels[k, n] − zero[k/group, n]) · scale[k/group, n]), summed in float32. A level is a
    number, or the place of one among 16 `values`. A is float32, or of 16 bits on devices that multiply those.

    Operand 0 is A, row m at m·lda; 1 the weights in `blocks`. Without those, 1 has the levels, `bits` wide, and 2 the scales, both
    packed (`codegen/packing.py`: levels, columns); operand 3 the zeros, packed like the scales, if `zero` is None. Else every
    zero is `zero`. The last operand is C, row m at m·ldc; between them are epilogue operands, as in ContractKernel (Axis(0) is 0).
    `row_bits` of the largest element of a group of A have to count.
    """

    m: Dim
    n: int
    k: int
    bits: int
    group: int
    zero: float | None
    operands: tuple[Operand, ...]
    lda: Dim
    ldc: Dim
    epilogue: E
    panel: int = 64
    values: tuple[float, ...] = ()
    blocks: GroupBlocks | None = None
    row_bits: int = 24


@dataclass(frozen=True, slots=True)
class WinogradKernel:
    """A convolution of three spatial axes and strides of 1, by minimal filtering (`codegen/winograd.py`). Axes that the
    model does not have are of one pixel; of a dilated one, every `dilation`-th pixel is a line of its own.

    C[m, n] = epilogue(conv(x, w)[m, n]) with m over images·out_spatial, float32. Operand 0 is x, channels last, `lda` elements
    from pixel to pixel; operand 1 the transformed weights [groups, ⌈n/panel⌉, positions, channels, panel], zero padded; the last
    operand is C, row m at m·ldc; between them are epilogue operands, as in ContractKernel (Axis(0) is the group).
    `channels` and `n` are those of one of the `groups`, which are next to each other. `tile`: outputs of a tile along each axis.
    What is computed differs from the direct sum by rounding only.
    """

    images: Dim
    n: int
    channels: int
    operands: tuple[Operand, ...]
    lda: Dim
    ldc: Dim
    epilogue: E
    conv: ConvGeometry
    tile: tuple[int, int, int]
    panel: int = 64
    groups: int = 1

    @property
    def m(self) -> Dim:
        return self.images * prod(self.conv.out_spatial)


@dataclass(frozen=True, slots=True)
class RecurrentKernel:
    """The sequential part of LSTM/GRU/RNN in one or two directions: gates X·W + bias are precomputed for all steps.

    With D directions and G gates, operands: 0 x_gates [T, B, D, G·H] · 1 R packed [D, ⌈H/block⌉, per gate group: [H, gates, block]] ·
    2 recurrent bias [D, G·H] · 3 h0 [D, B, H] · 4 c0 [D, B, H] (LSTM) · 5 peephole [D, 3·H] · 6 seq_lens i32 [B] ·
    written: 7 Y (strides below) · 8 h_n [D, B, H] · 9 c_n [D, B, H] · 10 scratch for the state [regions, D, B, width].
    Operands absent in the model are given as zero constants (seq_lens as T). Gate order as ONNX (iofc / zrh / i).
    """

    cell: str  # "lstm", "gru", "rnn"
    steps: Dim
    batch: Dim
    hidden: int
    directions: tuple[bool, ...]  # whether each runs in reverse
    activations: tuple[tuple[str, float, float], ...]  # (name, alpha, beta) in ONNX order: f, g(, h); the same for all directions
    clip: float
    linear_before_reset: bool
    input_forget: bool
    operands: tuple[Operand, ...]
    y_step: Dim  # element strides of Y, between steps, directions and batch rows
    y_direction: Dim
    y_batch: Dim
    block: int  # hidden columns per packed block of R

    @property
    def gate_groups(self) -> tuple[tuple[int, ...], ...]:
        return gate_groups(self.cell, self.linear_before_reset)

    @property
    def gate_count(self) -> int:
        return sum(len(g) for g in self.gate_groups)

    @property
    def width(self) -> int:
        """Hidden columns in whole blocks."""
        return -(-self.hidden // self.block) * self.block

    @property
    def regions(self) -> int:
        """Planes of state: h and c of odd and even steps, or h of both, reset∘h and z."""
        return 4 if self.cell == "lstm" or len(self.gate_groups) > 1 else 2


def gate_groups(cell: str, linear_before_reset: bool) -> tuple[tuple[int, ...], ...]:
    """Gates by the stage of a step that multiplies by their part of R: that of a GRU's candidate multiplies reset ∘ h."""
    match cell:
        case "lstm":
            return ((0, 1, 2, 3),)
        case "gru":
            return ((0, 1, 2),) if linear_before_reset else ((0, 1), (2,))
    return ((0,),)


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """out[b, h, s] = softmax_l(scale · q[b, h, s]·k[b, h/group, l] + mask[b, h, l, s]) · v[b, h/group].

    All are float32; on CUDA q, k, v and out may be float16 or bfloat16, with a mask of float32 and sums in float32.

    operands: q, k, v, the mask if any, out. Strides are in elements, of (batch, head, row); rows of q and out are queries
    (`rows` of them), those of k and v keys (`keys`). Elements of a row are next to each other: `size` in q and k,
    `value_size` in v and out. Strides of the mask are of (batch, head, key, query): of the last two one is 1, or the last one 0.
    With `causal`, query s sees keys l ≤ s + keys − rows. Where every key is hidden (−∞), or there is none, the result is 0.

    With `parts` the keys are cut into so many runs of ⌈keys/parts⌉, and there is a result for each of them, as if there were no
    other keys: out is [parts, batch, heads, rows, value_size], `out_strides` being those of a part. The operand before
    it is then [2, parts, batch, heads, rows], also written: the greatest score, and the sum of exp(score − that).
    """

    batch: Dim
    heads: Dim
    group: int  # query heads that share one head of k and v
    rows: Dim
    keys: Dim
    size: int
    value_size: int
    scale: float
    causal: bool
    operands: tuple[Operand, ...]
    q_strides: Shape
    k_strides: Shape
    v_strides: Shape
    out_strides: Shape
    mask_strides: Shape | None = None
    rounded: bool = False  # q, k, v and the weights may be rounded to bfloat16
    parts: Dim | None = None


BOX_LANES = 16  # boxes that a candidate is compared with at a time
KEPT = 128  # first elements of a row that are kept in order while it is read; for more, it is sorted


@dataclass(frozen=True, slots=True)
class IrregularKernel:
    """Loops whose control flow follows the data, over `rows` rows of `size` elements.

    kind, and operands (written ones after "→"):
    - "positions": mask BOOL [size] → indices of true elements I64 [size], their number I64 [1]
    - "sort": keys [rows, size] → order I64 [rows, size], work space of the same shape; flags: "descending"
    - "top": keys [rows, size] → the first `inner` of that order I64 [rows, inner], and two work spaces as large as the keys
      where `inner` may be more than `KEPT`; flags: "descending". With `columns` other than 1 keys are [rows, size, columns], their
      order is along the middle axis, and the result is I64 [rows, inner, columns]; `inner` is at most `KEPT` then
    - "suppress": boxes F32 [rows / inner, size, 4], scores F32 [rows, size], most I64, overlap F32, least F32 → boxes taken
      I64 [rows, size], their number I64 [rows], two work spaces: I64 [rows, size], and the corners of the boxes taken,
      F32 [rows, 4, size + `BOX_LANES`]; flags: "center". See `ir/ops/select.py`
    """

    kind: str
    rows: Dim
    size: Dim
    inner: Dim = 1
    flags: tuple[str, ...] = ()
    operands: tuple[Operand, ...] = ()
    columns: Dim = 1


Kernel = LoopKernel | ContractKernel | GroupedKernel | WinogradKernel | RecurrentKernel | AttentionKernel | IrregularKernel
