"""Networks as ONNX: read whole, their shapes made fixed, and run in float."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from ..errors import DataError
from ..inputs import read_bytes

if TYPE_CHECKING:
    import torch

LARGEST = 1 << 30  # bytes of a file
PLACES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)  # not of weights
INPUT, OUTPUT = "input", "logits"  # names of the two in every file of ours


def export_onnx(
    network: torch.nn.Module,
    shape: tuple[int, ...],
    path: Path,
    opset: int,
    outputs: Sequence[str] = (OUTPUT,),
) -> Path:
    """Write a network of torch as ONNX, with a fixed shape and our names of its ends."""
    import torch  # here alone: who reads plates does not need it

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of shapes that are constants here, and of its age
        torch.onnx.export(
            network,
            (torch.zeros(shape),),
            str(path),
            input_names=[INPUT],
            output_names=list(outputs),
            opset_version=opset,
            dynamo=False,
        )
    return path


def read_onnx(path: Path) -> bytes:
    """An ONNX file with all its weights, also those that lie in files beside it.

    Raises
    ------
    DataError
        When it is no ONNX, has more than one input or output or no weights, or its external data
        is missing.
    """
    raw = read_bytes(path, "network", LARGEST)
    try:
        model = onnx.load_model_from_string(raw)
    except DecodeError as error:
        raise DataError(
            f"{path} is not an ONNX file: {error}. Export the network again."
        ) from error
    if not model.graph.node:
        raise DataError(f"{path} has no operation: it is not an ONNX file, or an empty one.")
    try:
        _load_external(model, path)
    except DataError:
        raise
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise DataError(f"{path}: its external weights cannot be read: {error}") from error
    for tensor in external_data_helper._get_all_tensors(model):
        tensor.ClearField("data_location")  # the same network has the same bytes
    _check_ends(model, path)
    _check_weights(model, path)
    return _renamed(model).SerializeToString(deterministic=True)


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    """Take weights into the network that lie in files beside it; as many bytes as a file may have.

    Raises
    ------
    DataError
        When such a file is missing or too large.
    OSError, ValueError, onnx.checker.ValidationError
        When it cannot be read, or should not be.
    """
    outside = {
        external_data_helper.ExternalDataInfo(tensor).location
        for tensor in external_data_helper._get_all_tensors(model)
        if external_data_helper.uses_external_data(tensor)
    }
    for name in sorted(outside):
        beside = path.parent / name
        if not beside.is_file():
            raise DataError(
                f"{path} keeps its weights in {name!r}, which is not beside it. Copy it too, "
                "or save the network with its weights inside."
            )
        if beside.stat().st_size > LARGEST:
            raise DataError(
                f"{path} keeps its weights in {name!r}, which has {beside.stat().st_size} bytes; "
                f"at most {LARGEST} are read."
            )
    external_data_helper.load_external_data_for_model(model, str(path.parent))


def _check_ends(model: onnx.ModelProto, path: Path) -> None:
    for what, ends in (("input", _inputs(model)), ("output", list(model.graph.output))):
        if len(ends) != 1:
            names = ", ".join(end.name for end in ends) or "none"
            raise DataError(
                f"{path} has {len(ends)} {what}s ({names}), expected one. Export the network from "
                "the picture to the logits alone."
            )
    foreign = sorted({n.op_type for n in model.graph.node if n.domain not in ("", "ai.onnx")})
    if foreign:
        raise DataError(
            f"{path} has the operation {foreign[0]}, which is not one of ONNX's own: neither "
            "compiler nor onnxruntime takes it. Export the network without it."
        )


def _check_weights(model: onnx.ModelProto, path: Path) -> None:
    """The compiler's graph of a network without weights cannot be exported."""
    tensors = external_data_helper._get_all_tensors(model)
    if all(tensor.data_type in PLACES or np.prod(tensor.dims) <= 1 for tensor in tensors):
        raise DataError(
            f"{path} has no weights, so that there is nothing to quantize. Export the trained "
            "network with its parameters in the file."
        )


def _inputs(model: onnx.ModelProto) -> list[Any]:
    """Inputs that are not weights, which older files list too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [end for end in model.graph.input if end.name not in weights]


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, its ends called `INPUT` and `OUTPUT`."""
    [given], [made] = _inputs(model), model.graph.output
    names = {given.name: INPUT, made.name: OUTPUT}
    taken = {name for node in model.graph.node for name in node.output} | {
        tensor.name for tensor in model.graph.initializer
    }
    names |= {new: f"{new}_of_file" for new in (INPUT, OUTPUT) if new in taken - set(names)}
    for node in model.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for tensor in [*model.graph.initializer, *model.graph.value_info]:
        tensor.name = names.get(tensor.name, tensor.name)
    given.name, made.name = INPUT, OUTPUT
    return model


def input_shape(model: bytes) -> list[int | str]:
    """Axes of the input: numbers, and names ("?" for none) of those that are free."""
    [given] = _inputs(onnx.load_model_from_string(model))
    return [
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?"
        for axis in given.type.tensor_type.shape.dim
    ]


def with_shape(model: bytes, shape: tuple[int, ...]) -> bytes:
    """The same network for an input of one shape; other shapes in it follow from that."""
    changed = onnx.load_model_from_string(model)
    [given] = _inputs(changed)
    del given.type.tensor_type.shape.dim[:]
    for size in shape:
        given.type.tensor_type.shape.dim.add().dim_value = size
    changed.graph.output[0].type.tensor_type.ClearField("shape")
    del changed.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(changed).SerializeToString(deterministic=True)


def operations(model: bytes) -> list[str]:
    """Kinds of operations, each once, by name."""
    return sorted({node.op_type for node in onnx.load_model_from_string(model).graph.node})


def open_session(model: bytes | Path) -> Any:
    """An onnxruntime session that runs each call on one thread, so that results are the same.

    Raises
    ------
    DataError
        With what onnxruntime says, when it does not take the network.
    """
    import onnxruntime  # takes a while, and only users' networks need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    given = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a class of its own for each kind of failure
        raise DataError(f"onnxruntime does not take the network: {_said(error)}") from error


def run_session(session: Any, inputs: np.ndarray) -> np.ndarray:
    """Output of one call, as the network lays it out.

    Raises
    ------
    DataError
        With what onnxruntime says, when the network does not run.
    """
    try:
        return session.run(None, {INPUT: inputs})[0]
    except Exception as error:
        raise DataError(f"the network does not run: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(" : ")[-1][:300]


def onnx_arithmetic() -> str:
    """What the last bits of a float result of onnxruntime depend on."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}, one thread a call"
