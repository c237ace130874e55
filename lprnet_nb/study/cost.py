"""What a strategy costs where the compiler predicts no time: the work that it leaves in float."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

import numpy as np

from ..model.lprnet.work import work_by_role
from ..runtime.emulator import Graph, load_graph
from ..runtime.emulator.graph import Op
from ..toolchain.compile import TopGraph
from ..toolchain.layers import is_general, layers_of_roles
from ..toolchain.strategies import Strategy

_PRODUCTS = ("top.Conv", "top.MatMul")


def float_share(strategy: Strategy) -> float | None:
    """Part of the multiply-accumulates that a strategy leaves in float, 0 to 1.

    Layers that a search chooses are not known to the strategy and count as quantized. None for a
    strategy that names layers by patterns: `share_of_layers` knows which they are.
    """
    if any(is_general(role) for role in strategy.float_roles):
        return None
    work = work_by_role(strategy.form)
    return _share((count, role in strategy.float_roles) for role, count in work.items())


def graph_share(folder: Path) -> float:
    """Part of the multiply-accumulates that an exported graph does in float, 0 to 1."""
    graph = load_graph(folder)
    return _share((_work(op, graph), op.result.is_float) for op in graph.ops)


def _share(work: Iterable[tuple[int, bool]]) -> float:
    """Part of the multiply-accumulates that is in float, of how many there are and whether."""
    counted = list(work)
    whole = max(1, sum(count for count, _ in counted))
    return sum(count for count, in_float in counted if in_float) / whole


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


def share_of_layers(graph: TopGraph, roles: Sequence[str]) -> float:
    """Part of a network's multiply-accumulates whose layers have one of some roles, 0 to 1."""
    [path] = [path for path in graph.files if path.name.endswith("_weight.npz")]
    with np.load(path) as weights:
        work = {
            layer["name"]: int(np.prod(layer["shape"][1:]) * np.prod(weight.shape[1:]))
            for layer in graph.layers
            if layer["op"] in _PRODUCTS
            for weight in [weights[layer["inputs"][1]]]
        }
    chosen = layers_of_roles(graph.layers, tuple(roles), graph.network)
    return _share((count, name in chosen) for name, count in work.items())
