"""The LMDB data set that TPU-NNTC calibrates with, byte for byte as the vendor's `ufwio` writes it.

Each entry is a protobuf message ``Datum`` of one preprocessed array, under the key
``0000000000__ `` (ten digits, two underscores, a name or a space). The message has the fields
``label`` (5, optional), ``float_data`` (6, repeated float, not packed), ``shape`` (8, a message
whose field 1 holds the packed dimensions) and ``dtype`` (9, 0 for float32); they are encoded here
by hand, since the vendor's package needs a protobuf of 2021.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np

from .. import files
from ..cache import digest, file_digest
from ..errors import DataError, ParameterError
from ..files import LARGEST_IMAGE, atomic_write
from ..inputs import note, read_bytes
from .images import HEIGHT, PUBLISHED_INPUT, WIDTH, decode_image, image_files, image_folder

MAP_SIZE = 20_000_000  # bytes at first, as in ufwio; doubled when full
QUEUE = 100  # entries per transaction, as in ufwio
RECORD = "conversion.json"  # beside data.mdb: what it was made of, to go on where it stopped

_FLOAT_TAG, _SHAPE_TAG, _DIM_TAG, _DTYPE_TAG, _LABEL_TAG = 0x35, 0x42, 0x0A, 0x48, 0x28
_ENTRY = np.dtype([("tag", "u1"), ("value", "<f4")])


def encode_datum(array: np.ndarray) -> bytes:
    """A float32 array as a serialized ``Datum``.

    Raises
    ------
    ParameterError
        For another dtype: TPU-NNTC calibrates on float32.
    """
    if array.dtype != np.float32:
        raise ParameterError(
            f"an entry is {array.dtype}, TPU-NNTC calibrates on float32. "
            "Preprocess the image first."
        )
    entries = np.empty(array.size, _ENTRY)
    entries["tag"], entries["value"] = _FLOAT_TAG, array.ravel()
    dims = b"".join(_varint(size) for size in array.shape)
    inner = bytes([_DIM_TAG]) + _varint(len(dims)) + dims
    return (
        entries.tobytes()
        + bytes([_SHAPE_TAG])
        + _varint(len(inner))
        + inner
        + bytes([_DTYPE_TAG, 0])
    )


def decode_datum(raw: bytes, where: str = "entry") -> np.ndarray:
    """The float32 array of a serialized ``Datum``.

    Raises
    ------
    DataError
        When the message is not a float32 ``Datum``.
    """
    try:
        at, shape, dtype, values = 0, None, None, np.empty(0, np.float32)
        while at < len(raw):
            tag = raw[at]
            if tag == _FLOAT_TAG:
                tags = np.frombuffer(raw, np.uint8, offset=at)[:: _ENTRY.itemsize]
                other = np.flatnonzero(tags != _FLOAT_TAG)
                count = int(other[0]) if other.size else len(tags)
                values = np.frombuffer(raw, _ENTRY, count, at)["value"].copy()
                at += count * _ENTRY.itemsize
            elif tag == _SHAPE_TAG:
                length, at = _read_varint(raw, at + 1)
                shape, at = _read_shape(raw[at : at + length]), at + length
            elif tag in (_DTYPE_TAG, _LABEL_TAG):
                value, at = _read_varint(raw, at + 1)
                dtype = value if tag == _DTYPE_TAG else dtype
            else:
                raise ValueError(f"field tag {tag:#x}")
        if dtype != 0 or shape is None:
            raise ValueError("dtype is not float32, or there is no shape")
        return values.reshape(shape)
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{where} is not a float32 array as ufwio writes them ({error}). Make the "
            "data set again."
        ) from error


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _read_shape(raw: bytes) -> tuple[int, ...]:
    if raw[0] != _DIM_TAG:
        raise ValueError("shape is not packed")
    _, at = _read_varint(raw, 1)
    shape = []
    while at < len(raw):
        size, at = _read_varint(raw, at)
        shape.append(size)
    return tuple(shape)


def key_of(index: int, name: str = "") -> bytes:
    """Key of an entry, as ufwio forms it."""
    return f"{index:0>10d}__{name:1}".encode()


def write_lmdb(arrays: Iterable[np.ndarray], folder: str | Path) -> int:
    """Append arrays to a data set, making it first where there is none.

    Parameters
    ----------
    arrays
        float32, such as ``[1, 3, 24, 94]``; taken one by one, committed by the hundred.
    folder
        Gets ``data.mdb``.

    Returns
    -------
    int
        Entries that the data set has now.

    Raises
    ------
    DataError
        When the folder cannot be written or the disk is full; what was committed stays.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lmdb.open(str(folder), map_size=MAP_SIZE, lock=False, max_dbs=0) as store:
            count, queue = store.stat()["entries"], []
            for array in arrays:
                queue.append((key_of(count), encode_datum(array)))
                count += 1
                if len(queue) == QUEUE:
                    _commit(store, queue)
                    queue = []
            _commit(store, queue)
            return count
    except (OSError, lmdb.Error) as error:
        raise DataError(
            f"cannot write the data set in {folder}: {error}. What was committed is "
            "kept; mend that and run the same command again."
        ) from error


def _commit(store: lmdb.Environment, queue: list[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with store.begin(write=True) as transaction:
                for key, value in queue:
                    transaction.put(key, value, append=True)
            return
        except lmdb.MapFullError:
            store.set_mapsize(store.info()["map_size"] * 2)


def read_lmdb(folder: str | Path) -> Iterator[tuple[bytes, np.ndarray]]:
    """Entries of a data set in order: key and float32 array.

    Raises
    ------
    DataError
        When there is no data set, or an entry is not such an array.
    """
    folder = Path(folder)
    if not (folder / "data.mdb").exists():
        raise DataError(f"{folder} has no data.mdb. Name the folder that the data set was made in.")
    with _opened(folder) as store, store.begin(buffers=False) as transaction:
        for key, value in transaction.cursor():
            yield key, decode_datum(value, f"entry {key.decode()} of {folder}")


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[lmdb.Environment]:
    """Open a data set to be read, if it is whole: reading past the end of the file, or a page that
    points nowhere, would take the process down.

    Raises
    ------
    DataError
        When it was cut off or altered after it was made.
    """
    data, known = folder / "data.mdb", _record(folder).get("sha256")
    try:
        if known is not None and file_digest(data) != known:
            raise DataError(
                f"{data} was altered or cut off after it was made: its SHA-256 is not "
                f"the one in {RECORD}. Remove the folder and make it again."
            )
        with lmdb.open(str(folder), readonly=True, lock=False) as store:
            needed = (store.info()["last_pgno"] + 1) * store.stat()["psize"]
            if data.stat().st_size < needed:
                raise DataError(
                    f"{data} was cut off: it has {data.stat().st_size} of {needed} "
                    "bytes. Remove the folder and make it again."
                )
            yield store
    except (OSError, lmdb.Error) as error:
        raise DataError(
            f"the data set in {folder} cannot be read: {error}. Make it again."
        ) from error


def _record(folder: Path) -> dict[str, Any]:
    """What `convert_imageset` noted of a data set; nothing where it did not make it."""
    try:
        return dict(json.loads(files.read_bytes(folder / RECORD)))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def convert_imageset(
    imageset_rootfolder: str | Path,
    imageset_lmdbfolder: str | Path,
    *,
    resize_height: int = HEIGHT,
    resize_width: int = WIDTH,
    shuffle: bool = False,
    bgr2rgb: bool = False,
    gray: bool = False,
    seed: int = 0,
    limit: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> int:
    """Make a calibration data set from a folder of images, as the vendor's script of this name.

    Parameters
    ----------
    imageset_rootfolder
        Folder of images, taken in the order of their names.
    imageset_lmdbfolder
        Gets ``data.mdb``. A conversion that was stopped goes on when it is run again; one that
        runs at the same time is waited for.
    resize_height, resize_width
        Plain resize, no letterbox; 0 for that of each picture.
    shuffle, seed
        Random order, the same for the same seed.
    bgr2rgb
        Store RGB. The tutorial advises it although inference is BGR; notebook 06 judges that.
    gray
        One channel.
    limit
        Take only so many.
    advance
        Called with 1 for each image.

    Returns
    -------
    int
        Entries of the finished data set.

    Raises
    ------
    ParameterError
        When `gray` and `bgr2rgb` are asked for together, or a size is negative.
    DataError
        When an image cannot be read, or the folder holds a data set of something else.
    """
    if gray and bgr2rgb:
        raise ParameterError(
            "gray and bgr2rgb exclude one another: a gray image has no channels to swap."
        )
    if resize_height < 0 or resize_width < 0:
        raise ParameterError(
            f"resize_height={resize_height}, resize_width={resize_width}: give 24 and 94 for "
            "LPRNet, or 0 for the size that each picture has."
        )
    root = image_folder(imageset_rootfolder)
    files = image_files(root)
    if shuffle:
        files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))]
    files = files[:limit]
    folder = Path(imageset_lmdbfolder)
    made_of = {
        "files": digest([[path.relative_to(root).as_posix(), _digest(path)] for path in files]),
        "height": resize_height,
        "width": resize_width,
        "bgr2rgb": bgr2rgb,
        "gray": gray,
    }

    def arrays(done: int) -> Iterator[np.ndarray]:
        for path in files[done:]:
            image = decode_image(read_bytes(path, "image", LARGEST_IMAGE), f"image {path}")
            yield _prepare(image, resize_height, resize_width, bgr2rgb, gray)
            if advance is not None:
                advance(1)

    with _alone(folder):
        count = write_lmdb(arrays(_entries_done(folder, made_of)), folder)
        finished = made_of | {"sha256": file_digest(folder / "data.mdb")}
        atomic_write(folder / RECORD, json.dumps(finished, indent=1) + "\n")
    return count


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(
            f"image {path} cannot be read: {error.strerror}. Mend or remove it."
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a data set against other conversions; the kernel lets go of it when a process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(
            f"cannot write the data set in {folder}: {error.strerror}. Name a folder that you "
            "may write to."
        ) from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(f"waiting for another conversion into {folder} …")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _entries_done(folder: Path, made_of: dict) -> int:
    """Entries that an earlier, stopped conversion of the same images left."""
    record = folder / RECORD
    if not (folder / "data.mdb").exists():
        atomic_write(record, json.dumps(made_of, indent=1) + "\n")
        return 0
    known = _record(folder)
    if {key: value for key, value in known.items() if key != "sha256"} != made_of:
        raise DataError(
            f"{folder} already holds a data set, of other images or options. Choose "
            "another folder or remove that one."
        )
    with _opened(folder) as store:
        return store.stat()["entries"]


def _prepare(image: np.ndarray, height: int, width: int, rgb: bool, gray: bool) -> np.ndarray:
    size = (height or image.shape[0], width or image.shape[1])
    if image.shape[:2] != size:
        image = cv2.resize(image, size[::-1])
    if gray:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    elif rgb:
        image = image[..., ::-1]
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))[None].astype(np.float32)
    return (planes - np.float32(PUBLISHED_INPUT.mean[0])) * np.float32(PUBLISHED_INPUT.scale[0])
