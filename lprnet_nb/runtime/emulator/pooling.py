"""Windows and axes reduced to one value: maximum, average, mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lprnet_nb.runtime.emulator.graph import Graph, Op, TensorType
from lprnet_nb.runtime.emulator.steps import (
    HALF_AWAY,
    HALF_UP,
    Attributes,
    Requant,
    Step,
    head,
    lowers,
    requantization,
    round_float,
)

CHIPS_168X = ("BM1684X", "BM1688", "CV186X")
# Lanes of a full mean. What is not here is summed as the interpreter does it.
LANES = {
    ("BM1684", "f32"): 32,
    ("BM1684X", "f32"): 32,
    **{("BM1684X", storage): 64 for storage in ("f16", "bf16")},
    **{(chip, "f32"): 8 for chip in ("BM1688", "CV186X")},
    **{(chip, storage): 16 for chip in ("BM1688", "CV186X") for storage in ("f16", "bf16")},
}


# A full mean that fills too much of a chip's local memory is taken in two steps: the largest number
# of values seen to be taken in one, and the smallest seen in two. In between is not known.
ONE_STEP = {
    ("BM1684X", "f16"): (43776, 64512),
    ("BM1684X", "f32"): (19584, 36864),
    ("BM1688", "f16"): (19584, 32256),
    ("CV186X", "f16"): (19584, 32256),
    ("BM1688", "f32"): (9216, 18432),
    ("CV186X", "f32"): (9216, 18432),
}


# Floats whose windows and means over one axis a chip is known to take in two lanes.
TWO_LANES = (
    ("BM1684", "f32"),
    *((chip, storage) for chip in CHIPS_168X for storage in ("f32", "f16", "bf16")),
)
# Of these, windows whose pads are not counted.
EDGES_KNOWN = (("BM1684", "f32"), ("BM1684X", "f32"))


@dataclass(frozen=True)
class MaxPool(Step):
    """Maximum over windows; what is padded never wins. Integers stay on the input's scale.

    Source: Pool2D.cpp. ``pads`` is top, left, bottom, right.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class AveragePool(Step):
    """Mean over windows; source: Pool2D.cpp. What is padded is the zero point.

    Symmetric integers: the window's integer sum, requantized (half up). Asymmetric ones (``affine``
    set): ``round(mean * height * width * scale + offset)`` with the mean and the two products in
    float32, the affine part in float64, stored as float32, rounded half away from zero.
    Float: float32 sum in the window's memory order, divided by the count, rounded to
    ``type.storage``. A chip (``lanes`` 2) multiplies each value by ``share``, which is 1/count
    rounded to storage, sums the even and the odd ones in order, and adds the two; rounded to
    storage at every operation.

    ``exclude_pads`` leaves out of the count what is padded. The interpreter divides by the smaller
    count; of integers it then makes a sum, ``round(mean * height * width)``, half away from zero,
    in float32. A chip (``edge_rounding`` set, for floats "f32" and such) multiplies the mean of the
    whole window by height / rows that are not padded, then by width / columns that are not, rounded
    each time; beside integers these ratios have 8 bits (`eight_bits`).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    requant: Requant | None = None
    affine: tuple[float, float] | None = None
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_value: int = 0
    exclude_pads: bool = False
    edge_rounding: str | None = None
    lanes: int = 0
    share: float = 0.0

    def edges(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of an input of this size that each window has, float32."""
        counts = []
        for axis, size in enumerate((rows, columns)):
            kernel, stride, before = self.kernel[axis], self.strides[axis], self.pads[axis]
            starts = np.arange(self.type.shape[2 + axis] if len(self.type.shape) == 4 else 1)
            starts = starts * stride - before
            counts.append(np.minimum(starts + kernel, size) - np.maximum(starts, 0))
        return counts[0].astype(np.float32), counts[1].astype(np.float32)

    def edge_ratios(self, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """What a chip multiplies the means of an input of this size by, float32."""
        ratios = [
            np.float32(size) / counts
            for size, counts in zip(self.kernel, self.edges(rows, columns), strict=True)
        ]
        if not self.type.is_float:
            ratios = [
                np.array([np.ldexp(*eight_bits(float(ratio))) for ratio in of_axis])
                for of_axis in ratios
            ]
        return ratios[0].astype(np.float32), ratios[1].astype(np.float32)


def eight_bits(ratio: float) -> tuple[int, int]:
    """Mantissa below 256 and exponent of the nearest such number, the smallest mantissa.

    >>> eight_bits(4 / 3)
    (171, -7)
    """
    near = [(round(ratio * 2**shift), -shift) for shift in range(31) if ratio * 2**shift < 255.5]
    return min(near, key=lambda pair: abs(np.ldexp(*pair) - ratio))


@lowers("tpu.Pool2D")
def _pool(op: Op, graph: Graph, attributes: Attributes) -> Step:
    (source,) = attributes.sources(1)
    mode, relu = attributes.get("pool_mode"), attributes.get("do_relu", False)
    attributes.expect(
        is_adaptive=False,
        relu_limit=-1.0,
        ceil_mode=False,
        pad_value=0,
        round_mode=HALF_AWAY,
        first_round_mode=HALF_AWAY,
    )
    attributes.ignore("keepdims")  # the result's shape says it
    exclude = not attributes.get("count_include_pad", True)
    kernel, strides, pads = (
        tuple(attributes.get(name)) for name in ("kernel_shape", "strides", "pads")
    )
    if len(source.shape) != 4 or relu:
        raise attributes.fail("ReLU" if relu else f"an input of shape {source.shape}")
    if mode == "Max":
        attributes.same_representation(source)
        return MaxPool(*head(op), kernel, strides, pads)
    if mode != "Avg":
        raise attributes.fail(f"pool mode {mode!r}")
    exclude = exclude and any(pads)
    pool = AveragePool(*head(op), kernel, strides, pads=pads, exclude_pads=exclude)
    chip = attributes.arithmetic == "chip"
    if op.result.is_float and source.is_float:
        storage = op.result.storage
        known = chip and (graph.chip, storage) in TWO_LANES
        if chip and exclude and (graph.chip, storage) not in EDGES_KNOWN:
            raise attributes.fail(f"count_include_pad = False in {storage}")
        edges = storage if known and exclude else None
        share = round_float(np.array([1], np.float32) / np.float32(np.prod(kernel)), storage)
        return replace(pool, lanes=2 * known, share=float(share[0]), edge_rounding=edges)
    if not (source.is_quantized and op.result.is_quantized):
        raise attributes.fail(f"{source.storage} input with {op.result.storage} result")
    pool = replace(pool, pad_value=source.zero)
    if chip and exclude:
        pool = replace(pool, edge_rounding=HALF_UP if graph.chip == "BM1684" else HALF_AWAY)
        ratios = pool.edge_ratios(*source.shape[2:])
        if graph.chip == "BM1684" and any((ratio % (1 / 64)).any() for ratio in ratios):
            raise attributes.fail(
                f"count_include_pad = False with a window of {kernel}, "
                "whose edges BM1684 gets wrong"
            )
    if graph.asymmetric:
        affine = (attributes.get("scale"), attributes.get("offset"))
        if None in affine or any(pads):
            raise attributes.fail("an asymmetric average with pads or without scale and offset")
        return replace(pool, affine=affine)
    if source.zero_point or op.result.zero_point:
        raise attributes.fail("zero point in a symmetric graph")
    return replace(pool, requant=requantization(attributes, op, HALF_UP))


@dataclass(frozen=True)
class Mean(Step):
    """Mean or sum over neighbouring axes; source: Reduce.cpp. A sum is a mean whose 1/n is 1.

    A float32 sum in memory order, times float32(1/n), rounded to storage. The sum is strictly
    sequential (one accumulator, first element first): float32 loses bits on the way, the same
    bits every time. Where the result is f16 or bf16, so is 1/n before the product. With
    ``axes`` starting at 0 the images of one compiled batch share a mean.

    So does the interpreter. A chip (``lanes`` 2) multiplies each value by 1/n, sums the even
    and the odd ones in order, and adds the two; rounded to storage at every operation. The
    BM1684 does the same without 1/n, by which it multiplies at the end (``late``). Of whole
    rows a chip (more lanes) deals the values out to that many lanes, sums each in order, adds
    the upper half of the lanes to the lower, and takes the mean of the rest as above. The
    BM1684 (``by_plane``) does so to the planes first and then to their sums. Where n values are
    too many for the chip's local memory (``groups`` above 1), each of ``groups`` runs of n /
    groups values gets a mean of its own in that way; these means are multiplied by 1 / groups
    (``across``), the even and the odd ones summed in order, and the two added. ``groups`` is
    the largest divisor of n up to its root.

    So many lanes are taken where the axes are the last ones and n is a multiple of half of them;
    on BM1684 where they are several, or the last of three. Elsewhere there are two.
    """

    axes: tuple[int, ...] = ()
    keep_dims: bool = True
    coefficient: float = 0.0
    lanes: int = 0
    by_plane: bool = False
    late: bool = False
    groups: int = 1
    across: float = 1.0


@lowers("tpu.Reduce")
def _reduce(op: Op, graph: Graph, attributes: Attributes) -> Step:
    source = graph.types[op.operand(0)]
    mode = attributes.get("mode")
    axes = tuple(attributes.get("axes"))
    if mode not in ("ReduceMean", "ReduceSum"):
        raise attributes.fail(f"mode {mode!r}")
    if axes != tuple(range(axes[0], axes[-1] + 1)):
        raise attributes.fail(f"axes {axes}")
    if not (source.is_float and op.result.is_float):
        raise attributes.fail("mean or sum of integers")
    attributes.ignore("is_scalar")  # the shape of the result says it
    count = int(np.prod([source.shape[axis] for axis in axes]))
    storage = op.result.storage
    lanes, groups, late = 0, 1, False
    if attributes.arithmetic == "chip":
        lanes, groups, late = _chip_order(graph.chip, source, storage, axes)
    coefficient, across = (
        float(round_float(np.array([1.0 / size], np.float32), storage)[0])
        for size in ((1, 1) if mode == "ReduceSum" else (count // groups, groups))
    )
    return Mean(
        *head(op),
        axes=axes,
        keep_dims=attributes.get("keepdims"),
        coefficient=coefficient,
        lanes=lanes,
        by_plane=late and lanes > 2 and len(axes) > 1,
        late=late,
        groups=groups,
        across=across,
    )


def _chip_order(
    chip: str, source: TensorType, storage: str, axes: tuple[int, ...]
) -> tuple[int, int, bool]:
    """Lanes, groups and whether 1/n comes last (see `Mean`); 0 lanes where they are not known."""
    late, rank = chip == "BM1684", len(source.shape)
    count = int(np.prod([source.shape[axis] for axis in axes]))
    lanes = LANES.get((chip, storage), 0)
    if axes[-1] == rank - 1 and lanes:
        rows = (len(axes) > 1 or rank == 3) if late else count % (lanes // 2) == 0
        if not late and not rows and axes == (2,) and 4 * count > 5 * lanes:
            return 0, 1, False  # both were seen: padded rows, and two lanes
        if rows and len(axes) > 1:
            groups = _groups(chip, storage, count, lanes)
            return (lanes, groups, late) if groups else (0, 1, False)
        return (lanes if rows else 2, 1, late)
    known = (chip, storage) in TWO_LANES and (len(axes) == 1 or not late)
    return (2, 1, late) if known else (0, 1, False)


def _groups(chip: str, storage: str, count: int, lanes: int) -> int:
    """Groups of a full mean on a chip (see `Mean`); 0 where they are not known."""
    most, least = ONE_STEP.get((chip, storage), (count, count))
    if count <= most:
        return 1
    groups = max(size for size in range(1, int(count**0.5) + 1) if count % size == 0)
    # Groups that do not fill half a row of lanes are not known.
    return groups if count >= least and count // groups % (lanes // 2) == 0 else 0
