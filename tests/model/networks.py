"""Small networks of users, made as ONNX without torch, and the files that they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TOML = """
[input]
height = {height}
width = {width}
order = "{order}"
mean = {mean}
scale = {scale}

[output]
kind = "{kind}"
layout = "{layout}"
"""


def description(*, classes: object = "01234-", more: str = "", **facts: object) -> str:
    """The TOML of a network of 8x12 pixels and six classes, facts in other words where given."""
    usual = {
        "height": 8, "width": 12, "order": "bgr", "mean": 127.5, "scale": 0.0078125,
        "kind": "ctc", "layout": "nct",
    }  # fmt: skip
    text = TOML.format(**usual | facts)
    return text + (f"classes = {classes!r}\n" if classes is not None else "") + more


def model(
    *,
    layout: str = "nct",
    classes: int = 6,
    planes: int = 3,
    batch: object = "batch",
    fixed: bool = False,
    seed: int = 0,
    height: object = 8,
    width: object = 12,
) -> onnx.ModelProto:
    """A convolution over the whole height: ``[N, classes, 1, 10]``, brought to a layout.

    Layout "nc" is a classifier's: ten times as many classes, no time steps.

    With `fixed`, the batch is written into a reshape, as careless exports have it.
    """
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((classes, planes, 8, 3)).astype(np.float32)
    shape = [1 if fixed else 0, *((classes * 10,) if layout == "nc" else (classes, 10))]
    weights = [
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(np.array(shape, np.int64), "shape"),
    ]
    nodes = [helper.make_node("Conv", ["picture", "weight"], ["map"], "conv")]
    if layout == "nc1t":
        nodes.append(helper.make_node("Identity", ["map"], ["out"], "same"))
    else:
        nodes.append(helper.make_node("Reshape", ["map", "shape"], ["flat"], "reshape"))
        axes = ["nct".index(axis) for axis in layout]
        nodes.append(helper.make_node("Transpose", ["flat"], ["out"], "turn", perm=axes))
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(
                "picture", TensorProto.FLOAT, [batch, planes, height, width]
            )
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def save(folder: Path, made: onnx.ModelProto, toml: str, name: str = "small") -> Path:
    """Write a network and its TOML; gives the path to name it by."""
    path = folder / f"{name}.onnx"
    onnx.save(made, path)
    path.with_suffix(".toml").write_text(toml, "utf8")
    return path


def ending(made: onnx.ModelProto, operation: str, **attributes: object) -> onnx.ModelProto:
    """A network whose output goes through one more operation."""
    made.graph.node[-1].output[0] = "before"
    node = helper.make_node(operation, ["before"], ["out"], "end", **attributes)
    made.graph.node.append(node)
    return made


def dynamic() -> onnx.ModelProto:
    """`model`, of which the time steps are left out where the first class is not above 0."""
    made = model()
    for name, values in (("first", [0]), ("whole", [-1])):
        array = np.array(values, np.int64)
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    made.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "none"))
    made.graph.node[-1].output[0] = "before"
    made.graph.node.extend(
        [
            helper.make_node("Gather", ["before", "first"], ["row"], "row", axis=1),
            helper.make_node("Greater", ["row", "none"], ["above"], "above"),
            helper.make_node("Reshape", ["above", "whole"], ["kept"], "kept"),
            helper.make_node("Compress", ["before", "kept"], ["out"], "end", axis=2),
        ]
    )
    return made
