"""The evidence that the emulator is exact: both judges, many models, recorded with the repository.

Two judges. The vendor's graph *interpreter* runs the same quantized graph: the emulator that
follows its arithmetic must give its logits. The chip *simulator* runs the BModel itself: the
emulator as it is used must give its logits. The record states the largest difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest, artifact, digest, file_digest
from ..datasets.fetch import load_published
from ..datasets.images import PlateImages, preprocess
from ..decode import decode
from ..errors import DataError, LprnetError, ParameterError
from ..files import atomic_write
from ..model.trace import trace_model
from ..model.weights import Weights, load_published_weights
from ..places import repository
from ..runtime.emulator import Emulator
from ..runtime.inference import infer_plates
from ..toolchain.bmodel import BModel
from ..toolchain.chips import CHIPS, parse_chip, supports
from ..toolchain.compile import compile_bmodel
from ..toolchain.environment import compiler
from ..toolchain.strategies import strategy_named
from .interpreter import interpret

JUDGES = ("interpreter", "simulator")
CALIBRATION = 100  # the first images: what is judged here is arithmetic, not accuracy


@dataclass(frozen=True)
class Case:
    """A way to compile, judged on every chip that has it.

    Parameters
    ----------
    strategy
        Name of an INT8 strategy, "recommended" for each chip's own, or a float precision.
    batch, batch_mean
        Of the traced network.
    """

    strategy: str
    batch: int = 1
    batch_mean: str = "image"

    @property
    def precision(self) -> str:
        """Of `chips.PRECISIONS`."""
        return self.strategy if self.strategy in ("fp32", "fp16", "bf16") else "int8"


# Thresholds by several methods, layers in float, the forked form, batches and both means.
CASES = (
    Case("mse"),
    Case("kl"),
    Case("percentile9999"),
    Case("recommended"),
    Case("mse-context"),
    Case("mse", 4),
    Case("mse", 4, "batch"),
)


def compiled(case: Case, chip: str, weights: Weights, calibration: np.ndarray) -> BModel:
    """The BModel of a case, from the cache if it was made before.

    Raises
    ------
    ParameterError, ToolchainError
        Where the chip has no such model, or the compiler does not make it.
    """
    if case.precision != "int8":
        traced = trace_model(weights, case.batch, case.batch_mean)
        return compile_bmodel(traced, chip, case.precision)
    strategy = strategy_named(case.strategy, chip)
    traced, single = (
        trace_model(weights, batch, case.batch_mean, strategy.form) for batch in (case.batch, 1)
    )
    if len(calibration) < strategy.images:
        raise ParameterError(
            f"strategy {strategy.name!r} calibrates on {strategy.images} images, "
            f"there are {len(calibration)}."
        )
    return compile_bmodel(
        traced,
        chip,
        "int8",
        strategy=strategy,
        single=single,
        calibration_images=calibration[: strategy.images],
    )


def judge_interpreter(bmodel: BModel, plates: PlateImages) -> dict[str, Any]:
    """Compare the emulator, following the interpreter, with the interpreter.

    Returns
    -------
    dict
        As `compare`, and ``graph``, see `graph_digest`. What the interpreter says is kept in the
        cache by that digest: it takes 75 ms an image, and chips with one graph share it.
    """
    inputs, graph = _inputs(bmodel, plates), graph_digest(bmodel)

    def build(folder: Path) -> None:
        np.save(folder / "logits.npy", interpret(bmodel, inputs).logits)

    folder = artifact(
        "interpreted",
        {"graph": graph, "images": array_digest(inputs), "tools": bmodel.tools},
        build,
    )
    emulator = Emulator(bmodel.exported, arithmetic="interpreter")
    judged = compare(emulator.run(inputs), np.load(folder / "logits.npy"))
    return {"graph": graph[:12], **judged}


def graph_digest(bmodel: BModel) -> str:
    """Digest of a quantized graph, operations and weights, the chip's name left out.

    The INT8 graphs of BM1684X, BM1688 and CV186X are one and the same, and the interpreter, which
    computes what the graph says, gives the same logits for all three.
    """
    record = json.loads((bmodel.exported / "graph.json").read_text("utf8"))
    parts = {key: record[key] for key in ("inputs", "outputs", "ops", "weights")}
    return digest([parts, file_digest(bmodel.exported / "graph.npz")])


def judge_simulator(bmodel: BModel, plates: PlateImages) -> dict[str, Any]:
    """Compare the emulator as it is used with the chip simulator; as `compare`."""
    judged = infer_plates(bmodel, plates, "simulator").logits
    return compare(Emulator(bmodel.exported).run(_inputs(bmodel, plates)), judged)


def compare(mine: np.ndarray, judge: np.ndarray) -> dict[str, Any]:
    """How far two sets of logits ``[N, classes, 18]`` agree.

    Returns
    -------
    dict
        ``images``; ``identical`` (bit for bit); ``differing``, the part of all logits that differ;
        ``max_abs_difference``; ``largest_logit``; ``same_greedy`` and ``same_plate``, how many
        images read the same by the two decoders.
    """
    same = {
        f"same_{decoder}": sum(
            a == b
            for a, b in zip(
                *(decode(logits, decoder=decoder).texts for logits in (mine, judge)), strict=True
            )
        )
        for decoder in ("greedy", "plate")
    }
    return {
        "images": len(mine),
        "identical": bool(np.array_equal(mine, judge)),
        "differing": float((mine != judge).mean()),
        "max_abs_difference": float(np.abs(mine - judge).max()),
        "largest_logit": float(np.abs(judge).max()),
        **same,
    }


def verify(
    plates: PlateImages,
    weights: Weights,
    cases: Sequence[Case],
    judge: str,
    *,
    images: int | None = None,
    chips: Sequence[str] = CHIPS,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Judge every case on every chip that has it.

    Parameters
    ----------
    plates
        Images; the first `CALIBRATION` calibrate.
    weights
        Weights to compile.
    cases, chips
        What to compile.
    judge
        "interpreter" or "simulator".
    images
        How many to run, spread evenly over the plates; all by default. Cut to whole batches.
    report
        Called with a line for each model.

    Returns
    -------
    list of dict
        The fields of the case, ``chip``, ``judge``, and those of `compare`, or ``refused`` with the
        reason where the compiler or the emulator does not take the model.

    Raises
    ------
    ParameterError
        For an unknown judge or too few images.
    """
    if judge not in JUDGES:
        raise ParameterError(f"judge {judge!r}; choose {' or '.join(JUDGES)}")
    act = judge_interpreter if judge == "interpreter" else judge_simulator
    count = min(images or len(plates), len(plates))
    rows = []
    for case in cases:
        for chip in chips:
            if not supports(chip, case.precision):
                continue
            row = {"chip": chip, **asdict(case), "judge": judge}
            whole = count // case.batch * case.batch
            if not whole:
                raise ParameterError(f"{count} images fill no batch of {case.batch}.")
            chosen = np.arange(whole) * len(plates) // whole
            try:
                bmodel = compiled(case, chip, weights, plates.images[:CALIBRATION])
                row |= {
                    "name": bmodel.strategy or bmodel.precision,
                    **act(bmodel, plates.take(chosen)),
                }
            except LprnetError as error:
                row["refused"] = str(error).split(". ")[0]  # what follows is where the log lies
            rows.append(row)
            report(json.dumps(row, ensure_ascii=False))
    return rows


def parse_cases(text: str) -> tuple[Case, ...]:
    """Cases such as ``mse,kl:4:batch,fp32``: strategy or float precision, batch, batch_mean.

    Raises
    ------
    ParameterError
        For something else.
    """
    cases = []
    for item in text.split(","):
        name, batch, mean = [*item.strip().split(":"), "", ""][:3]
        if item.count(":") > 2 or not name or (batch and not batch.isdigit()):
            raise ParameterError(
                f"case {item!r}; write STRATEGY, STRATEGY:BATCH or "
                "STRATEGY:BATCH:MEAN, such as mse:4:batch."
            )
        cases.append(Case(name, int(batch or 1), mean or "image"))
    return tuple(cases)


def judges_named(judge: str) -> tuple[str, ...]:
    """One of `JUDGES`, or "both" of them.

    Raises
    ------
    ParameterError
        For an unknown one.
    """
    if judge not in (*JUDGES, "both"):
        raise ParameterError(f"judge {judge!r}; choose {', '.join(JUDGES)} or both")
    return JUDGES if judge == "both" else (judge,)


def measure_exactness(
    chips: str | None,
    judge: str,
    images: int,
    simulator_images: int,
    cases: str | None,
    output: Path | None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judge the emulator on the published images and weights, and record it.

    Parameters
    ----------
    chips
        Comma-separated; None for all.
    judge
        "interpreter", "simulator" or "both".
    images, simulator_images
        How many images each judge runs.
    cases
        As `parse_cases`; None for `CASES`.
    output
        Record to add the rows to, or None.
    report
        Called with a line for each model.

    Returns
    -------
    dict
        The record with its ``summary``.

    Raises
    ------
    ParameterError
        For an unknown judge, chip or case.
    """
    named = judges_named(judge)
    chosen = CASES if cases is None else parse_cases(cases)
    targets = tuple(map(parse_chip, chips.split(","))) if chips else CHIPS
    plates, weights = load_published(), load_published_weights()
    record = read_record(output) if output and output.exists() else {"rows": []}
    for one in named:
        count = images if one == "interpreter" else simulator_images
        rows = verify(plates, weights, chosen, one, images=count, chips=targets, report=report)
        record = merge(record, rows)
    record = {
        "about": ABOUT,
        "tools": {"tpu_mlir": compiler().version},
        "images": plates.digest,
        "weights": weights.digest,
        **record,
    }
    record["summary"] = summarize(record["rows"])
    if output:
        write_record(output, record)
    return record


ABOUT = (
    "lprnet-nb bench exactness: the emulator against the vendor's graph interpreter "
    "(following its arithmetic) and against the chip simulator (as it is used), on published "
    "images, spread evenly; a row for each model. graph: digest of the quantized graph "
    "without the chip's name; chips that share it share what the interpreter said."
)


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each judge: models, images run, models to the bit, differing readings, largest step."""
    summary = {}
    for judge in JUDGES:
        judged = [row for row in rows if row["judge"] == judge and "images" in row]
        if judged:
            summary[judge] = {
                "models": len(judged),
                "images": sum(row["images"] for row in judged),
                "identical_models": sum(row["identical"] for row in judged),
                "different_readings": sum(row["images"] - row["same_greedy"] for row in judged),
                "max_abs_difference": max(row["max_abs_difference"] for row in judged),
            }
    return summary


def merge(record: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A record with rows added; of two rows for the same model and judge, the new one stays."""
    fields = ("judge", "strategy", "batch", "batch_mean", "chip")
    kept = {tuple(row[field] for field in fields): row for row in [*record["rows"], *rows]}
    return record | {"rows": list(kept.values())}


def write_record(path: Path, record: dict[str, Any]) -> Path:
    """Write a record, a row a line."""
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in record["rows"])
    head = json.dumps(
        {key: value for key, value in record.items() if key != "rows"}, ensure_ascii=False, indent=1
    )[:-2]
    return atomic_write(path, f'{head},\n "rows": [\n  {lines}\n ]\n}}\n')


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises
    ------
    DataError
        When it cannot be read.
    """
    try:
        record = json.loads(path.read_text("utf8"))
        return {**record, "rows": list(record["rows"])}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"verification record {path} cannot be read: {error}. Make it again with "
            "lprnet-nb bench exactness."
        ) from error


def committed_record() -> dict[str, Any] | None:
    """The record that comes with the repository, or None where it does not."""
    found = sorted((repository() / "data" / "verification").glob("*.json"))
    return read_record(found[-1]) if found else None


def _inputs(bmodel: BModel, plates: PlateImages) -> np.ndarray:
    if bmodel.input_dtype == "uint8":
        return bmodel.interface.input.planes(plates.images)
    return preprocess(plates.images, bmodel.interface.input)
