"""Small graphs in the export's format, covering every operation, for the emulator's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def kind(shape, storage="f32", scale=None, zero_point=None, expressed=None) -> dict:
    """A TYPE record of the export."""
    if scale is not None:
        zero_point, expressed = zero_point or 0, expressed or "f32"
    return {
        "shape": list(shape),
        "storage": storage,
        "scale": scale,
        "zero_point": zero_point,
        "expressed": expressed,
        "range": None,
    }


class Builder:
    """Collects operations; each method appends one and returns its name."""

    def __init__(self, chip="bm1684x", asymmetric=False, seed=0):
        self.random = np.random.default_rng(seed)
        self.module = {"module.chip": chip, "module.mode": "INT8", "module.asymmetric": asymmetric}
        self.ops: list[dict] = []
        self.kinds: dict[str, dict] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.weight_kinds: dict[str, dict] = {}

    def add(self, op: str, operands, result: dict, **attributes: Any) -> str:
        name = f"{op.split('.')[1].lower()}{len(self.ops)}"
        self.ops.append(
            {
                "type": op,
                "name": name,
                "operands": operands,
                "result": result,
                "attributes": attributes,
            }
        )
        self.kinds[name] = result
        return name

    def weight(self, array: np.ndarray, storage: str) -> str:
        name = f"weight{len(self.weights)}"
        self.weights[name] = array
        self.weight_kinds[name] = kind(array.shape, storage)
        return name

    def input(self, shape, storage="f32") -> str:
        result = kind(shape, storage, 1.0 if storage == "u8" else None)
        return self.add("top.Input", [], result, pixel_format="bgr")

    def convolution(
        self,
        source: str,
        channels: int,
        kernel=(1, 1),
        pads=(0, 0, 0, 0),
        strides=(1, 1),
        storage="u8",
        relu=True,
        zero_point=0,
        requant=None,
        spread=127,
    ) -> str:
        """`requant` (multiplier, shift) lists; by default what fills the result's range."""
        n, in_channels, height, width = self.kinds[source]["shape"]
        rows = (height + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
        columns = (width + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
        shape = (n, channels, rows, columns)
        if storage in ("f32", "f16", "bf16"):
            weight = self.random.standard_normal((channels, in_channels, *kernel))
            weight = weight.astype(np.float16 if storage == "f16" else np.float32)
            bias = self.random.standard_normal(channels).astype(np.float32)
            if storage == "bf16":
                weight = (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
            operands = [
                source,
                self.weight(weight.astype(np.float32), storage),
                self.weight(bias, "f32"),
            ]
            return self.add(
                "tpu.Conv2D",
                operands,
                kind(shape, storage),
                kernel_shape=[*kernel],
                pads=[*pads],
                strides=[*strides],
                dilations=[1, 1],
                group=1,
                do_relu=relu,
                with_bias=True,
                kernel_zp=0,
                weight_is_coeff=1,
            )
        weight = self.random.integers(-spread, spread + 1, (channels, in_channels, *kernel))
        reach = 40.0 * spread * np.sqrt(in_channels * kernel[0] * kernel[1])
        if requant is None:
            shift = self.random.integers(24, 40, channels)
            slope = 256 / reach * 2.0 ** self.random.uniform(-2, 1, channels)
            multiplier = np.minimum(slope * 2.0**shift, 2**24 - 1).astype(int)
            requant = (multiplier.tolist(), shift.tolist())
        bias = self.random.integers(-int(reach) // 4, int(reach) // 4 + 1, (1, channels, 1, 1))
        operands = [
            source,
            self.weight(weight.astype(np.int8), "i8"),
            self.weight(bias.astype(np.int32), "i32"),
        ]
        attributes = {"rshift": requant[1], "quant_mode": "OnlyShift"}
        if requant[0] is not None:
            attributes |= {"multiplier": requant[0], "quant_mode": "MultiplierShift"}
        return self.add(
            "tpu.Conv2D",
            operands,
            kind(shape, storage, 0.1, zero_point),
            kernel_shape=[*kernel],
            pads=[*pads],
            strides=[*strides],
            dilations=[1, 1],
            group=1,
            do_relu=relu,
            with_bias=True,
            kernel_zp=0,
            weight_is_coeff=1,
            round_mode="HalfUp",
            **attributes,
        )

    def pool(
        self, source: str, mode: str, kernel, strides, pads=(0, 0, 0, 0), **attributes: Any
    ) -> str:
        n, channels, height, width = self.kinds[source]["shape"]
        shape = (
            n,
            channels,
            (height + pads[0] + pads[2] - kernel[0]) // strides[0] + 1,
            (width + pads[1] + pads[3] - kernel[1]) // strides[1] + 1,
        )
        return self.add(
            "tpu.Pool2D",
            [source],
            self.kinds[source] | {"shape": list(shape)},
            pool_mode=mode,
            kernel_shape=[*kernel],
            strides=[*strides],
            pads=[*pads],
            is_adaptive=False,
            keepdims=True,
            do_relu=False,
            count_include_pad=True,
            pad_value=0,
            round_mode="HalfAwayFromZero",
            first_round_mode="HalfAwayFromZero",
            **attributes,
        )

    def cast(self, source: str, storage: str, scale=None, zero_point=None, expressed=None) -> str:
        result = kind(self.kinds[source]["shape"], storage, scale, zero_point, expressed)
        return self.add(
            "tpu.Cast", [source], result, round_mode="HalfAwayFromZero", with_scale=True
        )

    def multiply(self, a: str, b: str, multiplier=21, shift=12, **changes: Any) -> str:
        result = self.kinds[a] | changes
        return self.add(
            "tpu.Mul",
            [a, b],
            result,
            do_relu=False,
            multiplier=multiplier,
            rshift=shift,
            quant_mode="MultiplierShift",
        )

    def mean(self, source: str, axes, keep=True) -> str:
        shape = [
            size
            for axis, size in enumerate(self.kinds[source]["shape"])
            if keep or axis not in axes
        ]
        if keep:
            shape = [1 if axis in axes else size for axis, size in enumerate(shape)]
        result = self.kinds[source] | {"shape": shape}
        return self.add(
            "tpu.Reduce",
            [source, None, None],
            result,
            axes=[*axes],
            keepdims=keep,
            mode="ReduceMean",
            is_scalar=False,
        )

    def divide(self, a: str, b: str) -> str:
        return self.add(
            "tpu.Div",
            [a, b],
            self.kinds[a],
            do_relu=False,
            is_reverse=False,
            is_scalar=False,
            multiplier=1,
            rshift=0,
        )

    def concat(self, *sources: str, axis=1) -> str:
        shape = list(self.kinds[sources[0]]["shape"])
        shape[axis] = sum(self.kinds[s]["shape"][axis] for s in sources)
        return self.add(
            "tpu.Concat",
            [*sources],
            self.kinds[sources[0]] | {"shape": shape},
            axis=axis,
            do_relu=False,
            only_merge=False,
        )

    def grouped(self, source: str, channels: int, group: int, kernel, pads, **options: Any) -> str:
        """A convolution whose weights are for one group."""
        n, in_channels, height, width = self.kinds[source]["shape"]
        whole = self.kinds[source]
        self.kinds[source] = whole | {"shape": [n, in_channels // group, height, width]}
        name = self.convolution(source, channels, kernel, pads, **options)
        self.kinds[source] = whole
        self.ops[-1]["attributes"]["group"] = group
        return name

    def transposed(self, source: str, channels: int, kernel, stride: int) -> str:
        """A transposed convolution and its requantization, ties away from zero."""
        n, in_channels, height, width = self.kinds[source]["shape"]
        weight = self.random.integers(-127, 128, (channels, in_channels, *kernel)).astype(np.int8)
        bias = self.random.integers(-999, 999, (1, channels, 1, 1)).astype(np.int32)
        shape = (
            n,
            channels,
            (height - 1) * stride + kernel[0] - 1,
            (width - 1) * stride + kernel[1] - 1,
        )
        sums = self.add(
            "tpu.Deconv",
            [source, self.weight(weight, "i8"), self.weight(bias, "i32")],
            kind(shape, "i32"),
            kernel_shape=[*kernel],
            strides=[stride, stride],
            pads=[0, 1, 1, 0],
            dilations=[1, 1],
            group=1,
            with_bias=True,
            output_padding=[0, 0],
            do_relu=False,
            quant_mode="MultiplierShift",
        )
        rows = [
            [int(self.random.integers(1, 4)), -int(self.random.integers(8, 11)), 0]
            for _ in range(channels)
        ]
        table = self.weight(np.array(rows, np.int32).reshape(1, channels, 1, 3), "i32")
        return self.add(
            "tpu.RequantIntAxis",
            [sums, table],
            kind(shape, "i8", 0.1),
            rq_axis=1,
            fuse_rq_axis=False,
            quant_mode="MultiplierShift",
            round_mode="HalfAwayFromZero",
        )

    def matmul(self, a: str, b: str | int, transposed=False) -> str:
        """With constants of so many columns, or with another tensor."""
        shape = [*self.kinds[a]["shape"]]
        operands = [a, b, None, None, None]
        if isinstance(b, int):
            weight = self.random.integers(-127, 128, (shape[-1], b)).astype(np.int8)
            bias = self.random.integers(-9999, 9999, b).astype(np.int32)
            operands[1:3] = self.weight(weight, "i8"), self.weight(bias, "i32")
            shape[-1] = b
        else:
            shape[-1] = self.kinds[b]["shape"][-2 if transposed else -1]
        return self.add(
            "tpu.MatMul",
            operands,
            kind(shape, "i8", 0.1),
            right_transpose=transposed,
            do_relu=False,
            multipliers=[401],
            rshifts=[20],
            input_zp=0,
            right_zp=0,
            quant_mode="MultiplierShift",
            hdim_is_batch=False,
        )

    def binary(self, op: str, a: str, b: str, **attributes: Any) -> str:
        shape = np.broadcast_shapes(self.kinds[a]["shape"], self.kinds[b]["shape"])
        return self.add(
            op, [a, b], kind(shape, "i8", 0.1), do_relu=False, relu_limit=-1.0, **attributes
        )

    def moved(self, op: str, source: str, shape, **attributes: Any) -> str:
        return self.add(op, [source], self.kinds[source] | {"shape": list(shape)}, **attributes)

    def slice(self, source: str, step: int) -> str:
        shape = list(self.kinds[source]["shape"])
        shape[1] = -(-shape[1] // step)
        return self.add(
            "tpu.Slice",
            [source, None, None, None, None],
            self.kinds[source] | {"shape": shape},
            offset=[0, 0, 0, 0],
            steps=[1, step, 1, 1],
            axes=[0, 1, 2, 3],
            ends=[-1, -1, -1, -1],
        )

    def scale(self, source: str, storage: str) -> str:
        """BM1684's scale unit, or the float one."""
        channels = self.kinds[source]["shape"][1]
        if storage == "f32":
            arrays = [
                self.random.standard_normal((1, channels)).astype(np.float32) for _ in range(2)
            ]
            operands = [source, *[self.weight(a, "f32") for a in arrays], None]
            return self.add("tpu.Scale", operands, self.kinds[source], do_relu=True)
        factor = self.random.integers(-127, 128, (1, channels)).astype(np.int8)
        bias = self.random.integers(-20000, 20000, (1, channels)).astype(np.int16)
        left = -self.random.integers(3, 9, (1, channels)).astype(np.int8)
        operands = [
            source,
            self.weight(factor, "i8"),
            self.weight(bias, "i16"),
            self.weight(left, "i8"),
        ]
        result = kind(self.kinds[source]["shape"], storage, 0.1)
        return self.add("tpu.Scale", operands, result, do_relu=storage == "u8")

    def lookup(self, source: str, storage: str) -> str:
        low = -128 if storage == "i8" else 0
        table = self.random.integers(low, low + 256, (1, 1, 16, 16))
        table = table.astype(np.int8 if storage == "i8" else np.uint8)
        result = kind(self.kinds[source]["shape"], storage, 0.01)
        return self.add("tpu.Lut", [source, self.weight(table, storage)], result)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "format": 1,
            "module": self.module,
            "inputs": [self.ops[0]["name"]],
            "outputs": [self.ops[-1]["name"]],
            "ops": self.ops,
            "weights": self.weight_kinds,
        }
        (folder / "graph.json").write_text(json.dumps(record))
        np.savez(folder / "graph.npz", **self.weights)
        return folder


def symmetric(batch=1, shared_mean=False) -> Builder:
    """The shape of LPRNet in miniature, integers with the float division in the middle."""
    b = Builder()
    axes = (0, 1, 2, 3) if shared_mean else (1, 2, 3)
    x = b.cast(b.input((batch, 3, 12, 19)), "i8", 0.02)
    first = b.convolution(x, 64, (3, 3))
    pooled = b.pool(first, "Max", (3, 3), (1, 1))
    one = b.convolution(pooled, 32)
    tall = b.convolution(one, 32, (3, 1), (1, 0, 1, 0))
    wide = b.convolution(tall, 20, (1, 3), (0, 1, 0, 1))
    many = b.convolution(wide, 160)
    halved = b.slice(b.pool(many, "Max", (3, 3), (1, 2)), 2)
    quartered = b.slice(b.pool(many, "Max", (3, 3), (2, 1)), 4)
    b.convolution(quartered, 7, strides=(2, 1), storage="i8", relu=False)
    last = b.convolution(halved, 68, (4, 1))
    branches = []
    for source in (last, b.convolution(halved, 36, (4, 1))):
        mean = b.pool(source, "Avg", (2, 3), (1, 2), multiplier=89, rshift=9)
        square = b.multiply(mean, mean)
        energy = b.cast(b.mean(b.cast(square, "f16"), axes), "f32")
        branches.append(b.cast(b.divide(b.cast(mean, "f32"), energy), "u8", 0.05))
    joined = b.concat(*branches)
    logits = b.convolution(joined, 68, storage="i8", relu=False)
    b.cast(b.mean(b.cast(logits, "f16"), (2,), keep=False), "f32")
    return b


def asymmetric() -> Builder:
    """Zero points in the input, the results and the averages."""
    b = Builder(asymmetric=True)
    x = b.cast(b.input((1, 3, 9, 11)), "i8", 0.02, -7)
    first = b.convolution(x, 20, (3, 3), (1, 1, 1, 1), storage="i8", zero_point=5, relu=False)
    second = b.convolution(first, 36, (1, 3), (0, 1, 0, 1), storage="u8", zero_point=11)
    mean = b.pool(second, "Avg", (2, 5), (2, 2), scale=0.1234, offset=3.5)
    square = b.multiply(mean, mean, storage="u8")
    b.mean(b.cast(square, "f16"), (1, 2, 3))
    b.cast(b.convolution(mean, 8, storage="i8", relu=False, zero_point=-20), "f32")
    return b


def bm1684() -> Builder:
    """Shift-only convolutions and the scale unit."""
    b = Builder(chip="bm1684")
    x = b.cast(b.input((1, 3, 8, 10)), "i8", 0.02)
    one = b.convolution(x, 32, (3, 3), storage="i8", relu=False, requant=(None, [9]))
    two = b.scale(one, "u8")
    three = b.convolution(two, 68, requant=(None, [11]))
    four = b.scale(b.convolution(three, 24, storage="i8", relu=False, requant=(None, [11])), "i8")
    b.cast(b.multiply(four, four, 3, 4), "f32")
    return b


def lookup() -> Builder:
    """Bytes in, a table, bytes on."""
    b = Builder()
    x = b.lookup(b.input((1, 3, 6, 7), "u8"), "i8")
    b.lookup(b.convolution(x, 8, (3, 3), storage="i8", relu=False), "u8")
    b.cast(b.ops[-1]["name"], "f32")
    return b


def floats(storage: str) -> Builder:
    """Float layers between integer ones."""
    b = Builder()
    x = b.input((1, 3, 10, 12))
    x = x if storage == "f32" else b.cast(x, storage)
    one = b.pool(b.convolution(x, 40, (3, 3), storage=storage), "Max", (3, 3), (1, 2))
    two = b.convolution(b.slice(one, 2), 24, (1, 3), (0, 1, 0, 1), storage=storage, relu=False)
    bytes_ = b.cast(two, "u8", 0.1, expressed=storage)
    three = b.convolution(b.cast(bytes_, storage), 33, (3, 1), (1, 0, 1, 0), storage=storage)
    mean = b.pool(three, "Avg", (2, 3), (2, 1))
    ratio = b.divide(b.cast(mean, "f32"), b.cast(b.mean(b.multiply(mean, mean), (1, 2, 3)), "f32"))
    if storage == "f32":
        ratio = b.scale(ratio, "f32")
    b.cast(ratio, "f32")
    return b


def other_networks(batch=1) -> Builder:
    """What other networks than LPRNet are made of, in odd sizes."""
    b = Builder(seed=3)
    x = b.cast(b.input((batch, 3, 9, 11)), "i8", 0.02)
    stem = b.convolution(x, 22, (3, 3), (1, 1, 1, 1), storage="i8", relu=False)
    depth = b.grouped(stem, 22, 22, (3, 5), (1, 2, 1, 2), storage="i8", relu=False)
    pair = b.grouped(stem, 30, 2, (3, 3), (1, 1, 1, 1))
    alone = b.grouped(pair, 5, 5, (1, 3), (0, 1, 0, 1), storage="i8", relu=False)
    up = b.transposed(alone, 7, (3, 3), 2)
    b.pool(up, "Max", (3, 3), (2, 2))
    b.ops[-1]["attributes"]["pads"] = [1, 1, 1, 1]
    b.ops[-1]["result"]["shape"][2:] = [9, 11]
    summed = b.binary("tpu.Add", stem, depth, multipliers=[77, 51], rshifts=[7, 6])
    gate = b.pool(summed, "Avg", (9, 11), (1, 1), multiplier=83, rshift=13)
    scaled = b.binary(
        "tpu.Mul", summed, gate, multiplier=93, rshift=11, quant_mode="MultiplierShift"
    )
    apart = b.binary("tpu.Sub", scaled, gate, multipliers=[127, 64], rshifts=[7, 8])
    leaky = b.moved("tpu.LeakyRelu", apart, (batch, 22, 9, 11), multiplier=51, rshift=8)
    joined = b.concat(leaky, alone, alone, stem, depth, alone)
    tall = b.concat(joined, joined, axis=2)
    wide = b.moved(
        "tpu.Upsample", b.concat(tall, tall, axis=3), (batch, 81, 36, 22), scale_h=2, scale_w=1
    )
    means = b.pool(wide, "Avg", (36, 3), (1, 2), multiplier=61, rshift=12)
    steps = b.moved("tpu.Squeeze", means, (batch, 81, 10), axes=[2])
    turned = b.moved("tpu.Permute", steps, (batch, 10, 81), order=[0, 2, 1])
    linear = b.matmul(turned, 33)
    attention = b.matmul(linear, linear, transposed=True)
    back = b.matmul(attention, linear)
    flat = b.moved("tpu.Reshape", back, (batch, 330))
    b.cast(b.matmul(flat, 19), "f32")
    return b
