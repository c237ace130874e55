"""Run a vendor tool: own folder, output to a log, killed with us, errors with the log's end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..cache import cache_dir
from ..errors import ToolchainError

LOG_TAIL_LINES = 15
GONE_SECONDS = 2.0  # that killed processes are given to be gone

# Stands between us and the tool, in a process group of the tool's own. When we are gone, however
# that came, it ends the whole group: the tools start others, which a signal to the tool alone would
# leave behind. PR_SET_PDEATHSIG (1) ends the tool when this supervisor is ended instead.
_SUPERVISOR = """
import ctypes, os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
child = os.fork()
if not child:
    ctypes.CDLL(None).prctl(1, 9)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    try:
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        print(error, file=sys.stderr)
        os._exit(127)
while os.getppid() == parent:
    signal.sigtimedwait([signal.SIGCHLD], 0.5)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
            os.kill(os.getpid(), -code)
        os._exit(code)
os.killpg(0, signal.SIGKILL)
"""

_running: set[subprocess.Popen] = set()


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Last meaningful lines of a log, progress bars left out."""
    try:
        text = log.read_text("utf8", errors="replace")
    except OSError:
        return "(no log)"
    useful = [
        line.rstrip()[:300]
        for line in re.split(r"[\r\n]+", text)
        if line.strip() and not re.search(r"\d+%\|", line)
    ]
    return "\n".join(useful[-lines:])


def own_words(log: Path) -> str:
    """What a tool says of a failure in its log, stack dumps and traces left out; "" for nothing."""
    try:
        lines = log.read_text("utf8", errors="replace").splitlines()
    except OSError:
        return ""
    said = [
        line.strip()
        for line in lines
        if re.search(r"unimplemented|not support|assertion|\berror: ", line, re.IGNORECASE)
    ]
    return said[-1][:300] if said else ""


@contextlib.contextmanager
def kept_log(folder: Path, name: str) -> Iterator[Path]:
    """A log that outlives a failure: below ``<cache>/logs/`` until all is well, then in `folder`.

    An artifact's folder is removed when its build fails; the log, whose path the error tells, is
    not.
    """
    log = cache_dir() / "logs" / f"{folder.parent.name}-{folder.name.strip('.')}-{name}"
    log.parent.mkdir(parents=True, exist_ok=True)
    yield log
    shutil.move(log, folder / name)


def run_logged(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    env: dict[str, str],
    python: str,
    timeout: float,
    what: str,
) -> None:
    """Run a command to its end.

    Parameters
    ----------
    command
        Program and arguments.
    cwd
        Folder for the many files that the tools leave.
    log
        File that gets standard output and error, appended.
    env
        The whole environment.
    python
        A Python that starts the command; it arranges that the command dies with this process.
    timeout
        Seconds until it is killed, with everything it started.
    what
        What is being done, for the error.

    Raises
    ------
    ToolchainError
        With the end of the log and its path, when the command fails or runs out of time.
    """
    with open(log, "ab") as output:
        output.write(("$ " + " ".join(command) + "\n").encode())
        output.flush()
        process = subprocess.Popen(
            [python, "-c", _SUPERVISOR, str(os.getpid()), *command],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _running.add(process)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise ToolchainError(
                f"{what} did not end within {timeout:.0f} s. Log: {log}\n{log_tail(log)}"
            ) from None
        except BaseException:
            _kill_group(process)
            raise
        finally:
            _running.discard(process)
    if code != 0:
        _kill_group(process)
        reason = f"was ended by signal {-code}" if code < 0 else f"failed with exit status {code}"
        raise ToolchainError(f"{what} {reason}. The end of its log ({log}):\n{log_tail(log)}")


def stop_tools() -> None:
    """End the tools that other threads of this process run; each of their calls then fails."""
    for process in [*_running]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + GONE_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
