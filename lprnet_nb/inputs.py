"""Files that users bring: where they are looked for, how they are opened, and what text they hold.

Text comes from Windows, Excel and hand edits: with a byte-order mark, in UTF-8, or in GB18030, the
Chinese Windows' encoding (GBK and GB2312 are parts of it). Only regular files of bounded size are
opened, so that a FIFO or a device is an error and not an endless wait.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import files
from .errors import DataError, LprnetError
from .places import repository

LARGEST_TEXT = 128 << 20  # bytes; the labels of all of CCPD are a third of it

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# Characters of plates whose two bytes in GB18030 are UTF-8 too, of letters that no plate has.
_BOTH = frozenset("鲁豫学使".encode("gb18030").decode("utf8"))

_said: set[str] = set()


def note(message: str) -> None:
    """Tell the user, once in a process, what was taken otherwise than it was written.

    It goes to standard error: beside the results of a command, under the cell of a notebook.
    """
    if message not in _said:
        _said.add(message)
        print(
            "note:",
            "".join(c if c.isprintable() else repr(c)[1:-1] for c in message),
            file=sys.stderr,
            flush=True,
        )


def find_path(path: str | Path) -> Path:
    """A path as users mean it, absolute: from where they stand, else from the checkout.

    One that is in neither place is returned as it would be where they stand.
    """
    given = os.path.expanduser(path)
    here, there = Path(os.path.abspath(given)), repository() / given
    return there if not os.path.lexists(here) and os.path.lexists(there) else here


def missing(path: str | Path) -> str:
    """Says that a path is in neither place that `find_path` looks at: "… does not exist"."""
    given = os.path.expanduser(path)
    here, there = os.path.abspath(given), os.path.abspath(repository() / given)
    return f"{here} does not exist" + (f", nor does {there}" if there != here else "")


def read_bytes(
    path: str | Path, what: str, limit: int = LARGEST_TEXT, error: type[LprnetError] = DataError
) -> bytes:
    """Bytes of a regular file.

    Parameters
    ----------
    path
        The file, as `find_path` finds it.
    what
        What it is to the user, such as "label file", for the message.
    limit
        Largest size in bytes.
    error
        Class of the error.

    Raises
    ------
    error
        When it is missing, not a regular file, too large or unreadable.
    """
    try:
        return files.read_bytes(find_path(path), limit)
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise error(
            f"{what} {path} cannot be read: No such file; {missing(path)}. Check the path."
        ) from cause
    except OSError as cause:
        if cause.errno == errno.EFBIG:
            said = f"is larger than {limit >> 20} MiB. See whether it is the right file."
        elif find_path(path).is_dir():
            said = "is a folder, not a file. Name the file itself."
        elif cause.errno == errno.EINVAL:
            said = "is a device or pipe, not a file. Name the file itself."
        else:
            said = f"cannot be read: {cause.strerror}. Check the path and its permissions."
        raise error(f"{what} {path} {said}") from cause
    except ValueError as cause:  # a null character in the path
        raise error(f"{what} {str(path)!r} is not a possible path.") from cause


def read_text(path: str | Path, what: str, error: type[LprnetError] = DataError) -> str:
    """Text of a file in UTF-8, in Unicode with a byte-order mark, or in GB18030, which is noted.

    Raises
    ------
    error
        As `read_bytes`, and when it is none of these, naming the line.
    """
    text, encoding = decode_text(path, what, error)
    if encoding == "gb18030":
        note(f"{what} {path} is not UTF-8 and was taken as GB18030 (GBK).")
    return text


def decode_text(
    path: str | Path, what: str, error: type[LprnetError] = DataError
) -> tuple[str, str]:
    """As `read_text`, without the note: the text and its encoding."""
    raw = read_bytes(path, what, error=error)
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _decoded(raw[len(mark) :], encoding, path, what, error), encoding
    if b"\0" in raw:
        raise error(f"{what} {path} holds zero bytes, so it is not text. Save it as text in UTF-8.")
    try:
        text = raw.decode("utf8")
        if text.isascii() or not {c for c in set(text) if not c.isascii()} <= _BOTH:
            return text, "utf-8"
    except UnicodeDecodeError:
        # Damaged UTF-8 often passes for GB18030; but Chinese in GB18030 is rarely UTF-8 anywhere.
        shown = raw.decode("utf8", "replace")
        if sum("\u0800" <= c < "\ufffd" for c in shown) > shown.count("\ufffd"):
            return _decoded(raw, "utf-8", path, what, error), "utf-8"
    return _decoded(raw, "gb18030", path, what, error), "gb18030"


def _decoded(
    raw: bytes, encoding: str, path: str | Path, what: str, error: type[LprnetError]
) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as cause:
        line = raw.count(b"\n", 0, cause.start) + 1
        name = (
            "neither UTF-8 nor GB18030"
            if encoding == "gb18030"
            else f"damaged {encoding[:6].upper()}"
        )
        raise error(
            f"{what} {path}, line {line}: its characters are {name}. Save it as UTF-8."
        ) from cause


def read_json(
    path: str | Path,
    what: str,
    error: type[LprnetError] = DataError,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Value of a JSON file, read as `read_text` reads.

    Parameters
    ----------
    path, what, error
        As for `read_bytes`.
    pairs
        Makes the value of an object from its keys and values; a dict by default, and then a key
        that occurs twice is an error.

    Raises
    ------
    error
        As `read_text`, when it is not JSON, with the place, and when a text of it is none.
    """

    def unique(found: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in found:
            if key in values:
                raise error(f"{what} {path}: {key!r} occurs more than once. Remove the wrong one.")
            values[key] = value
        return values

    text = read_text(path, what, error)
    try:
        value = json.loads(text, object_pairs_hook=pairs or unique)
        if "\\u" in text:  # an escape can be half of a character
            json.dumps(value, ensure_ascii=False).encode("utf8")
        return value
    except UnicodeEncodeError as cause:
        half = cause.object[cause.start : cause.end]
        raise error(
            f"{what} {path} holds {half!r}, which is half of a character. Mend that place."
        ) from cause
    except json.JSONDecodeError as cause:
        raise error(
            f"{what} {path} is not JSON at line {cause.lineno}, column {cause.colno}. "
            "Mend that place."
        ) from cause
    except error:
        raise
    except (ValueError, RecursionError) as cause:  # a number of 5,000 digits, 100,000 brackets
        raise error(
            f"{what} {path} cannot be read as JSON: a number is too long, or it is "
            "nested too deeply."
        ) from cause
