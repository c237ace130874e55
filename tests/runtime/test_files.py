from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lprnet_nb.errors import DataError, EngineError, ParameterError
from lprnet_nb.runtime.files import infer_files

STANDINS = Path(__file__).parent.parent / "contract"


@pytest.fixture
def files(plates, tmp_path):
    """The plates as PNG, one of them at another size."""
    paths = [tmp_path / name for name in plates.names]
    for path, image in zip(paths, plates.images, strict=True):
        assert cv2.imwrite(str(path), image)
    cv2.imwrite(str(paths[2]), cv2.resize(plates.images[2], (188, 48)))
    return paths


def test_files_give_the_logits_of_their_plates(traced, files, reference):
    found = infer_files(traced(), files)
    same = [0, 1, 3, 4, 5]
    assert np.array_equal(found.logits[same], reference[same])
    assert set(found.seconds) == {"decode", "preprocess", "inference"}
    assert found.description["preprocessing"] == "numpy"


def test_bad_files_are_named(traced, files):
    files[1].write_bytes(b"no picture")
    with pytest.raises(DataError, match="1.png cannot be read: it does not begin as a picture"):
        infer_files(traced(), files)
    with pytest.raises(DataError, match="none.png cannot be read: No such file"):
        infer_files(traced(), [files[0].with_name("none.png")])
    with pytest.raises(DataError, match="no image files"):
        infer_files(traced(), [])


def test_bmcv_is_for_the_device(traced, files):
    with pytest.raises(EngineError, match='"bmcv" needs backend "device", not \'simulator\''):
        infer_files(traced(), files, "simulator", preprocessing="bmcv")
    with pytest.raises(ParameterError, match="'cuda'. Choose numpy or bmcv"):
        infer_files(traced(), files, preprocessing="cuda")


SCRIPT = """
import json, os, sys
from lprnet_nb.errors import LprnetError
from lprnet_nb.runtime.files import infer_files
told = json.loads(sys.argv[1])
report = {}
for key, (model, options) in told["runs"].items():
    try:
        found = infer_files(model, told["files"], "device", **options)
        report[key] = {"logits": found.logits.tolist(), "seconds": found.seconds}
    except LprnetError as error:
        report[key] = {"error": str(error)}
json.dump(report, open(told["report"], "w"))
os._exit(0)  # the runtime's threads may fall while the interpreter ends
"""


def test_bmcv_feeds_the_device_what_numpy_does(bmodel, compiler, files, tmp_path):
    one, four = (str(bmodel("BM1688", batch).path) for batch in (1, 4))
    bmcv = {"preprocessing": "bmcv", "sail_module": "standin_bmcv"}
    told = {
        "files": [str(file) for file in files],
        "report": str(tmp_path / "report"),
        "runs": {
            "numpy": (one, {"sail_module": "standin_bmcv"}),
            "bmcv": (one, bmcv),
            "four": (four, bmcv),
            "without": (one, {**bmcv, "sail_module": "standin_sail"}),
        },
    }
    subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(told)],
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(STANDINS), str(Path.cwd())]),
            "TPUKERNEL_FIRMWARE_PATH": str(compiler.library_folder / "libcmodel_bm1688.so"),
        },
        stdout=subprocess.DEVNULL,
    )
    report = json.loads((tmp_path / "report").read_text())
    assert "this sail has no Bmcv" in report["without"]["error"]
    expected = np.array(report["numpy"]["logits"])
    for key in ("bmcv", "four"):
        assert np.abs(np.array(report[key]["logits"]) - expected).max() < 5e-4
        assert set(report[key]["seconds"]) == {"decode", "preprocess", "inference"}
