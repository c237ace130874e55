"""Run the notebooks by papermill and leave a report."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError
from rich.console import Console

from .. import children
from ..cache import atomic_write, file_digest, locked, repository
from ..errors import LprnetError, ParameterError
from ..lessons.course import NEEDS_MLIR
from ..measure.data import datasets_for
from ..measure.output import to_json
from ..measure.parameters import Parameters, check, combinations, placed
from ..places import reports_dir
from ..progress import stopwatch
from ..toolchain.environment import compiler

NOTEBOOKS = ("01_trace", "02_compile", "03_quantize", "04_infer", "05_compare")
PROFILES: dict[str, dict[str, Any]] = {
    "quick": {"CHIPS": "BM1684X,BM1684", "PRECISIONS": "fp32,int8", "BATCHES": "1", "IMAGES": 100},
    "full": {
        "CHIPS": "BM1684,BM1684X,BM1688,CV186X",
        "PRECISIONS": "fp32,fp16,int8",
        "BATCHES": "1,4",
        "IMAGES": 0,
    },
}
OWN_DECODERS = "greedy,beam"  # for class lists other than the published one
VERSIONS_OF = (
    "lprnet-nb",
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "papermill",
    "matplotlib",
    "scipy",
    "statsmodels",
)
COMPILING = {"02_compile", "03_quantize", "04_infer", "05_compare"}
NOTEBOOK_TIMEOUT = 3600  # seconds for one cell


def notebook_path(name: str) -> Path:
    """Path of a notebook by its stem, such as "01_trace".

    Raises
    ------
    ParameterError
        Listing the notebooks there are.
    """
    folder = repository() / "notebooks"
    path = folder / f"{name}.ipynb"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.ipynb")))
        raise ParameterError(f"there is no notebook {name!r}. There are: {there}.")
    return path


def declared_parameters(path: Path) -> set[str]:
    """Names that a notebook's parameters cell declares."""
    return set(papermill.inspect_notebook(str(path)))


def run_notebook(
    name: str, output: Path, parameters: dict[str, Any], *, log: Path | None = None
) -> Path:
    """Execute a notebook by papermill.

    Parameters
    ----------
    name
        Stem, such as "04_infer".
    output
        Executed notebook, written also when a cell fails.
    parameters
        Values by upper-case name; one that the notebook does not declare is an error here, where
        papermill only warns.
    log
        File for what the cells print; nothing is printed otherwise.

    Raises
    ------
    ParameterError
        For an unknown parameter, before anything runs.
    LprnetError
        When a cell fails: its error, and the path of the executed notebook.
    """
    path = notebook_path(name)
    declared = declared_parameters(path)
    unknown = sorted(set(parameters) - declared)
    if unknown:
        raise ParameterError(
            f"notebook {name} has no parameter {unknown[0]!r}. It has: "
            f"{', '.join(sorted(declared))}."
        )
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with children.kernel_environment():
            papermill.execute_notebook(
                str(path),
                str(output),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                cwd=str(repository()),
                execution_timeout=NOTEBOOK_TIMEOUT,
                start_timeout=120,
                extra_arguments=["--Application.log_level=ERROR"],
            )  # the kernel's own remarks
    except PapermillExecutionError as error:
        message = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue))
        raise LprnetError(
            f"notebook {name}, cell {error.cell_index}: {error.ename}: {message}\n"
            f"The notebook as far as it ran: {output}"
        ) from error
    except RuntimeError as error:
        raise LprnetError(
            f"notebook {name}: its kernel did not start ({error}). It talks over "
            "127.0.0.1: see that the loopback interface is up and that the machine "
            "is not overloaded, and run the same command again."
        ) from error
    except OSError as error:
        raise LprnetError(
            f"notebook {name}: {error.strerror or error}: {error.filename or output}. Free some "
            "space, or name a folder that you may write to in LPRNET_REPORTS, and run the same "
            "command again."
        ) from error
    return output


def report_folder(name: str) -> Path:
    """Folder of a report by name, below ``reports/``.

    Raises
    ------
    ParameterError
        When the name could lead elsewhere.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", name):
        raise ParameterError(
            f"report name {name!r} is not possible. Use letters, digits, '.', "
            "'_', '-', at most 81 of them."
        )
    return reports_dir() / name


def make_report(
    profile: str = "quick",
    *,
    name: str | None = None,
    notebooks: tuple[str, ...] = NOTEBOOKS,
    **given: Any,
) -> Path:
    """Run the notebooks and write ``reports/<name>/``.

    Parameters
    ----------
    profile
        "quick" or "full", see `PROFILES`.
    name
        Folder name; the profile's by default. A report of that name is replaced file by file.
    notebooks
        Which to run, in order.
    given
        Parameters that differ from the profile's, by upper-case name.

    Returns
    -------
    Path
        ``index.html`` of the report.

    Raises
    ------
    ParameterError
        For an impossible parameter, before anything runs.
    DataError
        When plates or labels are missing or wrong, before anything runs.
    LprnetError
        When a notebook fails; finished work stays in the cache and is not done again.
    """
    values = profile_values(profile, given)
    folder = report_folder(name or profile)
    paths = {stem: notebook_path(stem) for stem in notebooks}
    for stem, why in left_out(values, notebooks).items():
        _say(f"{stem} is left out: {why}.")
        del paths[stem]
    _check_data(check(**values))
    _have_compiler(values, notebooks)
    with locked(folder, "this report", _say):
        started, seconds = time.monotonic(), {}
        for number, (stem, path) in enumerate(paths.items(), 1):
            declared = declared_parameters(path)
            chosen = {
                k: v for k, v in {**values, "OUTPUT_DIR": str(folder)}.items() if k in declared
            }
            begun, step = time.monotonic(), f"step {number} of {len(paths)}: {stem}"
            with stopwatch(step):
                run_notebook(stem, folder / "notebooks" / f"{stem}.ipynb", chosen)
            seconds[stem] = round(time.monotonic() - begun, 1)
            _say(f"{step} done in {seconds[stem]:.0f} s, {time.monotonic() - started:.0f} s in all")
        _add_times(folder / "timings.json", seconds)
        atomic_write(folder / "manifest.json", to_json(manifest(profile, values, folder)))
        from .html import write_html

        index = write_html(folder)
        _say(f"report in {time.monotonic() - started:.0f} s: {index}")
    return index


def left_out(values: dict[str, Any], notebooks: Sequence[str]) -> dict[str, str]:
    """Notebooks that the chosen toolchain cannot serve, and why."""
    if values.get("TOOLCHAIN", "mlir") == "mlir":
        return {}
    return {stem: NEEDS_MLIR[stem] for stem in notebooks if stem in NEEDS_MLIR}


def _have_compiler(values: dict[str, Any], notebooks: Sequence[str]) -> None:
    """Install the compiler here, where a terminal sees how far it is: a kernel has none."""
    if COMPILING & set(notebooks) and values.get("TOOLCHAIN", "mlir") == "mlir":
        compiler()


def _check_data(parameters: Parameters) -> None:
    """Find the plates and their labels, and say which strategies get fewer of them than usual."""
    data = datasets_for(parameters)
    for chip, _, _, asked in combinations(parameters):
        if asked:
            asked.by_chip[chip].cut_to(len(data.pool))


def profile_values(profile: str, given: dict[str, Any]) -> dict[str, Any]:
    """A profile's parameters with those that were given in their place, checked.

    Paths become absolute, or relative to the checkout in which the notebooks run.

    With a class list of one's own and no decoders named, they are `OWN_DECODERS`: the default's
    grammar is of Chinese plates, whose characters that list need not have.

    Raises
    ------
    ParameterError
        For an unknown profile or an impossible value.
    """
    if profile not in PROFILES:
        raise ParameterError(
            f"profile {profile!r} is not known. Choose from {', '.join(PROFILES)}."
        )
    values = {**PROFILES[profile], **{k: v for k, v in given.items() if v is not None}}
    if values.get("CLASSES"):
        values.setdefault("DECODERS", OWN_DECODERS)
    check(**values)
    return {key: placed(key, value) for key, value in values.items()}


def _add_times(path: Path, seconds: dict[str, float]) -> None:
    """Put the notebooks' wall time beside the times of the models, in ``timings.json``."""
    if path.exists():
        timings = json.loads(path.read_text("utf8"))
        timings |= {"notebooks": seconds, "total_s": round(sum(seconds.values()), 1)}
        atomic_write(path, to_json(timings))


def manifest(profile: str, parameters: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Where a report came from: parameters, versions, digests, revision, machine."""
    metrics = folder / "metrics.json"
    facts = json.loads(metrics.read_text("utf8")) if metrics.exists() else {}
    bmodels = {
        path.stem: json.loads(path.read_text("utf8"))["sha256"]
        for path in sorted((folder / "bmodels").glob("*.json"))
    }
    versions = {package: version(package) for package in VERSIONS_OF}
    return {
        "schema": 1,
        "profile": profile,
        "parameters": parameters,
        "versions": {"python": platform.python_version(), **versions},
        "data": {**facts.get("dataset", {}), **facts.get("data", {})},
        "bmodels": bmodels,
        "metrics_sha256": file_digest(metrics) if metrics.exists() else None,
        "revision": git_revision(),
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def git_revision() -> str | None:
    """Commit of the checkout, with "+changes" when files differ from it; None outside git."""

    def git(*arguments: str) -> str:
        done = children.run(["git", "-C", repository(), *arguments], timeout=30)
        if done.returncode:
            raise OSError(done.stderr.strip())
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except OSError:
        return None


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text)
