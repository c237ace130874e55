"""Functions of one float value; integers have tables for them (`tables`)."""

from __future__ import annotations

from dataclasses import dataclass

from lprnet_nb.runtime.emulator.graph import Graph, Op
from lprnet_nb.runtime.emulator.normalization import TERMS, Exponential, exponential_of
from lprnet_nb.runtime.emulator.steps import Attributes, Step, head, lowers

OF_EXP = ("EXP", "SIGMOID", "SILU", "TANH")
# BM1684's exp and sigmoids were seen to give other values beside other layers: not known.
KNOWN = {"BM1684": ("ABSVAL", "SQRT", "TANH"), "BM1684X": ("ABSVAL", "SQRT", *OF_EXP)}


@dataclass(frozen=True)
class Activation(Step):
    """A function of each value, rounded to storage; source: Active.cpp.

    The interpreter computes it in float64. A chip (``chip`` set) has its own exp, reciprocal and
    reciprocal root (`normalization.Exponential`, `arithmetic.Divide`): SIGMOID is the reciprocal of
    1 + exp(-x), SILU its product with x, TANH 1 - 2 times the reciprocal of 1 + exp(2 x), SQRT x
    times its reciprocal root, on BM1684 the reciprocal of that root.
    """

    kind: str = "EXP"
    exponential: Exponential | None = None
    chip: str | None = None


@lowers("tpu.Active")
def _active(op: Op, graph: Graph, attributes: Attributes) -> Step:
    kind, storage = attributes.get("mode"), op.result.storage
    attributes.expect(bias=0.0, scale=1.0, log=False)
    if graph.types[op.operand(0)].storage != storage or not op.result.is_float:
        raise attributes.fail(f"mode {kind} with a {storage} result")
    if kind not in KNOWN["BM1684X"]:
        raise attributes.fail(f"mode {kind}")
    if attributes.arithmetic == "interpreter":
        return Activation(*head(op), kind=kind)
    of_exp = kind in OF_EXP
    known = kind == "ABSVAL" or storage == "f32" or (kind == "EXP" and storage == "f16")
    if kind not in KNOWN.get(graph.chip, ()) or not known:
        raise attributes.fail(f"mode {kind} in {storage} on {graph.chip}")
    if of_exp and (graph.chip, storage) not in TERMS:
        raise attributes.fail(f"mode {kind} in {storage} on {graph.chip}")
    exp = exponential_of(graph.chip, storage) if of_exp else None
    return Activation(*head(op), kind=kind, exponential=exp, chip=graph.chip)
