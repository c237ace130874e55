"""Where a probe sets its trap and runs its command: folders of its own, and a context."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lprnet_nb.datasets.generate import generate_plates, write_plates
from lprnet_nb.places import repository

from .commands import LONGEST, NOBODY, Commands, Ended
from .world import Skip, World, check_nothing_left

_ERROR = re.compile(r"^(lprnet-nb: |.*\bError: |╭─ Error)", re.MULTILINE)
_KEPT = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Context:
    """How a command is run.

    Parameters
    ----------
    name
        Of the context.
    locale
        Name in `LOCALES`.
    apart
        From another folder, with absolute paths; else in the probe's own, with relative ones.
    umask, user
        Of the process; None for the user who tests.
    """

    name: str
    locale: str = "C"
    apart: bool = False
    umask: int = 0o022
    user: int | None = None


READ = ("infer", "--backend", "emulator")  # a command that reads plates
# A picture of CCPD, by its name: what it shows is told there.
CCPD_NAME = "025-95_113-154&83_250&173-250&173_154&173_154&83_250&83-0_0_22_27_27_33_16-37-15.jpg"
OTHER_USER = Context("another user", user=NOBODY)
POSIX = Context("POSIX", locale="POSIX")
HERE = Context("relative paths")
CONTEXTS = (
    Context("another folder", apart=True),
    OTHER_USER,
    Context("umask 077", umask=0o077),
    Context("zh_CN.GBK", locale="zh_CN.GBK"),
    POSIX,
)
# Variables of a locale and the encoding of a terminal in it. Python takes C and POSIX for UTF-8;
# with that switched off POSIX is the ASCII of old systems.
_OLD = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "C": ({"LANG": "C"}, "utf8"),
    "zh_CN.GBK": ({"LC_ALL": "zh_CN.GBK", "LANG": "zh_CN.GBK"}, "gbk"),
    "POSIX": ({"LC_ALL": "POSIX", **_OLD}, "ascii"),
}


class Stage:
    """What all scenes share: a world, and one process for the commands of each locale.

    Parameters
    ----------
    world
        Holds a compiled model.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        # Not in pytest's folder, which no other user may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.folder.chmod(0o755)
        self.read = ""  # what the model reads in `Scene.picture`
        self.plates = generate_plates(3, seed=4, workers=0)
        self._commands: dict[str, Commands] = {}

    def commands(self, locale: str) -> Commands:
        """The process that runs commands in a locale.

        Raises
        ------
        Skip
            Where this system cannot make the locale.
        """
        if locale not in self._commands:
            variables, encoding = LOCALES[locale]
            if locale.startswith("zh_CN"):
                variables = {**variables, "LOCPATH": str(self._chinese())}
            self._commands[locale] = Commands(self.folder / locale, variables, encoding)
        return self._commands[locale]

    def _chinese(self) -> Path:
        made = self.folder / "locales"
        made.mkdir(exist_ok=True)
        command = ["localedef", "--no-archive", "-c", "-i", "zh_CN", "-f", "GBK"]
        try:
            subprocess.run([*command, made / "zh_CN.GBK"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skip(f"no Chinese locale can be made here: {error}") from error
        return made

    def warm(self) -> Path:
        """A cache with the compiled model and the emulator's kernels, which take seconds."""
        cache = self.folder / "warm"
        if not cache.exists():
            shutil.copytree(self.world.pristine, cache, symlinks=True)
            scene = Scene(self, HERE)
            model, picture = compiled(cache), scene.picture()
            ended = scene.done(*READ, model, picture, LPRNET_CACHE=str(cache))
            self.read = read_output(ended)
            shutil.rmtree(scene.root)
        return cache

    def close(self) -> None:
        for each in self._commands.values():
            each.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Scene:
    """Folders of one probe, and the commands that it runs there.

    Parameters
    ----------
    stage
        What all share.
    context
        How its commands are run.

    Attributes
    ----------
    folder
        Empty; the user's, who stands there unless the context says otherwise.
    cache, home, temporary
        Empty places of its own. What is left in the last is a fault.
    marks
        Where code that nobody asked for would leave a trace.
    """

    def __init__(self, stage: Stage, context: Context) -> None:
        self.stage, self.context, self.world = stage, context, stage.world
        root = Path(tempfile.mkdtemp(prefix="scene-", dir=stage.folder))
        root.chmod(0o755)
        names = ("mine", "cache", "home", "temporary", "marks", "elsewhere", "data", "reports")
        places = [root / name for name in names]
        for place in places:
            place.mkdir()
        self.folder, self.cache, self.home, self.temporary, self.marks = places[:5]
        self.elsewhere, self.data, self.reports = places[5:]
        self.marks.chmod(0o777)
        self.root, self.handed_over = root, False

    @contextlib.contextmanager
    def attended(self) -> Iterator[Scene]:
        """Inside, the probe runs; then nothing may be left of it, or have been run."""
        try:
            yield self
            check_nothing_left(self.cache)
            ran = [path.name for path in self.marks.iterdir()]
            if ran:
                raise AssertionError(f"code was run that nobody asked for: {ran}")
            parts = [str(path) for path in self.root.rglob(".*.part")]
            left = [path.name for path in (*self.temporary.iterdir(), *self.home.iterdir())]
            if parts or left:
                raise AssertionError(f"left behind: {parts + left}")
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Variables of a command."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "LPRNET_CACHE": str(self.cache),
            "LPRNET_TPU_MLIR": str(self.world.tool.prefix),
            "LPRNET_DATA": str(self.data),
            "LPRNET_REPORTS": str(self.reports),
            "OMP_NUM_THREADS": "1",
        }

    def run(
        self,
        *arguments: str | Path | int,
        cwd: Path | None = None,
        output: str | Path | None = None,
        within: float = LONGEST,
        **variables: str | None,
    ) -> Ended:
        """Run a command; paths are spelled as the context says, a variable of None is not set."""
        stand = cwd or (self.elsewhere if self.context.apart else self.folder)
        spelled = [
            os.path.relpath(each, stand)
            if isinstance(each, Path) and not self.context.apart
            else str(each)
            for each in arguments
        ]
        if self.context.user is not None and not self.handed_over:
            self.hand_over()
        whole = self.environment() | variables
        return self.stage.commands(self.context.locale).run(
            spelled,
            cwd=stand,
            env={name: value for name, value in whole.items() if value is not None},
            umask=self.context.umask,
            user=self.context.user,
            output=None if output is None else str(output),
            within=within,
        )

    def hand_over(self) -> None:
        """Give everything to the context's user; done by the first command unless done before."""
        user = self.context.user
        assert user is not None
        self.handed_over = True
        if os.geteuid():
            raise Skip("only root can run a command as another user")
        if not all(place.stat().st_mode & 0o001 for place in repository().parents):
            raise Skip("another user may not enter the folder of this checkout")
        for place in self.root.rglob("*"):
            if not place.is_relative_to(self.elsewhere):
                os.chown(place, user, user, follow_symlinks=False)
        for place in (self.folder, self.cache, self.home, self.temporary, self.data, self.reports):
            os.chown(place, user, user)

    def done(self, *arguments: str | Path | int, **options) -> Ended:
        """Run a command that must succeed."""
        ended = self.run(*arguments, **options)
        if ended.status != 0:
            raise AssertionError(f"ended with {ended.status}: {ended.errors[-1500:]}")
        return ended

    def refused(self, *arguments: str | Path | int, says: str | tuple[str, ...], **options) -> str:
        """Run a command that must end in one error, which says all of `says`."""
        ended = self.run(*arguments, **options)
        if ended.status is None:
            raise AssertionError("it hangs")
        if ended.status not in (1, 2):
            raise AssertionError(
                f"ended with {ended.status}: {ended.errors[-1500:]}{ended.output[-300:]!r}"
            )
        errors = _in_one_line(ended.errors)
        if "Traceback" in errors or len(_ERROR.findall(ended.errors)) != 1:
            raise AssertionError(f"not one error: {ended.errors[-1500:]}")
        for word in (says,) if isinstance(says, str) else says:
            if word not in errors:
                raise AssertionError(f"an unclear error, without {word!r}: {ended.errors[-1500:]}")
        said = ended.errors[_ERROR.search(ended.errors).end() :]
        return f"one error: {self.plain(_in_one_line(said))}"

    def plain(self, text: str) -> str:
        """A text without this scene's own folders."""
        for place in (self.root, repository()):
            text = text.replace(f"{place}/", "").replace(str(place), "…")
        return textwrap.shorten(text, 160, placeholder=" …")

    def alone(self, *arguments: str | Path, cwd: Path, **variables: str) -> Ended:
        """Run a command in a process of its own, from the start of Python on."""
        done = subprocess.run(
            [Path(sys.executable).parent / "lprnet-nb", *map(str, arguments)],
            cwd=cwd,
            env=self.environment() | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode("utf8", "replace"))

    # What probes need again and again.

    def plates(self, name: str = "plates") -> Path:
        """A folder of three labelled plates, whose names are such as this locale can have."""
        folder = write_plates(self.stage.plates, self.folder / name).parent
        encoding = LOCALES[self.context.locale][1]
        if encoding == "ascii":
            labels = {}
            for number, (old, plate) in enumerate(self.labels().items()):
                (folder / old).rename(folder / f"{number}.png")
                labels[f"{number}.png"] = plate
            (folder / "labels.json").write_text(json.dumps(labels, ensure_ascii=False), "utf8")
        elif encoding != "utf8":
            for old in self.labels():
                os.rename(folder / old, os.fsencode(folder) + b"/" + old.encode(encoding))
        return folder

    def labels(self) -> dict[str, str]:
        """Plate by name of those plates."""
        return dict(zip(self.stage.plates.names, self.stage.plates.labels))

    def picture(self, name: str = "a.png") -> Path:
        """One plate."""
        path = self.folder / name
        path.write_bytes(cv2.imencode(".png", self.stage.plates.images[0])[1].tobytes())
        return path

    def ccpd(self) -> Path:
        """A folder of one picture of CCPD, large enough for the corners that its name tells."""
        folder = self.folder / "ccpd"
        folder.mkdir()
        cv2.imencode(".jpg", np.zeros((1160, 720, 3), np.uint8))[1].tofile(folder / CCPD_NAME)
        return folder

    def text(self, name: str, text: str | bytes) -> Path:
        """A file of the user's."""
        path = self.folder / name
        path.write_bytes(text.encode("utf8") if isinstance(text, str) else text)
        return path

    def model(self) -> Path:
        """The compiled model, in this scene's cache; the folder of its compile."""
        shutil.rmtree(self.cache)
        shutil.copytree(self.stage.warm(), self.cache, symlinks=True)
        return compiled(self.cache)

    def library(self, path: Path, source: str = "") -> Path:
        """A shared library of a source in C, or one that leaves a mark when it is loaded."""
        source = source or (
            "#include <fcntl.h>\n__attribute__((constructor)) static void f(void) "
            f'{{ open("{self.marks / path.name}", O_CREAT, 0600); }}'
        )
        command = ["cc", "-x", "c", "-shared", "-fPIC", "-o", str(path), "-"]
        try:
            subprocess.run(command, input=source, text=True, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skip(f"there is no C compiler: {error}") from error
        return path

    def hostile(self) -> None:
        """Put modules, libraries and programs into the user's folder that leave marks."""
        for module in _MODULES:
            self.text(
                f"{module}.py",
                f"import os; os.close(os.open({str(self.marks / module)!r}, os.O_CREAT))\n",
            )
        for program in ("cc", "gcc", "git", "docker", "uv", "python3.10", "model_tool"):
            self.text(program, f"#!/bin/sh\n: > {self.marks / program}\n").chmod(0o755)
        for library in ("libmpc.so.3", "libmpfr.so.6", "libz.so.1", "libm.so.6", "libdl.so.2"):
            self.library(self.folder / library)


_MODULES = (
    "csv", "venv", "ensurepip", "sitecustomize", "usercustomize", "ctypes", "multiprocessing",
    "json", "numpy", "struct", "lprnet_nb", "typer",
)  # fmt: skip


def _in_one_line(text: str) -> str:
    """What is said, without the frame around a wrong use of the command line."""
    return " ".join(line.strip("│╭╮╰╯─ ") for line in text.splitlines()).strip()


def compiled(cache: Path) -> Path:
    """The folder of the compiled model in a cache."""
    return next((cache / "artifacts" / "bmodel").glob("*/record.json")).parent


def read_output(ended: Ended) -> str:
    """Standard output, which is JSON in UTF-8 whatever the locale is."""
    return ended.output.decode("utf8")


def same(found: object, expected: object) -> str:
    """Says so when a result is the expected one."""
    equal = np.array_equal(found, expected) if isinstance(found, np.ndarray) else found == expected
    if not equal:
        raise AssertionError(f"another result: {found!r} instead of {expected!r}")
    return "same result"
