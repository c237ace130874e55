"""The emulator beside both judges on small networks of many kinds, recorded with the repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..cache import array_digest, artifact, digest, file_digest
from ..errors import LprnetError, ParameterError
from ..runtime.emulator import Emulator
from ..runtime.engine import open_engine
from ..toolchain.chips import parse_chip
from ..toolchain.environment import compiler
from .exactness import JUDGES, judges_named, read_record, write_record
from .foreign import compiled_example, random_images
from .interpreter import interpret
from .networks import EXAMPLES, names_of

CHIPS = ("BM1684X", "BM1684")
IMAGES = 20
ABOUT = (
    "lprnet-nb bench networks: the emulator against the vendor's graph interpreter (following its "
    "arithmetic) and against the chip simulator (as it is used), on small networks with random "
    "weights, INT8, random images; a row for each network, chip and judge. kernels: what ran it; "
    "refused: what the compiler or the emulator says that does not take it."
)


def measure_networks(
    networks: str | None,
    chips: str | None,
    judge: str,
    images: int,
    output: Path | None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judge the emulator on small networks, and record it.

    Parameters
    ----------
    networks, chips
        Comma-separated; None for all of `networks.EXAMPLES`, and for `CHIPS`.
    judge
        "interpreter", "simulator" or "both".
    images
        How many each judge runs.
    output
        Record to add the rows to, or None.
    report
        Called with a line for each row.

    Returns
    -------
    dict
        The record with its ``summary``.

    Raises
    ------
    ParameterError
        For an unknown network, chip or judge, or no images.
    """
    judges = judges_named(judge)
    if images < 1:
        raise ParameterError(f"images {images}: a judge runs at least one.")
    targets = tuple(map(parse_chip, chips.split(","))) if chips else CHIPS
    rows = []
    for name in names_of(networks):
        for chip in targets:
            for one in judges:
                rows.append(judged(name, chip, one, images))
                report(json.dumps(rows[-1]))
    record = read_record(output) if output and output.exists() else {"rows": []}
    record = {"about": ABOUT, "tools": {"tpu_mlir": compiler().version}, **merged(record, rows)}
    record["summary"] = summary(record["rows"])
    if output:
        write_record(output, record)
    return record


def judged(name: str, chip: str, judge: str, images: int) -> dict[str, Any]:
    """A row of the record: one network on one chip beside one judge."""
    row: dict[str, Any] = {
        "network": name,
        "about": EXAMPLES[name].about,
        "chip": chip,
        "judge": judge,
    }
    inputs = random_images(EXAMPLES[name].shape, images)
    try:
        folder = compiled_example(name, chip)
        arithmetic = "interpreter" if judge == "interpreter" else "chip"
        emulator = Emulator(folder / "graph", arithmetic=arithmetic)
        ask = _interpreted if judge == "interpreter" else _simulated
        kept = artifact(
            "foreign-judged",
            {
                "judge": judge,
                "model": file_digest(folder / "net.bmodel"),
                "graph": file_digest(folder / "graph" / "graph.npz"),
                "operations": digest(_operations(folder)),
                "images": array_digest(inputs),
                "tpu_mlir": compiler().version,
            },
            lambda place: np.save(place / "logits.npy", ask(folder, inputs)),
        )
        kernels = str(emulator.description["kernels"]).split(" ")[0]
        operations = {op["type"].removeprefix("tpu.") for op in _operations(folder)} - {"top.Input"}
        row |= {"operations": sorted(operations), "kernels": kernels}
        row |= compared(emulator.run(inputs), np.load(kept / "logits.npy"))
    except LprnetError as error:
        row["refused"] = _why(str(error))
    return row


def _operations(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "graph" / "graph.json").read_text("utf8"))["ops"]


def _why(text: str) -> str:
    """An error's text without the folder that it begins with and the log's place."""
    first = text.partition("\n")[0]
    return first.partition(": ")[2] if first.startswith("/") else first.partition(" (log")[0]


def _interpreted(folder: Path, inputs: np.ndarray) -> np.ndarray:
    return interpret(SimpleNamespace(path=folder / "net.bmodel"), inputs).logits


def _simulated(folder: Path, inputs: np.ndarray) -> np.ndarray:
    """Logits that the simulator gives, in the graph's shape."""
    with open_engine(folder / "net.bmodel", "simulator", trust=True, workers=1) as engine:
        [graph] = engine.get_graph_names()
        [name] = engine.get_input_names(graph)
        made = [engine.process(graph, {name: image[None]}) for image in inputs]
    return np.concatenate([next(iter(one.values())) for one in made])


def compared(mine: np.ndarray, judge: np.ndarray) -> dict[str, Any]:
    """How far two sets of logits agree; those of `exactness.compare` that need no decoding.

    Returns
    -------
    dict
        ``images``, ``logits`` of each, ``distinct`` values among the judge's (few would prove
        little), ``identical``, ``differing`` part, ``max_abs_difference``, ``largest_logit``.
    """
    judge = judge.reshape(mine.shape)
    return {
        "images": len(mine),
        "logits": int(mine[0].size),
        "distinct": len(np.unique(judge)),
        "identical": bool(np.array_equal(mine, judge)),
        "differing": float((mine != judge).mean()),
        "max_abs_difference": float(np.abs(mine - judge).max()),
        "largest_logit": float(np.abs(judge).max()),
    }


def merged(record: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A record with rows added; of two for the same network, chip and judge the new one stays."""
    kept = {(row["network"], row["chip"], row["judge"]): row for row in [*record["rows"], *rows]}
    return record | {"rows": list(kept.values())}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each judge: networks and rows judged, rows to the bit, rows that were refused."""
    found = {}
    for judge in JUDGES:
        asked = [row for row in rows if row["judge"] == judge]
        ran = [row for row in asked if "images" in row]
        if asked:
            found[judge] = {
                "networks": len({row["network"] for row in ran}),
                "rows": len(ran),
                "images": sum(row["images"] for row in ran),
                "identical": sum(row["identical"] for row in ran),
                "refused": len(asked) - len(ran),
            }
    return found
