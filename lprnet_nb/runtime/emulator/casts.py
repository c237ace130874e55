"""Between floats and integers, and between kinds of floats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lprnet_nb.runtime.emulator.graph import FLOATS, Graph, Op
from lprnet_nb.runtime.emulator.steps import (
    HALF_AWAY,
    Attributes,
    Step,
    head,
    lowers,
    round_float,
)


@dataclass(frozen=True)
class Quantize(Step):
    """Float to integer: ``clip(round(p) + zero_point)``, half away from zero.

    ``p`` is ``round_e(x * round_e(1 / scale))`` where e is the ``expressed`` kind of the quantized
    type (f32, f16, bf16: what the layer before computes in) and ``round_e`` rounds to it.
    """

    inverse_scale: float = 0.0
    expressed: str = "f32"


@dataclass(frozen=True)
class Dequantize(Step):
    """Integer to float: ``round(round(scale) * round(q - zero_point))``, rounding to storage.

    With an f16 result the scale itself is rounded to f16 first, so the values carry two roundings.
    """

    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True)
class FloatCast(Step):
    """f32 to f16 or bf16, rounding half to even; widening changes nothing.

    A chip (``away``) rounds half away from zero on the way to f16, as the operation's attribute
    says; the interpreter does not.
    """

    away: bool = False


@lowers("tpu.Cast")
def _cast(op: Op, graph: Graph, attributes: Attributes) -> Step:
    source = graph.types[op.operand(0)]
    attributes.expect(with_scale=True, round_mode=HALF_AWAY)
    if source.is_float and op.result.scale is not None:
        expressed = op.result.expressed
        if expressed not in FLOATS or (source.storage == "bf16") != (expressed == "bf16"):
            raise attributes.fail(f"{source.storage} to a type expressed in {expressed}")
        inverse = round_float(np.array([1.0 / op.result.scale]), expressed)[0]
        return Quantize(*head(op), inverse_scale=float(inverse), expressed=expressed)
    if source.is_quantized and op.result.is_float:
        # A quantized type says f32 or the kind of the float layer that produced it; the result's
        # own storage decides.
        scale = round_float(np.array([source.scale]), op.result.storage)[0]
        return Dequantize(*head(op), scale=float(scale), zero_point=source.zero)
    if source.is_float and op.result.is_float:
        narrowed = source.storage == "f32" and op.result.storage == "f16"
        return FloatCast(*head(op), away=narrowed and attributes.arithmetic == "chip")
    raise attributes.fail(f"cast from {source.storage} to {op.result.storage}")
