"""The fast executor: the steps as a program for the kernels of ``kernels.c``.

The C file is compiled on first use for the machine at hand (``cc -O3 -march=native``) and kept in
the cache. A graph becomes a list of instructions over numbered buffers, run by one call for a few
images at a time; two or more such calls run side by side, as the call releases Python's lock.

What is proved here, when a graph is loaded, and not hoped for:

* every integer convolution fits an int32 accumulator, bias included, whatever the input bytes are;
* every requantized product fits 64 bits, after clipping the accumulator to the range in which the
  result is not saturated; and 53 bits where the machine's path is float64;
* what does not fit is refused (`Unsupported`), and the caller uses the PyTorch executor.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from lprnet_nb import children
from lprnet_nb.cache import artifact, file_digest
from lprnet_nb.errors import LprnetError
from lprnet_nb.runtime.emulator.activation import ERFC, GELU_TANH, Activation
from lprnet_nb.runtime.emulator.arithmetic import (
    Add,
    ChannelScale,
    Divide,
    FloatScale,
    Multiply,
)
from lprnet_nb.runtime.emulator.casts import Dequantize, FloatCast, Quantize
from lprnet_nb.runtime.emulator.convolution import Convolution, MatMul
from lprnet_nb.runtime.emulator.graph import Arrays, Graph, TensorType
from lprnet_nb.runtime.emulator.movement import Concat, Constant, Move, Slice
from lprnet_nb.runtime.emulator.normalization import LEAST_EXP, LayerNorm, Softmax, TableSoftmax
from lprnet_nb.runtime.emulator.pooling import AveragePool, MaxPool, Mean
from lprnet_nb.runtime.emulator.steps import (
    DOWN,
    HALF_AWAY,
    HALF_UP,
    Input,
    Requant,
    Step,
    round_float,
)
from lprnet_nb.runtime.emulator.tables import FloatUnary, Lookup

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = (
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
)
# Images per call. Their activations should stay in a core's own cache.
IMAGES_PER_CALL = 4
# Elements of one reduction block of the vendor interpreter's float matrix product (oneDNN's plain
# AVX-512 kernel); the last two blocks share what is left.
FLOAT_BLOCK = 384
STORAGE = {"f32": 0, "f16": 1, "bf16": 2}
# Sizes of the buffers that kernels.c keeps on the stack.
WIDEST_CHANNELS = 4096
WIDEST_ROW = 32768
WIDEST_PLANE = 1024
WIDEST_LANES = 64

# The order of KERNELS in kernels.c.
(
    INPUT_FLOATS,
    INPUT_BYTES,
    CONVOLVE_BYTES,
    CONVOLVE_DEPTH,
    CONVOLVE_FLOATS,
    MATMUL_BYTES,
    MATMUL_FLOATS,
    POOL,
    POOL_MEAN_BYTES,
    QUANTIZE,
    DEQUANTIZE,
    LOOKUP,
    FLOAT_UNARY,
    CHANNEL_SCALE,
    FLOAT_SCALE,
    ADD_BYTES,
    MULTIPLY_BYTES,
    TWO_FLOATS,
    DIVIDE,
    FLOAT_CAST,
    MEAN_ALL,
    MEAN_LANES,
    MEAN_ROWS,
    MEAN_PLACES,
    SOFTMAX,
    SOFTMAX_BYTES,
    LAYER_NORM,
    ACTIVATION,
    CONCAT,
    SLICE,
    GATHER,
    CONSTANT,
) = range(32)
MAX_BYTES, MAX_FLOATS, MEAN_BYTES, MEAN_AFFINE, MEAN_FLOATS, MEAN_LANE_FLOATS = range(6)
EDGES_NONE, EDGES_COUNT, EDGES_UP, EDGES_AWAY, EDGES_FLOAT = range(5)
SUM, PRODUCT, QUOTIENT, RECIPROCAL = range(4)
PARTS_ADDED, PARTS_LANES, PARTS_FUSED = range(3)
FUNCTIONS = (  # of kernels.c, in order
    *("ABSVAL", "SQRT", "EXP", "SIGMOID", "SILU", "TANH"),
    *("ERF", "GELU", "LN", "SOFT_PLUS", "RSQRT"),
)
EXACT, BY_ROOT, BY_RECIPROCAL = range(3)
UNARY = {"leaky": 0, "clip": 1, "multiply": 2, "add": 3, "subtract from": 4}
# Values that a copied run must have on average to be worth its call.
SHORTEST_RUN = 8


class Unsupported(LprnetError):
    """The native kernels cannot run this graph or this machine cannot build them."""


class _Op(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("src", ctypes.c_int32 * 4),
        ("dst", ctypes.c_int32),
        ("scratch", ctypes.c_int32),
        ("n_src", ctypes.c_int32),
        ("i", ctypes.c_int32 * 32),
        ("f", ctypes.c_float * 4),
        ("p", ctypes.c_void_p * 11),
    ]


@cache
def library(target: str = "native") -> ctypes.CDLL:
    """The compiled kernels.

    Parameters
    ----------
    target
        The compiler's ``-march``: the machine at hand, or a lesser one for the tests.

    Raises
    ------
    Unsupported
        No C compiler, or it failed.
    """
    compiler = children.program("cc", "gcc", "clang")
    if compiler is None:
        raise Unsupported("no C compiler found (cc, gcc, clang)")
    try:
        # The compiler's version and everything that the target turns on.
        machine = _compile(compiler, f"-march={target}", "-dM", "-E", "-")

        def build(folder: Path) -> None:
            shared = folder / "kernels.so"
            march = f"-march={target}"
            _compile(compiler, *FLAGS, march, "-o", str(shared), str(SOURCE), "-lm")

        inputs = {"source": file_digest(SOURCE), "flags": list(FLAGS), "machine": machine}
        loaded = ctypes.CDLL(str(artifact("emulator-kernels", inputs, build) / "kernels.so"))
    except OSError as error:
        raise Unsupported(f"the compiled kernels cannot be loaded: {error}") from error
    loaded.instruction_set.restype = ctypes.c_char_p
    if loaded.op_size() != ctypes.sizeof(_Op):
        raise Unsupported("the compiled kernels have another instruction layout")
    return loaded


def kernels_here() -> str:
    """What runs graphs here: C kernels for an instruction set, or why there are none."""
    try:
        return f"C kernels ({library().instruction_set().decode()})"
    except Unsupported as error:
        return f"PyTorch, slower: {error}"


def _compile(compiler: str, *arguments: str) -> str:
    done = children.run([compiler, *arguments], timeout=300)
    if done.returncode:
        raise Unsupported(f"{compiler} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def padded(channels: int) -> int:
    """Channels of a byte tensor in memory: a dot product takes four at a time."""
    return -(-channels // 4) * 4


def _offset(kind: TensorType) -> int:
    """What is added to a stored integer to make it a byte."""
    return 128 if kind.storage == "i8" else 0


def per_run(kind: TensorType, batch: int) -> tuple[int, ...]:
    """Shape of what one image has of a tensor.

    A graph for one image may put anything on the first axis, such as the steps of a sequence; it
    is the image's own then.
    """
    return kind.shape if batch == 1 and kind.shape[0] != 1 else kind.shape[1:]


def layout(kind: TensorType, batch: int) -> tuple[int, int, int]:
    """Channels, rows, columns of one image: its first axis, its second, the rest.

    In memory the channels of a pixel lie together.
    """
    shape = (*per_run(kind, batch), 1, 1)
    return shape[0], shape[1], int(np.prod(shape[2:]))


def memory_order(kind: TensorType, batch: int) -> np.ndarray:
    """For each place of an image in memory the flat index of its value, -1 in the padding."""
    channels, rows, columns = layout(kind, batch)
    order = np.arange(channels * rows * columns).reshape(channels, rows * columns).T
    padding = 0 if kind.is_float else padded(channels) - channels
    return np.pad(order, ((0, 0), (0, padding)), constant_values=-1).reshape(-1)


def vector_blocks(channels: int, lanes: int, most: int, usual: int) -> list[int]:
    """How many vectors of output channels each tile takes, in order.

    >>> vector_blocks(68, 16, 5, 4)
    [5]
    >>> vector_blocks(256, 16, 5, 4)
    [4, 4, 4, 4]
    """
    left, blocks = -(-channels // lanes), []
    while left:
        blocks.append(left if left <= most else usual)
        left -= blocks[-1]
    return blocks


def float_blocks(length: int) -> list[int]:
    """Where the reduction blocks of the vendor's float product start, and the end.

    >>> float_blocks(256)
    [0, 256]
    >>> float_blocks(516)
    [0, 258, 516]
    """
    starts = [0]
    while starts[-1] < length:
        left = length - starts[-1]
        if left >= 2 * FLOAT_BLOCK:
            left = FLOAT_BLOCK
        elif left > FLOAT_BLOCK:
            left = (left + 1) // 2
        starts.append(starts[-1] + left)
    return starts


def unsaturated_range(requant: Requant, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest accumulator for each channel that matter, as int64 ``[channels]``.

    Below or above them the result is saturated whatever the value, so clipping the accumulator to
    this range changes nothing and bounds the product.
    """
    multiplier = np.broadcast_to(requant.multiplier, channels)
    shift = np.broadcast_to(requant.shift, channels)
    least, most = np.empty(channels, np.int64), np.empty(channels, np.int64)
    for c in range(channels):
        m, s = int(multiplier[c]), int(shift[c])
        if m < 0 or s < 0:
            raise Unsupported(f"multiplier {m}, shift {s}")
        if m == 0:  # the result does not depend on the accumulator
            least[c] = most[c] = 0
            continue
        # floor((v m + half) / 2**s) <= low - zero_point  and  >= high - zero_point
        half = (1 << s) >> 1
        bottom = ((requant.low - requant.zero_point + 1 << s) - half - 1) // m
        top = -(-((requant.high - requant.zero_point << s) - half) // m)
        least[c], most[c] = bottom, top
    return np.clip(least, -(2**31), 2**31 - 1), np.clip(most, -(2**31), 2**31 - 1)


def _summing_order(step: Convolution, length: int) -> tuple[np.ndarray, list[int], int, int]:
    """Places of a float convolution's products in the order of their sum, where the parts of that
    order start, what a part is (of `PARTS_ADDED`...), and the part that the bias starts."""
    sums = step.sums
    if sums is None:  # the interpreter's: input channel, then kernel row, then kernel column
        return np.arange(length), float_blocks(length), PARTS_ADDED, 0
    parts = [part[part >= 0] for part in (sums.terms if sums.fused else sums.terms.T)]
    starts = [0, *np.cumsum([len(part) for part in parts]).tolist()]
    mode = PARTS_FUSED if sums.fused else PARTS_LANES
    return np.concatenate(parts), starts, mode, -1 if sums.bias_column is None else sums.bias_column


class _Program:
    """A graph's instructions, its constants, and the buffers that it needs."""

    def __init__(
        self,
        graph: Graph,
        steps: tuple[Step, ...],
        keep: frozenset[str],
        lib: ctypes.CDLL,
    ):
        self.lib = lib
        self.lanes, self.k_step = self.lib.vector_lanes(), self.lib.dot_step()
        self.graph, self.batch = graph, graph.batch
        self.types = {step.name: step.type for step in steps}
        self._temporaries: list[int] = []  # buffers that are free after the step at hand
        self.constants: list[np.ndarray] = []  # kept alive for the pointers in the instructions
        self.sizes = [0] * len(graph.inputs)  # bytes per image of each buffer
        self.where: dict[str, int] = {}
        self._free: list[int] = []
        self.ops: list[_Op] = []
        last = {name: k for k, step in enumerate(steps) for name in step.inputs}
        for position, step in enumerate(steps):
            self._emit(step)
            for name in {*step.inputs, step.name}:
                done = last.get(name, position) <= position and name not in keep
                if done and name in self.where and self.where[name] not in self._free:
                    self._free.append(self.where[name])
        self.code = (_Op * len(self.ops))(*self.ops)

    def _buffer(self, size: int) -> int:
        """A buffer of at least this many bytes per image: the tightest free one, or a new one."""
        fitting = [b for b in self._free if self.sizes[b] >= size]
        if fitting:
            chosen = min(fitting, key=lambda b: self.sizes[b])
            self._free.remove(chosen)
            return chosen
        self.sizes.append(size)
        return len(self.sizes) - 1

    def _constant(self, values: ArrayLike, dtype: DTypeLike) -> int:
        array = np.ascontiguousarray(values, dtype=dtype)
        self.constants.append(array)
        return array.ctypes.data

    def _op(
        self,
        kind: int,
        step: Step,
        numbers: Sequence[int] = (),
        floats: Sequence[float] = (),
        pointers: Sequence[int] = (),
        sources: list[int] | None = None,
    ) -> _Op:
        sources = [self.where[name] for name in step.inputs] if sources is None else sources
        op = _Op(kind=kind, n_src=len(sources), dst=-1, scratch=-1)
        for k, source in enumerate(sources):
            op.src[k] = source
        for field, values in ((op.i, numbers), (op.f, floats), (op.p, pointers)):
            for k, value in enumerate(values):
                field[k] = value
        self.ops.append(op)
        return op

    def _emit(self, step: Step) -> None:
        if self.batch > 1 and step.type.shape[0] not in (1, self.batch):
            raise Unsupported(
                f"'{step.name}': shape {step.type.shape} in a graph for {self.batch} images"
            )
        channels = layout(step.type, self.batch)[0]
        if channels > WIDEST_CHANNELS:
            raise Unsupported(f"'{step.name}': {channels} channels")
        if not step.type.is_float and step.type.storage not in ("i8", "u8"):
            raise Unsupported(f"'{step.name}': {step.type.storage} result")
        if isinstance(step, Input):
            self._input(step)
            return
        emitters: dict[type[Step], Callable[..., _Op]] = {
            Convolution: self._convolution,
            MatMul: self._matmul,
            MaxPool: self._max_pool,
            AveragePool: self._average_pool,
            ChannelScale: self._channel_scale,
            FloatScale: self._float_scale,
            Lookup: self._lookup,
            FloatUnary: self._float_unary,
            Add: self._add,
            Multiply: self._multiply,
            Divide: self._divide,
            Mean: self._mean,
            Activation: self._activation,
            Softmax: self._softmax,
            TableSoftmax: self._table_softmax,
            LayerNorm: self._layer_norm,
            Quantize: self._quantize,
            Dequantize: self._dequantize,
            FloatCast: self._float_cast,
            Concat: self._concat,
            Slice: self._slice,
            Move: self._move,
            Constant: self._constant_operand,
        }
        op = emitters[type(step)](step)
        if op.dst < 0:
            op.dst = self._buffer(self._bytes(step.type))
        self.where[step.name] = op.dst
        if op.scratch >= 0:
            self._temporaries.append(op.scratch)  # only while this instruction runs
        self._free += self._temporaries
        self._temporaries = []

    def _layout(self, kind: TensorType) -> tuple[int, int, int]:
        return layout(kind, self.batch)

    def _bytes(self, kind: TensorType) -> int:
        """Bytes of one image of a tensor."""
        channels, rows, columns = self._layout(kind)
        return rows * columns * (4 * channels if kind.is_float else padded(channels))

    def _places(self, kind: TensorType) -> int:
        """Values of one image in memory, padding included."""
        return self._bytes(kind) // (4 if kind.is_float else 1)

    def _images(self, step: Step, kind: TensorType) -> None:
        """What is taken by rows and columns has its images on the first axis."""
        if kind.shape[0] != self.batch or len(kind.shape) > 4:
            raise Unsupported(f"'{step.name}': operand of shape {kind.shape}")

    def _input(self, step: Input) -> None:
        # The first buffers are the caller's arrays.
        channels, rows, columns = self._layout(step.type)
        kind = INPUT_FLOATS if step.type.is_float else INPUT_BYTES
        if step.type.storage not in ("f32", "u8"):
            raise Unsupported(f"input of {step.type.storage}")
        source = self.graph.inputs.index(step.name)
        op = self._op(kind, step, (channels, rows * columns, padded(channels)), sources=[source])
        op.dst = self.where[step.name] = self._buffer(self._bytes(step.type))

    def _constant_operand(self, step: Constant) -> _Op:
        if step.type.shape[0] != 1:
            raise Unsupported(f"'{step.name}': a constant of shape {step.type.shape}")
        order = memory_order(step.type, self.batch)
        values = np.where(order < 0, 0, step.values.reshape(-1)[order].astype(np.float64))
        if step.type.is_float:
            place = self._constant(values, np.float32)
        else:
            place = self._constant(values + _offset(step.type), np.uint8)
        return self._op(CONSTANT, step, (self._bytes(step.type),), (), (place,))

    def _gather(
        self,
        step: Step,
        source: TensorType,
        buffer: int,
        result: TensorType,
        index: np.ndarray,
        fill: float = 0,
    ) -> _Op | None:
        """Put an image's values elsewhere: ``result.flat[i] = source.flat[index[i]]``.

        None where every value is in its place already.
        """
        place = np.empty(int(np.prod(per_run(source, self.batch))), np.int64)
        order = memory_order(source, self.batch)
        place[order[order >= 0]] = np.flatnonzero(order >= 0)
        target = memory_order(result, self.batch)
        wanted = np.where(target < 0, -1, index[target])
        table = np.where(wanted < 0, -1, place[wanted])
        if len(table) == len(order) and np.array_equal(
            table, np.where(order < 0, -1, np.arange(len(order)))
        ):
            return None
        filled = table < 0
        joined = np.where(filled[1:], filled[:-1], ~filled[:-1] & (np.diff(table) == 1))
        breaks = np.flatnonzero(~joined) + 1
        starts = np.concatenate([[0], breaks])
        runs = np.stack([starts, table[starts], np.diff([*starts, len(table)])], axis=1)
        short = len(table) < SHORTEST_RUN * len(runs)
        numbers = (
            len(table),
            len(order),
            4 if source.is_float else 1,
            0 if short else len(runs),
            int(fill) + _offset(result) if not result.is_float else 0,
        )
        constant = self._constant(table if short else runs, np.int32)
        return self._op(GATHER, step, numbers, (fill,), (constant,), sources=[buffer])

    def _gathered(
        self, step: Step, name: str, shape: tuple[int, ...], index: np.ndarray
    ) -> tuple[int, TensorType]:
        """An operand's buffer, its values moved into another shape ``(1, ...)`` for one image."""
        source = self.types[name]
        kind = replace(source, shape=(self.batch, *shape[1:]))
        op = self._gather(step, source, self.where[name], kind, index)
        if op is None:
            return self.where[name], kind
        op.dst = self._buffer(self._bytes(kind))
        self._temporaries.append(op.dst)
        return op.dst, kind

    def _operands(self, step: Step) -> list[int]:
        """Buffers of two operands, broadcast to the result's shape."""
        shape, buffers = per_run(step.type, self.batch), []
        for name in step.inputs:
            kind = self.types[name]
            own = per_run(kind, self.batch)
            if self.batch > 1 and kind.shape[0] == 1 and name not in self.graph.weights:
                raise Unsupported(f"'{step.name}': an operand that a batch shares")
            if kind.shape == step.type.shape:
                buffers.append(self.where[name])
                continue
            # Aligned at the end, as whole shapes are.
            full = kind.shape if self.batch == 1 else own
            wanted = step.type.shape if self.batch == 1 else shape
            index = np.broadcast_to(np.arange(np.prod(own)).reshape(full), wanted)
            op = self._gather(
                step,
                kind,
                self.where[name],
                replace(kind, shape=step.type.shape),
                index.reshape(-1),
            )
            if op is None:
                buffers.append(self.where[name])
                continue
            op.dst = self._buffer(self._bytes(replace(kind, shape=step.type.shape)))
            self._temporaries.append(op.dst)
            buffers.append(op.dst)
        return buffers

    def _move(self, step: Move) -> _Op:
        source = self.types[step.inputs[0]]
        index, size = step.index, int(np.prod(per_run(source, self.batch)))
        if self.batch > 1:
            if source.shape[0] != self.batch or step.type.shape[0] != self.batch:
                raise Unsupported(f"'{step.name}': the images of a batch trade values")
            images = index.reshape(self.batch, -1)
            apart = images - np.where(images < 0, 0, np.arange(self.batch)[:, None] * size)
            if (apart != apart[0]).any() or (apart[0] >= size).any():
                raise Unsupported(f"'{step.name}': the images of a batch trade values")
            index = apart[0]
        op = self._gather(step, source, self.where[step.inputs[0]], step.type, index, step.fill)
        if op is None:
            width = 4 if source.is_float else 1
            places = self._places(source)
            run = self._constant([0, 0, places], np.int32)
            op = self._op(GATHER, step, (places, places, width, 1, 0), (0.0,), (run,))
        return op

    def _convolution(self, step: Convolution) -> _Op:
        source = self.types[step.inputs[0]]
        self._images(step, source)
        in_channels, source_rows, source_columns = self._layout(source)
        out_channels, oh, ow = self._layout(step.type)
        kh, kw = step.weight.shape[2:]
        top, left, bottom, right = step.pads
        integer = step.requant is not None
        ic = padded(in_channels) if integer else in_channels
        steps = tuple(count + 1 for count in step.inserts)
        ih, iw = (source_rows - 1) * steps[0] + 1, (source_columns - 1) * steps[1] + 1
        padded_width = iw + left + right
        # Input offset of each tap, in elements: row, then column.
        taps = (
            np.arange(kh)[:, None] * step.dilations[0] * padded_width
            + np.arange(kw)[None, :] * step.dilations[1]
        ) * ic
        widened = integer and self.k_step == 2
        copy = int(any(step.pads) or any(step.inserts) or widened)
        numbers = [ih, iw, ic, top, left, bottom, right, 0, oh, ow, out_channels]
        numbers += [padded(out_channels) if integer else out_channels, *step.strides]
        after = [source_rows, source_columns, *steps]
        if integer:
            op = self._byte_convolution(step, source, taps, numbers, copy, after)
        else:
            op = self._float_convolution(step, taps, numbers, copy, after)
        if copy:
            width = 4 if not integer else (2 if widened else 1)
            scratch = (ih + top + bottom) * padded_width * ic * width
            op.scratch = self._buffer(scratch)
        return op

    def _blocks(self, out_channels: int, group: int, offsets: int) -> tuple[np.ndarray, np.ndarray]:
        """What the tiles take, in order (see Block in kernels.c), and the output channel at each
        place of the packed constants, -1 where there is none."""
        share = out_channels // group
        parts = vector_blocks(share, self.lanes, self.lib.most_vectors(), self.lib.usual_vectors())
        rows, order = [], []
        for k in range(group):
            at = 0
            for vectors in parts:
                valid = min(share - at, vectors * self.lanes)
                rows.append((vectors, k * share + at, valid, k * offsets))
                order += [*range(k * share + at, k * share + at + valid)]
                order += [-1] * (vectors * self.lanes - valid)
                at += valid
        return np.array(rows), np.array(order)

    def _packed(self, weight: np.ndarray, blocks: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Weights ``[out, ...]`` as the tiles read them: block, tap, channel of the block."""
        flat = np.where(order.reshape(-1, *[1] * (weight.ndim - 1)) < 0, 0, weight[order])
        parts, at = [], 0
        for vectors in blocks[:, 0]:
            part = flat[at : at + vectors * self.lanes]
            parts.append(np.ascontiguousarray(np.moveaxis(part, 0, 1)).reshape(-1))
            at += vectors * self.lanes
        return np.concatenate(parts)

    def _byte_convolution(
        self,
        step: Convolution,
        source: TensorType,
        taps: np.ndarray,
        numbers: list[int],
        copy: int,
        after: list[int],
    ) -> _Op:
        out_channels, share = step.weight.shape[:2]
        group, offset = step.group, _offset(source)
        depthwise = group == out_channels == self._layout(source)[0] and group > 1
        weight = step.weight.astype(np.int64)
        bias = np.zeros(out_channels, np.int64) if step.bias is None else step.bias.astype(np.int64)
        bias = bias - offset * weight.sum(axis=(1, 2, 3))
        if depthwise:
            pairs = -(-taps.size // 2)
            offsets = np.append(taps.reshape(-1), taps.reshape(-1)[-1:])[: 2 * pairs]
            order = np.arange(-(-out_channels // self.lanes) * self.lanes)
            order[out_channels:] = -1
            blocks = np.array([(1, 0, 0, 0)] * (len(order) // self.lanes))
            both = np.zeros((out_channels, 2 * pairs), np.int64)
            both[:, : taps.size] = weight.reshape(out_channels, -1)
            packed = self._packed(both.reshape(out_channels, pairs, 2), blocks, order)
            packed, kind, length = packed.astype(np.int16), CONVOLVE_DEPTH, pairs
        else:
            wide = padded(share)
            widened = np.zeros((out_channels, *weight.shape[2:], wide), np.int64)
            widened[..., :share] = weight.transpose(0, 2, 3, 1)
            local = np.add.outer(taps.reshape(-1), np.arange(0, wide, self.k_step)).reshape(-1)
            offsets = np.add.outer(np.arange(group) * share, local).reshape(-1)
            blocks, order = self._blocks(out_channels, group, len(local))
            # [blocks of vectors, K / k_step, lanes, k_step]
            flat = widened.reshape(out_channels, -1, self.k_step)
            packed = self._packed(flat, blocks, order)
            packed = packed.astype(np.int8 if self.k_step == 4 else np.int16)
            kind, length = CONVOLVE_BYTES, len(local)
        constants, limits = self._requant_constants(step, bias, weight, order)
        numbers = [*numbers, length, len(blocks), copy, *limits[:3], 0, 0, 0, limits[3], *after]
        numbers[7] = step.pad_value + offset
        pointers = (
            self._constant(packed, packed.dtype),
            self._constant(offsets, np.int32),
            *constants[:-1],
            self._constant(blocks, np.int32),
            constants[-1],
        )
        return self._op(kind, step, numbers, (), pointers)

    def _requant_constants(
        self, step: Convolution, bias: np.ndarray, weight: np.ndarray, order: np.ndarray
    ) -> tuple[list[int], list[int]]:
        """What Requant of kernels.c points to, and its low, high, add and away."""
        out_channels, q = len(bias), step.requant
        assert q is not None  # of integers
        reach = 255 * np.abs(weight).sum(axis=tuple(range(1, weight.ndim))) + np.abs(bias)
        if reach.max() >= 2**31:
            raise Unsupported(f"'{step.name}': sums up to {reach.max()} exceed 32 bits")
        if q.rounding not in (HALF_UP, HALF_AWAY) or q.before is not None or q.shift.min() < 0:
            raise Unsupported(f"'{step.name}': requantization {q.rounding}, shift {q.shift.min()}")
        least, most = unsaturated_range(q, out_channels)
        multiplier = np.broadcast_to(q.multiplier, out_channels)
        shift = np.broadcast_to(q.shift, out_channels)
        # 53 bits so that the float64 path is exact too; 31 bits for the multiplier itself.
        product = np.maximum(-least, most).astype(object) * multiplier.astype(object)
        product = product + (1 << shift.astype(object))
        if max(product) >= 2**53 or multiplier.max() >= 2**31 or shift.max() > 62:
            raise Unsupported(f"'{step.name}': products up to {max(product)} exceed 53 bits")

        def per_channel(values: ArrayLike, dtype: DTypeLike) -> int:
            full = np.where(order < 0, 0, np.broadcast_to(values, out_channels)[order])
            return self._constant(full, dtype)

        # The short way of kernels.c: float32 holds sums and multipliers, and |x| + 1 < 2**21.
        factor = np.ldexp(multiplier.astype(np.float64), -shift)
        short = reach.max() < 2**24 and multiplier.max() < 2**24 and (reach * factor).max() < 2**20
        away = q.rounding == HALF_AWAY
        half = np.where(order < 0, 0, ((1 << shift.astype(np.int64)) >> 1)[order])
        # Even lanes, then odd ones, of every vector (see requant_store).
        half = half.reshape(-1, self.lanes // 2, 2).transpose(0, 2, 1).reshape(-1)
        offset = _offset(step.type)
        constants = [
            per_channel(bias, np.int32),
            per_channel(multiplier, np.int32),
            per_channel(shift, np.int32),
            self._constant(half, np.int64),
            per_channel(least, np.int32),
            per_channel(most, np.int32),
            per_channel(factor, np.float64),
            per_channel(factor, np.float32) if short and not away else 0,
        ]
        limits = [q.low + offset, q.high + offset, q.zero_point + offset, int(away)]
        return constants, limits

    def _float_convolution(
        self,
        step: Convolution,
        taps: np.ndarray,
        numbers: list[int],
        copy: int,
        after: list[int],
    ) -> _Op:
        out_channels, share = step.weight.shape[:2]
        places = np.add.outer(np.arange(share), taps.reshape(-1)).reshape(-1)
        order, starts, mode, column = _summing_order(step, len(places))
        local = places[order]
        offsets = np.add.outer(np.arange(step.group) * share, local).reshape(-1)
        blocks, channels = self._blocks(out_channels, step.group, len(local))
        flat = step.weight.astype(np.float32).reshape(out_channels, -1)[:, order]
        bias = 0
        if step.bias is not None:
            values = round_float(step.bias, step.sums.storage if step.sums else "f32")
            bias = self._constant(np.where(channels < 0, 0, values[channels]), np.float32)
        rounded = STORAGE[step.sums.storage] if step.sums else 0
        numbers = [*numbers, len(local), len(blocks), copy, mode, column, rounded, int(step.relu)]
        numbers += [STORAGE[step.type.storage], len(starts) - 1, 0, *after]
        pointers = (
            self._constant(self._packed(flat, blocks, channels), np.float32),
            self._constant(offsets, np.int32),
            bias,
            self._constant(starts, np.int32),
            *[0] * 5,
            self._constant(blocks, np.int32),
        )
        return self._op(CONVOLVE_FLOATS, step, numbers, (), pointers)

    def _matmul(self, step: MatMul) -> _Op:
        """Products with constants are convolutions of 1 x 1, rows of the left operand as pixels."""
        if step.requant is None and not step.lanes:
            raise Unsupported(f"'{step.name}': a product in the interpreter's order")
        if step.tile:
            raise Unsupported(f"'{step.name}': a product in tiles")
        left = self.types[step.inputs[0]]
        if (self.batch > 1 and len(left.shape) < 2) or left.shape[0] != self.batch > 1:
            raise Unsupported(f"'{step.name}': operand of shape {left.shape}")
        if step.weight is None or step.requant is None:
            return self._two_matmul(step)
        length, columns = step.weight.shape
        rows = int(np.prod(per_run(left, self.batch))) // length
        index = np.arange(rows * length).reshape(rows, length).T.reshape(-1)
        buffer, kind = self._gathered(step, step.inputs[0], (1, length, rows, 1), index)
        result = replace(step.type, shape=(self.batch, columns, rows, 1))
        requant = step.requant
        inner = Convolution(
            step.name,
            step.op,
            (step.inputs[0],),
            result,
            weight=step.weight.T.reshape(columns, length, 1, 1),
            bias=step.bias,
            pads=(0, 0, 0, 0),
            strides=(1, 1),
            dilations=(1, 1),
            relu=step.relu,
            pad_value=0,
            requant=requant,
            input_limits=left.limits,
        )
        before = self.types[step.inputs[0]], self.where[step.inputs[0]]
        self.types[step.inputs[0]], self.where[step.inputs[0]] = kind, buffer
        op = self._convolution(inner)
        self.types[step.inputs[0]], self.where[step.inputs[0]] = before
        return self._spread(step, op, result, rows, columns)

    def _spread(self, step: MatMul, op: _Op, result: TensorType, rows: int, columns: int) -> _Op:
        """The product's rows, each a pixel, put where the result has them."""
        op.dst = self._buffer(self._bytes(result))
        index = np.arange(rows * columns).reshape(columns, rows).T.reshape(-1)
        moved = self._gather(step, result, op.dst, step.type, index)
        if moved is None:
            return op
        self._temporaries += [op.dst, *([op.scratch] if op.scratch >= 0 else [])]
        return moved

    def _two_matmul(self, step: MatMul) -> _Op:
        """Both operands gathered as rows; floats want the right one as it is multiplied."""
        left = self.types[step.inputs[0]]
        m, length = left.shape[-2:]
        columns = step.type.shape[-1]
        products = int(np.prod(per_run(left, self.batch))) // (m * length)
        if step.weight is None:
            right = self.types[step.inputs[1]]
            if len(left.shape) != len(right.shape) or left.shape[:-2] != right.shape[:-2]:
                raise Unsupported(f"'{step.name}': products of {left.shape} by {right.shape}")
        else:  # one product with rows of all
            products, m, right = 1, products * m, None
        if len(left.shape) == 2 and self.batch > 1:
            raise Unsupported(f"'{step.name}': products of {left.shape}")
        rows = np.arange(products * m * length).reshape(-1, length)
        buffers = [
            self._gathered(step, step.inputs[0], (1, length, products * m, 1), rows.T.reshape(-1))[
                0
            ]
        ]
        bias = step.bias
        if step.requant is None:
            if step.weight is None:
                index: np.ndarray = np.arange(products * columns * length)
                if step.transposed:
                    index = index.reshape(products, columns, length).swapaxes(1, 2)
                index = index.reshape(-1, columns).T.reshape(-1)
                buffers += [
                    self._gathered(step, step.inputs[1], (1, columns, products * length, 1), index)[
                        0
                    ]
                ]
            else:
                buffers += [self._repeated(step, step.weight)]
            constant = 0 if bias is None else self._constant(bias, np.float32)
            numbers = [products, m, columns, length, int(step.relu)]
            op = self._op(MATMUL_FLOATS, step, numbers, (), (constant,), sources=buffers)
        else:
            index = np.arange(products * columns * length)
            if not step.transposed:
                index = index.reshape(products, length, columns).swapaxes(1, 2)
            index = index.reshape(-1, length).T.reshape(-1)
            buffers += [
                self._gathered(step, step.inputs[1], (1, length, products * columns, 1), index)[0]
            ]
            op = self._byte_products(step, buffers, products, m, columns, length)
        result = replace(step.type, shape=(self.batch, columns, products * m, 1))
        return self._spread(step, op, result, products * m, columns)

    def _repeated(self, step: MatMul, weight: np.ndarray) -> int:
        """A buffer that holds a float constant for every image."""
        op = self._op(
            CONSTANT,
            step,
            (4 * weight.size,),
            (),
            (self._constant(weight, np.float32),),
            sources=[],
        )
        op.dst = self._buffer(4 * weight.size)
        self._temporaries.append(op.dst)
        return op.dst

    def _byte_products(
        self, step: MatMul, buffers: list[int], products: int, m: int, columns: int, length: int
    ) -> _Op:
        q, offset = step.requant, _offset(step.type)
        assert q is not None  # of integers
        reach = 383**2 * length + (0 if step.bias is None else int(np.abs(step.bias).max()))
        if q.shift.size > 1 or q.shift[0] < 0:
            raise Unsupported(f"'{step.name}': shifts {q.shift}")
        if reach >= 2**31 or reach * abs(int(q.multiplier[0])) >= 2**62:
            raise Unsupported(f"'{step.name}': sums up to {reach}")
        zeros = [
            _offset(self.types[name]) + zero
            for name, zero in zip(step.inputs, step.zero_points, strict=True)
        ]
        shift = int(q.shift[0])
        numbers = [
            products,
            m,
            columns,
            length,
            padded(length),
            padded(columns),
            *zeros,
            int(q.multiplier[0]),
            q.low + offset,
            q.high + offset,
            q.zero_point + offset,
            int(q.rounding == HALF_AWAY),
        ]
        constants = self._constant([shift, (1 << shift) >> 1], np.int64)
        bias = 0 if step.bias is None else self._constant(step.bias, np.int32)
        return self._op(MATMUL_BYTES, step, numbers, (), (constants, bias), sources=buffers)

    def _pool(
        self,
        step: MaxPool | AveragePool,
        mode: int,
        requant: tuple[int, ...] = (0, 0, 0, 0, 0),
        affine: int = 0,
    ) -> _Op:
        source = self.types[step.inputs[0]]
        self._images(step, source)
        channels, rows, columns = self._layout(source)
        _, oh, ow = (*step.type.shape[1:], 1, 1)[:3]
        stride = channels if source.is_float else padded(channels)
        top, left, bottom, right = step.pads
        ih, iw = rows + top + bottom, columns + left + right
        kind = POOL_MEAN_BYTES if mode in (MEAN_BYTES, MEAN_AFFINE) else POOL
        if kind == POOL_MEAN_BYTES and (iw * stride > WIDEST_ROW or 255 * step.kernel[0] >= 2**16):
            raise Unsupported(f"'{step.name}': rows of {iw * stride} bytes, kernel {step.kernel}")
        pad = step.pad_value + _offset(source) if isinstance(step, AveragePool) else 0
        edges, pointers = EDGES_NONE, [affine]
        if isinstance(step, AveragePool) and step.exclude_pads:
            edges = {None: EDGES_COUNT, HALF_UP: EDGES_UP, HALF_AWAY: EDGES_AWAY}.get(
                step.edge_rounding, EDGES_FLOAT
            )
            table = step.edges if edges == EDGES_COUNT else step.edge_ratios
            pointers += [self._constant(each, np.float32) for each in table(rows, columns)]
        numbers = [ih, iw, stride, oh, ow, *step.kernel, *step.strides, _offset(source)]
        numbers += [
            *requant,
            STORAGE.get(step.type.storage, 0),
            mode,
            int(any(step.pads)),
            top,
            left,
            rows,
            columns,
            pad,
            edges,
        ]
        share = getattr(step, "share", 0.0)
        op = self._op(kind, step, numbers, (share,), pointers)
        scratch = ih * iw * stride * (4 if source.is_float else 1) if any(step.pads) else 0
        scratch += iw * stride if mode == MAX_BYTES else 0  # a row of windows, gone down
        if scratch:
            op.scratch = self._buffer(scratch)
        return op

    def _max_pool(self, step: MaxPool) -> _Op:
        return self._pool(step, MAX_FLOATS if step.type.is_float else MAX_BYTES)

    def _average_pool(self, step: AveragePool) -> _Op:
        if step.type.is_float:
            return self._pool(step, MEAN_LANE_FLOATS if step.lanes else MEAN_FLOATS)
        offset = _offset(step.type)
        low, high = step.type.limits
        if step.affine is not None:
            affine = self._constant(step.affine, np.float64)
            requant = (0, 0, low + offset, high + offset, offset)
            return self._pool(step, MEAN_AFFINE, requant, affine)
        q = step.requant
        assert q is not None  # of symmetric integers
        multiplier, shift = int(q.multiplier[0]), int(q.shift[0])
        largest = 255 * step.kernel[0] * step.kernel[1] * abs(multiplier) + (1 << max(shift, 0))
        if q.rounding != HALF_UP or shift < 0 or largest >= 2**31:
            raise Unsupported(f"'{step.name}': average with shift {shift}, sums to {largest}")
        add = q.zero_point + offset
        return self._pool(
            step, MEAN_BYTES, (multiplier, shift, q.low + offset, q.high + offset, add)
        )

    def _channel_scale(self, step: ChannelScale) -> _Op:
        source, q = self.types[step.inputs[0]], step.requant
        channels, rows, columns = self._layout(step.type)
        fits = q.shift.min() >= 0 and q.shift.max() <= 31 and (q.multiplier == 1).all()
        if q.rounding != DOWN or not fits:
            raise Unsupported(f"'{step.name}': scale with shift {q.shift.min()}")
        assert q.before is not None  # of a scale unit
        numbers = [channels, padded(channels), rows * columns, _offset(source), *q.before]
        offset = _offset(step.type)
        numbers += [q.low + offset, q.high + offset, q.zero_point + offset]
        constants = (step.scale, step.bias, np.broadcast_to(q.shift, channels))
        pointers = [self._constant(values, np.int32) for values in constants]
        return self._op(CHANNEL_SCALE, step, numbers, (), pointers)

    def _float_scale(self, step: FloatScale) -> _Op:
        channels, rows, columns = self._layout(step.type)
        pointers = [self._constant(values, np.float32) for values in (step.scale, step.bias)]
        numbers = (channels, rows * columns, int(step.relu))
        return self._op(FLOAT_SCALE, step, numbers, (), pointers)

    def _lookup(self, step: Lookup) -> _Op:
        offset = _offset(self.types[step.inputs[0]])
        channels, rows, columns = self._layout(step.type)
        # From the index by byte of the input to the byte of the result.
        table = np.roll(step.table.astype(np.int64), offset) + _offset(step.type)
        numbers = (padded(channels) * rows * columns,)
        return self._op(LOOKUP, step, numbers, (), (self._constant(table, np.uint8),))

    def _dequantize(self, step: Dequantize) -> _Op:
        source = self.types[step.inputs[0]]
        if source.storage not in ("i8", "u8"):
            raise Unsupported(f"'{step.name}': {source.storage} operand")
        # q - zero_point, up to 383, is exact in f16 and in bf16 up to 256 only.
        if step.type.storage == "bf16" and step.zero_point:
            raise Unsupported(f"'{step.name}': zero point with a bf16 result")
        channels, rows, columns = self._layout(step.type)
        storage = STORAGE[step.type.storage]
        numbers = (channels, rows * columns, padded(channels), storage)
        zero = _offset(source) + step.zero_point
        return self._op(DEQUANTIZE, step, numbers, (step.scale, zero))

    def _float_unary(self, step: FloatUnary) -> _Op:
        constants = self._constant([*step.constants, 0.0][:2], np.float64)
        numbers = (
            self._places(step.type),
            STORAGE[step.type.storage],
            UNARY[step.kind],
            int(step.relu),
        )
        return self._op(FLOAT_UNARY, step, numbers, (), (constants,))

    def _two_floats(self, step: Step, operation: int, sign: float = 1.0) -> _Op:
        numbers = (
            self._places(step.type),
            STORAGE[step.type.storage],
            operation,
            int(getattr(step, "relu", False)),
        )
        return self._op(TWO_FLOATS, step, numbers, (sign,), sources=self._operands(step))

    def _add(self, step: Add) -> _Op:
        sign = -1 if step.subtract else 1
        if step.type.is_float:
            return self._two_floats(step, SUM, sign)
        numbers = [self._places(step.type)]
        for name, zero, multiplier, shift in zip(
            step.inputs, step.zero_points, step.multipliers, step.shifts, strict=True
        ):
            if not 0 <= shift < 30 or 383 * abs(multiplier) + (1 << shift) >= 2**30:
                raise Unsupported(f"'{step.name}': multiplier {multiplier}, shift {shift}")
            numbers += [_offset(self.types[name]) + zero, multiplier, shift]
        low, high = step.type.limits
        low = max(low, step.type.zero) if step.relu else low
        offset = _offset(step.type)
        numbers += [sign, low + offset, high + offset, step.type.zero + offset]
        return self._op(ADD_BYTES, step, numbers, sources=self._operands(step))

    def _multiply(self, step: Multiply) -> _Op:
        if step.requant is None:
            return self._two_floats(step, PRODUCT)
        sources = [self.types[name] for name in step.inputs]
        q, offset = step.requant, _offset(step.type)
        multiplier, shift = int(q.multiplier[0]), int(q.shift[0])
        if q.rounding != HALF_UP or not 0 <= shift < 31:
            raise Unsupported(f"'{step.name}': requantization {q.rounding}, shift {shift}")
        if 383 * 383 * abs(multiplier) + (1 << shift) >= 2**31:
            raise Unsupported(f"'{step.name}': multiplier {multiplier} exceeds 32 bits")
        zeros = [_offset(s) + z for s, z in zip(sources, step.zero_points, strict=True)]
        numbers = [self._places(step.type), *zeros, multiplier, shift]
        numbers += [q.low + offset, q.high + offset, q.zero_point + offset]
        return self._op(MULTIPLY_BYTES, step, numbers, sources=self._operands(step))

    def _divide(self, step: Divide) -> _Op:
        dividend, divisor = (self.types[name].shape for name in step.inputs)
        if dividend != step.type.shape or np.prod(divisor[1:]) != 1 or len(dividend) < 2:
            return self._two_floats(step, RECIPROCAL if step.reciprocal else QUOTIENT)
        shared = dividend[0] // divisor[0]
        size = int(np.prod(dividend[1:]))
        numbers = (size, STORAGE[step.type.storage], shared, int(step.reciprocal))
        return self._op(DIVIDE, step, numbers)

    def _mean(self, step: Mean) -> _Op:
        source = self.types[step.inputs[0]]
        if source.shape[0] != self.batch:
            raise Unsupported(f"'{step.name}': operand of shape {source.shape}")
        channels, rows, columns = self._layout(source)
        storage = STORAGE[step.type.storage]
        if step.axes in ((1, 2, 3), (0, 1, 2, 3)) and len(source.shape) == 4:
            if rows * columns > WIDEST_PLANE:
                raise Unsupported(f"'{step.name}': mean over planes of {rows} x {columns}")
            shared = source.shape[0] if step.axes[0] == 0 else 1
            numbers: tuple[int, ...] = (channels, rows * columns, storage, shared)
            if not step.lanes:
                return self._op(MEAN_ALL, step, numbers, (step.coefficient,))
            run = channels * rows * columns * shared // step.groups
            if step.lanes > WIDEST_LANES or channels * shared > WIDEST_CHANNELS:
                raise Unsupported(f"'{step.name}': {step.lanes} lanes, {channels} channels")
            if step.groups > 1 and max(run, step.groups) > WIDEST_CHANNELS:
                raise Unsupported(f"'{step.name}': {step.groups} groups of {run}")
            op = self._op(
                MEAN_LANES,
                step,
                (*numbers, step.lanes, int(step.by_plane), step.groups),
                (step.coefficient, step.across),
            )
            op.scratch = self._buffer(4 * (channels * rows * columns + WIDEST_LANES) * shared)
            return op
        if step.axes == (2,) and len(source.shape) == 4:
            numbers = (channels, rows, columns, storage, int(step.lanes > 0), int(step.late))
            op = self._op(MEAN_ROWS, step, numbers, (step.coefficient,))
            op.scratch = self._buffer(8 * channels * columns)
            return op
        return self._mean_places(step, source, storage)

    def _rows(self, name: str, source: TensorType, first: int, last: int) -> tuple[list[int], ...]:
        """Where rows of values over neighbouring axes, none of them the images', start in an image
        in memory, in the order of the other axes, and where a row's values lie from there."""
        count = int(np.prod(source.shape[first : last + 1]))
        if first == 0 or source.shape[0] != self.batch or count > WIDEST_CHANNELS:
            raise Unsupported(f"'{name}': rows of {count} over axes {first} to {last}")
        order = memory_order(source, self.batch)
        place = np.empty(int(np.prod(per_run(source, self.batch))), np.int64)
        place[order[order >= 0]] = np.flatnonzero(order >= 0)
        outer = int(np.prod(source.shape[1:first]))
        values = place.reshape(outer, count, -1).swapaxes(1, 2).reshape(-1, count)
        return values[:, 0].tolist(), (values[0] - values[0, 0]).tolist()

    def _mean_places(self, step: Mean, source: TensorType, storage: int) -> _Op:
        """Over any axes but the images', in the interpreter's order or in a chip's lanes."""
        starts, places = self._rows(step.name, source, step.axes[0], step.axes[-1])
        if step.groups > 1 or (step.by_plane and len(step.axes) > 2) or step.lanes > WIDEST_LANES:
            raise Unsupported(f"'{step.name}': mean over axes {step.axes}")
        result = memory_order(step.type, self.batch)
        size = int(np.prod(per_run(source, self.batch)))
        numbers = (len(starts), size, len(places), storage, step.lanes, int(step.late))
        return self._op(
            MEAN_PLACES,
            step,
            numbers,
            (step.coefficient,),
            (
                self._constant(np.array(starts)[result], np.int32),
                self._constant(places, np.int32),
            ),
        )

    def _along_rows(
        self,
        kind: int,
        step: Softmax | TableSoftmax | LayerNorm,
        last: int,
        numbers: Sequence[int],
        floats: Sequence[float],
        constants: Sequence[np.ndarray | None],
    ) -> _Op:
        """An operation on rows that leaves every value in its place."""
        source = self.types[step.inputs[0]]
        starts, places = self._rows(step.name, source, step.axis, last)
        head = (len(starts), self._places(source), len(places))
        pointers = [self._constant(starts, np.int32), self._constant(places, np.int32)]
        pointers += [0 if one is None else self._constant(one, np.float32) for one in constants]
        return self._op(kind, step, (*head, *numbers), floats, pointers)

    def _softmax(self, step: Softmax) -> _Op:
        exp, storage = step.exponential, STORAGE[step.type.storage]
        if exp is None:
            return self._along_rows(SOFTMAX, step, step.axis, (storage, 0, 0), (), ())
        numbers = (storage, step.lanes, 1, len(exp.terms) - 1, int(exp.down))
        return self._along_rows(
            SOFTMAX,
            step,
            step.axis,
            numbers,
            (exp.inverse, exp.log, exp.largest, LEAST_EXP),
            (exp.terms, exp.powers),
        )

    def _activation(self, step: Activation) -> _Op:
        exp, log, way = step.exponential, step.logarithm, EXACT
        if step.chip is not None:
            way = BY_RECIPROCAL if step.chip == "BM1684" else BY_ROOT
        numbers = [self._places(step.type), FUNCTIONS.index(step.kind), way]
        numbers += [STORAGE[step.type.storage]]
        floats, tables = [0.0] * 3, [0] * 6
        numbers += [0] * 5
        if exp is not None:
            floats = [exp.inverse, exp.log, exp.largest, LEAST_EXP]
            numbers[6:8] = len(exp.terms) - 1, int(exp.down)
            tables[2:4] = (self._constant(one, np.float32) for one in (exp.terms, exp.powers))
        if log is not None:
            numbers[8] = len(log.terms) - 1
            tables[4] = self._constant(log.terms, np.float32)
        elif step.kind in ("ERF", "GELU"):
            numbers[8] = len(ERFC) - 1
            tables[4:6] = (self._constant(np.array(one), np.float32) for one in (ERFC, GELU_TANH))
        return self._op(ACTIVATION, step, numbers, floats, tables)

    def _table_softmax(self, step: TableSoftmax) -> _Op:
        assert step.type.scale is not None
        return self._along_rows(
            SOFTMAX_BYTES, step, step.axis, (), (step.type.scale,), (step.table,)
        )

    def _layer_norm(self, step: LayerNorm) -> _Op:
        shape = step.type.shape
        storage = step.type.storage if step.steps else "f32"  # the interpreter leaves it unrounded
        share = np.array([1], np.float32) / np.float32(np.prod(shape[step.axis :]))
        floats = (*round_float(share, storage), *share, step.epsilon)
        numbers = (STORAGE[storage], step.lanes, step.steps)
        return self._along_rows(
            LAYER_NORM, step, len(shape) - 1, numbers, floats, (step.weight, step.bias)
        )

    def _quantize(self, step: Quantize) -> _Op:
        channels, rows, columns = self._layout(step.type)
        offset = _offset(step.type)
        low, high = step.type.limits
        add = step.type.zero + offset
        numbers = [channels, rows * columns, padded(channels), low + offset, high + offset, add]
        numbers.append(STORAGE[step.expressed])
        return self._op(QUANTIZE, step, numbers, (step.inverse_scale,))

    def _float_cast(self, step: FloatCast) -> _Op:
        size = self._places(step.type)
        return self._op(FLOAT_CAST, step, (size, STORAGE[step.type.storage], int(step.away)))

    def _concat(self, step: Concat) -> _Op:
        """Four operands an instruction, all into one buffer."""
        whole = per_run(step.type, self.batch)
        axis = step.axis - (len(step.type.shape) - len(whole))
        if axis > 2 or (axis == 2 and len(whole) > 3) or axis < 0:
            raise Unsupported(f"'{step.name}': operands along axis {step.axis} of {whole}")
        width = 4 if step.type.is_float else 1
        channels, rows, columns = self._layout(step.type)
        stride = channels if step.type.is_float else padded(channels)
        # Pieces: pixels, whole images, or rows.
        pieces, piece = (
            (rows * columns, stride),
            (1, rows * columns * stride),
            (rows, columns * stride),
        )[axis]
        at, target = 0, self._buffer(self._bytes(step.type))
        for start in range(0, len(step.inputs), 4):
            names = step.inputs[start : start + 4]
            apart = [self._places(self.types[name]) // pieces for name in names]
            parts = [self._layout(self.types[name])[0] for name in names] if axis == 0 else apart
            clear = int(axis == 0 and stride > channels and start + 4 >= len(step.inputs))
            numbers = [pieces, piece, at, clear, channels]
            numbers = [
                number * width if k in (1, 2, 4) else number for k, number in enumerate(numbers)
            ]
            for sizes in (parts, apart):
                numbers += [size * width for size in (*sizes, 0, 0, 0, 0)[:4]]
            op = self._op(CONCAT, step, numbers, sources=[self.where[name] for name in names])
            op.dst = target
            at += sum(parts)
        return op

    def _slice(self, step: Slice) -> _Op:
        source = self.types[step.inputs[0]]
        self._images(step, source)
        channels, rows, columns = self._layout(source)
        out_channels, out_rows, out_columns = self._layout(step.type)
        is_float = step.type.is_float
        strides = [c if is_float else padded(c) for c in (channels, out_channels)]
        numbers = [rows, columns, strides[0], out_rows, out_columns, out_channels, strides[1]]
        offset, steps = (*step.offset, 0, 0)[1:4], (*step.steps, 1, 1)[1:4]
        numbers += [*offset, *steps, 4 if is_float else 1]
        return self._op(SLICE, step, numbers)


class _Workspace:
    """Buffers for one call at a time."""

    def __init__(self, program: _Program, images: int):
        # A little slack: the last vector of a row may be read past its end.
        self.arrays = [np.zeros(size * images + 256, np.uint8) for size in program.sizes]
        self.pointers = (ctypes.c_void_p * len(self.arrays))(
            *[array.ctypes.data for array in self.arrays]
        )


class NativeExecutor:
    """Runs the steps of a graph with the compiled kernels.

    Raises
    ------
    Unsupported
        The kernels cannot be built, or the graph has something they do not do.
    """

    def __init__(
        self,
        graph: Graph,
        steps: tuple[Step, ...],
        threads: int | None = None,
        target: str = "native",
    ):
        self.graph, self.steps = graph, steps
        self.threads = threads or len(os.sched_getaffinity(0))
        self._lib = library(target)
        self.instruction_set = self._lib.instruction_set().decode()
        self.images_per_call = -(-IMAGES_PER_CALL // graph.batch) * graph.batch
        self._program = self._build(frozenset(graph.outputs))
        # Workspaces of the usual program, kept: a fresh one costs as much as running an image.
        self._spaces: list[_Workspace] = []

    def _build(self, names: frozenset[str]) -> _Program:
        return _Program(self.graph, self.steps, names, self._lib)

    def run(self, inputs: Arrays, keep: Iterable[str]) -> dict[str, np.ndarray]:
        """Stored values (float32) of the tensors in ``keep``; as `TorchExecutor.run`."""
        names, given = frozenset(keep), self.graph.named(inputs)
        arrays = [given[name] for name in self.graph.inputs]
        count = len(arrays[0])
        usual = names <= set(self.graph.outputs)
        program = self._program if usual else self._build(names)
        results = {}
        for name in names:
            shape = self.graph.types[name].shape[1:]
            results[name] = np.empty((self._entries(name, count), *shape), np.float32)
        pending = iter(range(0, count, self.images_per_call))

        def work(_: int) -> None:
            try:
                space = self._spaces.pop() if usual else _Workspace(program, self.images_per_call)
            except IndexError:
                space = _Workspace(program, self.images_per_call)
            for start in pending:  # shared: each takes the next chunk when it is done with one
                images = min(self.images_per_call, count - start)
                for k, array in enumerate(arrays):
                    space.pointers[k] = array[start : start + images].ctypes.data
                program.lib.run_program(
                    program.code,
                    ctypes.c_long(len(program.ops)),
                    space.pointers,
                    ctypes.c_long(images),
                )
                for name in names:
                    self._fetch(program, space, name, start, images, results[name])
            if usual:
                self._spaces.append(space)

        workers = min(self.threads, -(-count // self.images_per_call))
        if workers <= 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))
        return results

    def _entries(self, name: str, images: int) -> int:
        """Length of a tensor's first axis: one for each image, or for each compiled batch."""
        return images * self.graph.types[name].shape[0] // self.graph.batch

    def _fetch(
        self,
        program: _Program,
        space: _Workspace,
        name: str,
        start: int,
        count: int,
        result: np.ndarray,
    ) -> None:
        kind = self.graph.types[name]
        channels, rows, columns = layout(kind, self.graph.batch)
        first, entries = self._entries(name, start), self._entries(name, count)
        images = entries if kind.shape[0] in (1, self.graph.batch) else count
        raw = space.arrays[program.where[name]]
        stride = channels if kind.is_float else padded(channels)
        width, dtype = (4, np.float32) if kind.is_float else (1, np.uint8)
        size = images * rows * columns * stride
        values = raw[: width * size].view(dtype).reshape(images, rows * columns, stride)
        values = values[..., :channels].transpose(0, 2, 1).reshape(entries, *kind.shape[1:])
        target = result[first : first + entries]
        target[...] = values
        if _offset(kind):
            target -= _offset(kind)
