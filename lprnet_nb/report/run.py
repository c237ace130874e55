"""Run the notebooks by papermill and leave a report."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from rich.console import Console

from .. import children
from ..cache import file_digest, files_below, locked
from ..errors import DataError, LprnetError, ParameterError
from ..files import atomic_write, make_folder, read_bytes, swap_folders
from ..language import ENGLISH, leave_out_lprnet, translate_cells
from ..lessons.course import NEEDS_MLIR
from ..measure.box import box_facts, read_fitting
from ..measure.data import datasets_for
from ..measure.models import foreign, planned
from ..measure.output import to_json
from ..measure.parameters import (
    NETWORK,
    OWN_STRATEGIES,
    STRATEGIES,
    Parameters,
    check,
    combinations,
    placed,
)
from ..measure.schema import SCHEMA
from ..places import reports_dir, repository
from ..progress import stopwatches
from ..runtime.emulator.native import kernels_here
from ..toolchain.environment import compiler
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from ..toolchain.packaged import archive_digest
from ..work.scheduler import cores_here, workers_here
from .kernels import Kernel, end_kernels
from .profiles import PROFILES

NOTEBOOKS = ("01_trace", "02_compile", "03_quantize", "04_infer", "05_compare")
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
    other = parameters.get("NETWORK", NETWORK) != NETWORK
    unknown = sorted(set(parameters) - declared)
    if unknown:
        raise ParameterError(
            f"notebook {name} has no parameter {unknown[0]!r}. It has: "
            f"{', '.join(sorted(declared))}."
        )
    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        path = _without_lprnet(path, output) if other else path
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters=parameters,
            kernel_name="python3",
            kernel_manager_class=Kernel,
            progress_bar=False,
            log_output=False,
            execution_timeout=NOTEBOOK_TIMEOUT,
            start_timeout=120,
            extra_arguments=["--Application.log_level=CRITICAL"],
        )  # not the kernel's remarks: interrupted as it ends, it calls that an error
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


def _without_lprnet(path: Path, output: Path) -> Path:
    """A notebook as it is to be run for another network, written where its run will be."""
    notebook = nbformat.reads(read_bytes(path).decode("utf8"), as_version=4)
    leave_out_lprnet(notebook)
    return atomic_write(output, nbformat.writes(notebook))


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
        "quick", "full" or "tour", see `PROFILES`.
    name
        Folder name; the profile's by default. A finished report of that name is replaced whole,
        when this one is finished, if it has the same parameters.
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
        For an impossible parameter, or when a finished report of that name has other ones, before
        anything runs.
    DataError
        When plates or labels are missing or wrong, before anything runs.
    LprnetError
        When a notebook fails; finished work stays in the cache and is not done again.

    Notes
    -----
    The report is built in ``reports/.building/<name>/`` and takes its place at once: its readers
    never see a part of it, or parts of two.
    """
    values = profile_values(profile, given)
    folder = report_folder(name or profile)
    paths = {stem: notebook_path(stem) for stem in notebooks}
    for stem, why in left_out(values, notebooks).items():
        _say(f"{stem} is left out: {why}.")
        del paths[stem]
    parameters = check(**values)
    with _kernels_beside(parameters):
        _check_data(parameters)
        _have_compiler(values, notebooks)
        with locked(folder, "this report", _say):
            _check_same(folder, profile, values)
            building, started = _fresh(folder), time.monotonic()
            seconds = _run_notebooks(paths, values, building)
            _name_place(building, folder)
            _add_times(building / "timings.json", seconds)
            facts = manifest(profile, values, building)
            atomic_write(building / "manifest.json", to_json(facts))
            from .html import write_html

            index = folder / write_html(building).name
            facts["files"] = files_below(building)
            atomic_write(building / "manifest.json", to_json(facts))
            _keep_foreign(folder, building)
            _put_in_place(building, folder)
            _say(f"report in {time.monotonic() - started:.0f} s: {index}")
    return index


@contextmanager
def _kernels_beside(parameters: Parameters) -> Iterator[None]:
    """Meanwhile make the emulator's kernels: the C compiler takes seconds, the first time."""

    def make() -> None:
        if (here := kernels_here()).startswith("PyTorch"):
            _say(f"the emulator runs in {here}")

    with ThreadPoolExecutor(1) as beside:
        if parameters.backend == "emulator":
            beside.submit(make)
        yield


def _run_notebooks(
    paths: dict[str, Path], values: dict[str, Any], building: Path
) -> dict[str, float]:
    """Run a report's notebooks; gives the seconds that each took.

    Where nothing is compiled or simulated, some run side by side: elsewhere each plans its work for
    all cores and the memory there is. A failure or an interrupt ends the kernels of the others.
    """
    packaged = values.get("TOOLCHAIN") == PACKAGED
    at_once = min(workers_here(), len(paths)) if packaged else 1
    started = time.monotonic()
    seconds: dict[str, float] = {}

    def run(number: int, stem: str) -> None:
        given = {**values, "OUTPUT_DIR": str(building)}
        chosen = {k: v for k, v in given.items() if k in declared_parameters(paths[stem])}
        begun, step = time.monotonic(), f"step {number} of {len(paths)}: {stem}"
        with timed(step) as say:
            done = run_notebook(stem, building / "notebooks" / f"{stem}.ipynb", chosen)
            _translate(done, values.get("LANGUAGE", ENGLISH))
            seconds[stem] = round(time.monotonic() - begun, 1)
            say(f"{step} done in {seconds[stem]:.0f} s, {time.monotonic() - started:.0f} s in all")

    # Threads of kernels side by side that wait for one another cost more than they bring.
    threads = {"OMP_NUM_THREADS": str(max(1, cores_here() // at_once))} if at_once > 1 else {}
    with (
        children.variables(**threads),
        stopwatches() as timed,
        ThreadPoolExecutor(at_once) as pool,
    ):
        steps = [pool.submit(run, number, stem) for number, stem in enumerate(paths, 1)]
        try:
            for step in as_completed(steps):
                step.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(step.done() for step in steps):
                end_kernels()  # again: one may have been about to start
                time.sleep(0.2)
            raise
    return {stem: seconds[stem] for stem in paths}


def _translate(path: Path, language: str) -> None:
    """Put the prose of an executed notebook into the report's language."""
    if language != ENGLISH:
        notebook = json.loads(read_bytes(path))
        translate_cells(notebook, language)
        atomic_write(path, to_json(notebook))


def left_out(values: dict[str, Any], notebooks: Sequence[str]) -> dict[str, str]:
    """Notebooks that the chosen toolchain cannot serve, and why."""
    if values.get("TOOLCHAIN") != "nntc":
        return {}
    return {stem: NEEDS_MLIR[stem] for stem in notebooks if stem in NEEDS_MLIR}


def _have_compiler(values: dict[str, Any], notebooks: Sequence[str]) -> None:
    """Install the compiler here, where a terminal sees how far it is: a kernel has none."""
    if COMPILING & set(notebooks) and values.get("TOOLCHAIN", "mlir") == "mlir":
        for release in check(**values).tpu_mlir or (None,):
            compiler(release)


def _check_same(folder: Path, profile: str, values: dict[str, Any]) -> None:
    """Raise unless a folder is free for a report, or holds a finished one of the same parameters.

    Raises
    ------
    ParameterError
        Saying what differs, and how to name another.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    rename = "Give this one another name (--name), or remove that folder."
    try:
        known = json.loads(read_bytes(folder / "manifest.json"))
        before = {"PROFILE": known["profile"], **known["parameters"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{folder} is there and is no finished report: its manifest.json cannot be read. "
            f"{rename}"
        ) from error
    now = {"PROFILE": profile, **values}
    before["LANGUAGE"] = now.get("LANGUAGE")  # the pages are in both anyway
    differing = [
        f"{key.lower()} {before.get(key, 'by default')!s}, not {now.get(key, 'by default')!s}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ParameterError(
            f"{folder} holds a finished report with other parameters: {'; '.join(differing)}. "
            f"{rename}"
        )


def _fresh(folder: Path) -> Path:
    """An empty folder of the same name to build a report in, without what a stopped run left."""
    building = folder.parent / ".building" / folder.name
    try:
        shutil.rmtree(building, ignore_errors=True)
        make_folder(building)
    except OSError as error:
        raise _unplaced(building, error) from error
    return building


def _keep_foreign(old: Path, new: Path) -> None:
    """Take over what a user has put beside the files of an earlier report."""
    try:
        ours = set(json.loads(read_bytes(old / "manifest.json"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in files_below(old):
        if name not in ours and not (new / name).exists() and (old / name).is_file():
            make_folder((new / name).parent)
            shutil.copy2(old / name, new / name)


def _put_in_place(building: Path, folder: Path) -> None:
    try:
        swap_folders(building, folder)
        shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise _unplaced(folder, error) from error


def _unplaced(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the report cannot be put into {folder}: {error.strerror or error}. Name a folder that "
        "you may write to in LPRNET_REPORTS, and run the same command again."
    )


def _name_place(building: Path, folder: Path) -> None:
    """Let executed notebooks name the folder that they will be in, not the one they ran in."""
    for page in building.glob("notebooks/*.ipynb"):
        text, before, after = page.read_text("utf8"), str(building), str(folder)
        for _ in range(3):  # as it is, in a string of JSON, and in one of Python within it
            text = text.replace(before, after)
            before, after = (json.dumps(one, ensure_ascii=False)[1:-1] for one in (before, after))
        atomic_write(page, text)


def _check_data(parameters: Parameters) -> None:
    """Find plates, labels and BModels, and say which strategies get fewer plates than usual.

    What boxes measured must be of these plates and chips; whether it is of the BModels as well, is
    known when these are compiled.
    """
    data = datasets_for(parameters)
    foreign(parameters, data)
    if parameters.toolchain == PACKAGED:
        planned(parameters, data)
    if parameters.measured:
        read_fitting(parameters.measured, data.plates, parameters.chips)
    for chip, _, _, _, asked, _ in combinations(parameters):
        if asked:
            asked.by_chip[chip].cut_to(len(data.pool))


def profile_values(profile: str, given: dict[str, Any]) -> dict[str, Any]:
    """A profile's parameters with those that were given in their place, checked.

    Paths become absolute, or relative to the checkout in which the notebooks run.

    With what boxes have measured and no strategies named, every notebook has those of the last: a
    box's models are held against those of each.

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
    if values.get("MEASURED"):
        own = values.get("NETWORK", NETWORK) != NETWORK
        values.setdefault("STRATEGIES", ",".join(OWN_STRATEGIES if own else STRATEGIES))
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
    tools = [model["tools"] for model in facts.get("models", {}).values()]
    for tool in ("tpu_mlir", "calibrated_by"):
        named = sorted({one[tool] for one in tools if tool in one})
        versions |= {tool: ", ".join(named)} if named else {}
    return {
        "schema": SCHEMA,
        "profile": profile,
        "parameters": parameters,
        "versions": {"python": platform.python_version(), **versions},
        "data": {**facts.get("dataset", {}), **facts.get("data", {})},
        "bmodels": bmodels,
        "boxes": [box_facts(path) for path in check(**parameters).measured],
        **({"packaged": archive_digest()} if parameters.get("TOOLCHAIN") == PACKAGED else {}),
        "metrics_sha256": file_digest(metrics) if metrics.exists() else None,
        "revision": git_revision(),
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "emulator": kernels_here(),
        },
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
