"""The integer grid of a lowered graph, as `model.qat` takes it: names of our own, plain numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..errors import ToolchainError
from ..model.qat import TENSORS, Unit

_RANGE = {"i8": (-128, 127), "u8": (0, 255)}


def integer_grid(folder: Path) -> dict[str, Unit]:
    """Read the grid of the forked form, all in INT8.

    Parameters
    ----------
    folder
        What `lowering.Quantizer.lower` gives: ``graph.json`` and ``graph.npz``.

    Returns
    -------
    dict
        Units by name, see `model.qat.QuantizedLPRNet`.

    Raises
    ------
    ToolchainError
        When the graph is not the forked form, has layers in float, or has zero points.
    """
    graph = json.loads((folder / "graph.json").read_text("utf8"))
    with np.load(folder / "graph.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if name.endswith("_lshift_i8")}
    ops = [op for op in graph["ops"] if _on_grid(op)]
    grid: dict[str, Unit] = {}
    for name in TENSORS:
        wanted = name.rstrip("*")
        if name.endswith("*") and len(ops) > 1 and ops[1]["type"] == "tpu.Scale":
            grid[f"{wanted}/conv"] = _unit(f"{wanted}/conv", ops.pop(0), arrays)
        if not ops:
            raise _unfit(wanted, "it ends before")
        grid[wanted] = _unit(wanted, ops.pop(0), arrays)
    if ops:
        raise _unfit("container", f"{ops[0]['type']} {ops[0]['name']!r} comes after")
    return grid


def _on_grid(op: dict) -> bool:
    """Whether an operation puts its result on a grid of its own."""
    return (
        op["result"]["scale"] is not None
        and op["type"] != "tpu.Concat"
        and op["attributes"].get("pool_mode") != "Max"
    )


def _unit(name: str, op: dict, arrays: dict[str, np.ndarray]) -> Unit:
    result, attributes = op["result"], op["attributes"]
    kind = {
        "image": "tpu.Cast",
        "pool": "tpu.Pool2D",
        "square": "tpu.Mul",
        "divided": "tpu.Cast",
    }.get(name.rstrip("1234"), "tpu.Conv2D")
    if op["type"] != kind and not (kind == "tpu.Conv2D" and op["type"] == "tpu.Scale"):
        raise _unfit(name, f"{op['type']} {op['name']!r} stands in its place")
    if result["zero_point"] or result["storage"] not in _RANGE:
        raise _unfit(name, f"it is {result['storage']} with zero point {result['zero_point']}")
    gain = shifts = None
    if op["type"] in ("tpu.Pool2D", "tpu.Mul"):
        gain = attributes["multiplier"] / 2 ** attributes["rshift"]
    elif op["type"] == "tpu.Scale":
        shifts = tuple((-arrays[op["operands"][3]].astype(int)).ravel().tolist())
    elif op["type"] == "tpu.Conv2D" and attributes["quant_mode"] == "OnlyShift":
        shifts = tuple(attributes["rshift"])
    return Unit(result["scale"], *_RANGE[result["storage"]], gain, shifts)


def _unfit(name: str, why: str) -> ToolchainError:
    return ToolchainError(
        f"quantization-aware training follows the forked form with every layer "
        f"in symmetric INT8; at {name!r} this graph differs: {why}."
    )
