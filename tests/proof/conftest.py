"""A small kit, and results of it as ``run.py`` writes them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kit_results import RUN

from lprnet_nb.proof import contract


@pytest.fixture(scope="module")
def kit(compiler):
    return contract.make_kit("BM1688")


@pytest.fixture(scope="module")
def program():
    """run.py as a module."""
    spec = importlib.util.spec_from_file_location("kit_run", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def carried(kit, tmp_path):
    return Path(shutil.copytree(kit, tmp_path / "kit"))


@pytest.fixture
def results(kit, program, tmp_path):
    """Results as run.py writes them, of made-up times; arguments change what was found."""

    def make(change=0.0, model="int8_1b", **changes):
        told = program.read_kit(str(kit))
        rows = np.load(kit / "expected" / f"{model}.npy")
        rows[3] += np.float32(change)
        found = {
            "passed": not change,
            "detail": "",
            "seconds": 1.0,
            "temperature": {},
            "digests": [program.hashlib.sha256(row.tobytes()).hexdigest() for row in rows],
            "different": {"3": program.base64.b64encode(rows[3].tobytes()).decode()}
            if change
            else {},
            "largest_difference": float(change),
            "readings": program.read_plates(rows, told),
            "times_ms": {
                "inference": program.per_image([0.4, 0.1, 0.2, 0.3], 2),
                "runtime": program.per_image([0.2, 0.1], 2),
            },
        }
        sail = SimpleNamespace(get_available_tpu_num=lambda: 1, __file__=__file__)
        box = program.describe_box(sail, "none")
        jobs = [["check", "describes", model], ["plates", "plates", model]]
        done = {
            tuple(jobs[0]): {"job": jobs[0], "passed": True, "detail": "", "seconds": 0.5},
            tuple(jobs[1]): {"job": jobs[1], **found},
        }
        settings = {"warm_up": 0, "repetitions": 4, "timeout": 60.0}
        gathered = program.gather(told, box, settings, jobs, done) | changes
        path = tmp_path / "results.json"
        program.write_results(str(path), gathered)
        return path

    return make
