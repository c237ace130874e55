"""Read a BModel's own description of itself, without the vendor's runtime.

The runtime crashes on a BModel whose metadata is damaged and does not notice damaged weights, so
everything that a file can tell about itself is read here first, every access inside its bounds.
Layout: a 64-byte header (magic, header size, metadata size, binary size), a FlatBuffers table of
metadata, then the binaries. Fields as found in BModels of TPU-MLIR 1.30.2.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError
from ..files import read_bytes

MAGIC = 0xFF55AAEE
_HEADER = 64  # bytes
_LONGEST = 1 << 16  # items of a vector: far more than any BModel has, so a wild length ends here

DTYPES = (
    "BM_FLOAT32",
    "BM_FLOAT16",
    "BM_INT8",
    "BM_UINT8",
    "BM_INT16",
    "BM_UINT16",
    "BM_INT32",
    "BM_UINT32",
    "BM_BFLOAT16",
    "BM_INT4",
    "BM_UINT4",
)  # by the code that BModels store


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: `shape` as compiled, `dtype` as sail names it (``"BM_FLOAT32"``).

    `scale` turns real values into stored ones for an input, stored ones into real for an output.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "BM_FLOAT32"
    scale: float = 1.0


@dataclass(frozen=True)
class Stage:
    """One set of shapes that a graph was compiled for."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class Graph:
    """One network of a BModel; sail calls it a graph."""

    name: str
    stages: tuple[Stage, ...]
    dynamic: bool = False


@dataclass(frozen=True)
class Contents:
    """What a BModel file says about itself."""

    chip: str
    version: str
    created: str
    graphs: tuple[Graph, ...]


@dataclass(frozen=True)
class Instructions:
    """What a BModel of one core makes the chip do, apart from weights and firmware.

    Parameters
    ----------
    compute, memory
        Commands for the compute unit and for the one that moves data (the vendor's BD and GDMA).
    code
        Their bytes, compute before memory, group by group.
    """

    compute: int
    memory: int
    code: bytes

    def like(self, other: Instructions) -> float:
        """Share of bytes that are the same; 0.0 where there are not as many."""
        if len(self.code) != len(other.code):
            return 0.0
        return sum(map(int.__eq__, self.code, other.code)) / max(len(self.code), 1)


def read_instructions(path: str | Path) -> Instructions:
    """The commands of a BModel's first network.

    Raises
    ------
    EngineError
        As `read_contents`.
    """
    read_contents(path)
    data = read_bytes(Path(path))
    _, metadata_size, _ = struct.unpack_from("<III", data, 4)
    read = _Reader(memoryview(data)[_HEADER : _HEADER + metadata_size])
    binaries = memoryview(data)[_HEADER + metadata_size :]
    try:
        stage = read.tables(read.tables(read.follow(0), 4)[0], 3)[0]
        groups = read.tables(stage, 8)  # of commands: two counts, then two spans of the binaries
        code = b""
        for group in groups:
            for where in (read.need(group, 2), read.need(group, 3)):
                start, size = read.number("Q", where), read.number("Q", where + 8)
                if start + size > len(binaries):
                    raise ValueError("its commands lie beyond the end of the file")
                code += bytes(binaries[start : start + size])
        counts = [sum(int(read.scalar(g, i, "I", 0)) for g in groups) for i in range(2)]
    except (struct.error, IndexError, ValueError) as error:
        raise EngineError(
            f"BModel {path} is damaged: {error}. Compile or copy it again."
        ) from error
    return Instructions(counts[0], counts[1], code)


def read_contents(path: str | Path) -> Contents:
    """Read chip, graphs, stages and tensors of a BModel, and check its weights' digests.

    Parameters
    ----------
    path
        The ``.bmodel`` file.

    Raises
    ------
    EngineError
        When the file is missing, empty, no BModel, truncated, or damaged in its metadata or in
        its weights. Damage in the instructions cannot be seen from the file alone: compare its
        SHA-256 for that.
    """
    path = Path(path)
    try:
        data = read_bytes(path)
    except OSError as error:
        raise EngineError(f"cannot read BModel {path}: {error.strerror}.") from error
    if not data:
        raise EngineError(f"BModel {path} is empty. Compile it again.")
    if len(data) < _HEADER or struct.unpack_from("<I", data)[0] != MAGIC:
        raise EngineError(
            f"{path} is not a BModel: it does not start with a BModel's magic number {MAGIC:#010x}."
        )
    header, metadata_size, binary_size = struct.unpack_from("<III", data, 4)
    whole = header + metadata_size + binary_size
    if header != _HEADER or len(data) < whole:
        raise EngineError(
            f"BModel {path} is truncated or damaged: {len(data)} bytes where its "
            f"header says {whole}. Compile or copy it again."
        )
    metadata = memoryview(data)[header : header + metadata_size]
    binaries = memoryview(data)[header + metadata_size : whole]
    try:
        return _contents(_Reader(metadata), binaries)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise EngineError(
            f"BModel {path} is damaged: {error}. Compile or copy it again."
        ) from error


class _Reader:
    """The few FlatBuffers accesses needed, each inside the buffer."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def real(self, kind: str, at: int) -> float:
        if at < 0 or at + struct.calcsize(f"<{kind}") > len(self.data):
            raise IndexError("an offset in its metadata points outside it")
        return struct.unpack_from(f"<{kind}", self.data, at)[0]

    def number(self, kind: str, at: int) -> int:
        return int(self.real(kind, at))

    def follow(self, at: int) -> int:
        return at + self.number("I", at)

    def field(self, table: int, index: int) -> int | None:
        """Where a table's field lies, or None if it is left out."""
        layout = table - self.number("i", table)
        if 4 + 2 * index >= self.number("H", layout):
            return None
        offset = self.number("H", layout + 4 + 2 * index)
        return table + offset if offset else None

    def need(self, table: int, index: int) -> int:
        at = self.field(table, index)
        if at is None:
            raise ValueError("its metadata lacks a required field")
        return at

    def scalar(self, table: int, index: int, kind: str, default: float) -> float:
        at = self.field(table, index)
        return default if at is None else self.real(kind, at)

    def span(self, at: int, size: int) -> tuple[int, int]:
        """Start and item count of the vector that the field at `at` points to."""
        vector = self.follow(at)
        count = self.number("I", vector)
        if count > _LONGEST or vector + 4 + count * size > len(self.data):
            raise ValueError("a list in its metadata is longer than the file")
        return vector + 4, count

    def raw(self, at: int) -> bytes:
        start, count = self.span(at, 1)
        return bytes(self.data[start : start + count])

    def text(self, table: int, index: int) -> str:
        return self.raw(self.need(table, index)).decode("utf8")

    def tables(self, table: int, index: int) -> list[int]:
        start, count = self.span(self.need(table, index), 4)
        return [self.follow(start + 4 * item) for item in range(count)]


def _contents(read: _Reader, binaries: memoryview) -> Contents:
    model = read.follow(0)
    graphs: dict[str, list[Stage]] = {}
    dynamic: dict[str, bool] = {}
    for net in read.tables(model, 4):
        name = read.text(net, 0)
        for stage in read.tables(net, 3):
            graphs.setdefault(name, []).append(_stage(read, stage))
            dynamic[name] = bool(read.scalar(stage, 5, "I", 0))
            _check_weights(read, stage, binaries)
    if not graphs or not all(graphs.values()):
        raise ValueError("it holds no network")
    return Contents(
        read.text(model, 3),
        read.text(model, 1),
        read.text(model, 2).strip(),
        tuple(Graph(name, tuple(stages), dynamic[name]) for name, stages in graphs.items()),
    )


def _stage(read: _Reader, stage: int) -> Stage:
    return Stage(
        tuple(_tensor(read, each) for each in read.tables(stage, 0)),
        tuple(_tensor(read, each) for each in read.tables(stage, 1)),
    )


def _tensor(read: _Reader, tensor: int) -> TensorInfo:
    start, count = read.span(read.need(read.tables(tensor, 5)[0], 0), 8)
    shape = tuple(read.number("Q", start + 8 * item) for item in range(count))
    if not shape or not all(0 < side < 1 << 31 for side in shape):
        raise ValueError(f"its metadata gives a tensor the shape {list(shape)}")
    return TensorInfo(
        read.text(tensor, 0),
        shape,
        DTYPES[int(read.scalar(tensor, 1, "I", 0))],
        read.scalar(tensor, 7, "f", 1.0),
    )


def _check_weights(read: _Reader, stage: int, binaries: memoryview) -> None:
    """Compare the weights with the SHA-256 that the compiler wrote beside them."""
    weights = read.field(stage, 4)
    if weights is None:
        return
    table = read.follow(weights)
    expected, where = read.field(table, 1), read.field(table, 2)
    if expected is None or where is None:
        return
    start, size = read.number("Q", where), read.number("Q", where + 8)
    if start + size > len(binaries):
        raise ValueError("its weights lie beyond the end of the file")
    if hashlib.sha256(binaries[start : start + size]).digest() != read.raw(expected):
        raise ValueError("its weights do not match the SHA-256 stored with them")
