"""Content-addressed artifacts: made once, never seen half-written, checked on every use.

An artifact is a folder named by the digest of everything that went into it. It is built in a
temporary sibling and appears by an atomic rename, so a run that is killed leaves either the whole
artifact or nothing that anyone will read.

Some artifacts are code: a kernel library, a trace, a BModel. They are taken from the cache only
where nobody but the user and root could have put them there, see `is_trusted`; elsewhere they are
made for this run alone.
"""

from __future__ import annotations

import contextlib
import contextvars
import grp
import hashlib
import json
import logging
import os
import pwd
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from .errors import DataError, LprnetError
from .files import keep_from_others, make_folder, open_input, private_folder, read_bytes
from .places import cache_dir, place_variable
from .settings import settings, variable
from .sources import code_digest

log = logging.getLogger(__name__)

CODE = frozenset(  # kinds of artifacts that are run as they are
    {"bmodel", "contract-kit", "emulator-kernels", "nntc-bmodel", "nntc-umodel", "shim", "trace"}
)
PRIVATE_VARIABLE = variable("private_code")  # tells children where this run's own code is
_LARGEST_LIST = 64 << 20  # bytes of a list of files
_KEY_LENGTH = 20  # hex digits of the folder name: 80 bits, and legible in a log
_NOBODY = 65534  # owner of what belongs to users that a user namespace does not know
_SETTLED_NS = 1_000_000_000  # age of a file from which on a change of it shows in its times
_PATIENCE = 1.0  # seconds after which it is said that a lock is waited for
_looking = contextvars.ContextVar("looking", default=False)


class NotMade(LprnetError):
    """What was asked for is not there, and nothing was to be made (`nothing_made`).

    Parameters
    ----------
    what
        What is missing.
    running
        Whether some process is making it at this moment.
    """

    def __init__(self, what: str, running: bool) -> None:
        super().__init__(f"{what} is not made yet.")
        self.running = running


@contextlib.contextmanager
def nothing_made() -> Iterator[None]:
    """Inside, what is there is found and what is not raises `NotMade`; nothing is built.

    So the code that does the work also says what is left of it.
    """
    before = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(before)


def about_to_make(what: str, folder: Path) -> None:
    """Called before anything is made in `folder`, under its lock: raises inside `nothing_made`.

    Raises
    ------
    NotMade
        Inside `nothing_made`.
    """
    if _looking.get():
        raise NotMade(what, _is_locked(folder))


def _is_locked(folder: Path) -> bool:
    if not Path(f"{folder}.lock").exists():
        return False
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # of another user's, in a cache that is only read
        return False


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form (sorted keys, no spaces, UTF-8).

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf8")).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a regular file's bytes, as hex; read once in a process while it stays the same.

    Raises
    ------
    OSError
        When it cannot be read, is not a regular file, or has no end to speak of.
    """
    with open_input(path) as file:
        state = os.fstat(file.fileno())
        same = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        known = _digests.get(same)
        if known is None:
            known = hashlib.file_digest(file, "sha256").hexdigest()
            # Two changes within one tick of the file system's clock leave the same times.
            if abs(time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns)) > _SETTLED_NS:
                _digests[same] = known
    return known


_digests: dict[tuple[int, ...], str] = {}


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes of arrays, as hex."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


@contextlib.contextmanager
def locked(path: Path, what: str, say: Callable[[str], None] = log.info) -> Iterator[None]:
    """Hold the lock beside `path`; the kernel lets go of it when its holder dies.

    Parameters
    ----------
    path
        What the lock is of.
    what
        What it is to the user, such as "this report".
    say
        Called with a sentence when another process holds it and is waited for.

    Raises
    ------
    DataError
        When the folder cannot be written or its file system has no locks.
    """
    # A soft lock, a file that merely exists, would outlive a killed process.
    lock = FileLock(f"{path}.lock", fallback_to_soft=False)
    try:
        make_folder(path.parent)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            say(f"waiting for another process that works on {what} ({path}) …")
            lock.acquire()
    except NotImplementedError as error:
        raise DataError(
            f"the file system of {path.parent} has no locks, which {what} need. Name "
            f"a folder on another one in {place_variable(path) or 'LPRNET_CACHE'}."
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot use {path.parent} for {what}: {error.strerror or error}"
            f"{_whose(path.parent)}. Name a folder of your own that you may write to in "
            f"{place_variable(path) or 'LPRNET_CACHE'}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _whose(folder: Path) -> str:
    """Says whose a folder is, where it is another user's."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    try:
        owner = there.stat().st_uid
        if owner == os.getuid():
            return ""
        return f"; {there} belongs to {pwd.getpwuid(owner).pw_name}"
    except (OSError, KeyError):
        return ""


def is_trusted(path: Path) -> bool:
    """Whether nobody but the user and root can have written what lies at `path`.

    It, what it holds if it is a folder, and all folders above it belong to the user or to root, and
    nobody else may write to them; a parent in which everybody may write is fine where each may
    touch only his own (``/tmp``). Of what is not there yet, the folders that are there count.
    """
    return not untrusted_part(path)


def untrusted_part(path: Path, *, inside: bool = True) -> str:
    """The first thing that makes `path` untrusted, see `is_trusted`; "" for none.

    Without `inside`, what a folder holds is not looked at.
    """
    path = Path(os.path.abspath(path))
    for place in (path, *path.parents, *Path(os.path.realpath(path)).parents):
        try:
            state = place.lstat()
        except OSError:
            continue
        own_only = bool(state.st_mode & stat.S_ISVTX) and place != path
        why = _open_to_others(state, own_only)
        if why:
            return f"{place} {why}"
    for folder, folders, files in os.walk(path) if inside else ():
        for name in (*folders, *files):
            try:
                why = _open_to_others(os.lstat(os.path.join(folder, name)), False)
            except OSError:
                continue
            if why:
                return f"{folder}/{name} {why}"
    return ""


def _open_to_others(state: os.stat_result, own_only: bool) -> str:
    if state.st_uid not in (0, os.geteuid()) and not (
        state.st_uid == _NOBODY and _in_user_namespace()
    ):
        return "belongs to another user"
    if own_only or stat.S_ISLNK(state.st_mode):
        return ""
    if state.st_mode & stat.S_IWOTH:
        return "may be written by everybody"
    if state.st_mode & stat.S_IWGRP and not _is_own_group(state.st_gid):
        return "may be written by a group"
    return ""


def _is_own_group(gid: int) -> bool:
    """Whether a group is root's or the user's alone, as many systems make one for each user."""
    if gid == 0:
        return True
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    own = group.gr_gid == user.pw_gid and group.gr_name == user.pw_name
    return own and set(group.gr_mem) <= {user.pw_name}


def _in_user_namespace() -> bool:
    try:
        words = Path("/proc/self/uid_map").read_text("ascii").split()
    except OSError:
        return False
    return words != ["0", "0", "4294967295"]


def _folder(kind: str, inputs: dict[str, Any]) -> Path:
    """Where an artifact is or will be: in the cache, or private where that is not to be trusted."""
    key = digest({"kind": kind, "code": code_digest(kind), **inputs})[:_KEY_LENGTH]
    folder = cache_dir() / "artifacts" / kind / key
    if kind in CODE:
        why = untrusted_part(folder)
        if why:
            return _private_code(why) / kind / key
    return folder


def _private_code(why: str) -> Path:
    """Folder for code of this run: of this process, or of the one that started it."""
    named = settings().private_code
    if named and Path(named).is_dir() and is_trusted(Path(named)):
        return Path(named)
    folder = private_folder() / "code"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ[PRIVATE_VARIABLE] = str(folder)
    log.warning(
        "%s, so no code is run from that cache: kernels, traces and BModels are made again, for "
        "this run alone. Take that right away (chmod), or name a folder of your own in "
        "LPRNET_CACHE; see docs/security.md.",
        why,
    )
    return folder


def artifact(kind: str, inputs: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Return the folder of an artifact, building it first when it is not there.

    Parameters
    ----------
    kind
        First part of its place, such as ``"bmodel"``.
    inputs
        All that the result depends on besides the package's code (see `sources`), JSON-able. The
        key is a digest of both. Where the digest of `inputs` is handed on as the identity of what
        was made, they hold ``code_digest(kind)`` themselves.
    build
        Called with an empty temporary folder, which it fills.

    Returns
    -------
    Path
        The finished folder: what `build` wrote, `inputs.json` and `files.json` (SHA-256 by name).

    Raises
    ------
    DataError
        When the cache folder cannot be written. Errors of `build` pass through; what it had written
        is removed.
    NotMade
        Inside `nothing_made`, when it is not there.

    Notes
    -----
    Two processes that want the same artifact build it once: the second waits on the lock. Every use
    checks the files against their digests; an altered artifact is set aside and built again.
    """
    folder = _folder(kind, inputs)
    if _intact(folder):
        return folder
    about_to_make(f"{kind} {folder.name}", folder)
    with locked(folder, f"artifacts of kind {kind}"):
        if folder.exists():
            if _intact(folder):
                return folder
            _set_aside(folder)
        _sweep(folder)
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
        try:
            temporary.mkdir(mode=0o700)
            build(temporary)
            _seal(temporary, inputs)
            os.rename(temporary, folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, LprnetError):
                raise
            raise DataError(
                f"cannot make {kind} in {folder.parent}: {error}. Finished work is "
                "kept; mend that and run the same command again."
            ) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return folder


def find_artifact(kind: str, inputs: dict[str, Any]) -> Path | None:
    """Folder of an artifact if it is there and intact, else None; builds nothing."""
    folder = _folder(kind, inputs)
    return folder if _intact(folder) else None


def is_made_here(path: Path) -> bool:
    """Whether a file is one of the cache's artifacts, or a copy of one.

    What others could have put into the cache was not made here.
    """
    found = None
    named = settings().private_code
    for artifacts in (cache_dir() / "artifacts", *([Path(named)] if named else [])):
        if path.resolve().is_relative_to(artifacts.resolve()):
            return is_trusted(path)
        found = found or file_digest(path)
        for listed in artifacts.glob("*/*/files.json"):
            if found in _listed(listed.parent).values() and is_trusted(listed.parent):
                return True
    return False


def pack_artifact(folder: Path) -> dict[str, bytes]:
    """All files of an artifact by name, to be sent to another machine's cache."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def adopt_artifact(folder: Path, files: dict[str, bytes]) -> None:
    """Put an artifact of another machine's cache into this one's, unless it is there.

    Raises
    ------
    DataError
        When a name leads out of the folder or is none that a file can have, a file differs from
        its digest, or the cache folder cannot be written.
    """
    if _intact(folder):
        return
    with locked(folder, "artifacts of other machines"):
        if _intact(folder):
            return
        if folder.exists():
            _set_aside(folder)
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            for name, data in files.items():
                target = (temporary / name).resolve()
                if not target.is_relative_to(temporary.resolve()):
                    raise DataError(
                        f"an artifact sent here names a file {name!r}, which leads out "
                        "of its folder. It is refused."
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            if not _intact(temporary):
                raise DataError(
                    f"artifact {folder.name} arrived damaged. Run the same command again."
                )
            keep_from_others(temporary)
            os.rename(temporary, folder)
        except (OSError, ValueError) as error:  # a name may be empty, too long, or no text at all
            if isinstance(error, LprnetError):
                raise
            raise DataError(
                f"artifact {folder.name}, sent here, cannot be written in {folder.parent}: "
                f"{error}. Mend that and run the same command again."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _seal(folder: Path, inputs: dict[str, Any]) -> None:
    (folder / "inputs.json").write_text(
        json.dumps(inputs, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf8"
    )
    files = {name: file_digest(folder / name) for name in files_below(folder)}
    (folder / "files.json").write_text(json.dumps(files, indent=1, ensure_ascii=False), "utf8")
    keep_from_others(folder)


def files_below(folder: Path) -> list[str]:
    """Names of all that a folder holds but folders, with their places in it, sorted."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, folders, names in os.walk(folder)
        # A link to a folder is not walked into, and is listed among the folders.
        for name in (*names, *(f for f in folders if os.path.islink(os.path.join(place, f))))
    )


def _intact(folder: Path) -> bool:
    """Whether a folder holds what its list says, and nothing besides."""
    files = _listed(folder)
    try:
        return (
            "inputs.json" in files
            and sorted((*files, "files.json")) == files_below(folder)
            and all(file_digest(folder / name) == value for name, value in files.items())
        )
    except OSError:
        return False


def _listed(folder: Path) -> dict[str, str]:
    """What an artifact's list says: SHA-256 by name; nothing where there is no such list."""
    try:
        files = json.loads(read_bytes(folder / "files.json", _LARGEST_LIST))
    except (OSError, ValueError, RecursionError):
        return {}
    return files if isinstance(files, dict) else {}


def _set_aside(folder: Path) -> None:
    grave = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".altered-{folder.name}."))
    os.rename(folder, grave / folder.name)
    log.warning(
        "%s was altered after it was made; it is set aside in %s and made again.", folder, grave
    )


def _sweep(folder: Path) -> None:
    """Remove what a killed build of the same key left; its lock is ours now."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
