"""Records of compiled models, and what the compiler says is inside one."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..cache import digest, file_digest, files_below
from ..datasets.alphabet import PUBLISHED, Alphabet
from ..datasets.interface import PUBLISHED_INTERFACE, Interface
from ..errors import DataError, EngineError, ToolchainError
from ..files import atomic_write, private_folder, read_bytes
from .environment import compiler

RECORD = 2  # form of the records: a part of the keys of what holds one
UNKNOWN = "unknown"  # precision, weights and form of a BModel from elsewhere, without a record
INSPECTED = ".info.json"  # suffix of what `inspect_bmodel` found, beside where a BModel would be
NETWORK = "lprnet"  # the network's name inside a BModel, where no record says another
TIME = b"Thu Jan  1 00:00:00 1970"  # of compiling, in every BModel of ours
_TIME = re.compile(rb"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}")
_LISTS = ("record.json", "inputs.json", "files.json")
_HEADER = 64  # bytes before the metadata, whose length is at byte 8


@dataclass(frozen=True)
class BModel:
    """A compiled model and where it came from.

    Parameters
    ----------
    path
        The ``.bmodel`` file.
    chip, precision
        What it was compiled for, such as "BM1684X" and "int8".
    batch, batch_mean, form
        Of the traced network.
    strategy
        Name of the quantization strategy; None for float models.
    predicted_latency_ms
        The compiler's own figure for one call, milliseconds; None where it has none (BM1684).
    sha256
        Of the file.
    digest
        SHA-256 of everything that went in.
    tools
        Versions of compiler and torch.
    input_shape, output_shape
        Per call.
    input_dtype
        "float32", or "uint8" with the preprocessing fused in.
    weights
        Name of the weights.
    graph
        Folder with the exported quantized graph (`graph.json`, `graph.npz`), or None.
    alphabet
        Class list of the output channels.
    cores
        TPU cores that it was compiled for.
    interface
        What the network takes and how its output is laid out.
    without_file
        Whether the ``.bmodel`` file is not there, see `packaged`: the emulator alone runs it.
    folder
        Everything else that the compile left: logs, tables, profile.
    """

    path: Path
    chip: str
    precision: str
    batch: int
    batch_mean: str
    form: str
    strategy: str | None
    predicted_latency_ms: float | None
    sha256: str
    digest: str
    tools: dict[str, str]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input_dtype: str
    weights: str
    network: str = NETWORK
    graph: Path | None = None
    alphabet: Alphabet = field(default=PUBLISHED, repr=False)
    cores: int = 1
    interface: Interface = PUBLISHED_INTERFACE
    without_file: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the compile."""
        return self.path.parent

    @property
    def foreign(self) -> bool:
        """Whether it is from elsewhere: it has no record, and no exported graph."""
        return self.precision == UNKNOWN

    @property
    def exported(self) -> Path:
        """`graph`, for what runs it; `EngineError` where there is none."""
        if self.graph is None:
            raise EngineError(
                f"BModel {self.path} has no exported graph, which the emulator "
                "runs. Compile it with this package, or use the simulator."
            )
        return self.graph

    @property
    def name(self) -> str:
        """Users' file stem, such as ``lprnet_int8_1b`` or ``lprnet_int8_4b_2core``."""
        cores = f"_{self.cores}core" if self.cores > 1 else ""
        return f"{self.network}_{self.precision}_{self.batch}b{cores}"

    def save(self, folder: Path) -> None:
        """Write ``record.json`` into the folder of the compile."""
        graph = self.graph.name if self.graph else None
        files = _list_digest(folder)  # of all that the compile left there; comes last
        atomic_write(folder / "record.json", self._record(self.path.name, graph, files))

    def save_beside(self, target: Path) -> Path:
        """Write the record of a copy at `target` as ``<stem>.json`` beside it.

        The graph stays where it is, in the cache or beside the copy; without it the copy runs on
        every backend but the emulator.
        """
        graph = None
        if self.graph:
            beside = self.graph.parent == target.parent
            graph = self.graph.name if beside else str(self.graph)
        return atomic_write(target.with_suffix(".json"), self._record(target.name, graph))

    def _record(self, path: str, graph: str | None, files: str | None = None) -> str:
        values = asdict(self) | {"path": path, "graph": graph}
        values["alphabet"] = {"classes": self.alphabet.listed, "blank": self.alphabet.blank}
        # What is as it always was is left out: such records stay as they were, and so the cache.
        if self.cores == 1:
            del values["cores"]
        if self.interface == PUBLISHED_INTERFACE:
            del values["interface"]
        if not self.without_file:
            del values["without_file"]
        values["seals"] = {
            "graph": _graph_digest(self.graph) if self.graph else None,
            "alphabet": digest(values["alphabet"]),
            "files": files,
        }
        return json.dumps(values, indent=1, ensure_ascii=False)

    @classmethod
    def load(cls, place: str | Path) -> BModel:
        """Read a record from its folder, or from a BModel's path with ``<stem>.json`` beside it.

        Raises
        ------
        DataError
            When there is no such file or no record of it, or the BModel, its graph, its class list
            or what lies beside it differ from what the record says.
        """
        place = Path(place)
        if not place.exists():
            raise DataError(
                f"{place} is not there. Compile it with `lprnet-nb compile` or "
                "scripts/gen_*bmodel.sh."
            )
        record = place / "record.json" if place.is_dir() else place.with_suffix(".json")
        try:
            values = dict(json.loads(read_bytes(record)))
            seals = values.pop("seals", None)
            path = record.parent / values["path"]
            values["path"] = path
            graph = record.parent / values["graph"] if values["graph"] else None
            values["graph"] = graph if graph and graph.is_dir() else None
            classes = digest(values["alphabet"])
            values["alphabet"] = Alphabet(
                tuple(values["alphabet"]["classes"]), values["alphabet"]["blank"]
            )
            if "interface" in values:
                values["interface"] = Interface.of(values["interface"])
            for shape in ("input_shape", "output_shape"):
                values[shape] = tuple(values[shape])
            model = cls(**values)
            altered = _altered(model, record.parent, classes, seals)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(
                f"{place} has no readable record ({record.name}: {error}). Compile it "
                "with `lprnet-nb compile` or scripts/gen_*bmodel.sh."
            ) from error
        try:
            intact = model.without_file or (path.is_file() and file_digest(path) == model.sha256)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror}. See whether it is the right file."
            ) from error
        if not intact:
            raise DataError(
                f"{path} is missing or differs from its record (SHA-256). Compile it again."
            )
        if altered:
            raise DataError(f"{record}: {altered}. Compile it again.")
        return model


def _altered(
    model: BModel, folder: Path, classes: str, seals: dict[str, str | None] | None
) -> str | None:
    """What a record's seals find changed since it was written; None for nothing."""
    if seals is None:
        return "this record is of an older version, which did not seal graph and classes"
    if classes != seals["alphabet"]:
        return "its class list is not the one that it was written with"
    if model.graph and _graph_digest(model.graph) != seals["graph"]:
        return f"{model.graph} is not the graph that the BModel was made from (SHA-256)"
    # A copy of some of the files, such as a contract kit's, has no list of its own.
    if (folder / "files.json").exists() and _list_digest(folder) != seals["files"]:
        return f"{folder} does not hold what the compile left there (SHA-256)"
    return None


def _graph_digest(folder: Path) -> str:
    return digest({name: file_digest(folder / name) for name in ("graph.json", "graph.npz")})


def _list_digest(folder: Path) -> str:
    """Digest of the names and contents in a folder, the lists and records of these left out."""
    names = [name for name in files_below(folder) if name not in _LISTS]
    return digest({name: file_digest(folder / name) for name in names})


def without_time(path: Path) -> None:
    """Replace the moment of compiling that a BModel holds by a fixed one, in place.

    The compiler writes it as text (``Mon Nov 23 09:30:53 2026``) among the metadata, and nothing
    reads it but ``model_tool --info``; without it the same inputs give the same bytes everywhere
    (reproducible-builds.org, "Timestamps").

    Raises
    ------
    ToolchainError
        When the file holds no such time, or more than one.
    """
    data = bytearray(path.read_bytes())
    metadata = slice(_HEADER, _HEADER + int.from_bytes(data[8:12], "little"))
    found = list(_TIME.finditer(data[metadata]))
    if len(found) != 1:
        raise ToolchainError(
            f"{path.name} holds {len(found)} times of compiling, expected one. "
            "This compiler writes BModels another way."
        )
    start = _HEADER + found[0].start()
    data[start : start + len(TIME)] = TIME
    path.write_bytes(data)


def predicted_latency_ms(profile: Path) -> float | None:
    """Run time that the compiler predicts, from ``compiler_profile_0.txt``; None without one."""
    if not profile.exists():
        return None
    found = re.findall(r"runtime:\s*([0-9.]+)\s*ms", profile.read_text("utf8", "replace"))
    return float(found[-1]) if found else None


def inspect_bmodel(path: str | Path) -> dict[str, Any]:
    """What `model_tool --info` says of a BModel, parsed and as text, and the file's size in bytes.

    Of one without its file, what it said when that was there.

    Raises
    ------
    ToolchainError
        When the tool refuses the file.
    """
    path = Path(path).resolve()
    kept = path.with_suffix(INSPECTED)
    if kept.is_file() and not path.exists():
        return json.loads(read_bytes(kept))
    with tempfile.TemporaryDirectory(prefix="info-", dir=private_folder()) as folder:
        log = Path(folder) / "info.log"
        compiler().run(
            ["model_tool", "--info", path], cwd=Path(folder), log=log, what=f"reading {path}"
        )
        text = log.read_text("utf8", "replace").split("\n", 1)[1]
    facts: dict[str, Any] = {"text": text, "file_size": path.stat().st_size}
    for key in ("bmodel version", "chip", "create time"):
        found = re.search(rf"^{key}:\s*(.+)$", text, re.MULTILINE)
        facts[key.replace(" ", "_")] = found.group(1).strip() if found else None
    for key in ("device mem size", "host mem size"):
        found = re.search(rf"^{key}:\s*(\d+)", text, re.MULTILINE)
        facts[key.replace(" ", "_")] = int(found.group(1)) if found else None
    return facts
