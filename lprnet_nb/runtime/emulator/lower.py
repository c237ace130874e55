"""From the compiler's operations to a short list of steps whose arithmetic is spelled out.

Everything that an executor must know is decided and checked here, once, for all executors: which
attributes matter, which rounding applies, in what order floats are rounded. An operation, attribute
or mode that is not known is an `EngineError` naming it, never a guess. What each operation means is
said at its step, in `convolution`, `pooling`, `normalization`, `activation`, `arithmetic`,
`tables`, `movement` and `casts`.

Interpreter and chip simulator agree on everything in an integer graph but its few float layers:
convolutions, windows, means and divisions. ``arithmetic`` chooses whose to follow. A chip's order
of additions was found by probing the simulator with a large value at one place, its negative at
another and a tiny one everywhere else: the tiny ones that the result lacks are those that were
added in between (``tests/runtime/float_networks.py`` repeats it). Its division was recognized from
230 reciprocals.
"""

from __future__ import annotations

from collections.abc import Callable

import lprnet_nb.runtime.emulator.activation
import lprnet_nb.runtime.emulator.arithmetic
import lprnet_nb.runtime.emulator.casts
import lprnet_nb.runtime.emulator.normalization
import lprnet_nb.runtime.emulator.pooling
import lprnet_nb.runtime.emulator.tables  # noqa: F401  each registers its operations
from lprnet_nb.runtime.emulator.convolution import sums
from lprnet_nb.runtime.emulator.graph import Graph, Op
from lprnet_nb.runtime.emulator.movement import Constant
from lprnet_nb.runtime.emulator.steps import LOWERINGS, Attributes, Step, Unknown

ARITHMETIC = ("chip", "interpreter")


def lower(
    graph: Graph,
    arithmetic: str = "chip",
    otherwise: Callable[[Unknown], Step | None] | None = None,
) -> tuple[Step, ...]:
    """The steps of a graph, in execution order.

    Parameters
    ----------
    arithmetic
        "chip" or "interpreter": whose float operations to follow where the two differ.
    otherwise
        Called with what is not known, in place of raising it; gives a step in its place, or None to
        leave the operation out.

    Raises
    ------
    EngineError
        An operation, attribute or rounding mode that the emulator does not know, by name.
    """
    steps: dict[str, Step] = {}
    held: dict[str, Op] = {}  # operations whose int32 sums the next one requantizes
    for op in graph.ops:
        try:
            step = _step(op, graph, arithmetic, held)
        except Unknown as unknown:
            if otherwise is None:
                raise
            step = otherwise(unknown)
        if step is None:
            continue
        for name in step.inputs:
            if name in graph.weights and name not in steps:
                steps[name] = Constant(
                    name, "top.Weight", (), graph.types[name], values=graph.weights[name]
                )
        steps[op.name] = step
    unread = held.keys() - {o for op in graph.ops for o in op.operands}
    if unread:
        raise Attributes(held[min(unread)], graph, arithmetic).fail("int32 sums as a result")
    return tuple(steps.values())


def _step(op: Op, graph: Graph, arithmetic: str, held: dict[str, Op]) -> Step | None:
    """One operation's step; None where it only makes sums, which are then `held`."""
    first = op.operands[0] if op.operands else None
    producer = held.get(first) if first else None
    attributes = Attributes(op, graph, arithmetic, producer)
    if op.type not in LOWERINGS:
        raise attributes.fail("unknown operation")
    if sums(op.result):
        held[op.name] = op
        return None
    step = LOWERINGS[op.type](op, graph, attributes)
    attributes.done()
    for name in step.inputs:
        if name in held:
            raise attributes.fail(f"int32 sums of '{name}' as an operand")
    return step


def unknowns(graph: Graph, arithmetic: str = "chip") -> list[Unknown]:
    """Everything in a graph that `lower` would refuse, in execution order."""
    found: list[Unknown] = []
    try:
        lower(graph, arithmetic, found.append)
    except Unknown as last:  # sums that nothing reads
        found.append(last)
    return found
