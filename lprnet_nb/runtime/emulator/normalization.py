"""Rows brought to a common size: softmax, layer norm.

Each takes the values along an axis, or along the last ones, by themselves. The interpreter's sums
are sequential. A chip's are dealt out to lanes, as `pooling.Mean` says; its quotients are products
with reciprocals as in `arithmetic.Divide`. Both were found with rows of 6 to 512 values in F32 and
F16 (docs/emulator.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lprnet_nb.runtime.emulator.graph import Graph, Op
from lprnet_nb.runtime.emulator.pooling import CHIPS_168X, LANES
from lprnet_nb.runtime.emulator.steps import (
    Attributes,
    Step,
    head,
    lowers,
    round_float,
)

# Terms of exp's series that a chip takes; on BM1684 more change nothing.
TERMS = {
    ("BM1684", "f32"): 20,
    **{(chip, "f32"): 10 for chip in CHIPS_168X},
    **{(chip, "f16"): 7 for chip in CHIPS_168X},
}
LARGEST = {"BM1684": 88.0}  # larger ones count as this one
LEAST_EXP = -65504.0  # smaller ones, infinity among them, give 0 as this one does
LEAST_POWER = {"f32": -127, "f16": -15}  # whole powers of 2 from here down count as 0
# Newton steps of a layer norm's reciprocal root.
STEPS = {
    ("BM1684", "f32"): 3,
    **{(chip, storage): 3 for chip in CHIPS_168X for storage in ("f32", "f16")},
    **{("BM1684X", storage): 4 for storage in ("f32", "f16")},
}


@dataclass(frozen=True)
class Exponential:
    """A chip's exp: ``powers[k + 128] * series(x - k * log)``, each operation rounded to storage.

    ``k`` is ``x * inverse`` rounded down, with ``inverse`` = 1 / ln 2 and ``log`` = ln 2 in the
    storage's floats and the powers of 2; on BM1684 x rounded towards zero, both factors 1, and the
    powers of e, and x is at most ``largest``. ``terms`` are 1, 1, 1/2, 1/6, ..., the series is
    taken from the last (Horner). At either end k is held, in F16 at 15.
    """

    inverse: float
    log: float
    down: bool
    terms: np.ndarray = field(repr=False)
    powers: np.ndarray = field(repr=False)
    largest: float = math.inf


def exponential_of(chip: str, storage: str) -> Exponential:
    """The exp of a chip in these floats, of `TERMS`."""
    whole = np.arange(-128, 128)
    factorials = [1.0 / math.factorial(k) for k in range(TERMS[chip, storage])]
    terms = round_float(np.array(factorials), storage)
    if chip == "BM1684":
        with np.errstate(over="ignore"):
            powers = np.exp(whole.astype(np.float64)).astype(np.float32)
        return Exponential(1.0, 1.0, False, terms, powers, LARGEST[chip])
    inverse, log = map(float, round_float(np.array([1.4426950, 0.69314718]), storage))
    least = LEAST_POWER[storage]
    held = np.ldexp(1.0, whole.clip(least, -least)).astype(np.float32)
    return Exponential(inverse, log, True, terms, np.where(whole > least, held, np.float32(0)))


@dataclass(frozen=True)
class Softmax(Step):
    """``exp(x - largest) / sum`` along an axis, rounded to storage; source: Softmax.cpp.

    The interpreter takes C's expf and divides. A chip (``exponential`` set) rounds the differences
    and their exponentials to storage, sums those in float32 and multiplies them by the sum's
    reciprocal, made in float32, rounded to storage. It sums in ``lanes``: BM1684X takes 32 along
    the last axis (64 in F16; BM1688 and CV186X 8 and 16) and the even and the odd ones along
    another; BM1684 these along the last axis, and along another one value after the other (0).
    """

    axis: int = 1
    exponential: Exponential | None = None
    lanes: int = 0


@dataclass(frozen=True)
class TableSoftmax(Step):
    """Softmax of bytes along an axis; source: Softmax.cpp.

    ``exp`` of how far each is below the largest is looked up, float32; its quotient by the sum (in
    order) times the result's scale has a half added, is cut off, and clipped.
    """

    axis: int = 1
    table: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)


@lowers("tpu.Softmax")
def _softmax(op: Op, graph: Graph, attributes: Attributes) -> Step:
    source, storage = graph.types[op.operand(0)], op.result.storage
    axis = attributes.get("axis")
    attributes.expect(beta=1.0, log=False)
    attributes.ignore("round_mode")
    table = graph.weights.get(op.operands[1] or "")
    if source.storage in ("i8", "u8") and storage == "u8" and table is not None:
        if table.size != 256 or op.result.zero_point:
            raise attributes.fail("a table that is not 256 constants, or a zero point")
        return TableSoftmax(*head(op), axis=axis % len(source.shape), table=table.reshape(-1))
    if not (source.is_float and op.result.is_float):
        raise attributes.fail(f"{source.storage} input with {storage} result")
    step = Softmax(*head(op), axis=axis % len(source.shape))
    if attributes.arithmetic == "interpreter":
        return step
    if (graph.chip, storage) not in TERMS:
        raise attributes.fail(f"{storage} on {graph.chip}")
    last = step.axis == len(source.shape) - 1
    if graph.chip == "BM1684":
        lanes = 2 if last else 0
    else:
        lanes = LANES[graph.chip, storage] if last else 2
    exponential = exponential_of(graph.chip, storage)
    return Softmax(*head(op), axis=step.axis, exponential=exponential, lanes=lanes)


@dataclass(frozen=True)
class LayerNorm(Step):
    """``(x - mean) / sqrt(variance + epsilon) * weight + bias`` over the axes from ``axis``.

    Sources: LayerNorm.cpp, GroupNorm.cpp. The interpreter divides sums by the count, takes the
    reciprocal of the root, and leaves the result in float32, whatever its storage. A chip
    (``steps`` above 0) rounds to storage at every operation, but for the mean of the squares, which
    it takes in float32, and multiplies by a reciprocal root as in `arithmetic.Divide`, of so many
    Newton steps in float32, rounded to storage. Both means are sums in ``lanes``.
    """

    axis: int = 1
    epsilon: float = 0.0
    weight: np.ndarray | None = field(default=None, repr=False)
    bias: np.ndarray | None = field(default=None, repr=False)
    lanes: int = 0
    steps: int = 0


@lowers("tpu.LayerNorm", "tpu.GroupNorm")
def _layer_norm(op: Op, graph: Graph, attributes: Attributes) -> Step:
    source, storage = graph.types[op.operand(0)], op.result.storage
    weight, bias = (graph.weights.get(name or "") for name in (*op.operands[1:], None, None)[:2])
    if op.type == "tpu.GroupNorm":
        if attributes.get("num_groups") != source.shape[1] or weight is not None:
            raise attributes.fail("groups of channels, or weights")
        axis = 2
    else:
        axis = attributes.get("axis")
        attributes.ignore("normalized_shape")  # the axis says it
    if source.storage != storage or storage not in ("f32", "f16"):
        raise attributes.fail(f"{source.storage} input with {storage} result")
    lanes, steps = 0, 0
    if attributes.arithmetic == "chip":
        if (graph.chip, storage) not in STEPS:
            raise attributes.fail(f"layer norm in {storage} on {graph.chip}")
        rows = np.prod(source.shape[axis:]) == source.shape[-1]
        if not rows or (graph.chip != "BM1684" and len(source.shape) != 3):
            raise attributes.fail(f"axis {axis} of a tensor of shape {source.shape}")
        lanes = 64 if graph.chip == "BM1684" else LANES[graph.chip, storage]
        steps = STEPS[graph.chip, storage]
    return LayerNorm(
        *head(op),
        axis=axis,
        epsilon=attributes.get("eps"),
        weight=None if weight is None else weight.reshape(-1),
        bias=None if bias is None else bias.reshape(-1),
        lanes=lanes,
        steps=steps,
    )
