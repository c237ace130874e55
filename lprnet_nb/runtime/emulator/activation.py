"""Functions of one float value; integers have tables for them (`tables`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lprnet_nb.runtime.emulator.graph import Graph, Op
from lprnet_nb.runtime.emulator.normalization import TERMS, Exponential, exponential_of
from lprnet_nb.runtime.emulator.pooling import CHIPS_168X
from lprnet_nb.runtime.emulator.steps import Attributes, Step, head, lowers

# BM1684's others were seen to give other values beside other layers: not known.
BM1684 = ("ABSVAL", "SQRT", "TANH", "GELU")
OTHERS = ("RSQRT", "EXP", "SIGMOID", "SILU", "ERF", "LN", "SOFT_PLUS")
KNOWN = {"BM1684": BM1684, **dict.fromkeys(CHIPS_168X, (*BM1684, *OTHERS))}
# Numerical Recipes' erfc, section 6.2: an exponent's polynomial in 1 / (1 + |x| / 2).
ERFC = (
    *(-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806),
    *(0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277),
)
GELU_TANH = (0.79788456, 0.044715)  # BM1684's: the root of 2 / pi, and of x**3
LOG_TERMS = 15


@dataclass(frozen=True)
class Logarithm:
    """A chip's log of x = 2**k * m, m from 2/3 to 4/3, each operation rounded to float32.

    k times ``of_two`` and the series of log(m) in m - 1, taken from the last of ``terms`` (Horner).
    m is x times the number whose exponent's bits are those of 2**-k, which is 0 for k = 127.
    """

    of_two: float
    terms: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Activation(Step):
    """A function of each value, rounded to storage; source: Active.cpp.

    The interpreter computes it in float64. A chip (``chip`` set) has its own exp, log, reciprocal
    and reciprocal root (`normalization.Exponential`, `Logarithm`, `arithmetic.Divide`): SIGMOID is
    the reciprocal of 1 + exp(-x), SILU its product with x, TANH 1 - 2 times the reciprocal of
    1 + exp(2 x), RSQRT its reciprocal root, SQRT x times that, on BM1684 its reciprocal, SOFT_PLUS
    the log of 1 + exp(x), ERF one less erfc (`ERFC`) with x's sign. GELU is x / 2 times
    1 + erf(x * 0.70710678), on BM1684 1 + tanh(0.79788456 * (x + 0.044715 * x**3)).
    """

    kind: str = "EXP"
    exponential: Exponential | None = None
    logarithm: Logarithm | None = None
    chip: str | None = None


@lowers("tpu.Active")
def _active(op: Op, graph: Graph, attributes: Attributes) -> Step:
    kind, storage = attributes.get("mode"), op.result.storage
    attributes.expect(bias=0.0, scale=1.0, log=False, approx_mode="normal")
    if graph.types[op.operand(0)].storage != storage or not op.result.is_float:
        raise attributes.fail(f"mode {kind} with a {storage} result")
    if kind not in KNOWN["BM1684X"]:
        raise attributes.fail(f"mode {kind}")
    if attributes.arithmetic == "interpreter":
        return Activation(*head(op), kind=kind)
    of_exp = kind not in ("ABSVAL", "SQRT", "RSQRT", "LN")
    known = kind == "ABSVAL" or storage == "f32" or (kind == "EXP" and storage == "f16")
    if kind not in KNOWN.get(graph.chip, ()) or not known:
        raise attributes.fail(f"mode {kind} in {storage} on {graph.chip}")
    if of_exp and (graph.chip, storage) not in TERMS:
        raise attributes.fail(f"mode {kind} in {storage} on {graph.chip}")
    exp = exponential_of(graph.chip, storage) if of_exp else None
    log = logarithm() if kind in ("LN", "SOFT_PLUS") else None
    return Activation(*head(op), kind=kind, exponential=exp, logarithm=log, chip=graph.chip)


def logarithm() -> Logarithm:
    """The log of a chip in float32."""
    counts = np.arange(1, LOG_TERMS + 1)
    return Logarithm(math.log(2), ((-1.0) ** (counts + 1) / counts).astype(np.float32))
