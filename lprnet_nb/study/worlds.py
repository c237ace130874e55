"""The study in other worlds: do its findings hold with other weights and on other plates?

A world is a set of plates and the weights that read it: photographs as a detector with other
margins would have cut them, and generated plates, each read by the published weights and by this
project's own. In each, a draw calibrates on plates of that world, and all draws judge the same
others, on the emulator. What the committed study found on the photographs with the published
weights is then asked of every world by the study's own rule (`results.verdict`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import digest
from ..datasets.fetch import load_published
from ..datasets.images import PlateImages
from ..datasets.splits import Split, apart
from ..datasets.worlds import OF_PHOTOGRAPHS, SEED, generated
from ..errors import DataError, ParameterError
from ..files import atomic_write
from ..model.own import load_own_weights
from ..model.weights import Weights, load_published_weights
from ..sources import code_digest
from ..toolchain.environment import compiler
from ..toolchain.strategies import STRATEGIES
from .cells import Cell, Plan, float_texts, pack, run_cells
from .results import read_study, study_text

# The least that the findings need: each is a pair of these, and passes over images are shared.
STUDIED = (
    "kl",
    "mse",
    "mse-in-out",
    "mse-forked",
    "mse-forked-b4-square",
    "mse-forked-in-context",
    "mse-rgb",
    "mse-20",
)
CHIPS = ("BM1684X", "BM1684")
PHOTOGRAPHS = ("photographs", "margin+5", "margin+10", "margin+20")
PLATES = (*PHOTOGRAPHS, "generated")
BY = ("published", "generated")  # the names that the weights have
COMMITTED = ("photographs", "published")  # what the study that is asked again is of
OTHERS = tuple(
    (plates, by) for plates in (PLATES[-1], *PHOTOGRAPHS) for by in BY if (plates, by) != COMMITTED
)
CALIBRATION = 100  # plates of a draw
DRAWS = 3  # so many calibrate on plates of their own
JUDGED = 2000  # generated plates
SAME = ("tpu_mlir", "decoder", "batch", "seed", "calibration", "strategies")
DECIDES = ("tables", "lowered", "study-cell")  # kinds of artifacts whose code a row depends on


@dataclass(frozen=True)
class World:
    """Plates, and the weights that read them."""

    name: str
    by: str

    @cached_property
    def plates(self) -> PlateImages:
        """Those that calibrate and those that are judged."""
        if self.name in OF_PHOTOGRAPHS:
            return OF_PHOTOGRAPHS[self.name](load_published())
        return generated(JUDGED + DRAWS * CALIBRATION)

    @cached_property
    def weights(self) -> Weights:
        """The published ones, or this project's own."""
        return load_published_weights() if self.by == "published" else load_own_weights()

    @cached_property
    def splits(self) -> list[Split]:
        """A draw each; all judge the same plates."""
        return apart(len(self.plates), DRAWS, CALIBRATION, SEED)

    def described(self) -> dict[str, Any]:
        """What it is made of, and which of its judged plates float reads."""
        judged = self.splits[0].evaluate
        texts = np.array(float_texts(self.plates, self.weights))[judged]
        right = texts == np.array(self.plates.known_labels)[judged]
        return {
            **self.key,
            "plates_digest": self.plates.digest,
            "weights_digest": self.weights.digest,
            "float": {"images": len(right), "correct": int(right.sum()), "bits": pack(right)},
        }

    @property
    def key(self) -> dict[str, str]:
        """Its name in rows."""
        return {"plates": self.name, "weights": self.by}

    def run(self, draw: int, names: Sequence[str] = STUDIED) -> list[dict[str, Any]]:
        """Rows of a draw: which of the judged plates each strategy reads on each chip."""
        plan = Plan(
            tuple(STRATEGIES[name] for name in names),
            CHIPS,
            tuple(range(DRAWS)),
            given=(self.splits[draw],),
        )
        return [self._row(cell) for cell in run_cells(plan, self.plates, self.weights)]

    def _row(self, cell: Cell) -> dict[str, Any]:
        row = {**self.key, "strategy": cell.strategy, "chip": cell.chip, "draw": cell.draw}
        if cell.error is not None:
            return {**row, "error": cell.error}
        right = np.array(self.plates.known_labels)[cell.evaluate] == np.array(cell.texts)
        return {
            **row,
            "images": len(right),
            "correct": int(right.sum()),
            "bits": pack(right),
            "readings": digest(list(cell.texts))[:12],
        }


def grow_worlds(
    path: Path,
    plates: Sequence[str] | None = None,
    draws: int = DRAWS,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run the worlds that a file does not hold yet, the first draw of every world first.

    Parameters
    ----------
    path
        The file, made or grown; written after each draw of a world.
    plates
        Names in `PLATES`; None for all.
    draws
        How many calibration draws, at most `DRAWS`.
    report
        Called with a line for each draw of a world.

    Raises
    ------
    ParameterError
        For an unknown world, or more draws than there are plates for.
    DataError
        When the file holds rows of other plates, weights, strategies or tools, or when what it
        holds does not come out again as it is there.
    """
    unknown = sorted({*(plates or PLATES)} - {*PLATES})
    if unknown:
        raise ParameterError(f"world {unknown[0]!r} is unknown. Choose of {', '.join(PLATES)}.")
    if not 1 <= draws <= DRAWS:
        raise ParameterError(f"draws {draws}: a world has plates for 1 to {DRAWS}.")
    wanted = [World(*key) for key in OTHERS if key[0] in (plates or PLATES)]
    made = _begun(path)
    _check_again(path, made)
    for draw in range(draws):
        for world in wanted:
            if _has(made["rows"], world, draw):
                continue
            _describe(path, made, world)
            found = world.run(draw)
            made["rows"] += found
            atomic_write(path, study_text(made))
            best = max(row.get("correct", 0) for row in found)
            report(f"{world.name} by {world.by}, draw {draw}: {best} of {found[0].get('images')}")
    return path


def _begun(path: Path) -> dict[str, Any]:
    provenance = {
        "tpu_mlir": compiler().version,
        "backend": "emulator",
        "decoder": "greedy",
        "batch": 1,
        "seed": SEED,
        "calibration": CALIBRATION,
        "code": {kind: code_digest(kind)[:12] for kind in DECIDES},
        "strategies": {name: STRATEGIES[name].model_dump(mode="json") for name in STUDIED},
    }
    if not path.exists():
        return {"format": 1, "provenance": provenance, "worlds": [], "rows": []}
    made = read_worlds(path)
    for key in SAME:
        if made["provenance"].get(key) != provenance[key]:
            raise DataError(
                f"{path} is a study over worlds of {key} {made['provenance'].get(key)}, this one "
                f"would be of {provenance[key]}. Name another file."
            )
    return made


def _describe(path: Path, made: dict[str, Any], world: World) -> None:
    """Add a world to a file, or make sure that the file's is of these plates and weights."""
    now = world.described()
    for known in made["worlds"]:
        if {**known, **world.key} == known and known != now:
            raise DataError(
                f"{path} has world {world.name} by {world.by} of other plates or weights than "
                "those that are here. Name another file."
            )
    if now not in made["worlds"]:
        made["worlds"].append(now)


def _check_again(path: Path, made: dict[str, Any]) -> None:
    """Refuse to mix rows: a difference between worlds would be one of the code or the machine.

    The first mixed model of each chip is read again; of unchanged code it lies in the cache.
    """
    for chip in CHIPS:
        known = [row for row in made["rows"] if _mixed(row) and row["chip"] == chip][:1]
        for row in known:
            world = World(row["plates"], row["weights"])
            found = world.run(row["draw"], [row["strategy"]])
            if row not in found:
                raise DataError(
                    f"{path} holds rows by code that computes otherwise than this version's: "
                    f"{row['strategy']} on {chip} reads other texts. Make the study again in "
                    "another file."
                )


def _mixed(row: dict[str, Any]) -> bool:
    return "bits" in row and bool(STRATEGIES[row["strategy"]].float_roles)


def _has(rows: Sequence[dict[str, Any]], world: World, draw: int) -> bool:
    of_draw = [row for row in rows if _of(row, world.key) and row.get("draw") == draw]
    return len(of_draw) == len(STUDIED) * len(CHIPS)


def _of(row: dict[str, Any], key: dict[str, str]) -> bool:
    return all(row[name] == value for name, value in key.items())


def read_worlds(path: Path) -> dict[str, Any]:
    """Read a study over worlds.

    Raises
    ------
    DataError
        When it cannot be read, or is something else.
    """
    found = read_study(path)
    missing = {"provenance", "worlds", "rows"} - found.keys()
    if missing:
        raise DataError(f"{path} is no study over worlds: {min(missing)!r} is missing.")
    return found
