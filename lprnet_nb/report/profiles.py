"""The parameters that a report starts from, and the command that makes one."""

from __future__ import annotations

import shlex
from typing import Any

from ..measure.schema import Manifest
from ..toolchain.packaged import TOOLCHAIN as PACKAGED

PROFILES: dict[str, dict[str, Any]] = {
    "quick": {"CHIPS": "BM1684X,BM1684", "PRECISIONS": "fp32,int8", "BATCHES": "1", "IMAGES": 100},
    "full": {
        "CHIPS": "BM1684,BM1684X,BM1688,CV186X",
        "PRECISIONS": "fp32,fp16,int8",
        "BATCHES": "1,4",
        "IMAGES": 0,
    },
    "tour": {  # what `report.tour` has packaged
        "CHIPS": "BM1684X,BM1684",
        "PRECISIONS": "fp32,int8",
        "BATCHES": "1",
        "STRATEGIES": "kl,recommended",
        "IMAGES": 50,
        "DATA": "generated",
        "WEIGHTS": "generated",
        "TOOLCHAIN": PACKAGED,
        "BACKEND": "emulator",
    },
}


def command(manifest: Manifest, name: str, other: str = "", **instead: Any) -> str:
    """The command that makes a report again, or another one beside it.

    Parameters
    ----------
    manifest
        The report's: its profile, and the parameters that are not the profile's.
    name
        Its name.
    other
        What is put after it for another report, which cannot have the same name.
    instead
        Parameters of the other one, by upper-case name; None for one that it does not have.
    """
    profile = PROFILES.get(manifest.profile, {})
    parts = ["scripts/report.sh", "--profile", manifest.profile]
    for key, value in {**manifest.parameters, **instead}.items():
        if key == "OUTPUT_DIR" or value is None or value is False or profile.get(key) == value:
            continue
        option = f"--{key.lower().replace('_', '-')}"
        parts += [option] if value is True else [option, str(value)]
    return shlex.join([*parts, "--name", f"{name}{other}"])
