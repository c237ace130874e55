"""Run by the compiler environment's Python: list the layers of a top-level MLIR file as JSON.

Usage: ``python list_layers.py FILE.mlir LAYERS.json``; the result is
``[{"name", "op", "inputs": [layer names], "shape": [int]}]`` in execution order.
"""

import json
import sys

from tpu_mlir.python.utils.mlir_parser import MlirParser

parser = MlirParser(sys.argv[1])
layers = [
    {"name": op.name, "op": op.type, "inputs": list(op.opds), "shape": list(op.shape)}
    for op in parser.ops
]
with open(sys.argv[2], "w", encoding="utf8") as file:
    json.dump(layers, file, indent=1)
