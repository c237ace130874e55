"""Content-addressed artifacts: made once, never seen half-written, checked on every use.

An artifact is a folder named by the digest of everything that went into it. It is built in a
temporary sibling and appears by an atomic rename, so a run that is killed leaves either the whole
artifact or nothing that anyone will read.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from .errors import DataError, LprnetError

log = logging.getLogger(__name__)

_KEY_LENGTH = 20  # hex digits of the folder name: 80 bits, and legible in a log
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


def cache_dir() -> Path:
    """Folder of artifacts and tools: `LPRNET_CACHE`, else the user's cache folder."""
    named = os.environ.get("LPRNET_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("lprnet-nb"))


def repository() -> Path:
    """Root of the checkout that this package is installed from."""
    return Path(__file__).resolve().parent.parent


def data_dir() -> Path:
    """Folder of models and images: `LPRNET_DATA`, else `data/` of the checkout."""
    named = os.environ.get("LPRNET_DATA")
    return Path(named).expanduser() if named else repository() / "data"


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form (sorted keys, no spaces, UTF-8).

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf8")).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 over dtype, shape and bytes of arrays, as hex."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that readers see the old content or the new, never a part.

    Raises
    ------
    DataError
        When the folder cannot be written or the disk is full; the old file stays as it was.
    """
    path = Path(path)
    raw = data.encode("utf8") if isinstance(data, str) else data
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise DataError(
            f"cannot write {path}: {error.strerror}. Free some space or choose a "
            "folder that you may write to."
        ) from error
    return path


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock beside `path`; the kernel lets go of it when its holder dies.

    Raises
    ------
    DataError
        When the folder cannot be written or its file system has no locks.
    """
    # A soft lock, a file that merely exists, would outlive a killed process.
    lock = FileLock(f"{path}.lock", fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except NotImplementedError as error:
        raise DataError(
            f"the file system of {path.parent} has no locks, which {what} need. Name "
            "a cache folder on another one in LPRNET_CACHE."
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot use {path.parent} for {what}: {error.strerror or error}. "
            "Name a writable cache folder in LPRNET_CACHE."
        ) from error
    try:
        yield
    finally:
        lock.release()


def artifact(kind: str, inputs: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Return the folder of an artifact, building it first when it is not there.

    Parameters
    ----------
    kind
        First part of its place, such as ``"bmodel"``.
    inputs
        All that the result depends on, JSON-able. Its digest is the key.
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
    key = digest({"kind": kind, **inputs})[:_KEY_LENGTH]
    folder = cache_dir() / "artifacts" / kind / key
    if _intact(folder):
        return folder
    about_to_make(f"{kind} {key}", folder)
    with locked(folder, f"artifacts of kind {kind}"):
        if folder.exists():
            if _intact(folder):
                return folder
            _set_aside(folder)
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{key}."))
        try:
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
    folder = cache_dir() / "artifacts" / kind / digest({"kind": kind, **inputs})[:_KEY_LENGTH]
    return folder if _intact(folder) else None


def is_made_here(path: Path) -> bool:
    """Whether a file is one of the cache's artifacts, or a copy of one."""
    artifacts = cache_dir() / "artifacts"
    if path.resolve().is_relative_to(artifacts.resolve()):
        return True
    found = file_digest(path)
    for listed in artifacts.glob("*/*/files.json"):
        try:
            if found in json.loads(listed.read_text("utf8")).values():
                return True
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
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
    files = {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / "files.json").write_text(json.dumps(files, indent=1, ensure_ascii=False), "utf8")


def _intact(folder: Path) -> bool:
    try:
        files = json.loads((folder / "files.json").read_text("utf8"))
        return all(file_digest(folder / name) == value for name, value in files.items())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False


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
