"""Run by the compiler environment's Python: calibrate and lower again and again in one process.

Usage: ``python quantize_worker.py LOG``, requests on standard input, answers on standard output,
one JSON object a line. Starting one of the compiler's tools takes longer than its work on a network
of this size; a study needs hundreds of them.

Requests
--------
``{"do": "calibrate", "folder", "methods", "tune", "network"}``
    Writes ``table_<method>`` to the folder, which holds ``<network>.mlir``, its weights and
    ``images/*.npz``. The statistics of the images are gathered once for all methods.
``{"do": "lower", "network", "folder", "chip", "table", "float_table", "asymmetric",
"fuse_preprocess"}``
    Writes ``graph/`` (see export_graph.py) to the folder, which holds ``<network>.mlir`` and
    its weights.

Answers: ``{"ok": true}`` or ``{"ok": false, "error": text}``.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np
import tpu_mlir  # noqa: F401  puts the tools' folders on the path
from calibration import kld_calibrator
from calibration.data_selector import DataSelector
from calibration.kld_calibrator import ActivationCalibrator
from calibration.simple_tunner import SimpleTuner
from tpu_mlir.python.utils.mlir_shell import mlir_lowering

sys.path.insert(0, str(Path(__file__).parent))
from export_graph import export

TUNED = ("kl", "aciq_gauss", "aciq_laplace")  # the others are left as they are by the tool too
# One pass serves these; the tool's own branches for the rest disturb one another.
SHARED = ("kl", "mse", "max")
# Six threads that hold one lock only get in one another's way.
kld_calibrator.POOL_THREADS = 1


def threshold_mse(array, bits=(8,)):
    """The tool's own (cali_math.py), number for number, in a third of the time.

    Each step sums the values beyond a threshold. Where that has grown, they are among those beyond
    the last one, in the same order: the others are not looked at again.
    """
    values = np.abs(array.flatten())
    positive = values[values > 0]
    if positive.size == 0:
        return dict.fromkeys(bits, 1.0)
    kinds = 4 if np.abs(np.min(array) - 0) < 1e-6 else 1
    found = {}
    for bit in bits:
        threshold, last, beyond = values.sum() / positive.size, None, values
        for _ in range(20):
            grown = last is not None and threshold >= last
            beyond = beyond[beyond > threshold] if grown else values[values > threshold]
            inside = np.count_nonzero(values <= threshold)
            last = threshold
            threshold = beyond.sum() / (1 / (4**bit) / 3 / kinds * inside + beyond.size)
            if np.abs(threshold - last) < 1e-6:
                threshold = last
                break
        found[bit] = threshold
    return found


if type(kld_calibrator.math_impl).__name__ == "CaliMathCpu":
    kld_calibrator.math_impl.threshold_mse = threshold_mse


def calibrate(request):
    """Tables of several methods from one pass over the images, as run_calibration.py makes them."""
    methods = request["methods"]
    together = [method for method in methods if method in SHARED]
    for group in [together] * bool(together) + [[m] for m in methods if m not in SHARED]:
        selector = DataSelector("images", 0)
        arguments = argparse.Namespace(
            mlir_file=f"{request['network']}.mlir",
            cali_method=group,
            debug_cmd={},
            histogram_bin_num=2048,
            tune_num=min(request["tune"], len(selector.data_list)),
            input_num=0,
            calibration_table="table",
            kurtosis_analysis=False,
            part_asymmetric=False,
            smc=False,
            symmetric_ops=[],
        )
        calibrator = ActivationCalibrator(arguments, selector, None)
        calibrator.activation_collect_and_calc_th()
        calibrator._clean_resource()
        largest = {
            op: calibrator.activations_statistics[op][0].abs_max
            for op in calibrator.activations_statistics
        }
        for method in group:
            calibrator.dump_cali_table(f"table_{method}", method)
            if method in TUNED and arguments.tune_num > 0:
                os.rename(f"table_{method}", f"table_{method}.1")
                calibrator.args.calibration_table = f"table_{method}"
                tuner = SimpleTuner(
                    calibrator.args, calibrator.tune_ds, calibrator.ppa_list, largest
                )
                calibrator.dump_cali_table(f"table_{method}", method, tuner.run())


def lower(request):
    """The quantized graph, by the same call that model_deploy.py makes."""
    chip = request["chip"].lower()
    kind = "asym" if request["asymmetric"] else "sym"
    name = f"{request['network']}_{chip}_int8_{kind}_tpu.mlir"
    mlir_lowering(
        f"{request['network']}.mlir",
        name,
        "INT8",
        chip,
        1,
        1,
        request["table"],
        request["asymmetric"],
        request["float_table"],
        None,
        request["fuse_preprocess"],
        addr_mode="auto",
    )
    export(Path(name), Path("graph"))


def main():
    """Answer requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["folder"])
        try:
            {"calibrate": calibrate, "lower": lower}[request["do"]](request)
            answer = {"ok": True}
        except (Exception, SystemExit):
            answer = {"ok": False, "error": traceback.format_exc(limit=-3)}
        os.chdir("/")
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
