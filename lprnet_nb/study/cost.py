"""What a strategy costs where the compiler predicts no time: the work that it leaves in float."""

from __future__ import annotations

from math import prod
from pathlib import Path

from ..model.lprnet.work import work_by_role
from ..runtime.emulator import Graph, load_graph
from ..runtime.emulator.graph import Op
from ..toolchain.strategies import Strategy


def float_share(strategy: Strategy) -> float:
    """Part of the multiply-accumulates that a strategy leaves in float, 0 to 1.

    Layers that a search chooses are not known to the strategy and count as quantized.
    """
    work = work_by_role(strategy.form)
    return sum(work.get(role, 0) for role in strategy.float_roles) / sum(work.values())


def graph_share(folder: Path) -> float:
    """Part of the multiply-accumulates that an exported graph does in float, 0 to 1."""
    graph = load_graph(folder)
    work = [(_work(op, graph), op.result.is_float) for op in graph.ops]
    return sum(count for count, in_float in work if in_float) / max(1, sum(c for c, _ in work))


def _work(op: Op, graph: Graph) -> int:
    """Multiply-accumulates of a convolution or matrix product; 0 of everything else."""
    kind = op.type.removeprefix("tpu.")
    if kind == "MatMul":  # each value of the result is a sum along the left operand's last axis
        return prod(op.result.shape) * graph.types[op.operand(0)].shape[-1]
    if kind not in ("Conv2D", "Deconv"):
        return 0
    # Each filter has a weight for every product that makes a value of the result, and the filter
    # of a transposed convolution one for every value that it makes of a value of the input.
    seen = op.result if kind == "Conv2D" else graph.types[op.operand(0)]
    channels = seen.shape[1]
    return prod(seen.shape) * prod(graph.weights[op.operand(1)].shape) // channels
