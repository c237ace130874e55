"""Reading an exported quantized graph; `toolchain/inside/export_graph.py` documents the format."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lprnet_nb.errors import EngineError
from lprnet_nb.files import open_input, read_bytes

FORMAT = 1
FLOATS = ("f32", "f16", "bf16")
# Smallest and largest stored value of the integer kinds an activation can have.
INTEGER_RANGE = {"i8": (-128, 127), "u8": (0, 255), "i16": (-32768, 32767), "u16": (0, 65535)}
Arrays = np.ndarray | Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TensorType:
    """Shape and representation of one tensor.

    ``storage`` is what is kept (f32, f16, bf16, i8, u8, ...). Quantized tensors have ``scale`` and
    ``zero_point``: real value = (stored - zero_point) * scale.
    """

    shape: tuple[int, ...]
    storage: str
    expressed: str | None = None
    scale: float | None = None
    zero_point: int | None = None

    @property
    def is_float(self) -> bool:
        return self.storage in FLOATS

    @property
    def is_quantized(self) -> bool:
        return self.scale is not None

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest stored integer."""
        return INTEGER_RANGE[self.storage]

    @property
    def zero(self) -> int:
        """The stored integer that stands for 0."""
        return self.zero_point or 0


@dataclass(frozen=True)
class Op:
    """One operation as the compiler wrote it. ``operands`` has None for an absent one."""

    type: str
    name: str
    operands: tuple[str | None, ...]
    result: TensorType
    attributes: dict

    def operand(self, index: int) -> str:
        """Name of an operand that must be there."""
        name = self.operands[index] if index < len(self.operands) else None
        if name is None:
            raise EngineError(f"{self.type} '{self.name}': operand {index} is missing")
        return name

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the operands, all of which must be there."""
        return tuple(self.operand(index) for index in range(len(self.operands)))


@dataclass(frozen=True)
class Graph:
    """A quantized graph: operations in execution order, names of its inputs and outputs.

    ``types`` covers every tensor, activations and weights; ``weights`` holds the arrays.
    ``batch`` is the batch size that the graph was compiled for.
    """

    chip: str
    mode: str
    asymmetric: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    types: dict[str, TensorType]
    weights: dict[str, np.ndarray]
    folder: Path

    @property
    def input(self) -> str:
        """The first input."""
        return self.inputs[0]

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]

    @property
    def batch(self) -> int:
        return self.types[self.input].shape[0]

    def named(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Arrays by the name of their input; a bare array is the only input's."""
        return dict(inputs) if isinstance(inputs, Mapping) else {self.input: inputs}


# What json, numpy, zipfile and the code below raise on files that are not an exported graph.
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def _tensor_type(record: dict) -> TensorType:
    return TensorType(
        shape=tuple(record["shape"]),
        storage=record["storage"],
        expressed=record["expressed"],
        scale=record["scale"],
        zero_point=record["zero_point"],
    )


def load_graph(folder: str | Path) -> Graph:
    """Read ``graph.json`` and ``graph.npz`` of an exported graph.

    Parameters
    ----------
    folder
        The folder that `export_graph.py` wrote (``BModel.graph``).

    Raises
    ------
    EngineError
        Files missing or damaged, or another format.
    """
    folder = Path(folder)
    try:
        return _graph(folder, json.loads(read_bytes(folder / "graph.json")))
    except EngineError:
        raise
    except _DAMAGED as error:
        raise EngineError(
            f"{folder}: not a readable exported graph ({type(error).__name__}: {error}); compile "
            "the model again"
        ) from error


def _graph(folder: Path, record: dict) -> Graph:
    with open_input(folder / "graph.npz") as file, np.load(file) as stored:
        weights = {name: stored[name] for name in stored.files}
    if record.get("format") != FORMAT:
        raise EngineError(
            f"{folder / 'graph.json'}: format {record.get('format')}, this version reads {FORMAT}; "
            "compile the model again"
        )
    if not record["inputs"] or not record["outputs"]:
        raise EngineError(
            f"{folder / 'graph.json'}: no inputs or no outputs; compile the model again"
        )
    ops = tuple(
        Op(o["type"], o["name"], tuple(o["operands"]), _tensor_type(o["result"]), o["attributes"])
        for o in record["ops"]
    )
    types = {name: _tensor_type(kind) for name, kind in record["weights"].items()}
    _check_names(ops, {*types}, (*record["inputs"], *record["outputs"]))
    types |= {op.name: op.result for op in ops}
    return Graph(
        chip=record["module"]["module.chip"].upper(),
        mode=record["module"]["module.mode"],
        asymmetric=record["module"]["module.asymmetric"],
        inputs=tuple(record["inputs"]),
        outputs=tuple(record["outputs"]),
        ops=ops,
        types=types,
        weights=weights,
        folder=folder,
    )


def _check_names(ops: tuple[Op, ...], known: set[str], ends: tuple[str, ...]) -> None:
    """Raise ValueError unless each name is that of one tensor, there before it is needed."""
    for op in ops:
        if not isinstance(op.type, str) or not isinstance(op.name, str) or op.name in known:
            raise ValueError(f"{op.type} {op.name!r} has no name of its own")
        if not isinstance(op.attributes, dict):
            raise ValueError(f"{op.type} '{op.name}' has no attributes")
        there = [None, *known]  # a list, as what cannot be hashed is no name either
        wrong = [name for name in op.operands if name not in there]
        if wrong:
            raise ValueError(f"{op.type} '{op.name}' needs {wrong[0]!r}, which nothing gives")
        known.add(op.name)
    wrong = [name for name in ends if name not in [*known]]
    if wrong:
        raise ValueError(f"no operation gives {wrong[0]!r}")
