"""Quantize a network in several ways with any release; runs inside the compiler environment.

Usage: ``python lower_graphs.py REQUESTS.json``, a list of ``{"folder", "chip", "asymmetric"}``.
Each folder holds ``lprnet.mlir``, its weights, ``calibration_table``, and ``float_layers`` where
layers stay in float; it gets ``graph/`` (see export_graph.py). One start serves them all.
"""

import inspect
import json
import os
import sys
from pathlib import Path

import tpu_mlir  # noqa: F401  puts the tools' folders on the path

sys.path.insert(1, str(Path(__file__).parent))
from export_graph import export

try:
    from utils.mlir_shell import mlir_lowering
except ImportError:  # from 1.21 on
    from tpu_mlir.python.utils.mlir_shell import mlir_lowering


def lower(request):
    """The quantized graph, by the call that the release's own model_deploy.py makes."""
    os.chdir(request["folder"])
    kind = "asym" if request["asymmetric"] else "sym"
    chip = request["chip"].lower()
    name = f"lprnet_{chip}_int8_{kind}_tpu.mlir"
    options = {
        "cali_table": "calibration_table",
        "asymmetric": request["asymmetric"],
        "quantize_table": "float_layers" if Path("float_layers").exists() else None,
        "addr_mode": "auto",
    }
    known = inspect.signature(mlir_lowering).parameters
    options = {key: value for key, value in options.items() if key in known}
    mlir_lowering("lprnet.mlir", name, "INT8", chip, **options)
    export(Path(name), Path("graph"))


if __name__ == "__main__":
    for request in json.loads(Path(sys.argv[1]).read_text("utf8")):
        lower(request)
