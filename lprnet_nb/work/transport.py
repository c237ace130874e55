"""Results on their way between processes and machines: paths into the cache follow the cache.

A result names files in the cache of the machine that made it. On its way such a path is written as
its place below the cache folder, and where the caches are not one shared folder the artifact itself
goes along.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

from ..cache import adopt_artifact, pack_artifact
from ..errors import DataError
from ..places import cache_dir

_PARTS = 3  # artifacts/<kind>/<key>


def send(value: Any, with_files: bool) -> bytes:
    """Bytes of a value, paths into the cache made relative; `with_files` packs their artifacts."""
    buffer = io.BytesIO()
    packer = _Packer(buffer)
    packer.dump(value)
    packs = (
        {place: pack_artifact(cache_dir() / place) for place in packer.places} if with_files else {}
    )
    return pickle.dumps((packs, buffer.getvalue()))


def receive(sent: bytes) -> Any:
    """The value again, its artifacts put into this machine's cache where they are not there.

    Raises
    ------
    DataError
        When an artifact is neither here nor was sent along.
    """
    packs, value = pickle.loads(sent)
    for place, files in packs.items():
        adopt_artifact(cache_dir() / _checked(place), files)
    return _Unpacker(io.BytesIO(value)).load()


def _checked(place: str) -> str:
    parts = PurePosixPath(place).parts
    if len(parts) < _PARTS or parts[0] != "artifacts" or ".." in parts:
        raise DataError(f"a result names {place!r}, which is no place in the cache. It is refused.")
    return place


class _Packer(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, protocol=5)
        self.places: set[str] = set()

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, Path):
            return None
        # Not resolved: a folder of a cache that is a link stays in the cache.
        path = Path(os.path.abspath(value))
        if not path.is_relative_to(cache_dir() / "artifacts"):
            return None
        place = path.relative_to(cache_dir())
        self.places.add(Path(*place.parts[:_PARTS]).as_posix())
        return place.as_posix()


class _Unpacker(pickle.Unpickler):
    def persistent_load(self, place: str) -> Path:
        path = cache_dir() / _checked(place)
        made = cache_dir().joinpath(*PurePosixPath(place).parts[:_PARTS])
        if not made.exists():  # of a packaged model the record is there, the BModel is not
            raise DataError(
                f"{path} is not in this machine's cache. Share the cache folder, or "
                "let all workers start before the run does."
            )
        return path
