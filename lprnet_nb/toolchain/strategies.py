"""Quantization strategies as data: what to calibrate with, and what to leave in float."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ..errors import ParameterError
from ..inputs import note, read_json
from ..model.lprnet.layers import Form
from ..model.lprnet.roles import ROLES
from ..places import data_dir, repository
from .chips import CHIPS, parse_chip
from .layers import ENDS, is_general
from .releases import ASYMMETRIC, PINNED, SEARCHES, release_like, with_method
from .releases import METHODS as METHODS

Method = Literal["kl", "mse", "max", "percentile9999", "aciq_gauss", "aciq_laplace"]
Search = Literal["search_threshold", "search_qtable"]


# Fields that came later, with what was done before there were they.
LATER: dict[str, Any] = {"layer_methods": (), "thresholds": "calibrated", "weights": "max"}
Kind = TypeVar("Kind", bound=BaseModel)


class Strategy(BaseModel):
    """One way to quantize.

    Parameters
    ----------
    name
        Key in the registry and in results.
    about
        One sentence: what it does, and who advises it.
    method
        How the threshold of an activation is chosen from its histogram.
    images
        Calibration images.
    tune
        Images on which the compiler refines the thresholds (its default is 5; 0 leaves it out).
    channel_order
        Order in which calibration images are fed; inference is always BGR. The tutorial's
        ``bgr2rgb`` is "rgb".
    weight_equalization, bias_correction
        The compiler's ``--we`` and ``--bc``.
    symmetric
        Signed thresholds without a zero point; False asks for the compiler's ``--asymmetric``.
    float_roles
        Roles of layers that stay in float: LPRNet's own (`model.lprnet.roles`), or those of any
        network (`layers`).
    fuse_preprocess
        Take uint8 images and put the preprocessing into the model.
    search
        Let the compiler search thresholds or float layers by itself.
    form
        Form of the network: "published", or "forked", see `model.lprnet.layers.ForkedLPRNet`.
    finetune
        Tune the weights on the thresholds that were found, see `toolchain.finetune`.
    layer_methods
        ``(role, method)``: layers whose thresholds are chosen by another method than `method`;
        where two name one layer, the later.
    thresholds
        "calibrated", or "learnt" on the calibration images, starting from the calibrated ones (see
        `lprnet_nb.learnt`).
    weights
        How weights become integers: "max", the compiler's way, by the largest of each channel;
        "mse", by the scale of least squared error; "learnt", on the compiler's scale, rounded so
        that the layer's result is nearest to float.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$", max_length=60)
    about: str = ""
    method: Method = "kl"
    images: int = Field(default=100, ge=1, le=100_000)
    tune: int = Field(default=5, ge=0, le=1000)
    channel_order: Literal["bgr", "rgb"] = "bgr"
    weight_equalization: bool = False
    bias_correction: bool = False
    symmetric: bool = True
    float_roles: tuple[str, ...] = ()
    fuse_preprocess: bool = False
    search: Search | None = None
    form: Form = "published"
    finetune: bool = False
    layer_methods: tuple[tuple[str, Method], ...] = ()
    thresholds: Literal["calibrated", "learnt"] = "calibrated"
    weights: Literal["max", "mse", "learnt"] = "max"

    @field_validator("float_roles")
    @classmethod
    def _known_roles(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        _check_roles(roles)
        general = sorted(role for role in set(roles) if role not in ROLES)
        return (*(role for role in ROLES if role in roles), *general)

    @field_validator("layer_methods")
    @classmethod
    def _possible_methods(
        cls, pairs: tuple[tuple[str, Method], ...], found: ValidationInfo
    ) -> tuple[tuple[str, Method], ...]:
        _check_roles([role for role, _ in pairs])
        if pairs and (found.data.get("search") or found.data.get("bias_correction")):
            raise ValueError("a search and bias correction choose one table for all layers")
        return pairs

    @field_validator("thresholds", "weights")
    @classmethod
    def _learnable(cls, value: str, found: ValidationInfo) -> str:
        others = ("search", "bias_correction", "weight_equalization", "fuse_preprocess", "finetune")
        taken = [name for name in others if found.data.get(name)]
        taken += [] if found.data.get("symmetric", True) else ["symmetric=False"]
        if value not in ("calibrated", "max") and taken:
            raise ValueError(f"what is learnt follows plain symmetric INT8, without {taken[0]}")
        return value

    @property
    def learns(self) -> bool:
        """Whether something is learnt on the calibration images, see `lprnet_nb.learnt`."""
        return self.thresholds == "learnt" or self.weights != "max"

    @property
    def methods(self) -> list[Method]:
        """Threshold methods of all layers."""
        return sorted({self.method, *(method for _, method in self.layer_methods)})

    def of_one_method(self, method: str) -> Strategy:
        """This strategy with all thresholds by one method."""
        return self.model_copy(update={"method": method, "layer_methods": ()})

    def calibration_options(self) -> dict:
        """What the calibration table depends on, besides network and images."""
        return {
            "method": self.method,
            "tune": self.tune,
            "search": self.search,
            "weight_equalization": self.weight_equalization,
            "bias_correction": self.bias_correction,
            "channel_order": self.channel_order,
            "fuse_preprocess": self.fuse_preprocess,
        }

    def cut_to(self, images: int) -> Strategy:
        """This strategy on at most so many calibration images; a note says where that is fewer."""
        if self.images <= images:
            return self
        note_fewer(self.name, self.images, images)
        return self.model_copy(update={"images": images, "tune": min(self.tune, images)})

    @property
    def of_lprnet(self) -> bool:
        """Whether it names what LPRNet alone has: its roles, its forked form, its training."""
        own = self.form != "published" or self.finetune
        return own or not all(map(is_general, self.float_roles))

    def key(self) -> dict:
        """All that decides the result for given weights, name and description aside."""
        fields = self.model_dump(mode="json", exclude={"name", "about", "finetune"})
        for name, default in LATER.items():  # models keep the keys of before there was the field
            if getattr(self, name) == default:
                del fields[name]
        return fields


def _check_roles(roles: Iterable[str]) -> None:
    unknown = [role for role in roles if role not in ROLES and not is_general(role)]
    if unknown:
        known = ", ".join([*ROLES, *ENDS, "name:PATTERN", "op:PATTERN"])
        raise ValueError(f"role {unknown[0]!r} is not known; choose from {known}")


def note_fewer(name: str, wanted: int, images: int) -> None:
    """Say that a strategy takes fewer calibration images than it would."""
    note(f"strategy {name} calibrates on {images} images instead of {wanted}: there are no more.")


def make_strategy(**fields: Any) -> Strategy:
    """A validated strategy; raises as `checked` does."""
    return checked(Strategy, "strategy", fields)


def checked(kind: type[Kind], called: str, fields: dict[str, Any]) -> Kind:
    """A strategy of a toolchain from its fields; `called` is what the error calls such a one.

    Raises
    ------
    ParameterError
        Naming the field, what is wrong with it and what is possible.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{field}={first['input']!r}: " if field else ""
        raise ParameterError(
            f"{called} {fields.get('name', '')!r}: {where}{first['msg']}."
        ) from error


def read_strategy(path: str | Path) -> Strategy:
    """Read a strategy from a JSON file.

    Raises
    ------
    ParameterError
        When the file is missing, not JSON, or not a strategy.
    """
    fields = read_json(path, "strategy file", ParameterError)
    # A recommendation carries its evidence beside the strategy.
    if isinstance(fields, dict):
        fields = fields.get("strategy", fields)
    if not isinstance(fields, dict):
        raise ParameterError(f"strategy file {path} is not a JSON object of a strategy's fields.")
    try:
        return make_strategy(**fields)
    except ParameterError as error:
        raise ParameterError(f"strategy file {path}: {error}") from error


def _registry(*strategies: Strategy) -> dict[str, Strategy]:
    return {strategy.name: strategy for strategy in strategies}


CONTEXT = (
    "context-pool",
    "context-square",
    "context-mean",
    "context-divide",
    "concat",
    "container",
    "final-mean",
)

STRATEGIES: dict[str, Strategy] = _registry(
    Strategy(name="kl", about="TPU-MLIR's default: KL divergence, 100 images, tuned on 5."),
    Strategy(
        name="kl-tune0",
        tune=0,
        about="KL divergence without the tuning pass, which LPRNet cannot do without.",
    ),
    Strategy(name="mse", method="mse", about="Threshold of least squared error."),
    Strategy(name="max", method="max", about="Largest value seen; nothing saturates."),
    Strategy(
        name="percentile9999",
        method="percentile9999",
        about="The 99.99th percentile of what was seen.",
    ),
    Strategy(
        name="aciq-gauss", method="aciq_gauss", about="Analytic clipping under a Gaussian (ACIQ)."
    ),
    Strategy(
        name="aciq-laplace",
        method="aciq_laplace",
        about="Analytic clipping under a Laplacian (ACIQ).",
    ),
    Strategy(
        name="kl-rgb",
        channel_order="rgb",
        about="Tutorial's first tip: build the calibration set with bgr2rgb.",
    ),
    Strategy(name="kl-20", images=20, about="Tutorial's second tip, few: 20 images."),
    Strategy(name="kl-450", images=450, about="Tutorial's second tip: iterations=450."),
    Strategy(
        name="kl-in-out",
        float_roles=("input", "output"),
        about="Tutorial's third tip: x.1 and 237, the first and the last layer, in float.",
    ),
    Strategy(name="mse-rgb", method="mse", channel_order="rgb", about="First tip on top of mse."),
    Strategy(name="mse-20", method="mse", images=20, about="Second tip, few, on top of mse."),
    Strategy(name="mse-450", method="mse", images=450, about="Second tip on top of mse."),
    Strategy(
        name="mse-in-out",
        method="mse",
        float_roles=("input", "output"),
        about="Third tip on top of mse.",
    ),
    Strategy(
        name="mse-context",
        method="mse",
        float_roles=CONTEXT,
        about="The whole global context in float.",
    ),
    Strategy(
        name="mse-tune0",
        method="mse",
        tune=0,
        about="The same as mse: the compiler tunes kl and aciq only.",
    ),
    Strategy(name="kl-we", weight_equalization=True, about="Weight equalization."),
    Strategy(
        name="mse-we",
        method="mse",
        weight_equalization=True,
        about="Weight equalization on top of mse.",
    ),
    Strategy(name="kl-bc", bias_correction=True, about="Bias correction."),
    Strategy(
        name="mse-asymmetric", method="mse", symmetric=False, about="Zero points on activations."
    ),
    Strategy(
        name="mse-uint8",
        method="mse",
        fuse_preprocess=True,
        about="uint8 images in, preprocessing fused into the model.",
    ),
    Strategy(
        name="search-threshold",
        search="search_threshold",
        about="The compiler tries its threshold methods and keeps the best.",
    ),
    Strategy(
        name="search-qtable",
        search="search_qtable",
        about="The compiler searches layers to keep in float.",
    ),
    Strategy(
        name="kl-forked",
        form="forked",
        about="Pooled channels get a convolution, and so a scale, of their own.",
    ),
    Strategy(
        name="kl-tune0-forked",
        tune=0,
        form="forked",
        about="The forked form with untuned KL thresholds.",
    ),
    Strategy(
        name="mse-forked",
        method="mse",
        form="forked",
        about="The forked form with thresholds of least squared error.",
    ),
    Strategy(
        name="mse-forked-square",
        method="mse",
        form="forked",
        float_roles=("context-square",),
        about="Forked; the squares under the context's divisor in float.",
    ),
    Strategy(
        name="mse-forked-context",
        method="mse",
        form="forked",
        float_roles=CONTEXT,
        about="Forked, with the whole global context in float.",
    ),
    Strategy(
        name="mse-forked-in",
        method="mse",
        form="forked",
        float_roles=("input",),
        about="Forked, with the first layer in float.",
    ),
    Strategy(
        name="mse-forked-in-context",
        method="mse",
        form="forked",
        float_roles=("input", *CONTEXT),
        about="Forked, with the first layer and the whole global context in float.",
    ),
    Strategy(
        name="aciq-gauss-forked",
        method="aciq_gauss",
        form="forked",
        about="Forked, with analytic clipping under a Gaussian.",
    ),
    Strategy(
        name="aciq-gauss-forked-in-context",
        method="aciq_gauss",
        form="forked",
        float_roles=("input", *CONTEXT),
        about="Forked, clipped under a Gaussian, the first layer and the context in float.",
    ),
    Strategy(
        name="mse-forked-we",
        method="mse",
        form="forked",
        weight_equalization=True,
        about="Forked, with weight equalization.",
    ),
    Strategy(
        name="mse-forked-we-square",
        method="mse",
        form="forked",
        weight_equalization=True,
        float_roles=("context-square",),
        about="Forked, with weight equalization and the context's squares in float.",
    ),
    Strategy(
        name="mse-forked-b4",
        method="mse",
        form="forked",
        float_roles=("block4",),
        about="Forked, with the first block in float.",
    ),
    Strategy(
        name="mse-forked-b4-square",
        method="mse",
        form="forked",
        float_roles=("block4", "context-square"),
        about="Forked, with the first block and the context's squares in float.",
    ),
    Strategy(
        name="mse-forked-b4-context",
        method="mse",
        form="forked",
        float_roles=("block4", *CONTEXT),
        about="Forked, with the first block and the whole global context in float.",
    ),
    Strategy(
        name="mse-forked-in-b4-context",
        method="mse",
        form="forked",
        float_roles=("input", "block4", *CONTEXT),
        about="Forked, with the first layer, the first block and the context in float.",
    ),
    Strategy(
        name="mse-forked-in-neck-context",
        method="mse",
        form="forked",
        float_roles=("input", "neck", "output", *CONTEXT),
        about="Forked, with only the three blocks in INT8.",
    ),
    Strategy(
        name="mse-forked-in-b4-neck-context",
        method="mse",
        form="forked",
        float_roles=("input", "block4", "neck", "output", *CONTEXT),
        about="Forked, with only blocks 8 and 11 in INT8.",
    ),
    Strategy(
        name="mse-forked-weights",
        method="mse",
        form="forked",
        weights="mse",
        about="Forked; weight scales of least squared error too. Not on BM1684.",
    ),
    Strategy(
        name="mse-forked-rounding",
        method="mse",
        form="forked",
        weights="learnt",
        about="Forked, with weights whose rounding is learnt.",
    ),
    Strategy(
        name="learnt-forked",
        method="mse",
        form="forked",
        thresholds="learnt",
        about="Forked, all INT8, with thresholds learnt together on the calibration images.",
    ),
    Strategy(
        name="learnt-forked-rounding",
        method="mse",
        form="forked",
        thresholds="learnt",
        weights="learnt",
        about="Forked, all INT8: thresholds learnt, then the rounding of weights.",
    ),
    Strategy(
        name="qat",
        method="mse",
        form="forked",
        finetune=True,
        about="mse-forked, then quantization-aware training on generated plates.",
    ),
)


# For any network, by what its layers are; what is special about LPRNet has roles of its own above.
GENERAL: dict[str, Strategy] = _registry(
    Strategy(
        name="mse-first", method="mse", float_roles=("first",), about="The first layer in float."
    ),
    Strategy(
        name="mse-last", method="mse", float_roles=("last",), about="The last layer in float."
    ),
    Strategy(
        name="mse-ends",
        method="mse",
        float_roles=("first", "last"),
        about="The first and the last layer in float.",
    ),
)

# Of others, to be reproduced; a study does not run them by itself.
RECIPES: dict[str, Strategy] = _registry(
    Strategy(
        name="sophon-demo",
        images=1000,
        channel_order="rgb",
        about="gen_int8bmodel_mlir.sh of the sophon-demo sample: KL on 1,000 images, fed as RGB.",
    ),
)


DEFAULT = "mse-forked"  # recommended where the study has not judged: the best of its first runs


def recommendation_path(chip: str) -> Path:
    """Where the recommendation of a chip lies, with its evidence.

    The user's data folder comes first, then the checkout's own.
    """
    place = Path("models") / parse_chip(chip) / "recommended.json"
    own = data_dir() / place
    return own if own.exists() else repository() / "data" / place


def recommended(chip: str) -> Strategy:
    """The strategy to ship INT8 models of a chip with, as the study found it.

    Raises
    ------
    ParameterError
        When the chip is not known or its recommendation cannot be read.
    """
    path = recommendation_path(chip)
    return read_strategy(path) if path.exists() else STRATEGIES[DEFAULT]


def strategy_named(name: str, chip: str | None = None) -> Strategy:
    """Strategy by registry name, "recommended" for a chip, or from a JSON file by its path.

    Raises
    ------
    ParameterError
        Listing what there is.
    """
    known = STRATEGIES | GENERAL | RECIPES
    if name in known:
        return known[name]
    if name == "recommended":
        if chip is None:
            raise ParameterError(
                f"strategy 'recommended' depends on the chip; name one of {', '.join(CHIPS)}."
            )
        return recommended(chip)
    if name.endswith(".json"):
        return read_strategy(name)
    raise ParameterError(
        f"strategy {name!r} is not known. Choose from recommended, "
        f"{', '.join(known)}, or name a strategy's JSON file."
    )


def check_generates(version: str, strategy: Strategy) -> None:
    """Make sure that a release quantizes as a strategy asks.

    Raises
    ------
    ParameterError
        Naming the release from which on it does.
    """
    if not strategy.symmetric and not release_like(version).asymmetric:
        raise ParameterError(
            f"TPU-MLIR {version} quantizes symmetrically whatever it is asked, and strategy "
            f"{strategy.name!r} asks for zero points; releases from {ASYMMETRIC} on heed it. "
            "Choose one of them, or another strategy."
        )
    if strategy.weights == "mse" and version != PINNED:
        raise ParameterError(
            f"weight scales in a calibration table are known of TPU-MLIR {PINNED} alone, and "
            f"strategy {strategy.name!r} asks {version} for them. Choose another strategy."
        )


def check_calibrates(version: str, strategy: Strategy) -> None:
    """Make sure that a release can choose the thresholds that a strategy asks for.

    Raises
    ------
    ParameterError
        Naming the release that brought what this one lacks.
    """
    release = release_like(version)
    lacking = []
    for method in strategy.methods:
        if method not in release.methods and not strategy.search:
            lacking.append((f"method {method!r}", with_method(method)))
    wanted = {
        f"search {strategy.search!r}": strategy.search,
        "bias correction": strategy.bias_correction,
        "weight equalization": strategy.weight_equalization,
    }
    if not release.searches:
        lacking += [(name, f"from {SEARCHES} on") for name, there in wanted.items() if there]
    for what, where in lacking:
        raise ParameterError(
            f"TPU-MLIR {version} has no {what}, which strategy {strategy.name!r} asks for; it is "
            f"there {where}. Calibrate with {PINNED} (calibration 'pinned'), or choose another "
            "strategy."
        )
