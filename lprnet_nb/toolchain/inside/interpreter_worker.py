"""Run a quantized graph in the vendor's interpreter; runs inside the compiler environment.

Usage (with the compiler environment's Python, in the folder of the graph's weights)::

    python interpreter_worker.py GRAPH_tpu.mlir INPUTS.npy OUTPUT.npz [--tensors]

``INPUTS.npy`` holds float32 (or uint8) inputs ``[N, ...]``, N a multiple of the graph's batch.
``OUTPUT.npz`` receives ``output`` ``[N, ...]`` and ``seconds`` (invoke time of every batch, without
loading); with ``--tensors`` also ``t:NAME`` for every layer: the raw stored values (integers as
float32), not the dequantized ones. It is the oracle of the emulator's tests and the rival in its
bench. The script stands alone (it must not import the package, which needs a newer Python).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np


def call(function, arguments, last):
    """Call with a last argument, which 1.6 does not take yet."""
    try:
        function(*arguments, last)
    except TypeError:
        function(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("graph", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tensors", action="store_true")
    arguments = parser.parse_args()
    # The interpreter looks for its weights in the working folder.
    inputs_path, output_path = arguments.inputs.resolve(), arguments.output.resolve()
    os.chdir(arguments.graph.resolve().parent)

    import tpu_mlir  # noqa: F401  (puts the interpreter on the path)

    # isort: split
    import pymlir

    # Without this, layers share buffers and only the last one of each buffer can be read.
    if hasattr(pymlir, "set_mem_mode"):  # the first releases keep every layer anyway
        pymlir.set_mem_mode("force_value_mem" if arguments.tensors else "value_mem")
    module = pymlir.module()
    module.load(arguments.graph.name)
    inputs = np.load(inputs_path)
    is_integer = inputs.dtype != np.float32
    name, output_name = module.input_names[0], module.output_names[0]
    batch = module.get_tensor(name).shape[0]
    outputs, tensors, seconds = [], {}, []
    for start in range(0, len(inputs), batch):
        chunk = np.ascontiguousarray(inputs[start : start + batch], dtype=np.float32)
        if len(chunk) != batch:
            raise SystemExit(f"{len(inputs)} inputs are not a multiple of the batch {batch}")
        setter = module.set_tensor_from_int if is_integer else module.set_tensor
        call(setter, [name, chunk], list(chunk.shape))
        begin = time.perf_counter()
        call(module.invoke, [], False)
        seconds.append(time.perf_counter() - begin)
        outputs.append(np.array(module.get_tensor(output_name)))
        if arguments.tensors:
            for layer in module.all_tensor_names:
                tensors.setdefault(layer, []).append(np.array(module.get_tensor(layer)))
    results = {"output": np.concatenate(outputs), "seconds": np.array(seconds)}
    results.update({f"t:{layer}": np.concatenate(values) for layer, values in tensors.items()})
    np.savez(output_path, **results)


if __name__ == "__main__":
    main()
