"""The compiler's own environment: TPU-MLIR on Python 3.10, apart from the workbook's.

It is installed on first need into the cache folder, mended (the wheel bundles Ubuntu 22.04's C
library, which crashes under any other), and proved by compiling and running a tiny network.

Other releases are installed beside it, each in an environment of its own that holds that one
package: what it needs it takes from the first one's, and libraries that are the same in both are
hard links.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .. import children
from ..cache import about_to_make, file_digest, locked, untrusted_part
from ..errors import ToolchainError
from ..files import atomic_write, keep_from_others, make_folder, read_bytes
from ..places import cache_dir
from ..settings import settings, variable
from .process import run_logged
from .releases import PINNED, Release, release_like, release_named

VERSION = PINNED
ENVIRONMENT_VARIABLE = variable("tpu_mlir")
PYTHON_VARIABLE = variable("python310")
# What the wheel needs and does not declare, and its own extra.
STAND_INS = Path(__file__).with_name("stand_ins")  # of programs that tools want and nobody needs
REQUIREMENTS = (f"tpu_mlir[onnx]=={VERSION}", "psutil", "torch", "torchvision")
# Parts of Ubuntu 22.04's C and Python runtime in the wheel's lib/third_party. With another glibc
# everything crashes ("GLIBC_2.36 not found", "stack smashing detected"); the system's serve.
BUNDLED_SYSTEM_LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libz.so.1",
    "libpython3.10.so.1.0",
)
INSTALL_TIMEOUT = 3600.0  # seconds
SHARED_FROM = 1 << 20  # bytes from which on a library is worth a link to another release's
EXPECTED_PACKAGES = 98  # with CUDA parts; only the progress bar's length hangs on it

HELP = (
    f"TPU-MLIR needs Python 3.10. Install one that is found by itself (`pyenv install 3.10`, "
    f"`uv python install 3.10`, `conda create -n py310 python=3.10`, or your system's "
    f"python3.10 with venv), name one in {PYTHON_VARIABLE}, or name an existing TPU-MLIR "
    f"environment in {ENVIRONMENT_VARIABLE}."
)


@dataclass(frozen=True)
class Compiler:
    """A TPU-MLIR installation.

    Parameters
    ----------
    prefix
        Its environment's folder (``bin/python`` below it).
    package
        Folder of the `tpu_mlir` package.
    version
        Version of the package, such as "1.30.2".
    """

    prefix: Path
    package: Path
    version: str

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.prefix / "bin" / "python"

    @property
    def release(self) -> Release:
        """What it can do, and how it wants to be asked."""
        return release_like(self.version)

    @property
    def library_folder(self) -> Path:
        """Folder of Sophgo's runtime libraries and chip simulators."""
        return self.package / "lib"

    def environment(self) -> dict[str, str]:
        """Environment variables that its tools need: they call one another through PATH."""
        keep = {
            k: v
            for k, v in children.environment().items()
            if k
            not in (
                "PYTHONPATH",
                "VIRTUAL_ENV",
                "LD_PRELOAD",
                "TPUKERNEL_FIRMWARE_PATH",
                "MPLBACKEND",
            )
        }
        lib = self.library_folder
        places = (self.prefix / "bin", keep.get("PATH", os.defpath), STAND_INS)
        return {
            **keep,
            "PATH": os.pathsep.join(map(str, places)),
            "LD_LIBRARY_PATH": f"{lib}:{lib / 'capi'}:{lib / 'third_party'}",
            "PYTHONNOUSERSITE": "1",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path,
        log: Path,
        what: str,
        timeout: float = 900.0,
    ) -> None:
        """Run one of the environment's programs; see `process.run_logged`."""
        program = self.prefix / "bin" / str(command[0])
        self._check_there(program, what)
        try:
            run_logged(
                [str(program), *(str(c) for c in command[1:])],
                cwd=cwd,
                log=log,
                env=self.environment(),
                python=str(self.python),
                timeout=timeout,
                what=what,
            )
        except ToolchainError:
            self._check_there(program, what)  # removed while it ran: that is what is to be said
            raise

    def _check_there(self, program: Path, what: str) -> None:
        missing = [path for path in (program, self.package / "__init__.py") if not path.exists()]
        if missing:
            raise ToolchainError(
                f"{what}: TPU-MLIR {self.version} in {self.prefix} is gone or damaged "
                f"({missing[0]} is missing). Run the same command again: it is installed anew."
            )


def default_prefix(version: str = VERSION) -> Path:
    """Where a release's environment is installed when the user names none."""
    return cache_dir() / f"tpu_mlir-{version}"


def find_compiler(release: str | None = None) -> Compiler | None:
    """The installation that would be used, or None when there is none yet.

    Parameters
    ----------
    release
        Version that is wanted; None for the one that `LPRNET_TPU_MLIR` names, else the pinned one.

    Raises
    ------
    ParameterError
        When there is no such release.
    ToolchainError
        When `LPRNET_TPU_MLIR` names something that is not a TPU-MLIR installation, or others than
        the user may write to the one in the cache.
    """
    named = settings().tpu_mlir
    if named:
        path = Path(named).expanduser()
        prefix = path.parent.parent if path.name.startswith("python") else path
        found = _describe(prefix, f"{ENVIRONMENT_VARIABLE}={named}")
        if release in (None, found.version):
            return found
    return _installed(VERSION if release is None else release_named(release).version)


def _installed(version: str) -> Compiler | None:
    """A release in the cache; None where it is not whole, and so is to be installed again."""
    prefix = default_prefix(version)
    try:
        facts = json.loads(read_bytes(prefix / "ready.json"))
        found = Compiler(prefix, prefix / facts["package"], facts["version"])
        shared = Path(facts.get("shared", prefix))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    needed = (found.python, found.package / "__init__.py", found.library_folder, shared)
    if not all(path.exists() for path in needed):
        return None
    for place in (found.python.parent, found.package, found.library_folder):
        why = untrusted_part(place, inside=False)
        if why:
            raise ToolchainError(
                f"the compiler in {found.prefix} is not run: {why}. Take that right away (chmod), "
                "name a cache folder of your own in LPRNET_CACHE, or, if you trust it all the "
                f"same, say {ENVIRONMENT_VARIABLE}={found.prefix}."
            )
    return found


def is_installed(version: str) -> bool:
    """Whether a release lies in the cache, whole; one that is not to be trusted does not count."""
    try:
        return _installed(version) is not None
    except ToolchainError:
        return False


def compiler(release: str | None = None) -> Compiler:
    """A TPU-MLIR installation, made first when it is not there; as `find_compiler`.

    Raises
    ------
    ParameterError
        When there is no such release.
    ToolchainError
        When there is no Python 3.10, the installation fails, or its self-test does.
    """
    found = find_compiler(release)
    if found is not None:
        return found
    version = release or VERSION
    base = None if version == VERSION else compiler()
    prefix = default_prefix(version)
    about_to_make("the compiler's environment", prefix)
    with locked(prefix, "the compiler's environment"):
        found = find_compiler(release)
        if found is not None:
            return found
        return _install(prefix) if base is None else _install_beside(base, version, prefix)


def _describe(prefix: Path, named: str) -> Compiler:
    script = (
        "import importlib.metadata as m, importlib.util as u; "
        "print(m.version('tpu_mlir')); print(u.find_spec('tpu_mlir').origin)"
    )
    try:
        python = prefix / "bin" / "python"
        said = children.run([python, "-I", "-c", script], timeout=120)
        answer = said.stdout.splitlines()  # a folder may have spaces in its name
        if said.returncode or len(answer) != 2:
            raise OSError(said.stderr.strip()[-300:] or f"{python} ended with {said.returncode}")
    except OSError as error:
        raise ToolchainError(
            f"{named} is not a Python environment with TPU-MLIR ({error}). Name "
            "its folder (with bin/python in it) or its Python."
        ) from error
    return Compiler(prefix, Path(answer[1]).parent, answer[0])


def python310_candidates() -> Iterator[str]:
    """Commands and paths where people have Python 3.10, the user's own choice first."""
    named = settings().python310
    if named:
        yield named
        return
    if sys.version_info[:2] == (3, 10):
        yield sys.executable
    found = children.program("python3.10")
    if found:
        yield found
    home = Path.home()
    roots = [os.environ.get("PYENV_ROOT", str(home / ".pyenv")) + "/versions/3.10*"]
    conda = [
        os.environ.get("CONDA_PREFIX"),
        os.environ.get("MAMBA_ROOT_PREFIX"),
        os.environ.get("CONDA_EXE") and str(Path(os.environ["CONDA_EXE"]).parent.parent),
        *(
            str(home / n)
            for n in ("miniconda3", "miniforge3", "anaconda3", "mambaforge", "micromamba")
        ),
    ]
    roots += [r for base in conda if base for r in (base, f"{base}/envs/*")]
    roots += [str(home / ".local/share/uv/python/cpython-3.10*")]
    for root in roots:
        yield from sorted(glob.glob(f"{root}/bin/python3.10"), reverse=True)
    uv = children.program("uv")
    if uv:
        yield from _from_uv(uv)


def _from_uv(uv: str) -> Iterator[str]:
    for command in (
        ["python", "find", "3.10"],
        ["python", "install", "3.10"],
        ["python", "find", "3.10"],
    ):
        try:
            answer = children.run([uv, *command], timeout=600)
        except OSError:
            return
        if command[1] == "find" and answer.returncode == 0:
            yield answer.stdout.strip()
            return


def find_python310() -> str:
    """A working Python 3.10 that can make environments.

    Raises
    ------
    ToolchainError
        When there is none, saying where it looked.
    """
    tried = []
    for candidate in python310_candidates():
        check = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 10))"
        try:
            code = children.run([candidate, "-I", "-c", check], timeout=60).returncode
        except OSError:
            code = -1
        if code == 0:
            return candidate
        tried.append(candidate)
    where = f" (tried and unfit: {', '.join(tried)})" if tried else ""
    raise ToolchainError(f"no Python 3.10 was found{where}. {HELP}")


def _install(prefix: Path) -> Compiler:
    python = find_python310()
    constraints = resources.files(__package__).joinpath("compiler-constraints.txt")
    print(
        f"Installing the compiler (TPU-MLIR {VERSION}, once, up to 6.5 GB) into {prefix}",
        file=sys.stderr,
    )
    with resources.as_file(constraints) as file:
        steps = (
            [python, "-I", "-m", "venv", str(prefix)],
            [*_pip(prefix), "-c", str(file), *REQUIREMENTS],
        )
        return _made(VERSION, prefix, python, steps, None)


def _install_beside(base: Compiler, version: str, prefix: Path) -> Compiler:
    """Install one package into an environment that takes the rest from another release's."""
    python = str(base.python.resolve())
    print(
        f"Installing TPU-MLIR {version} (once, up to 0.7 GB beside {base.version}) into {prefix}",
        file=sys.stderr,
    )
    steps = (
        [python, "-I", "-m", "venv", str(prefix)],
        [*_pip(prefix), "--no-deps", "--no-compile", f"tpu_mlir=={version}"],
    )
    return _made(version, prefix, python, steps, base)


def _pip(prefix: Path) -> list[str]:
    options = ["install", "--no-input", "--disable-pip-version-check"]
    return [str(prefix / "bin" / "python"), "-I", "-m", "pip", *options]


def _made(
    version: str, prefix: Path, python: str, steps: Sequence[list[str]], base: Compiler | None
) -> Compiler:
    """Run the steps of an installation, mend and prove what they made; all of it or nothing."""
    log = prefix.parent / f"{prefix.name}.install.log"
    make_folder(log.parent)
    log.unlink(missing_ok=True)
    shutil.rmtree(prefix, ignore_errors=True)  # what an interrupted installation left
    env = {k: v for k, v in children.environment().items() if k != "PYTHONPATH"}
    try:
        with _progress(prefix, log):
            for step in steps:
                run_logged(
                    step,
                    cwd=prefix.parent,
                    log=log,
                    env=env,
                    python=python,
                    timeout=INSTALL_TIMEOUT,
                    what=f"installing TPU-MLIR {version}",
                )
        site = prefix / "lib" / "python3.10" / "site-packages"
        package = site / "tpu_mlir"
        _mend(package)
        if base is not None:
            # A path file comes after the folder that it lies in: the release's own package wins.
            (site / "shared.pth").write_text(f"{base.package.parent}\n", "utf8")
            _share(package, base.package)
        made = Compiler(prefix, package, version)
        keep_from_others(prefix)
        self_test(made, log)
    except BaseException:
        shutil.rmtree(prefix, ignore_errors=True)
        raise
    facts = {
        "version": version,
        "package": package.relative_to(prefix).as_posix(),
        "python": python,
        "glibc": platform.libc_ver()[1],
        **({"shared": str(base.package.parent)} if base else {}),
    }
    atomic_write(prefix / "ready.json", json.dumps(facts, indent=1))
    return made


def _share(package: Path, other: Path) -> None:
    """Replace libraries by hard links to another release's where they are the same."""
    for path in sorted((package / "lib").rglob("*.so*")):
        twin = other / path.relative_to(package)
        if path.is_symlink() or twin.is_symlink() or not twin.is_file():
            continue
        size = path.stat().st_size
        same = size >= SHARED_FROM and size == twin.stat().st_size
        if same and file_digest(path) == file_digest(twin):
            linked = path.with_name(f".{path.name}.linked")
            try:
                os.link(twin, linked)
            except OSError:  # on another file system, or of another user
                return
            os.replace(linked, path)


def _mend(package: Path) -> None:
    """Move the bundled system libraries where no loader looks."""
    aside = package / "lib" / "third_party" / "aside"
    aside.mkdir(exist_ok=True)
    for name in BUNDLED_SYSTEM_LIBRARIES:
        library = aside.parent / name
        if library.exists():
            library.rename(aside / name)


def self_test(made: Compiler, log: Path) -> None:
    """Compile a tiny network for the BM1684X and run it on the simulator.

    Raises
    ------
    ToolchainError
        When any of the tools fails, or the simulator's answer is off.
    """
    script = resources.files(__package__).joinpath("inside", "self_test.py")
    folder = made.prefix / "self-test"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with resources.as_file(script) as file:
        made.run(
            ["python", file], cwd=folder, log=log, what="the compiler's self-test", timeout=300
        )
    shutil.rmtree(folder, ignore_errors=True)


class _progress:
    """Progress of an installation: packages collected in pip's log, then seen in the folder."""

    def __init__(self, prefix: Path, log: Path) -> None:
        self.prefix, self.log = prefix, log
        self.stop = threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("compiler: starting", total=2 * EXPECTED_PACKAGES)
            while not self.stop.wait(0.5):
                text = self.log.read_text("utf8", "replace") if self.log.exists() else ""
                collected = text.count("\nCollecting ")
                installed = len(list(self.prefix.glob("lib/python3.10/site-packages/*.dist-info")))
                last = text.rsplit("\nCollecting ", 1)[-1].split(maxsplit=1)[0] if collected else ""
                doing = (
                    f"installed {installed} of about {EXPECTED_PACKAGES} packages"
                    if "\nInstalling collected" in text
                    else f"fetching {last}, package {collected} of about {EXPECTED_PACKAGES}"
                )
                bar.update(
                    task,
                    completed=min(collected, EXPECTED_PACKAGES) + installed,
                    description=f"compiler: {doing}",
                )
            bar.update(task, completed=2 * EXPECTED_PACKAGES, description="compiler: installed")
