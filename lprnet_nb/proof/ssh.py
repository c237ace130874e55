"""Run a kit on a box over ssh: copy what is missing there, run it, fetch what it found.

The system's own ``ssh`` is used with the user's keys, agent and configuration; nothing of these is
read or stored here. A connection that drops is made again, and the kit's ``run.py`` goes on with
the jobs that are left.
"""

from __future__ import annotations

import io
import re
import secrets
import shlex
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .. import children
from ..errors import DataError, EngineError, ParameterError
from ..files import atomic_write, private_folder
from ..measure.box import read_results
from .kit import Kit, kit_digest, read_kit

DROPPED = 255  # exit status of ssh itself, against that of the command over there
TRIES = 5
_LARGEST = 256 << 20  # bytes of results; a plate's logits take 6 KiB where they differ
_WAIT = 3.0  # seconds before the second try, doubled for each that follows
_Found = TypeVar("_Found")


def run_over_ssh(
    host: str,
    folder: str | Path,
    output: str | Path | None = None,
    *,
    ssh: str = "ssh",
    python: str = "python3",
    options: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Path:
    """Copy a kit to a box, run it there and fetch ``results.json``.

    Parameters
    ----------
    host
        As ``ssh`` takes it: ``user@box`` or a name of its configuration.
    folder
        The kit. On the box it lies in ``lprnet-kit-<digest>`` of the home folder, and stays there.
    output
        Results file; ``results.json`` in the kit by default.
    ssh
        The command, with options of one's own: ``"ssh -p 2222 -i key"``.
    python
        Python on the box that has numpy and sail, perhaps with variables before it
        (``"env PYTHONPATH=... python3"``).
    options
        Of ``run.py``.
    report
        Takes each line of progress.

    Returns
    -------
    Path
        The results file.

    Raises
    ------
    ParameterError
        For a host that ssh would take for an option.
    DataError
        When the folder is no kit, or what came back is not of this kit.
    EngineError
        When ssh cannot reach the box, or ``run.py`` cannot run there; it says why.
    """
    folder = Path(folder)
    kit, identity = read_kit(folder), kit_digest(folder)
    box = _Box(host, _words(ssh, "ssh"), f"lprnet-kit-{identity[:16]}", report)
    program = [*_words(python, "python"), "run.py"]
    box.retry(lambda: box.copy(kit, folder))
    # Results that were finished while the connection was down are of this session, and count.
    session = secrets.token_hex(8)
    code = box.retry(lambda: box.follow([*program, "--session", session, *options]))
    if code not in (0, 1):  # 1: some jobs failed, and the results say which
        raise EngineError(f"run.py on {host} ended with status {code}: {box.last}")
    raw = box.retry(lambda: box.ask(["head", "-c", str(_LARGEST), "results.json"]))
    with tempfile.TemporaryDirectory(prefix="results-", dir=private_folder()) as fetched:
        # Looked at first: what an earlier run has found is not replaced by anything else.
        path = atomic_write(Path(fetched) / "results.json", raw)
        try:
            results = read_results(path)
        except DataError as error:
            said = str(error).replace(str(path), "results.json")
            raise DataError(f"{host} sent other things than results: {said}") from error
    if results.kit != identity:
        raise DataError(f"{host} sent results of the kit {results.kit[:16]}, not {identity[:16]}.")
    return atomic_write(output or folder / "results.json", raw)


def _words(command: str, what: str) -> list[str]:
    """A command and its options, as a shell would part them."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ParameterError(f"--{what} {command!r}: {error}. Mend its quotes.") from error
    if not words:
        raise ParameterError(f"--{what} is empty. Name a program.")
    return words


class _Dropped(Exception):
    """The connection did not hold."""


class _Box:
    """One folder on one machine, reached by ssh."""

    def __init__(
        self, host: str, ssh: list[str], place: str, report: Callable[[str], None]
    ) -> None:
        if not re.fullmatch(r"[^\s-]\S*", host):
            raise ParameterError(f"{host!r} is no host. Name one as ssh takes it: user@box.")
        self.host, self.place, self.report = host, place, report
        # ssh notices by itself when nothing comes any more.
        alive = ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        self.command = [*ssh, "-T", *alive, "--", host]
        self.last = ""

    def retry(self, act: Callable[[], _Found]) -> _Found:
        wait = _WAIT
        for number in range(TRIES):
            try:
                return act()
            except _Dropped:
                if number + 1 == TRIES:
                    break
                self.report(f"{self.host} is not reached ({self.last}); again in {wait:g} s")
                time.sleep(wait)
                wait *= 2
        raise EngineError(
            f"{self.host} was not reached in {TRIES} tries: {self.last}. Try `ssh {self.host}`, "
            "then run the same command again: it goes on."
        )

    def copy(self, kit: Kit, folder: Path) -> None:
        """Send the files that are not there with the right SHA-256; kit.json comes last."""
        files = {**kit.files, "kit.json": kit_digest(folder)}
        # A list in a file: names need no quoting, and a command line has an end.
        listed = "".join(f"{digest}  {name}\n" for name, digest in files.items())
        script = "sha256sum --check --quiet 2>/dev/null | sed -n 's/: FAILED.*$//p'"
        failed = self.ask(["sh", "-c", script], listed.encode("utf8")).decode("utf8").splitlines()
        missing = [name for name in files if name in set(failed)]
        if not missing:
            self.report(f"{self.host}:{self.place} has the kit")
            return
        size = sum((folder / name).stat().st_size for name in missing)
        self.report(
            f"copying {len(missing)} of {len(files)} files, {size / 1e6:.1f} MB, to "
            f"{self.host}:{self.place}"
        )
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
            for name in missing:
                archive.add(folder / name, name, filter=_plain)
        self.ask(["tar", "-xzf", "-"], packed.getvalue())

    def ask(self, command: Sequence[str], given: bytes = b"") -> bytes:
        """Run a command in the folder over there and return what it printed."""
        whole = [*self.command, self._there(command)]
        with _start(whole, stdin=children.PIPE, stderr=children.PIPE) as process:
            try:
                printed, errors = process.communicate(given)
            except BaseException:
                process.kill()
                raise
        self.last = errors.decode("utf8", "replace").strip()[-300:] or "no reason given"
        if process.returncode == DROPPED:
            raise _Dropped
        if process.returncode:
            raise EngineError(f"{command[0]} on {self.host} failed: {self.last}")
        return printed

    def follow(self, command: Sequence[str]) -> int:
        """Run a command over there, reporting each line that it prints; returns its status."""
        with _start([*self.command, self._there(command)], stderr=children.STDOUT) as process:
            assert process.stdout is not None  # `_start` pipes it
            try:
                for line in io.TextIOWrapper(process.stdout, "utf8", "replace"):
                    self.last = line.strip() or self.last
                    self.report(line.rstrip("\n"))
            except BaseException:
                process.kill()
                raise
        if process.returncode == DROPPED:
            raise _Dropped
        return process.returncode

    def _there(self, command: Sequence[str]) -> str:
        """In a login shell: SDKs put their paths into /etc/profile.d."""
        place = shlex.quote(self.place)
        inside = f"mkdir -p {place} && cd {place} && exec {shlex.join(command)}"
        return f"bash -lc {shlex.quote(inside)}"


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without our user's name and number."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _start(command: Sequence[str], **streams: Any) -> children.Child:
    """Where the user stands, who may name a key from there and may be asked for its phrase."""
    try:
        return children.start(
            command,
            cwd=Path.cwd(),
            supervisor=None,
            terminal=True,
            stdout=children.PIPE,
            **streams,
        )
    except FileNotFoundError as error:
        raise EngineError(f"{command[0]} is not installed: {error.strerror}.") from error
    except OSError as error:
        raise EngineError(f"{command[0]} cannot be started: {error.strerror}.") from error
