"""What is there and what is missing, in a form that can be pasted into a bug report."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import __version__, children
from .cache import untrusted_part
from .datasets import fetch
from .errors import LprnetError
from .inputs import find_path
from .places import cache_dir, data_dir, reports_dir
from .settings import settings
from .toolchain import environment
from .toolchain.bmodel import BModel
from .toolchain.releases import RELEASES

# What the workbook does without, and what for it is.
OPTIONAL = {
    "compiler TPU-MLIR": "TPU-MLIR, which the first compile installs",
    "compiler TPU-NNTC": "TPU-NNTC, the original compiler",
    "backend device": "a device (the emulator and the simulator stand in for it)",
    "backend simulator": "the simulator, which comes with TPU-MLIR",
    "C compiler": "a C compiler, for a faster simulator",
    "published data": "the published plates and weights (fetched on first need, else generated)",
}


def examine() -> dict[str, Any]:
    """Check everything that the workbook can use; nothing is installed or fetched.

    Returns
    -------
    dict
        ``{"checks": [{"what", "ok", "optional", "found"}], "summary"}``; what is missing says how
        to get it, the summary what works all the same.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        (
            "lprnet-nb",
            lambda: (
                f"{__version__}, Python {platform.python_version()}, "
                f"{platform.platform()}, {os.cpu_count()} processors"
            ),
        ),
        *[
            (package, _version(package))
            for package in (
                "torch",
                "onnxruntime",
                "papermill",
                "jupyterlab",
                "opencv-python-headless",
            )
        ],
        ("compiler TPU-MLIR", _compiler),
        ("releases of TPU-MLIR", _releases),
        ("Python 3.10", environment.find_python310),
        ("compiler TPU-NNTC", _nntc),
        ("backend device", _device),
        ("backend simulator", _simulator),
        (
            "C compiler",
            lambda: _program(
                ("cc", "gcc", "clang"),
                "Without one the simulator is several times slower. Install gcc.",
            ),
        ),
        ("published data", _published),
        ("weights", _weights),
        ("cache", lambda: _folder(cache_dir(), "LPRNET_CACHE")),
        ("data folder", lambda: _folder(data_dir(), "LPRNET_DATA")),
        ("reports", lambda: _folder(reports_dir(), "LPRNET_REPORTS")),
    ]
    rows: list[dict[str, Any]] = []
    for what, find in checks:
        try:
            ok, found = True, find()
        except (LprnetError, LookupError, OSError) as error:
            ok, found = False, str(error.args[0])
        rows.append({"what": what, "ok": ok, "optional": what in OPTIONAL, "found": found})
    # Once it is installed it no longer needs the Python that it was installed from.
    here = {row["what"]: row["ok"] for row in rows}
    for row in rows:
        row["optional"] |= row["what"] == "Python 3.10" and here["compiler TPU-MLIR"]
    return {"checks": rows, "summary": summary(rows)}


def unknown_operations(model: str | Path) -> dict[str, Any]:
    """What of a BModel the emulator does not know, without running anything.

    Parameters
    ----------
    model
        BModel with its record beside it, the record's folder, or an exported graph's.

    Returns
    -------
    dict
        JSON-able: ``chip``; ``operations``, how many there are; ``unknown``, a list of
        ``operation``, ``layer``, ``what`` is not known of it, and ``taken_by``, the backends that
        take it; and ``kernels``, what of the emulator runs it where nothing is unknown.

    Raises
    ------
    DataError, EngineError
        When the model cannot be read or has no graph.
    """
    from .runtime.emulator import Emulator, load_graph
    from .runtime.emulator.lower import unknowns

    place = find_path(model)
    exported = (place / "graph.json").exists()
    folder = place if exported else BModel.load(place).exported
    graph = load_graph(folder)
    interpreted = {one.op.name for one in unknowns(graph, "interpreter")}
    rows = [
        {
            "operation": one.op.type.removeprefix("tpu."),
            "layer": one.op.name,
            "what": one.what,
            "taken_by": "device, simulator"
            + (
                "" if one.op.name in interpreted else ", emulator with the interpreter's arithmetic"
            ),
        }
        for one in unknowns(graph)
    ]
    return {
        "chip": graph.chip,
        "operations": len(graph.ops),
        "unknown": rows,
        "kernels": None if rows else Emulator(folder).description["kernels"],
    }


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """One line: whether the workbook works here, and what it does without."""
    missing = [row["what"] for row in rows if not row["ok"] and not row["optional"]]
    without = [OPTIONAL[row["what"]] for row in rows if not row["ok"] and row["what"] in OPTIONAL]
    said = (
        f"Not ready: {', '.join(missing)} (see above)."
        if missing
        else "Ready: reports, notebooks and single steps work here."
    )
    return f"{said} Optional and not here: {'; '.join(without)}." if without else said


def _version(package: str) -> Callable[[], str]:
    def find() -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            raise LookupError("not installed; run scripts/setup.sh") from None

    return find


def _compiler() -> str:
    found = environment.find_compiler()
    if found is None:
        raise LookupError("not installed yet; the first compile installs it (up to 6.5 GB)")
    return f"{found.version} in {found.prefix}"


def _releases() -> str:
    found = [row["version"] for row in list_releases() if row["installed"]]
    if not found:
        raise LookupError("none in the cache; `lprnet-nb releases` lists what there is")
    return f"{', '.join(found)} in the cache; `lprnet-nb releases` lists what there is"


def list_releases() -> list[dict[str, Any]]:
    """What every release of TPU-MLIR can do (`Release.facts`), and whether it is ``installed``."""
    return [
        release.facts() | {"installed": environment.is_installed(version)}
        for version, release in RELEASES.items()
    ]


def _simulator() -> str:
    found = environment.find_compiler()
    if found is None:
        raise LookupError("comes with TPU-MLIR")
    names = sorted(set(found.release.simulators.values()))
    return ", ".join(name for name in names if (found.library_folder / name).exists())


def _nntc() -> str:
    from .toolchain.nntc.installation import nntc

    image = settings().nntc_docker
    # Looking into an image may fetch gigabytes first.
    return f"docker image {image}, not looked into" if image else nntc().version


def _device() -> str:
    if find_spec("sophon") is None:
        raise LookupError("no sophon.sail; install the wheel of your device's SDK")
    from .runtime.device import load_sail

    sail = load_sail()
    count = sail.get_available_tpu_num()
    if not count:
        raise LookupError("sophon.sail is here, but finds no device; is the driver loaded?")
    version = getattr(sail, "__version__", "of unknown version")
    return f"sophon.sail {version} finds {count} device{'s' * (count > 1)}"


def _published() -> str:
    if not fetch.is_published_data_here():
        raise LookupError(f"not here. {fetch.HELP}")
    return str(data_dir())


def _weights() -> str:
    own = (
        "generated, the package's own: for plates from elsewhere than the published test, see its "
        "card"
    )
    if not fetch.weights_path().exists():
        return f"{own}; published ones are not here"
    return (
        f"published: the tutorial's reference, and for plates like its test; {own}. Where plates "
        "have labels, `report --weights` tells of either"
    )


def _program(names: tuple[str, ...], hint: str) -> str:
    for name in names:
        found = children.program(name)
        if found:
            return found
    raise LookupError(f"none of {', '.join(names)} on PATH. {hint}")


def _folder(folder: Any, variable: str) -> str:
    there = folder
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        raise LookupError(f"{folder} cannot be written; name another in {variable}")
    free = f"{folder}, {shutil.disk_usage(there).free / 1e9:.0f} GB free"
    why = untrusted_part(folder, inside=False) if variable == "LPRNET_CACHE" else ""
    if why:
        raise LookupError(f"{free}; but {why}: no code is run from it, see docs/security.md")
    return free
