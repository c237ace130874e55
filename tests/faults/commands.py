"""Real commands of `lprnet-nb` without the seconds that each start takes.

This file, run as a program, imports the package once and forks for each command, which then has the
folder, variables, umask, user and streams that it would have had from a shell.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import reload
from pathlib import Path
from typing import Any, NoReturn

from lprnet_nb.places import repository

LONGEST = 180.0  # seconds, after which a command hangs, on a busy machine too
NOBODY = 65534
# Loaded before the first command: what commands import when they run.
_LOADED = (
    "cli", "steps", "doctor", "files", "datasets.lmdb", "measure.parameters", "measure.schema",
    "measure.survey", "report.html", "report.run", "report.status", "report.verdict",
    "runtime.emulator_engine", "runtime.simulator", "runtime.torch_engine", "work.scheduler",
    "toolchain.nntc.compile",
)  # fmt: skip

_FEW = ("cli", "steps")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Parameters
    ----------
    status
        Exit status; None when it was still at work after `LONGEST`, and was killed.
    output, errors
        What it wrote.
    """

    status: int | None
    output: bytes
    errors: str


class Commands:
    """Runs commands in forks of one process.

    Parameters
    ----------
    folder
        Empty; gets their output.
    locale
        Variables that decide the encodings, which Python takes when it starts.
    encoding
        That what they print to a terminal then has.
    """

    def __init__(self, folder: Path, locale: dict[str, str], encoding: str) -> None:
        self.folder = folder
        self.locale = locale
        self.encoding = encoding
        self._home = folder / "home"
        self._home.mkdir(parents=True)
        cleared = ("LANG", "LANGUAGE", "LC_ALL", "PYTHONUTF8", "PYTHONIOENCODING")
        kept = {name: value for name, value in os.environ.items() if name not in cleared}
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            cwd=repository(),
            env={**kept, "OMP_NUM_THREADS": "1", "HOME": str(self._home), **locale},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: dict[str, str],
        umask: int = 0o022,
        user: int | None = None,
        output: str | None = None,
        within: float = LONGEST,
    ) -> Ended:
        """Run ``lprnet-nb`` to its end.

        Parameters
        ----------
        arguments
            Of the command line.
        cwd, env, umask, user
            Where it stands, its whole environment but the locale, its umask and user.
        output
            What standard output goes to, such as ``/dev/full``; it is caught by default.
        within
            Seconds after which it is killed.
        """
        streams = [output or str(self.folder / "output"), str(self.folder / "errors")]
        for path in streams:
            if not path.startswith("/dev"):
                Path(path).write_bytes(b"")
        order = {
            "arguments": [os.fsencode(each).hex() for each in arguments],
            "cwd": str(cwd),
            "env": {**env, **self.locale},
            "umask": umask,
            "user": user,
            "streams": streams,
            "within": within,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        status = json.loads(self._process.stdout.readline())
        output_ = Path(streams[0]).read_bytes() if output is None else b""
        return Ended(status, output_, Path(streams[1]).read_text(self.encoding, "replace"))

    def close(self) -> None:
        """End the process; what a command may have left running keeps its streams open."""
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Serve orders, one a line; the answer is the exit status."""
    from importlib import import_module

    for name in _LOADED if sys.flags.utf8_mode or sys.stdout.encoding == "utf-8" else _FEW:
        import_module(f"lprnet_nb.{name}")
    import_module("lprnet_nb.datasets.generate").generate_plates(1, 0, workers=0)
    # Another user may not be able to enter the folder of this Python, where archives and labels
    # find these.
    for encoding in ("cp437", "utf_16", "utf_16_le", "utf_16_be"):
        import_module(f"encodings.{encoding}")
    tempfile.tempdir = None
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin.buffer:
        order = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(order)
        print(json.dumps(_wait(pid, order["within"])), file=answers, flush=True)
    os._exit(0)  # to take apart all that was imported takes a second


def _wait(pid: int, within: float) -> int | None:
    end = time.monotonic() + within
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _become(order: dict[str, Any]) -> NoReturn:
    """Be the command; never returns."""
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with its parent
        for descriptor, path in zip((0, 1, 2), (os.devnull, *order["streams"])):
            os.dup2(os.open(path, os.O_RDWR if descriptor else os.O_RDONLY), descriptor)
        if order["user"] is not None:
            os.setgroups([])
            os.setgid(order["user"])
            os.setuid(order["user"])
        os.umask(order["umask"])
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        reload(sys.modules["lprnet_nb"])  # sets variables of its own
        nothing = open(0, "rb", closefd=False)  # noqa: SIM115, as long as the process lives
        sys.stdin = io.TextIOWrapper(nothing, sys.stdin.encoding)
        sys.stdout = _stream(1, sys.stdout.encoding, "strict")
        sys.stderr = _stream(2, sys.stderr.encoding, "backslashreplace")
        given = [os.fsdecode(bytes.fromhex(each)) for each in order["arguments"]]
        sys.argv = ["lprnet-nb", *given]
        status = _command()
    finally:
        os._exit(status)


def _stream(descriptor: int, encoding: str, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        open(descriptor, "wb", closefd=False), encoding, errors, line_buffering=descriptor == 2
    )


def _command() -> int:
    from lprnet_nb.cli import main as command

    status = 0
    try:
        command()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        status = 120  # as Python does
    atexit._run_exitfuncs()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    main()
