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
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from lprnet_nb.cache import artifact, file_digest
from lprnet_nb.errors import LprnetError
from lprnet_nb.runtime.emulator import lower as l
from lprnet_nb.runtime.emulator.graph import Graph, TensorType

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
    CONVOLVE_FLOATS,
    POOL,
    POOL_MEAN_BYTES,
    QUANTIZE,
    DEQUANTIZE,
    LOOKUP,
    CHANNEL_SCALE,
    FLOAT_SCALE,
    MULTIPLY,
    MULTIPLY_BYTES,
    DIVIDE,
    FLOAT_CAST,
    MEAN_ALL,
    MEAN_LANES,
    MEAN_ROWS,
    CONCAT,
    SLICE,
) = range(20)
MAX_BYTES, MAX_FLOATS, MEAN_BYTES, MEAN_AFFINE, MEAN_FLOATS = range(5)


class Unsupported(LprnetError):
    """The native kernels cannot run this graph or this machine cannot build them."""


class _Op(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("src", ctypes.c_int32 * 4),
        ("dst", ctypes.c_int32),
        ("scratch", ctypes.c_int32),
        ("n_src", ctypes.c_int32),
        ("i", ctypes.c_int32 * 24),
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
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise Unsupported("no C compiler found (cc, gcc, clang)")
    try:
        # The compiler's version and everything that the target turns on.
        machine = subprocess.run(
            [compiler, f"-march={target}", "-dM", "-E", "-"],
            input="",
            capture_output=True,
            text=True,
            check=True,
        ).stdout

        def build(folder: Path) -> None:
            shared = folder / "kernels.so"
            subprocess.run(
                [compiler, *FLAGS, f"-march={target}", "-o", str(shared), str(SOURCE), "-lm"],
                capture_output=True,
                text=True,
                check=True,
            )

        inputs = {"source": file_digest(SOURCE), "flags": list(FLAGS), "machine": machine}
        loaded = ctypes.CDLL(str(artifact("emulator-kernels", inputs, build) / "kernels.so"))
    except subprocess.CalledProcessError as error:
        raise Unsupported(f"{compiler} failed: {error.stderr.strip()[-300:]}") from error
    except OSError as error:
        raise Unsupported(f"the compiled kernels cannot be loaded: {error}") from error
    loaded.instruction_set.restype = ctypes.c_char_p
    if loaded.op_size() != ctypes.sizeof(_Op):
        raise Unsupported("the compiled kernels have another instruction layout")
    return loaded


def padded(channels: int) -> int:
    """Channels of a byte tensor in memory: a dot product takes four at a time."""
    return -(-channels // 4) * 4


def _offset(kind: TensorType) -> int:
    """What is added to a stored integer to make it a byte."""
    return 128 if kind.storage == "i8" else 0


def _image_size(kind: TensorType) -> tuple[int, int, int]:
    """Channels, rows, columns of one image (missing axes are 1)."""
    shape = (*kind.shape[1:], 1, 1, 1)[:3]
    return shape[0], shape[1], shape[2]


def _bytes_per_image(kind: TensorType) -> int:
    channels, rows, columns = _image_size(kind)
    if kind.is_float:
        return 4 * channels * rows * columns
    return padded(channels) * rows * columns


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


def unsaturated_range(requant: l.Requant, channels: int) -> tuple[np.ndarray, np.ndarray]:
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


class _Program:
    """A graph's instructions, its constants, and the buffers that it needs."""

    def __init__(
        self,
        graph: Graph,
        steps: tuple[l.Step, ...],
        keep: frozenset[str],
        lib: ctypes.CDLL,
    ):
        self.lib = lib
        self.lanes, self.k_step = self.lib.vector_lanes(), self.lib.dot_step()
        self.graph = graph
        self.types = {step.name: step.type for step in steps}
        self.constants: list[np.ndarray] = []  # kept alive for the pointers in the instructions
        self.sizes: list[int] = []  # bytes per image of each buffer
        self.where: dict[str, int] = {}
        self._free: list[int] = []
        self.ops: list[_Op] = []
        last = {name: k for k, step in enumerate(steps) for name in step.inputs}
        for position, step in enumerate(steps):
            self._emit(step)
            for name in {*step.inputs, step.name}:
                if last.get(name, position) <= position and name not in keep:
                    if name in self.where and self.where[name] not in self._free:
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

    def _constant(self, values, dtype) -> int:
        array = np.ascontiguousarray(values, dtype=dtype)
        self.constants.append(array)
        return array.ctypes.data

    def _op(self, kind: int, step: l.Step, numbers=(), floats=(), pointers=()) -> _Op:
        op = _Op(kind=kind, n_src=len(step.inputs), scratch=-1)
        for k, name in enumerate(step.inputs):
            op.src[k] = self.where[name]
        for field, values in ((op.i, numbers), (op.f, floats), (op.p, pointers)):
            for k, value in enumerate(values):
                field[k] = value
        self.ops.append(op)
        return op

    def _emit(self, step: l.Step) -> None:
        channels = _image_size(step.type)[0]
        if channels > WIDEST_CHANNELS:
            raise Unsupported(f"'{step.name}': {channels} channels")
        size = _bytes_per_image(step.type)
        if isinstance(step, l.Input):
            self._input(step, size)
            return
        emitters = {
            l.Convolution: self._convolution,
            l.MaxPool: self._max_pool,
            l.AveragePool: self._average_pool,
            l.ChannelScale: self._channel_scale,
            l.FloatScale: self._float_scale,
            l.Lookup: self._lookup,
            l.Multiply: self._multiply,
            l.Divide: self._divide,
            l.Mean: self._mean,
            l.Quantize: self._quantize,
            l.Dequantize: self._dequantize,
            l.FloatCast: self._float_cast,
            l.Concat: self._concat,
            l.Slice: self._slice,
        }
        op = emitters[type(step)](step)
        op.dst = self.where[step.name] = self._buffer(size)
        if op.scratch >= 0:
            self._free.append(op.scratch)  # only while this instruction runs

    def _input(self, step: l.Input, size: int) -> None:
        # Buffer 0 is the caller's array.
        self.sizes.append(0)
        channels, rows, columns = _image_size(step.type)
        kind = INPUT_FLOATS if step.type.is_float else INPUT_BYTES
        if step.type.storage not in ("f32", "u8"):
            raise Unsupported(f"input of {step.type.storage}")
        op = self._op(kind, step, (channels, rows * columns, padded(channels)))
        op.dst = self.where[step.name] = self._buffer(size)

    def _convolution(self, step: l.Convolution) -> _Op:
        source = self.types[step.inputs[0]]
        in_channels, ih, iw = _image_size(source)
        out_channels, oh, ow = _image_size(step.type)
        _, _, kh, kw = step.weight.shape
        top, left, bottom, right = step.pads
        integer = step.requant is not None
        ic = padded(in_channels) if integer else in_channels
        padded_width = iw + left + right
        blocks = vector_blocks(
            out_channels, self.lanes, self.lib.most_vectors(), self.lib.usual_vectors()
        )
        # Input offset of each tap, in elements: row, then column.
        taps = (
            np.arange(kh)[:, None] * step.dilations[0] * padded_width
            + np.arange(kw)[None, :] * step.dilations[1]
        ) * ic
        widened = integer and self.k_step == 2
        copy = int(any(step.pads) or widened)
        numbers = [ih, iw, ic, top, left, bottom, right, 0, oh, ow, out_channels]
        numbers += [padded(out_channels) if integer else out_channels, *step.strides]
        if integer:
            op = self._byte_convolution(step, source, ic, taps, blocks, numbers, copy)
        else:
            op = self._float_convolution(step, taps, blocks, numbers, copy)
        if copy:
            width = 4 if not integer else (2 if widened else 1)
            scratch = (ih + top + bottom) * padded_width * ic * width
            op.scratch = self._buffer(scratch)
        return op

    def _byte_convolution(self, step, source, ic, taps, blocks, numbers, copy) -> _Op:
        out_channels, in_channels, kh, kw = step.weight.shape
        weight = np.zeros((out_channels, kh, kw, ic), np.int64)
        weight[..., :in_channels] = step.weight.transpose(0, 2, 3, 1)
        offset = _offset(source)
        bias = np.zeros(out_channels, np.int64) if step.bias is None else step.bias.astype(np.int64)
        bias = bias - offset * weight.sum(axis=(1, 2, 3))
        reach = 255 * np.abs(weight).sum(axis=(1, 2, 3)) + np.abs(bias)
        if reach.max() >= 2**31:
            raise Unsupported(f"'{step.name}': sums up to {reach.max()} exceed 32 bits")
        q = step.requant
        if q.rounding != l.HALF_UP or q.before is not None or q.shift.min() < 0:
            raise Unsupported(f"'{step.name}': requantization {q.rounding}, shift {q.shift.min()}")
        least, most = unsaturated_range(q, out_channels)
        multiplier = np.broadcast_to(q.multiplier, out_channels)
        shift = np.broadcast_to(q.shift, out_channels)
        # 53 bits so that the float64 path is exact too; 31 bits for the multiplier itself.
        product = np.maximum(-least, most).astype(object) * multiplier.astype(object)
        product = product + (1 << shift.astype(object))
        if max(product) >= 2**53 or multiplier.max() >= 2**31 or shift.max() > 62:
            raise Unsupported(f"'{step.name}': products up to {max(product)} exceed 53 bits")

        # [K / k_step, blocks of vectors, lanes, k_step]
        lanes, k_step = self.lanes, self.k_step
        wide = sum(blocks) * lanes
        flat = np.zeros((wide, kh * kw * ic), np.int64)
        flat[:out_channels] = weight.reshape(out_channels, -1)
        flat = flat.reshape(wide, -1, k_step)
        parts, at = [], 0
        for vectors in blocks:
            part = flat[at : at + vectors * lanes].transpose(1, 0, 2)
            parts.append(np.ascontiguousarray(part).reshape(-1))
            at += vectors * lanes
        packed = np.concatenate(parts).astype(np.int8 if k_step == 4 else np.int16)
        groups = np.add.outer(taps.reshape(-1), np.arange(0, ic, k_step)).reshape(-1)

        def per_channel(values, dtype, fill=0):
            full = np.full(wide, fill, dtype)
            full[:out_channels] = values
            return self._constant(full, dtype)

        # The short way of kernels.c: float32 holds sums and multipliers, and |x| + 1 < 2**21.
        factor = np.ldexp(multiplier.astype(np.float64), -shift)
        short = reach.max() < 2**24 and multiplier.max() < 2**24 and (reach * factor).max() < 2**20
        half = np.zeros(wide, np.int64)
        half[:out_channels] = (1 << shift.astype(np.int64)) >> 1
        # Even lanes, then odd ones, of every vector (see requant_store).
        half = half.reshape(-1, lanes // 2, 2).transpose(0, 2, 1).reshape(-1)
        add = q.zero_point + _offset(step.type)
        numbers = [*numbers, len(groups), len(blocks), copy]
        numbers += [q.low + _offset(step.type), q.high + _offset(step.type), add]
        numbers[7] = step.pad_value + offset
        pointers = (
            self._constant(packed, packed.dtype),
            self._constant(groups, np.int32),
            per_channel(bias, np.int32),
            per_channel(multiplier, np.int32),
            per_channel(shift, np.int32),
            self._constant(half, np.int64),
            per_channel(least, np.int32),
            per_channel(most, np.int32),
            per_channel(factor, np.float64),
            self._constant(blocks, np.int32),
            per_channel(factor, np.float32) if short else 0,
        )
        return self._op(CONVOLVE_BYTES, step, numbers, (), pointers)

    def _float_convolution(self, step, taps, blocks, numbers, copy) -> _Op:
        out_channels, in_channels, kh, kw = step.weight.shape
        lanes = self.lanes
        wide = sum(blocks) * lanes
        flat = np.zeros((wide, in_channels * kh * kw), np.float32)
        flat[:out_channels] = step.weight.reshape(out_channels, -1)
        parts, at = [], 0
        for vectors in blocks:
            parts.append(np.ascontiguousarray(flat[at : at + vectors * lanes].T).reshape(-1))
            at += vectors * lanes
        # The vendor's order: input channel, then kernel row, then kernel column.
        offsets = np.add.outer(np.arange(in_channels), taps.reshape(-1)).reshape(-1)
        starts = float_blocks(len(offsets))
        bias = 0
        if step.bias is not None:
            full = np.zeros(wide, np.float32)
            full[:out_channels] = step.bias
            bias = self._constant(full, np.float32)
        numbers = [*numbers, len(offsets), len(blocks), copy, 0, 0, 0, int(step.relu)]
        numbers += [STORAGE[step.type.storage], len(starts) - 1]
        pointers = (
            self._constant(np.concatenate(parts), np.float32),
            self._constant(offsets, np.int32),
            bias,
            self._constant(starts, np.int32),
            *[0] * 5,
            self._constant(blocks, np.int32),
        )
        return self._op(CONVOLVE_FLOATS, step, numbers, (), pointers)

    def _pool(self, step, mode: int, requant=(0, 0, 0, 0, 0), pointers=()) -> _Op:
        source = self.types[step.inputs[0]]
        channels, ih, iw = _image_size(source)
        _, oh, ow = _image_size(step.type)
        stride = channels if source.is_float else padded(channels)
        numbers = [ih, iw, stride, oh, ow, *step.kernel, *step.strides, _offset(source)]
        numbers += [*requant, STORAGE.get(step.type.storage, 0), mode]
        kind = POOL_MEAN_BYTES if mode in (MEAN_BYTES, MEAN_AFFINE) else POOL
        if kind == POOL_MEAN_BYTES and (iw * stride > WIDEST_ROW or 255 * step.kernel[0] >= 2**16):
            raise Unsupported(f"'{step.name}': rows of {iw * stride} bytes, kernel {step.kernel}")
        return self._op(kind, step, numbers, (), pointers)

    def _max_pool(self, step: l.MaxPool) -> _Op:
        return self._pool(step, MAX_FLOATS if step.type.is_float else MAX_BYTES)

    def _average_pool(self, step: l.AveragePool) -> _Op:
        if step.type.is_float:
            return self._pool(step, MEAN_FLOATS)
        offset = _offset(step.type)
        low, high = step.type.limits
        if step.affine is not None:
            affine = self._constant(step.affine, np.float64)
            requant = (0, 0, low + offset, high + offset, offset)
            return self._pool(step, MEAN_AFFINE, requant, (affine,))
        q = step.requant
        multiplier, shift = int(q.multiplier[0]), int(q.shift[0])
        largest = 255 * step.kernel[0] * step.kernel[1] * abs(multiplier) + (1 << max(shift, 0))
        if q.rounding != l.HALF_UP or shift < 0 or largest >= 2**31:
            raise Unsupported(f"'{step.name}': average with shift {shift}, sums to {largest}")
        add = q.zero_point + offset
        return self._pool(
            step, MEAN_BYTES, (multiplier, shift, q.low + offset, q.high + offset, add)
        )

    def _channel_scale(self, step: l.ChannelScale) -> _Op:
        source, q = self.types[step.inputs[0]], step.requant
        channels, rows, columns = _image_size(step.type)
        fits = q.shift.min() >= 0 and q.shift.max() <= 31 and (q.multiplier == 1).all()
        if q.rounding != l.DOWN or not fits:
            raise Unsupported(f"'{step.name}': scale with shift {q.shift.min()}")
        numbers = [channels, padded(channels), rows * columns, _offset(source), *q.before]
        offset = _offset(step.type)
        numbers += [q.low + offset, q.high + offset, q.zero_point + offset]
        constants = (step.scale, step.bias, np.broadcast_to(q.shift, channels))
        pointers = [self._constant(values, np.int32) for values in constants]
        return self._op(CHANNEL_SCALE, step, numbers, (), pointers)

    def _float_scale(self, step: l.FloatScale) -> _Op:
        channels, rows, columns = _image_size(step.type)
        pointers = [self._constant(values, np.float32) for values in (step.scale, step.bias)]
        numbers = (channels, rows * columns, int(step.relu))
        return self._op(FLOAT_SCALE, step, numbers, (), pointers)

    def _lookup(self, step: l.Lookup) -> _Op:
        offset = _offset(self.types[step.inputs[0]])
        channels, rows, columns = _image_size(step.type)
        # From the index by byte of the input to the byte of the result.
        table = np.roll(step.table.astype(np.int64), offset) + _offset(step.type)
        numbers = (padded(channels) * rows * columns,)
        return self._op(LOOKUP, step, numbers, (), (self._constant(table, np.uint8),))

    def _dequantize(self, step: l.Dequantize) -> _Op:
        source = self.types[step.inputs[0]]
        if source.storage not in ("i8", "u8"):
            raise Unsupported(f"'{step.name}': {source.storage} operand")
        # q - zero_point, up to 383, is exact in f16 and in bf16 up to 256 only.
        if step.type.storage == "bf16" and step.zero_point:
            raise Unsupported(f"'{step.name}': zero point with a bf16 result")
        channels, rows, columns = _image_size(step.type)
        storage = STORAGE[step.type.storage]
        numbers = (channels, rows * columns, padded(channels), storage)
        zero = _offset(source) + step.zero_point
        return self._op(DEQUANTIZE, step, numbers, (step.scale, zero))

    def _multiply(self, step: l.Multiply) -> _Op:
        sources = [self.types[name] for name in step.inputs]
        if any(source.shape != step.type.shape for source in sources):
            raise Unsupported(f"'{step.name}': product with broadcasting")
        channels, rows, columns = _image_size(step.type)
        if step.requant is None:
            size = channels * rows * columns
            return self._op(MULTIPLY, step, (size, STORAGE[step.type.storage]))
        q, offset = step.requant, _offset(step.type)
        multiplier, shift = int(q.multiplier[0]), int(q.shift[0])
        if q.rounding != l.HALF_UP or not 0 <= shift < 31:
            raise Unsupported(f"'{step.name}': requantization {q.rounding}, shift {shift}")
        if 383 * 383 * abs(multiplier) + (1 << shift) >= 2**31:
            raise Unsupported(f"'{step.name}': multiplier {multiplier} exceeds 32 bits")
        zeros = [_offset(s) + z for s, z in zip(sources, step.zero_points, strict=True)]
        numbers = [padded(channels) * rows * columns, *zeros, multiplier, shift]
        numbers += [q.low + offset, q.high + offset, q.zero_point + offset]
        return self._op(MULTIPLY_BYTES, step, numbers)

    def _divide(self, step: l.Divide) -> _Op:
        dividend, divisor = (self.types[name].shape for name in step.inputs)
        if dividend != step.type.shape or np.prod(divisor[1:]) != 1:
            raise Unsupported(f"'{step.name}': division of {dividend} by {divisor}")
        shared = dividend[0] // divisor[0]
        size = int(np.prod(dividend[1:]))
        numbers = (size, STORAGE[step.type.storage], shared, int(step.reciprocal))
        return self._op(DIVIDE, step, numbers)

    def _mean(self, step: l.Mean) -> _Op:
        source = self.types[step.inputs[0]]
        channels, rows, columns = _image_size(source)
        storage = STORAGE[step.type.storage]
        if step.axes in ((1, 2, 3), (0, 1, 2, 3)) and step.keep_dims:
            if rows * columns > WIDEST_PLANE:
                raise Unsupported(f"'{step.name}': mean over planes of {rows} x {columns}")
            shared = source.shape[0] if step.axes[0] == 0 else 1
            numbers = (channels, rows * columns, storage, shared)
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
        if step.axes == (2,):
            numbers = (channels, rows, columns, storage, int(step.lanes > 0))
            op = self._op(MEAN_ROWS, step, numbers, (step.coefficient,))
            op.scratch = self._buffer(4 * channels * columns)
            return op
        raise Unsupported(f"'{step.name}': mean over axes {step.axes}")

    def _quantize(self, step: l.Quantize) -> _Op:
        channels, rows, columns = _image_size(step.type)
        offset = _offset(step.type)
        low, high = step.type.limits
        add = step.type.zero_point + offset
        numbers = [channels, rows * columns, padded(channels), low + offset, high + offset, add]
        numbers.append(STORAGE[step.expressed])
        return self._op(QUANTIZE, step, numbers, (step.inverse_scale,))

    def _float_cast(self, step: l.FloatCast) -> _Op:
        size = int(np.prod(step.type.shape[1:]))
        return self._op(FLOAT_CAST, step, (size, STORAGE[step.type.storage]))

    def _concat(self, step: l.Concat) -> _Op:
        if step.axis != 1 or len(step.inputs) > 4:
            raise Unsupported(f"'{step.name}': {len(step.inputs)} operands along axis {step.axis}")
        parts = [_image_size(self.types[name])[0] for name in step.inputs]
        width = 4 if step.type.is_float else 1
        if width == 1 and any(part % 4 for part in parts):
            raise Unsupported(f"'{step.name}': channels {parts}")
        channels, rows, columns = _image_size(step.type)
        return self._op(CONCAT, step, (rows * columns, width, channels, *parts))

    def _slice(self, step: l.Slice) -> _Op:
        source = self.types[step.inputs[0]]
        channels, rows, columns = _image_size(source)
        out_channels, out_rows, out_columns = _image_size(step.type)
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
        steps: tuple[l.Step, ...],
        threads: int | None = None,
        target: str = "native",
    ):
        self.graph, self.steps = graph, steps
        self.threads = threads or len(os.sched_getaffinity(0))
        self._lib = library(target)
        self.instruction_set = self._lib.instruction_set().decode()
        self.images_per_call = -(-IMAGES_PER_CALL // graph.batch) * graph.batch
        self._program = self._build(frozenset([graph.output]))
        # Workspaces of the usual program, kept: a fresh one costs as much as running an image.
        self._spaces: list[_Workspace] = []

    def _build(self, names: frozenset[str]) -> _Program:
        return _Program(self.graph, self.steps, names, self._lib)

    def run(self, inputs: np.ndarray, keep: Iterable[str]) -> dict[str, np.ndarray]:
        """Stored values (float32) of the tensors in ``keep``; as `TorchExecutor.run`."""
        names = frozenset(keep)
        usual = names <= {self.graph.output}
        program = self._program if usual else self._build(names)
        results = {}
        for name in names:
            shape = self.graph.types[name].shape[1:]
            results[name] = np.empty((self._entries(name, len(inputs)), *shape), np.float32)
        pending = iter(range(0, len(inputs), self.images_per_call))

        def work(_: int) -> None:
            try:
                space = self._spaces.pop() if usual else _Workspace(program, self.images_per_call)
            except IndexError:
                space = _Workspace(program, self.images_per_call)
            for start in pending:  # shared: each takes the next chunk when it is done with one
                chunk = inputs[start : start + self.images_per_call]
                space.pointers[0] = chunk.ctypes.data
                program.lib.run_program(
                    program.code,
                    ctypes.c_long(len(program.ops)),
                    space.pointers,
                    ctypes.c_long(len(chunk)),
                )
                for name in names:
                    self._fetch(program, space, name, start, len(chunk), results[name])
            if usual:
                self._spaces.append(space)

        workers = min(self.threads, -(-len(inputs) // self.images_per_call))
        if workers <= 1:
            work(0)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, range(workers)))
        return results

    def _entries(self, name: str, images: int) -> int:
        """Length of a tensor's first axis: one for each image, or for each compiled batch."""
        return images * self.graph.types[name].shape[0] // self.graph.batch

    def _fetch(self, program, space, name, start, count, result) -> None:
        kind = self.graph.types[name]
        channels, rows, columns = _image_size(kind)
        first, entries = self._entries(name, start), self._entries(name, count)
        raw = space.arrays[program.where[name]]
        shape = (entries, rows, columns)
        if kind.is_float:
            size = entries * rows * columns * channels
            values = raw[: 4 * size].view(np.float32).reshape(*shape, channels)
        else:
            stride = padded(channels)
            size = entries * rows * columns * stride
            values = raw[:size].reshape(*shape, stride)[..., :channels]
        values = values.transpose(0, 3, 1, 2).reshape(entries, *kind.shape[1:])
        target = result[first : first + entries]
        target[...] = values
        if _offset(kind):
            target -= _offset(kind)
