"""Run a vendor tool: own folder, output to a log, killed with us, errors with the log's end."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..children import finish, start
from ..errors import ToolchainError
from ..files import make_folder
from ..places import cache_dir

LOG_TAIL_LINES = 15


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
    make_folder(log.parent)
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
        output.write(("$ " + " ".join(command) + "\n").encode(errors="surrogateescape"))
        output.flush()
        process = start(command, cwd=cwd, env=env, supervisor=python, stdout=output, stderr=output)
        try:
            code = finish(process, timeout)
        except TimeoutError:
            raise ToolchainError(
                f"{what} did not end within {timeout:.0f} s. Log: {log}\n{log_tail(log)}"
            ) from None
    if code != 0:
        reason = f"was ended by signal {-code}" if code < 0 else f"failed with exit status {code}"
        raise ToolchainError(f"{what} {reason}. The end of its log ({log}):\n{log_tail(log)}")
