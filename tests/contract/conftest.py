"""Where the stand-in for sail lies, and the libraries that it runs on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def standin(compiler, monkeypatch):
    """Make `standin_sail` importable here and in child processes, for the BM1688 simulator."""
    here = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{before}" if before else here)
    monkeypatch.setenv(
        "TPUKERNEL_FIRMWARE_PATH", str(compiler.library_folder / "libcmodel_bm1688.so")
    )
    return "standin_sail"
