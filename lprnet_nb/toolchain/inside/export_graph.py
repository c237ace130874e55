"""Export a lowered TPU-MLIR graph to plain JSON and npz; runs inside the compiler environment.

Usage (with the compiler environment's Python, 3.10)::

    python export_graph.py FILE_tpu.mlir OUTPUT_FOLDER

``FILE_tpu.mlir`` is the quantized graph that ``model_deploy.py --debug`` leaves behind; its weights
lie beside it. MLIR's own Python bindings parse it, so nothing here reads the textual form.
The script stands alone (it must not import the package, which needs a newer Python).

Output: ``graph.json`` ::

    {"format": 1,
     "module":  {attribute: value},          # chip, mode, asymmetric, state, ... of the MLIR module
     "inputs":  [name], "outputs": [name],   # in the order of the function's signature
     "ops": [{"type": "tpu.Conv2D",          # MLIR operation, in execution order
              "name": "input.10",            # location name: what the vendor's tools call the layer
              "operands": [name or null],    # null for an absent optional operand (top.None)
              "result": TYPE,
              "attributes": {name: value}}],
     "weights": {name: TYPE}}

with ``TYPE = {"shape": [int], "storage": str, "expressed": str or null, "scale": float or null,
"zero_point": int or null, "range": [min, max] or null}``. ``storage`` is one of f32, f16, bf16, i8,
u8, i16, u16, i32, ...; ``expressed``, ``scale`` and ``zero_point`` belong to uniformly quantized
types: real = (stored - zero_point) * scale. ``range`` is the calibrated range of a float tensor.
An attribute that is a dialect enum (``#tpu<round_mode HalfUp>``) becomes its value
(``"HalfUp"``); integers, floats, booleans, strings and arrays stay what they are.

``graph.npz`` holds the weights by name: integers in their own width, f16 and bf16 widened to
float32 (exactly). An attribute or type of a kind this script does not know stops it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

FORMAT = 1
# Location names come out as loc("name") or, in fused and derived forms, with more around them.
LOCATION = re.compile(r'^loc\("([^"]+)"\)$')
ENUM = re.compile(r"^#\w+<\w+ (\w+)>$")
INTEGER = re.compile(r"^(si|ui|i)(\d+)$")


def attribute_value(attribute, where):
    """One MLIR attribute as a JSON value."""
    from mlir import ir

    if ir.BoolAttr.isinstance(attribute):
        return ir.BoolAttr(attribute).value
    if ir.IntegerAttr.isinstance(attribute):
        # Signed and unsigned integer attributes have no .value in these bindings.
        return int(str(attribute).split(":")[0])
    if ir.FloatAttr.isinstance(attribute):
        return ir.FloatAttr(attribute).value
    if ir.StringAttr.isinstance(attribute):
        return ir.StringAttr(attribute).value
    if ir.ArrayAttr.isinstance(attribute):
        return [attribute_value(item, where) for item in ir.ArrayAttr(attribute)]
    enum = ENUM.match(str(attribute))
    if enum:
        return enum.group(1)
    raise SystemExit(f"{where}: attribute of unknown kind: {str(attribute)[:200]}")


def integer_storage(text):
    """``si8``, ``i8`` -> ``i8``; ``ui8`` -> ``u8``."""
    match = INTEGER.match(text)
    if not match:
        return None
    return ("u" if match.group(1) == "ui" else "i") + match.group(2)


def element(element_type, where):
    """Storage and quantization of an element type."""
    from mlir.dialects import quant

    result = {"expressed": None, "scale": None, "zero_point": None, "range": None}
    if quant.UniformQuantizedType.isinstance(element_type):
        uniform = quant.UniformQuantizedType(element_type)
        width = uniform.storage_type_integral_width
        result["storage"] = ("i" if uniform.is_signed else "u") + str(width)
        result["expressed"] = str(uniform.expressed_type)
        result["scale"] = uniform.scale
        result["zero_point"] = uniform.zero_point
        return result
    if quant.CalibratedQuantizedType.isinstance(element_type):
        calibrated = quant.CalibratedQuantizedType(element_type)
        result["storage"] = str(calibrated.expressed_type)
        result["range"] = [calibrated.min, calibrated.max]
        return result
    text = str(element_type)
    storage = text if text in ("f32", "f16", "bf16") else integer_storage(text)
    if storage is None:
        raise SystemExit(f"{where}: element type of unknown kind: {text}")
    result["storage"] = storage
    return result


def tensor_type(value_type, where):
    """A ranked tensor type as the TYPE of the module's docstring."""
    from mlir import ir

    shaped = ir.ShapedType(value_type)
    result = element(shaped.element_type, where)
    result["shape"] = [shaped.get_dim_size(i) for i in range(shaped.rank)]
    return result


def location_name(operation):
    """The layer's name, from the operation's location."""
    text = str(operation.location)
    match = LOCATION.match(text)
    if not match:
        raise SystemExit(f"{operation.name}: location without a plain name: {text[:200]}")
    return match.group(1)


def weight_array(stored, kind, where):
    """A weight as the interpreter reads it: f16 and bf16 come as 16-bit patterns."""
    storage, shape = kind["storage"], kind["shape"]
    array = np.asarray(stored)
    if storage == "f16":
        array = array.view(np.float16) if array.dtype != np.float16 else array
        array = array.astype(np.float32)
    elif storage == "bf16":
        bits = array.view(np.uint16).astype(np.uint32) << 16
        array = bits.view(np.float32)
    elif storage == "f32":
        array = array.astype(np.float32)
    else:
        wanted = np.dtype({"i": "int", "u": "uint"}[storage[0]] + storage[1:])
        if array.dtype.itemsize != wanted.itemsize:
            raise SystemExit(f"{where}: stored as {array.dtype}, declared {storage}")
        array = array.view(wanted)
    if array.size != int(np.prod(shape)):
        raise SystemExit(f"{where}: {array.size} values for shape {shape}")
    return array.reshape(shape)


def export(mlir_file: Path, folder: Path) -> None:
    """Write ``graph.json`` and ``graph.npz`` for one ``*_tpu.mlir``."""
    import tpu_mlir  # noqa: F401  (puts the bindings on the path)
    from mlir import ir

    context = ir.Context()
    context.allow_unregistered_dialects = True
    module = ir.Module.parse(mlir_file.read_text("utf8"), context)
    attributes = {a.name: attribute_value(a.attr, "module") for a in module.operation.attributes}
    functions = list(module.body.operations)
    if len(functions) != 1:
        raise SystemExit(f"{mlir_file}: {len(functions)} functions, expected one")
    block = functions[0].regions[0].blocks[0]
    stored = np.load(mlir_file.parent / attributes["module.weight_file"])

    names, operations, weights, arrays = {}, [], {}, {}
    inputs, outputs = [], []
    for view in block.operations:
        operation = view.operation
        kind = operation.name
        if kind == "func.return":
            outputs = [names[value] for value in operation.operands]
            continue
        if len(operation.results) != 1:
            raise SystemExit(f"{kind}: {len(operation.results)} results, expected one")
        value = operation.results[0]
        if kind == "top.None":
            names[value] = None
            continue
        name = location_name(operation)
        names[value] = name
        result = tensor_type(value.type, name)
        if kind == "top.Weight":
            weights[name] = result
            arrays[name] = weight_array(stored[name], result, name)
            continue
        if kind == "top.Input":
            inputs.append(name)
            operands = []
        else:
            operands = [names[operand] for operand in operation.operands]
        operations.append(
            {
                "type": kind,
                "name": name,
                "operands": operands,
                "result": result,
                "attributes": {a.name: attribute_value(a.attr, name) for a in operation.attributes},
            }
        )
    graph = {
        "format": FORMAT,
        "module": attributes,
        "inputs": inputs,
        "outputs": outputs,
        "ops": operations,
        "weights": weights,
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "graph.npz", **arrays)
    (folder / "graph.json").write_text(
        json.dumps(graph, ensure_ascii=False, sort_keys=True), "utf8"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: export_graph.py FILE_tpu.mlir OUTPUT_FOLDER")
    export(Path(sys.argv[1]), Path(sys.argv[2]))
