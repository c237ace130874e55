"""Where the stand-in for sail lies, the libraries that it runs on, and a box's Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from lprnet_nb.places import cache_dir
from lprnet_nb.proof import contract

HERE = Path(__file__).parent
BOX_PYTHON = "3.8"  # of Ubuntu 20.04, which Sophgo's boxes run


@pytest.fixture
def standin(compiler, monkeypatch):
    """Make `standin_sail` importable here and in child processes, for the BM1688 simulator."""
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{before}" if before else str(HERE))
    monkeypatch.setenv(
        "TPUKERNEL_FIRMWARE_PATH", str(compiler.library_folder / "libcmodel_bm1688.so")
    )
    return "standin_sail"


@pytest.fixture(scope="module")
def kit(compiler) -> Path:
    """A small kit for BM1688, from the cache."""
    return contract.make_kit("BM1688")


@pytest.fixture(scope="session")
def box_python() -> Path:
    """Python 3.8 with numpy and OpenCV, and nothing else; skips where it cannot be had."""
    venv = cache_dir() / "tests" / f"python{BOX_PYTHON}"
    with FileLock(f"{venv}.lock"):
        if not (venv / "ready").exists():
            candidates = [  # a version manager's own, since its name on the PATH may lead nowhere
                *filter(None, [shutil.which(f"python{BOX_PYTHON}")]),
                *sorted(Path.home().glob(f".pyenv/versions/{BOX_PYTHON}.*/bin/python")),
            ]
            if not candidates:
                pytest.skip(f"Python {BOX_PYTHON}, which boxes have, is not here")
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([candidates[-1], "-m", "venv", venv], check=True)
            packages = ["numpy", "opencv-python-headless"]
            done = subprocess.run(
                [venv / "bin" / "pip", "install", "-q", *packages], capture_output=True, text=True
            )
            if done.returncode:
                pytest.skip(f"no packages for Python {BOX_PYTHON}: {done.stderr.strip()[-200:]}")
            (venv / "ready").touch()
    return venv / "bin" / "python"


@pytest.fixture
def box_environment(compiler, tmp_path) -> dict[str, str]:
    """Environment of a box: a BM1688 whose `sophon.sail` is the stand-in."""
    package = tmp_path / "site" / "sophon"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sail.py").write_text(
        "from standin_sail import *\nfrom standin_sail import __version__\n", "utf8"
    )
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{package.parent}{os.pathsep}{HERE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TPUKERNEL_FIRMWARE_PATH": str(compiler.library_folder / "libcmodel_bm1688.so"),
        "STANDIN_TARGET": "BM1688",
        "LC_ALL": "C",
    }
