"""Instruction sets that tests build the native kernels for, as far as this machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest


def cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


TARGETS = [
    pytest.param(
        target,
        marks=[]
        if flags <= cpu_flags()
        else pytest.mark.skip(reason=f"this machine has no {target}"),
    )
    for target, flags in {
        "native": set(),
        "skylake-avx512": {"avx512bw", "avx512vl"},
        "haswell": {"avx2", "fma"},
        "x86-64": {"sse2"},
    }.items()
]
