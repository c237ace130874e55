"""BModels from elsewhere: what the file says of itself, and what has to be said of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..cache import digest, file_digest
from ..datasets.alphabet import PUBLISHED, Alphabet, read_alphabet, with_blank
from ..datasets.images import PUBLISHED_INPUT, InputFormat
from ..datasets.interface import LAYOUT, Interface
from ..errors import EngineError, ParameterError
from ..toolchain.bmodel import UNKNOWN, BModel
from ..toolchain.chips import CHIPS
from .bmodel_file import Contents, Stage, read_contents

PIXEL_FORMATS = ("bgr", "rgb")


@dataclass(frozen=True)
class Said:
    """What is said of a BModel that has no record; None is as the published weights have it.

    Parameters
    ----------
    mean, scale
        Numbers, one or one a channel, separated by commas: ``(x - mean) * scale``.
    pixel_format
        "bgr" or "rgb".
    classes
        Class list, a text file.
    blank
        Index of the CTC blank, for a class list without ``-``.
    """

    mean: str | None = None
    scale: str | None = None
    pixel_format: str | None = None
    classes: str | Path | None = None
    blank: int | None = None

    @property
    def options(self) -> list[str]:
        """What was said, by option."""
        given = asdict(self).items()
        return [f"--{name.replace('_', '-')}" for name, value in given if value is not None]

    def input(self) -> InputFormat:
        """What the network takes of a picture.

        Raises
        ------
        ParameterError
            For what is no number, no positive scale or no order of channels.
        """
        usual = PUBLISHED_INPUT
        mean = usual.mean if self.mean is None else _each_channel("mean", self.mean)
        scale = usual.scale if self.scale is None else _each_channel("scale", self.scale)
        order = usual.order if self.pixel_format is None else self.pixel_format.lower()
        if order not in PIXEL_FORMATS:
            raise ParameterError(
                f"pixel format {self.pixel_format!r} is not known. Choose bgr or rgb."
            )
        if not all(scale):
            raise ParameterError("a scale of 0 makes every picture the same. Give another.")
        return InputFormat(usual.height, usual.width, mean, scale, order)

    def alphabet(self) -> Alphabet:
        """The class list.

        Raises
        ------
        DataError
            As `read_alphabet`.
        """
        if self.classes is None:
            if self.blank is None:
                return PUBLISHED
            return with_blank(PUBLISHED.classes.replace("-", ""), self.blank)
        return read_alphabet(self.classes, blank=self.blank)


def _each_channel(name: str, text: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in str(text).split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(abs(value) < 1e9 for value in values):
        raise ParameterError(f"{name} {text!r}: give one number, or three separated by commas.")
    first, second, third = values if len(values) == 3 else values * 3
    return first, second, third


def model_at(place: str | Path, said: Said = Said(), *, trust: bool = False) -> BModel:
    """The model at a place: by its record, or, where it has none, by itself and by what is said.

    Parameters
    ----------
    place
        A BModel's file, or the folder of a compile.
    said
        See `Said`; only for a BModel without a record.
    trust
        Run what was not made here; a BModel without a record never was.

    Raises
    ------
    DataError
        As `BModel.load`.
    ParameterError
        When a BModel without a record is not trusted, or something is said of one with a record.
    EngineError
        As `foreign_bmodel`.
    """
    path = Path(place)
    if path.is_file() and not path.with_suffix(".json").is_file():
        if not trust:
            raise ParameterError(
                f"{path} has no record beside it ({path.stem}.json): it was not made here, and it "
                "holds instructions that are run as they are. If you know where it comes from, "
                "say so: --trust. Pixels and classes are then taken as the published weights have "
                "them; --mean, --scale, --pixel-format, --classes and --blank say otherwise."
            )
        return foreign_bmodel(path, said.input(), said.alphabet())
    if said.options:
        raise ParameterError(
            f"{', '.join(said.options)}: {path} has a record that says this. It is for BModels "
            "without one."
        )
    return BModel.load(path)


def foreign_bmodel(path: Path, taken: InputFormat, alphabet: Alphabet) -> BModel:
    """A record of a BModel that has none, as far as the file tells.

    Whether its mean runs over the batch is not in the file; taken to, as published, so that padding
    is warned of.

    Raises
    ------
    EngineError
        When the file is damaged, for a chip without a runtime here, or no LPRNet with these
        classes.
    """
    contents = read_contents(path)
    if contents.chip not in CHIPS:
        raise EngineError(
            f"BModel {path} is for the chip {contents.chip}, whose runtime is not here; those of "
            f"{', '.join(CHIPS)} are."
        )
    stages = [_checked(path, contents, stage, taken, alphabet) for stage in _stages(path, contents)]
    largest = max(stages, key=lambda stage: stage.inputs[0].shape[0])
    steps_first = largest.outputs[0].shape[1] != alphabet.size
    interface = Interface(taken, "ntc" if steps_first else LAYOUT)
    sha256 = file_digest(path)
    identity = {"sha256": sha256, "interface": interface.described(), "classes": alphabet.listed}
    return BModel(
        path=path,
        chip=contents.chip,
        precision=UNKNOWN,
        batch=largest.inputs[0].shape[0],
        batch_mean="batch",
        form=UNKNOWN,
        strategy=None,
        predicted_latency_ms=None,
        sha256=sha256,
        digest=digest(identity | {"blank": alphabet.blank}),
        tools={"bmodel": f"version {contents.version}, {contents.created}"},
        input_shape=largest.inputs[0].shape,
        output_shape=largest.outputs[0].shape,
        input_dtype=largest.inputs[0].dtype.removeprefix("BM_").lower(),
        weights=UNKNOWN,
        network=contents.graphs[0].name,
        alphabet=alphabet,
        interface=interface,
    )


def label_of(path: Path) -> str:
    """What results call a BModel from elsewhere: its file's name, without what no name may have.

    >>> label_of(Path("models/lprnet int8(1).bmodel"))
    'lprnet-int8-1'
    """
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", path.stem).strip("-._+")[:60] or "bmodel"


def _stages(path: Path, contents: Contents) -> list[Stage]:
    dynamic = [graph.name for graph in contents.graphs if graph.dynamic]
    if dynamic:
        raise EngineError(
            f"BModel {path} was compiled with dynamic shapes ({', '.join(dynamic)}), which are not "
            "run here: compile it with fixed ones."
        )
    return [stage for graph in contents.graphs for stage in graph.stages]


def _checked(
    path: Path, contents: Contents, stage: Stage, taken: InputFormat, alphabet: Alphabet
) -> Stage:
    """A stage of one input and one output that are LPRNet's."""
    if len(stage.inputs) != 1 or len(stage.outputs) != 1:
        raise EngineError(
            f"BModel {path} has {len(stage.inputs)} inputs and {len(stage.outputs)} outputs; "
            "LPRNet has one of each, and only such networks are run."
        )
    [input_], [given] = stage.inputs, stage.outputs
    planes, height, width = taken.shape
    if tuple(input_.shape[1:]) not in (taken.shape, (height, width, planes)):
        raise EngineError(
            f"BModel {path} takes {_sides(input_.shape)}; LPRNet takes pictures of "
            f"{width}x{height} pixels and {planes} channels, [N, {planes}, {height}, {width}] or "
            f"[N, {height}, {width}, {planes}]."
        )
    if len(given.shape) != 3 or alphabet.size not in given.shape[1:]:
        raise EngineError(
            f"BModel {path} gives {_sides(given.shape)}, and the class list has {alphabet.size} "
            "classes with the blank. Name the class list of its weights: --classes."
        )
    return stage


def _sides(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
