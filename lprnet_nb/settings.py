"""What the environment asks for: every variable of ours is read here, and nowhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """Values of the variables called ``LPRNET_`` and the name; None where one is unset or empty.

    Parameters
    ----------
    cache, data, reports
        Folders in place of the usual ones, see `places`.
    mirror
        Folder with the published weights and images, in place of upstream.
    nntc_docker
        The vendor's docker image that the tools of TPU-NNTC run in.
    nntc_sdk
        Folder of the unpacked SDK of TPU-NNTC.
    private_code
        Where this run's own code is, told to children by a process that does not trust its cache.
    python310
        Command or path of a Python 3.10 to install the compiler with.
    scheduler
        Address of the dask scheduler that makes the work.
    tpu_mlir
        A TPU-MLIR environment, or its Python, in place of the installed one.
    """

    cache: str | None = None
    data: str | None = None
    mirror: str | None = None
    nntc_docker: str | None = None
    nntc_sdk: str | None = None
    private_code: str | None = None
    python310: str | None = None
    reports: str | None = None
    scheduler: str | None = None
    tpu_mlir: str | None = None


# Our own places, which a child that stands elsewhere would look for from there.
PLACES = ("cache", "data", "mirror", "nntc_sdk", "reports", "tpu_mlir")


def variable(name: str) -> str:
    """Name of the variable of a setting.

    >>> variable("nntc_sdk")
    'LPRNET_NNTC_SDK'
    """
    return f"LPRNET_{name.upper()}"


def wished_language() -> str:
    """The first language that the system asks for (GNU's ``LANGUAGE``), as "zh", or ""."""
    first = os.environ.get("LANGUAGE", "").partition(":")[0]
    return first.replace("-", "_").partition("_")[0].partition(".")[0].lower()


def settings() -> Settings:
    """The settings as they are now: options of the command line change them for what follows."""
    return Settings(
        **{field.name: os.environ.get(variable(field.name)) or None for field in fields(Settings)}
    )
