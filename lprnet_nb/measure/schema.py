"""The files of a report, described and checked: what other programs may rely on.

Reading is strict: an unknown key, a missing one, a number outside its range or a schema of another
version is one `DataError` that names the file and the place in it. ``docs/metrics.md`` is made from
the descriptions here: ``python -m lprnet_nb.measure.schema > docs/metrics.md``.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from ..errors import DataError
from ..evaluate.decision import Outcome
from ..files import read_bytes
from ..toolchain.chips import CHIPS

SCHEMA = 3  # 2 has `loss`, `tolerance` and `models`; 3 has `cores`, and what boxes measured
Readable = Literal[1, 2, 3]

Precision = Literal["fp32", "fp16", "bf16", "int8", "unknown"]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=120)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _known_chip(chip: str) -> str:
    if chip not in CHIPS:
        raise ValueError(f"chip {chip!r} is not one of {', '.join(CHIPS)}")
    return chip


def _tuple(value: Any) -> Any:
    """JSON knows lists only; null stands for an empty one. Everything else stays strict."""
    return () if value is None else tuple(value) if isinstance(value, list) else value


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"interval {list(interval)} has its ends the wrong way round")
    return interval


Chip = Annotated[str, AfterValidator(_known_chip)]
Interval = Annotated[tuple[Share, Share], AfterValidator(_ordered), BeforeValidator(_tuple)]


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Dataset(_Record):
    """The images that every row was measured on."""

    name: str = Field(description='Such as "published", "generated" or the name of a folder.')
    images: int = Field(ge=0, description="How many.")
    digest: str = Field(
        pattern=r"^[0-9a-f]+$", description="SHA-256 over pixels, file names and labels, as hex."
    )


class Loss(_Record):
    """What a model loses against the float network on the same plates, against the tolerance."""

    difference: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="Exact match less the float network's; -0.01 is one point lost."
    )
    ci95: tuple[float, float] = Field(
        description="95 % interval of `difference`, for matched pairs (Agresti and Min 2005)."
    )
    outcome: Outcome = Field(
        description='"within": the interval lies above minus the tolerance; "not within": below; '
        '"too few plates": neither.'
    )
    decides: Annotated[int, Field(ge=1)] | None = Field(
        description="About how many such plates would decide, where these are too few; null "
        "elsewhere, and where a million would not."
    )


class OnBox(_Record):
    """How the logits of a box stand to those that it should give."""

    results: Sha256 = Field(
        description="SHA-256 of the results file, as in `boxes` of manifest.json."
    )
    judge: Literal["simulator", "emulator"] = Field(description="Who made the expected logits.")
    exact: int = Field(ge=0, description="Plates of which every logit is the same, to the bit.")
    same_readings: int = Field(ge=0, description="Plates that greedy decoding reads alike.")
    max_abs_difference: Annotated[float, Field(ge=0)] = Field(
        description="Largest difference of a logit."
    )


class Row(_Record):
    """One way of reading the images: a model, a backend and a decoder."""

    chip: Chip | None = Field(description="Such as BM1684X; null for the float network in PyTorch.")
    precision: Precision = Field(
        description='Of the compiled network; "unknown" for a BModel from elsewhere, which has no '
        "record."
    )
    batch: int = Field(ge=1, description="Images a call.")
    cores: int = Field(
        default=1, ge=1, description="TPU cores that a call is spread over; 1 before schema 3."
    )
    batch_mean: Literal["image", "batch"] = Field(
        description='Whether the global context averages over each "image" or, as published, over '
        'the whole "batch".'
    )
    strategy: Name | None = Field(
        description="Quantization strategy; null for float precisions; for a BModel from elsewhere "
        "the name of its file."
    )
    release: Name | None = Field(
        default=None,
        description="Release of TPU-MLIR that generated the code, where one was asked for by name; "
        "`models` says in every case which it was.",
    )
    backend: str = Field(description="What made the logits: device, simulator, emulator, torch.")
    decoder: str = Field(description='How logits became text: "greedy", "beam", "plate", …')
    images: int = Field(ge=0, description="Images read.")
    exact_match: Share | None = Field(
        description="Share of plates read without any error; null without labels."
    )
    ci95: Interval | None = Field(description="Wilson's 95 % interval of `exact_match`.")
    character_accuracy: Annotated[float, Field(le=1)] | None = Field(
        description="1 - edit distance / length, over all characters; null without labels."
    )
    agreement_with_float: Share | None = Field(
        description="Share of images that read the same as with the float network in PyTorch; "
        "labels are not needed."
    )
    mcnemar_p: Share | None = Field(
        description="Exact two-sided McNemar p-value of this row against the float network on the "
        "same plates with the same decoder. Not corrected for the number of rows."
    )
    logits_cosine: Annotated[float, Field(ge=-1.000001, le=1.000001)] | None = Field(
        description="Cosine between these logits and the float network's, all images as one "
        "vector; 1 is the same direction."
    )
    logits_sqnr_db: float | None = Field(
        description="Power of the float logits over the power of the difference, in dB; null when "
        "there is no difference at all."
    )
    same_top1: Share | None = Field(
        default=None,
        description='Of logits that are no CTC (`decoder` is "top"): share of all positions whose '
        "likeliest class is the float network's; null where texts are decoded.",
    )
    predicted_latency_ms: Annotated[float, Field(ge=0)] | None = Field(
        description="The compiler's own prediction for one call (a whole batch), in milliseconds; "
        "null where it makes none (BM1684)."
    )
    loss: Loss | None = Field(
        default=None,
        description="Against the float network at the same batch, by the same decoder; null for "
        "that itself and in schema 1.",
    )
    box: OnBox | None = Field(
        default=None,
        description="Where a kit's results were shown: they are of a device elsewhere. null for "
        "what was run here.",
    )

    @property
    def id(self) -> str:
        """Name of the row's BModel in a report's files, such as ``bm1684x_int8_1b_kl``."""
        return model_id(
            self.chip, self.precision, self.batch, self.strategy, self.cores, self.release
        )

    @property
    def right(self) -> int | None:
        """Number of plates read without error."""
        return None if self.exact_match is None else round(self.exact_match * self.images)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.box and max(self.box.exact, self.box.same_readings) > self.images:
            raise ValueError(f"box counts more plates than the {self.images} that were read")
        if (self.exact_match is None) != (self.ci95 is None):
            raise ValueError("exact_match and ci95 go together: give both or neither")
        if self.ci95 is None or self.exact_match is None:
            return self
        if not self.ci95[0] - 1e-9 <= self.exact_match <= self.ci95[1] + 1e-9:
            raise ValueError(f"exact_match {self.exact_match} lies outside ci95 {list(self.ci95)}")
        return self


class Upgrade(_Record):
    """One model by two releases of the compiler, on the same plates with the same decoder."""

    chip: Chip = Field(description="Target.")
    precision: Precision = Field(description="Of the compiled network.")
    batch: int = Field(ge=1, description="Images a call.")
    cores: int = Field(default=1, ge=1, description="TPU cores that a call is spread over.")
    strategy: Name | None = Field(description="Quantization strategy; null for float precisions.")
    decoder: str = Field(description="How logits became text.")
    release: Name = Field(description="One release of TPU-MLIR.")
    to: Name = Field(description="The other: the last one that was named.")
    images: int = Field(ge=1, description="Plates that both read.")
    difference: Annotated[float, Field(ge=-1, le=1)] = Field(
        description="Exact match by `to` less that by `release`."
    )
    only_release: int = Field(ge=0, description="Plates that only `release` reads right.")
    only_to: int = Field(ge=0, description="Plates that only `to` reads right.")
    p: Share = Field(description="Exact two-sided McNemar p-value. Not corrected.")
    same_logits: bool = Field(description="Whether all logits are the same to the bit.")
    predicted_latency_ms: tuple[float | None, float | None] = Field(
        description="The compilers' predictions for one call, of `release` and of `to`."
    )


class Calibration(_Record):
    """The images that thresholds were chosen on."""

    name: str = Field(description="Of the images drawn from.")
    images: int = Field(ge=0, description="How many there were to draw from.")
    among_evaluated: bool = Field(
        description="Whether they are drawn from the very images that are evaluated."
    )


class Drawn(_Record):
    """The calibration images of one model."""

    images: int = Field(ge=1, description="How many.")
    seed: int = Field(description="Of the draw.")
    digest: Sha256 = Field(description="Of their pixels.")
    among_evaluated: bool = Field(description="Whether they are among the judged images.")


class Origin(_Record):
    """What made one model."""

    strategy: dict[str, JsonValue] | None = Field(
        description="The quantization strategy with all its settings: the name that it has itself, "
        "`method` of the thresholds, `float_roles`, …; null for float precisions."
    )
    calibration: Drawn | None = Field(description="null for float precisions.")
    tools: dict[str, str] = Field(description="Versions of compiler and tracer.")


class Unlike(_Record):
    """By what plates are unlike those of a calibration, in float and without labels."""

    plates: int = Field(ge=0, description="How many were read.")
    on: str = Field(description="What the confidence was calibrated on.")
    signs: dict[str, tuple[float, float]] = Field(
        description="Mean here and there of `confidence` (calibrated), `province` (confidence in "
        "the first character), `no plate` (share of readings that are none), `first` and `last` "
        "(time steps at which the text begins and ends)."
    )


class Source(_Record):
    """Where images and weights are from."""

    source: Literal["published", "generated", "folder"] = Field(description="Of the images.")
    weights: str = Field(
        description='"published", "generated" (our own, trained on generated '
        "plates) or the name of a file."
    )
    margin: str = Field(
        default="0/0",
        description="What was added on each side of every crop, percent of its width/height.",
    )
    unlike: Unlike | None = Field(
        default=None,
        description="Signs that the plates are unlike those that the weights' confidence was "
        "calibrated on; null without any.",
    )
    calibration: Calibration


class Metrics(_Record):
    """All accuracies of a report. The same parameters give the same bytes."""

    schema_: Readable = Field(alias="schema", description="Version of this description.")
    tolerance: Annotated[float, Field(ge=0, le=100)] | None = Field(
        default=None, description="Points of exact match that a model may lose; null in schema 1."
    )
    dataset: Dataset
    data: Source | None = Field(default=None, description="Where images and weights are from.")
    models: dict[Name, Origin] = Field(
        default_factory=dict, description="What made each BModel, by id; empty in schema 1."
    )
    rows: tuple[Row, ...] = Field(description="In the order of the report's main table.")
    upgrades: tuple[Upgrade, ...] = Field(
        default=(), description="Releases side by side; empty where none or one was named."
    )

    @model_validator(mode="after")
    def _no_row_twice(self) -> Self:
        seen = set()
        for index, row in enumerate(self.rows):
            key = (row.id, row.batch_mean, row.backend, row.decoder)
            if key in seen:
                raise ValueError(
                    f"row {index} says again what an earlier row says: {', '.join(key)}"
                )
            seen.add(key)
        return self


Milliseconds = Annotated[float, Field(ge=0)] | None


class TimingRow(_Record):
    """Mean wall time of an image on the machine that made the logits, by the vendor's stages."""

    id: Name = Field(description="As in `bmodels/<id>.json`.")
    decoder: str = Field(description="As in metrics.json.")
    backend: str = Field(
        description="As in metrics.json. Only a device's times tell how fast a chip is."
    )
    decode_ms: Milliseconds = Field(default=None, description="Reading and decoding a file.")
    preprocess_ms: Milliseconds = Field(default=None, description="Resizing and normalizing.")
    inference_ms: Milliseconds = Field(default=None, description="Running the network.")
    postprocess_ms: Milliseconds = Field(default=None, description="Turning logits into text.")


class Spread(_Record):
    """Milliseconds an image over timed calls."""

    median: float = Field(ge=0, description="Of the calls.")
    quartiles: Annotated[tuple[float, float], BeforeValidator(_tuple)] = Field(
        description="Medians of the lower and of the upper half."
    )
    least: float = Field(ge=0, description="Of the calls.")
    most: float = Field(ge=0, description="Of the calls.")
    calls: int = Field(ge=1, description="How many were timed; those to warm up are not counted.")
    images_per_call: int = Field(ge=1, description="Images a call, by which times are divided.")


class BoxTimes(_Record):
    """What one program took for one model on a box."""

    id: Name = Field(description="As in `bmodels/<id>.json`.")
    results: Sha256 = Field(description="As in `box` of metrics.json.")
    program: Literal["opencv", "numpy", "bmcv"] = Field(
        description='Who decoded and resized: OpenCV, nobody ("numpy": plates came as arrays), or '
        "the device."
    )
    times_ms: dict[str, Spread] = Field(
        description="By step: `decode`, `preprocess`, `inference`, `postprocess` (greedy) as in "
        "the vendor's tables; `runtime`, the run alone on tensors that lie on the device; "
        "`bmrt_test`, by the SDK's program, where the box has it."
    )


class Timings(_Record):
    """All that may differ between two runs with the same parameters."""

    schema_: Readable = Field(alias="schema", description="Version of this description.")
    note: str = Field(default="", description="What to bear in mind.")
    rows: tuple[TimingRow, ...] = Field(
        description="One for each row of metrics.json that ran here."
    )
    boxes: tuple[BoxTimes, ...] = Field(
        default=(), description="What was measured on boxes, from the results of kits."
    )
    notebooks: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Seconds that each notebook took."
    )
    total_s: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Seconds of the whole report."
    )


class Checks(_Record):
    """The checks of a kit on a box."""

    passed: int = Field(ge=0, description="How many passed.")
    failed: list[str] = Field(description="Check and model of those that did not.")


class BoxFacts(_Record):
    """A box, and the results file that came from it."""

    file: str = Field(description="Name of the results file.")
    sha256: Sha256 = Field(description="Of that file.")
    kit: Sha256 = Field(description="Of the kit's kit.json.")
    chip: Chip = Field(description="That the kit is for.")
    name: str = Field(description="Board, else chip.")
    settings: dict[str, float] = Field(description="`warm_up`, `repetitions`, `timeout`.")
    checks: Checks = Field(description="Of names, shapes, dtypes and logits.")
    box: dict[str, JsonValue] = Field(
        description="What the machine says of itself: board, chip, SDK, driver, sail, the "
        "runtime's SHA-256 by file, temperature and clock; null for what could not be read."
    )


class Manifest(_Record):
    """Where a report comes from."""

    schema_: Readable = Field(alias="schema", description="Version of this description.")
    profile: str = Field(
        description='"quick", "full" or "tour": the parameters to start from.',
    )
    parameters: dict[str, JsonValue] = Field(description="All parameters, by upper-case name.")
    versions: dict[str, str | None] = Field(
        description="Versions of Python, packages and compiler; null for what is not there."
    )
    data: dict[str, JsonValue] = Field(
        description="`dataset` and `data` of metrics.json, and why that source was taken."
    )
    bmodels: dict[str, Sha256] = Field(description="SHA-256 of every BModel by its id.")
    boxes: list[BoxFacts] = Field(
        default_factory=list, description="Whose results were shown; none before schema 3."
    )
    packaged: Sha256 | None = Field(
        default=None,
        description="Of the archive of packaged graphs, where nothing was compiled (a tour); null "
        "otherwise.",
    )
    metrics_sha256: Sha256 | None = Field(description="Of metrics.json; null when there is none.")
    revision: str | None = Field(
        description='Commit of the workbook, with "+changes" when the checkout differed from it; '
        "null outside git."
    )
    machine: dict[str, JsonValue] = Field(
        default_factory=dict, description="What the report was made on."
    )
    created: str | None = Field(default=None, description="When, as ISO 8601 in UTC.")
    files: list[str] = Field(
        default_factory=list,
        description="Files of the report. What else lies in its folder is the user's, and stays.",
    )


class Layer(_Record):
    """How far one layer of a compiled network is from the float network."""

    name: str = Field(description="The compiler's name of the layer.")
    op: str | None = Field(default=None, description="Operation, such as Conv.")
    role: str | None = Field(
        default=None,
        description="Role of the layer, or the compiler's name where a network has no roles.",
    )
    cosine: float | None = Field(default=None, description="Cosine with the float output.")
    sqnr_db: float | None = Field(default=None, description="Signal over quantization noise, dB.")


class LayerLatency(_Record):
    """Share of one layer in the compiler's prediction."""

    name: str = Field(description="Layer or command.")
    unit: str | None = Field(default=None, description='Engine: "BD" computes, "GDMA" moves data.')
    cycles: Annotated[int, Field(ge=0)] = Field(description="Predicted clock cycles.")


class BModelFacts(_Record):
    """All that is known of one compiled model: ``bmodels/<id>.json``."""

    schema_: Readable = Field(default=1, alias="schema", description="Version of this description.")
    id: Name = Field(
        description="chip_precision_batch_cores_strategy; one core and the strategy of float "
        "models are left out."
    )
    chip: Chip = Field(description="Target.")
    precision: Precision = Field(description="Of the compiled network.")
    batch: int = Field(ge=1, description="Images a call.")
    cores: int = Field(
        default=1, ge=1, description="TPU cores that a call is spread over; 1 before schema 3."
    )
    strategy: Name | None = Field(description="Quantization strategy; null for float precisions.")
    form: str | None = Field(
        default=None,
        description='Of the network: "published", or "forked" (the same function, '
        "its channels with scales of their own).",
    )
    predicted_latency_ms: Annotated[float, Field(ge=0)] | None = Field(
        description="The compiler's own prediction for one call; null where it makes none."
    )
    sha256: Sha256 = Field(description="Of the ``.bmodel`` file.")
    tools: dict[str, str] = Field(description="Versions of compiler and tracer.")
    origin: Origin | None = Field(default=None, description="As in `models` of metrics.json.")
    info: str | None = Field(default=None, description="What ``model_tool --info`` prints.")
    memory: dict[str, int | None] | None = Field(
        default=None, description="Bytes by kind: weight, instruct, runtime, …"
    )
    layers: Annotated[tuple[Layer, ...], BeforeValidator(_tuple)] = Field(
        default=(), description="In the order of the network; empty where not measured."
    )
    latency_by_layer: Annotated[tuple[LayerLatency, ...], BeforeValidator(_tuple)] = Field(
        default=(), description="In the order of execution; empty where there is no prediction."
    )
    crosscheck: dict[str, JsonValue] | None = Field(
        default=None,
        description="The same BModel on the chip simulator: `images`, `identical` (bit for bit), "
        "`max_abs_difference`, `same_classes`, `same_readings`, and `read_otherwise`, the images "
        "whose readings are not the same, where there are any; null where none was done.",
    )


Kind = TypeVar("Kind", bound=BaseModel)


def model_id(
    chip: str | None,
    precision: str,
    batch: int,
    strategy: str | None,
    cores: int = 1,
    release: str | None = None,
) -> str:
    """Name of a model in a report's files; `release` where one was asked for by name.

    Examples
    --------
    >>> model_id("BM1684X", "int8", 1, "kl"), model_id("BM1688", "int8", 4, "kl", 2)
    ('bm1684x_int8_1b_kl', 'bm1688_int8_4b_2core_kl')
    >>> model_id("BM1684X", "int8", 1, "kl", release="1.18.1")
    'bm1684x_int8_1b_kl_1.18.1'
    >>> model_id(None, "fp32", 4, None)
    'float_4b'
    """
    if chip is None:
        return f"float_{batch}b"
    spread = f"{cores}core" if cores > 1 else None
    parts = (chip.lower(), precision, f"{batch}b", spread, strategy, release)
    return "_".join(part for part in parts if part)


def results_name(identity: str, decoder: str, boxed: bool) -> str:
    """Stem of the file of a row's readings below ``results/``; a box's stand beside our own.

    Examples
    --------
    >>> results_name("bm1684x_int8_1b_kl", "greedy", True)
    'bm1684x_int8_1b_kl_greedy_box'
    """
    return f"{identity}_{decoder}" + ("_box" if boxed else "")


def written(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it goes into a file, checked by the description that it is read with.

    Raises
    ------
    pydantic.ValidationError
        When it is not what the description says.
    """
    record = kind.model_validate_json(json.dumps(values))
    return record.model_dump(mode="json", by_alias=True, exclude_unset=True)


def read_metrics(path: str | Path) -> Metrics:
    """Read and check a ``metrics.json``; raises `DataError`."""
    return _read(Path(path), Metrics)


def read_timings(path: str | Path) -> Timings:
    """Read and check a ``timings.json``; raises `DataError`."""
    return _read(Path(path), Timings)


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a ``manifest.json``; raises `DataError`."""
    return _read(Path(path), Manifest)


def read_bmodel_facts(path: str | Path) -> BModelFacts:
    """Read and check a ``bmodels/<id>.json``, whose id is its file name; raises `DataError`."""
    facts = _read(Path(path), BModelFacts)
    if facts.id != Path(path).stem:
        raise DataError(f"{path} is about {facts.id!r}. Name it {facts.id}.json, or mend its id.")
    return facts


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        text = read_bytes(path).decode("utf8")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Make the report again: `lprnet-nb report`.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}. Make the report again.") from error
    version = value.get("schema", SCHEMA) if isinstance(value, dict) else SCHEMA
    readable = typing.get_args(Readable)
    if version not in readable:
        raise DataError(
            f"{path} has schema {version!r}; this version of lprnet-nb reads schema "
            f"{' and '.join(map(str, readable))}. Read it with the version that wrote it, or make "
            "it again."
        )
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = [f"{_place(one['loc'])}: {one['msg']}" for one in error.errors()]
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise DataError(
            f"{path} is not a {kind.__name__} of schema {SCHEMA}: "
            f"{'; '.join(problems[:3])}{more}. See docs/metrics.md."
        ) from error


def _place(location: Iterable[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the whole"


_DOCUMENTS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("metrics.json", Metrics, "Accuracies. Byte for byte the same for the same parameters."),
    ("timings.json", Timings, "Times, which differ from run to run."),
    ("manifest.json", Manifest, "Parameters, versions, digests: enough to make the report again."),
    ("bmodels/<id>.json", BModelFacts, "One for each compiled model."),
)


def markdown() -> str:
    """The schema for people: the text of ``docs/metrics.md``."""
    lines = [
        "# The files of a report",
        "",
        f"Schema {SCHEMA}. Made from `lprnet_nb/measure/schema.py` by "
        "`python -m lprnet_nb.measure.schema > docs/metrics.md`; a test holds the two together.",
        "",
        "A report is a folder. Besides the files described here it has `index.html`, executed "
        "`notebooks/`, `figures/` (each with a JSON of its caption), `tables/` "
        '(`{"caption", "rows"}`) and `results/<id>_<decoder>.json` (`{file name: plate}`), of a '
        "box's rows `results/<id>_<decoder>_box.json`.",
        "",
        "Reading is strict: unknown keys, missing keys and values out of range are errors. NaN is "
        "never written; a thing that does not apply is null. A change that readers would notice "
        "gets a new schema number.",
        "",
        "`<id>` is `chip_precision_batch_strategy`, such as `bm1684x_int8_1b_kl`; the strategy is "
        "left out for float precisions, and more than one core stands after the batch: "
        "`bm1688_int8_4b_2core_kl`. The float network in PyTorch is `float_1b`.",
        "",
        "```python",
        "from lprnet_nb.measure.schema import read_metrics",
        "",
        'metrics = read_metrics("reports/quick/metrics.json")',
        "for row in metrics.rows:",
        "    print(row.id, row.decoder, row.exact_match, row.ci95)",
        "```",
        "",
    ]
    for title, model, about in _DOCUMENTS:
        lines += [f"## `{title}`", "", about, "", *_described(model, set())]
    return "\n".join(lines).rstrip() + "\n"


def _described(model: type[BaseModel], done: set[type]) -> list[str]:
    done.add(model)
    lines = ["| key | type | meaning |", "| --- | --- | --- |"]
    nested: list[type[BaseModel]] = []
    for name, info in model.model_fields.items():
        inner = [
            kind
            for kind in _inside(info.annotation)
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in done
        ]
        nested += inner
        meaning = info.description or _first_line(_inside(info.annotation))
        lines.append(
            f"| `{info.alias or name}` | {_type_name(info.annotation)} | "
            f"{meaning.replace('``', '`').replace('|', chr(92) + '|')} |"
        )
    lines.append("")
    for kind in nested:
        lines += [f"### {kind.__name__}", "", _first_line([kind]), "", *_described(kind, done)]
    return lines


def _inside(annotation: Any) -> list[Any]:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal or not arguments:
        return [annotation]
    return [kind for argument in arguments for kind in _inside(argument)]


def _first_line(kinds: Iterable[Any]) -> str:
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return (kind.__doc__ or "").strip().split("\n")[0].replace("``", "`")
    return ""


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_type_name(argument) for argument in arguments))
    if origin is dict:
        return f"object of {_type_name(arguments[1])}"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type_name(arguments[0])}"
        return "[" + ", ".join(_type_name(argument) for argument in arguments) + "]"
    names = {
        str: "string",
        int: "whole number",
        float: "number",
        bool: "true or false",
        type(None): "null",
        JsonValue: "anything",
    }
    if annotation in names:
        return names[annotation]
    return getattr(annotation, "__name__", re.sub(r"^.*\.", "", str(annotation)))


if __name__ == "__main__":
    print(markdown(), end="")
