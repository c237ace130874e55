"""Run by the compiler environment's Python: model_deploy.py, but what it makes is kept.

Usage: ``python deploy.py ARGUMENTS_OF_MODEL_DEPLOY``. Its ``--debug`` keeps the quantized graph
too, but puts debugging information into the BModel, which then is ten times the size and not the
one that users ship.
"""

import runpy
import sys
from pathlib import Path

import tpu_mlir
from tpu_mlir.python.utils import auto_remove

auto_remove.file_clean = lambda: None
try:  # the same module under the name that releases up to 1.19 import it by
    from utils import auto_remove as auto_remove_before

    auto_remove_before.file_clean = lambda: None
except ImportError:
    pass
tools = Path(tpu_mlir.__file__).parent / "python" / "tools"
sys.path.insert(0, str(tools))
sys.argv[0] = "model_deploy.py"
runpy.run_path(str(tools / "model_deploy.py"), run_name="__main__")
