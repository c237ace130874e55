"""Open every input and write every output.

Only regular files of bounded size are read: a FIFO would be waited for, a device has no end, a
sparse file of a terabyte takes all memory. What is written appears whole or not at all, unless the
user names a device, a FIFO or a descriptor of the shell's, which get the bytes as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import DataError
from .places import place_variable

LARGEST = 2 << 30  # bytes that are taken into memory: hundreds of times the largest of our files
LARGEST_IMAGE = 256 << 20  # bytes: more than OpenCV's 67 million pixels take in a BMP
LARGEST_DIGESTED = 64 << 30  # bytes that are only read through: CCPD as LMDB has a tenth of it

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux, for renameat2(2)
_STALE_SECONDS = 60.0  # from which on what nobody holds was left by a killed process
_PART = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part")  # name of a file that is being written
_OWNER = ".held"  # in a private folder, locked by the process whose it is
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
# First bytes of JPEG, PNG, BMP, WebP, TIFF, GIF, JPEG 2000, AVIF, PNM, Sun raster, HDR and EXR.
_PICTURES = (
    b"\xff\xd8",
    b"\x89PNG",
    b"BM",
    b"RIFF",
    b"II*\0",
    b"MM\0*",
    b"GIF8",
    b"\0\0\0\x0cjP",
    b"\xffO\xffQ",
    b"\0\0\0\x1cftyp",
    b"\0\0\0 ftyp",
    *(f"P{kind}".encode() for kind in "1234567fF"),
    b"Y\xa6j\x95",
    b"#?R",
    b"v/1\x01",
)
_swept: set[Path] = set()
_private: dict[int, Path] = {}


def read_bytes(path: str | Path, limit: int = LARGEST) -> bytes:
    """Bytes of a regular file.

    Parameters
    ----------
    path
        The file; links are followed.
    limit
        Most bytes that it may have.

    Raises
    ------
    OSError
        When it cannot be read, is not a regular file (EINVAL) or is larger (EFBIG); `strerror`
        says so in words.
    """
    with open_input(path, limit) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:  # it grew, or is of a file system that does not know its size
        raise _too_large(path, len(raw), limit)
    return raw


def read_picture(path: str | Path) -> bytes:
    """Bytes of a picture; what does not begin as one is not read.

    Raises
    ------
    OSError
        As `read_bytes`, and when it begins as no kind of picture that OpenCV reads (EINVAL).
    """
    with open_input(path, LARGEST_IMAGE) as file:
        start = file.read(16)
        if not start.startswith(_PICTURES):
            raise OSError(errno.EINVAL, "it does not begin as a picture does", str(path))
        return start + file.read(LARGEST_IMAGE)


@contextlib.contextmanager
def open_input(path: str | Path, limit: int = LARGEST_DIGESTED) -> Iterator[io.BufferedReader]:
    """A regular file, open to be read in parts; see `read_bytes`."""
    # Without O_NONBLOCK, opening a FIFO waits for somebody to write into it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(handle, "rb") as file:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no file")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
        if state.st_size > limit:
            raise _too_large(path, state.st_size, limit)
        yield file


def _too_large(path: str | Path, size: int, limit: int) -> OSError:
    return OSError(
        errno.EFBIG,
        f"it has {size:,} bytes, and at most {limit:,} are read of such a file",
        str(path),
    )


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that readers see the old content or the new, never a part.

    A new file gets the permissions that the umask leaves, an old one keeps its own. A link stays
    one: what it leads to is written. Devices, FIFOs and descriptors (``/dev/stdout``,
    ``/dev/fd/63``) get the bytes themselves. Text is written in UTF-8.

    Raises
    ------
    DataError
        When the folder cannot be written or the disk is full; the old file stays as it was.
    """
    raw = data.encode("utf8") if isinstance(data, str) else data
    return write_whole(path, lambda file: file.write(raw))


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> Path:
    """As `atomic_write`, for content that is written by a function into an open binary file."""
    path = Path(path)
    try:
        own = _own_descriptor(path)
        if own is not None or _is_special(path):
            # Opened anew, a descriptor would write at a place of its own.
            handle = os.open(path, os.O_WRONLY | os.O_NOCTTY) if own is None else os.dup(own)
            with os.fdopen(handle, "wb") as file:
                write(file)
        else:
            _replace(Path(os.path.realpath(path)), write)
    except OSError as error:
        raise _unwritable(path, error) from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"cannot write {str(path)!a}: this locale ({sys.getfilesystemencoding()}) has no such "
            "characters for a file's name. Set LC_ALL=C.UTF-8."
        ) from error
    return path


def check_writable(path: Path) -> None:
    """Raise, before work whose result a file is to get, if it cannot be written.

    Raises
    ------
    DataError
        When `path` is a folder, or its folder cannot be made or written.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
        if not _is_special(path):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> DataError:
    variable = place_variable(path)
    return DataError(
        f"cannot write {path}: {error.strerror or error}. Free some space or choose a "
        f"folder that you may write to{f', in {variable}' if variable else ''}."
    )


def _is_special(path: Path) -> bool:
    """Whether something is there that is no file to be replaced."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # not there yet, or a link that leads nowhere yet
        return False


def _own_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as ``/dev/stdout`` stands for."""
    for _ in range(40):
        if os.path.realpath(path.parent) in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(path.name) if path.name.isdecimal() else None
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_parts(path.parent)
    # A long name leaves no room for what is added; the part's own may be cut.
    short = os.fsencode(path.name)[:200].decode("utf8", "ignore")
    part = path.parent / f".{short}.{secrets.token_hex(6)}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _take_over(path, handle)
            write(file)
            file.flush()
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _take_over(path: Path, handle: int) -> None:
    """Give an open file the mode of the one that it is to replace, and its owner where possible."""
    try:
        old = path.stat()
    except OSError:
        return
    mine = os.fstat(handle)
    if (old.st_uid, old.st_gid) != (mine.st_uid, mine.st_gid):
        with contextlib.suppress(OSError):
            os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, stat.S_IMODE(old.st_mode))


def _sweep_parts(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing, once for each folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_unheld(Path(entry.path), Path(entry.path))


def _remove_unheld(held: Path, what: Path) -> None:
    """Remove a file or folder that has some age and whose lock nobody holds."""
    with contextlib.suppress(OSError):
        # By the distance, as the clock may have been set back since.
        if abs(time.time() - held.lstat().st_mtime) < _STALE_SECONDS:
            return
        handle = os.open(held, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(what) if what.is_dir() else what.unlink()
        finally:
            os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, writable by nobody else whatever the umask is."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=0o755, exist_ok=True)


def swap_folders(new: Path, place: Path) -> None:
    """Put a folder in the place of another, which is then where the first one was, in one step.

    Where nothing is at `place`, the folder is moved there. On a system that cannot exchange two
    folders, there is none at `place` for a moment.
    """
    if not place.exists():
        os.rename(new, place)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    paths = os.fsencode(new), os.fsencode(place)
    if exchange and exchange(_HERE, paths[0], _HERE, paths[1], _EXCHANGE) == 0:
        return
    aside = place.with_name(f".{place.name}.{secrets.token_hex(6)}")
    os.rename(place, aside)
    os.rename(new, place)
    os.rename(aside, new)


def keep_from_others(folder: Path) -> None:
    """Take from everybody else the right to write to a folder and to what it holds."""
    for place, folders, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in (*folders, *names))):
            mode = os.lstat(path).st_mode
            if mode & 0o022 and not stat.S_ISLNK(mode):
                os.chmod(path, stat.S_IMODE(mode) & ~0o022)


def private_folder() -> Path:
    """A folder of this process that nobody else may enter; it goes when the process ends.

    What killed processes left of theirs goes with the next one that is made.
    """
    if os.getpid() not in _private:
        start = f"lprnet-{os.getuid()}-"
        for left in Path(tempfile.gettempdir()).glob(f"{start}*"):
            with contextlib.suppress(FileNotFoundError):  # another process has removed it just now
                if left.lstat().st_uid == os.getuid():
                    _remove_unheld(left / _OWNER, left)
        folder = Path(tempfile.mkdtemp(prefix=start))
        holder = open(folder / _OWNER, "wb")  # noqa: SIM115, held as long as the process lives
        fcntl.flock(holder, fcntl.LOCK_EX)
        weakref.finalize(holder, _leave, folder, os.getpid())
        _private[os.getpid()] = folder
        _holders.append(holder)
    return _private[os.getpid()]


_holders: list[BinaryIO] = []


def _leave(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)
