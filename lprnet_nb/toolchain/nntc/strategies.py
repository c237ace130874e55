"""Options of TPU-NNTC's `calibration_use_pb quantize`, and what a common strategy means there.

Names and defaults are those of the vendor's calibration manual and of the original tutorial. None
of it was run against the real tool, which comes only with the vendor's SDK; see ``docs/nntc.md``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ...errors import DataError, ParameterError, ToolchainError
from ...inputs import read_json
from ...model.lprnet.layers import Form
from ..strategies import STRATEGIES, Strategy, checked, note_fewer
from ..strategies import strategy_named as common_strategy_named

ThMethod = Literal["KL", "SYMKL", "JSD", "ADMM", "ACIQ", "MAX", "MSE", "PERCENTILE9999"]
DISTRIBUTION = "distribution.th"  # what -dump_dist writes and -load_dist reads

# Both ACIQ methods of the common registry assume a distribution; NNTC's does not say which.
_METHODS: dict[str, ThMethod] = {
    "kl": "KL",
    "mse": "MSE",
    "max": "MAX",
    "percentile9999": "PERCENTILE9999",
}
_FLAGS = (
    "accuracy_opt",
    "conv_group",
    "per_channel",
    "graph_transform",
    "winograd",
    "fuse_preprocess",
    "save_test_proto",
)
# Convolutions of LPRNet in execution order, by role.
_CONVOLUTIONS = (
    "conv0",
    *["block4"] * 4,
    *["block8"] * 4,
    *["block11"] * 4,
    "neck",
    "conv20",
    "container",
)
FLOAT_ROLES = ("input", "block4", "block8", "block11", "neck", "output", "container")


class NntcStrategy(BaseModel):
    """One way to quantize with TPU-NNTC.

    Parameters
    ----------
    name, about
        Key in results, and one sentence.
    toolchain
        Says in a JSON file that the strategy is TPU-NNTC's.
    iterations
        ``-iterations``: calibration images, one an iteration. The tool's default is 200.
    th_method
        ``-th_method``: how a threshold is chosen.
    fpfwd_inputs, fpfwd_outputs
        Layers that stay in float together with all before (after) them.
    fpfwd_blocks
        Layers that stay in float together with what follows, up to the next computing layer.
    float_roles
        More ``fpfwd_blocks``, by role; their names are read from the network's prototxt.
    accuracy_opt
        Depthwise convolutions in float (LPRNet has none).
    conv_group
        Output channels of a convolution quantized in groups of like range.
    per_channel
        A scale for each output channel of a convolution.
    graph_transform
        Optimize the graph before quantizing.
    winograd
        Winograd's algorithm for 3x3 convolutions.
    fuse_preprocess
        Fold the prototxt's linear preprocessing into the first convolution. The LMDB made here is
        preprocessed already, so it has nothing to fold.
    fp32_diff
        ``-fp32_diff``: difference that the check of the transformed float graph allows.
    save_test_proto
        Keep the prototxt files that `ufw test_int8` takes.
    dump_dist
        Keep the activations' distributions as ``distribution.th``.
    load_dist
        Path of such a file: thresholds are chosen from it without running the images again.
    channel_order
        Of the images in the LMDB; inference is BGR. The tutorial's ``bgr2rgb=True`` is "rgb".
    form
        Form of the network, see `model.forms`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$", max_length=60)
    about: str = ""
    toolchain: Literal["nntc"] = "nntc"
    iterations: int = Field(default=200, ge=1, le=100_000)
    th_method: ThMethod = "KL"
    fpfwd_inputs: tuple[str, ...] = ()
    fpfwd_outputs: tuple[str, ...] = ()
    fpfwd_blocks: tuple[str, ...] = ()
    float_roles: tuple[str, ...] = ()
    accuracy_opt: bool = False
    conv_group: bool = False
    per_channel: bool = False
    graph_transform: bool = False
    winograd: bool = False
    fuse_preprocess: bool = False
    fp32_diff: float = Field(default=0.001, gt=0, le=1, allow_inf_nan=False)
    save_test_proto: bool = False
    dump_dist: bool = False
    load_dist: str | None = None
    channel_order: Literal["bgr", "rgb"] = "bgr"
    form: Form = "published"

    @field_validator("fpfwd_inputs", "fpfwd_outputs", "fpfwd_blocks")
    @classmethod
    def _layer_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            # The tools separate names by commas and options by semicolons, with no way to escape.
            if not name.strip() or re.search(r"[,;\"'\n\r\0]", name):
                raise ValueError(
                    f"layer name {name!r} is empty or has a comma, semicolon, quote or line break"
                )
        return names

    @field_validator("float_roles")
    @classmethod
    def _known_roles(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [role for role in roles if role not in FLOAT_ROLES]
        if unknown:
            raise ValueError(
                f"TPU-NNTC has no known layer for role {unknown[0]!r}; choose from "
                f"{', '.join(FLOAT_ROLES)}, or name layers in fpfwd_blocks"
            )
        return tuple(sorted(set(roles), key=FLOAT_ROLES.index))

    @model_validator(mode="after")
    def _consistent(self) -> NntcStrategy:
        if self.th_method == "ADMM" and (self.dump_dist or self.load_dist):
            raise ValueError(
                "th_method ADMM can neither save nor load distributions; leave out "
                "dump_dist and load_dist"
            )
        if self.dump_dist and self.load_dist:
            raise ValueError(
                "dump_dist and load_dist exclude one another: what is loaded is not measured again"
            )
        return self

    def cut_to(self, images: int) -> NntcStrategy:
        """As `Strategy.cut_to`."""
        if self.iterations <= images:
            return self
        note_fewer(self.name, self.iterations, images)
        return self.model_copy(update={"iterations": images})

    @property
    def images(self) -> int:
        """Calibration images that it takes, as in a common `Strategy`."""
        return self.iterations

    def key(self) -> dict:
        """All that decides the result, name, description and the place of a file aside."""
        return self.model_dump(mode="json", exclude={"name", "about", "load_dist"})

    def options(self, role_layers: Sequence[str] = ()) -> list[str]:
        """Arguments of ``calibration_use_pb quantize``; what is at its default is left out.

        Parameters
        ----------
        role_layers
            Layer names that `float_roles` stand for in this network.

        Examples
        --------
        >>> NntcStrategy(name="t", iterations=450, fpfwd_blocks=("x.1", "237")).options()
        ['-iterations=450', '-fpfwd_blocks=x.1,237']
        """
        found = [f"-iterations={self.iterations}"]
        if self.th_method != "KL":
            found.append(f"-th_method={self.th_method}")
        blocks = tuple(dict.fromkeys((*role_layers, *self.fpfwd_blocks)))
        for option, names in (
            ("inputs", self.fpfwd_inputs),
            ("outputs", self.fpfwd_outputs),
            ("blocks", blocks),
        ):
            if names:
                found.append(f"-fpfwd_{option}={','.join(names)}")
        found += [f"-{flag}=true" for flag in _FLAGS if getattr(self, flag)]
        if self.fp32_diff != 0.001:
            found.append(f"-fp32_diff={self.fp32_diff:g}")
        if self.dump_dist:
            found.append(f"-dump_dist={DISTRIBUTION}")
        if self.load_dist:
            found.append(f"-load_dist={DISTRIBUTION}")
        return found


def from_common(strategy: Strategy) -> NntcStrategy:
    """What a strategy of the common registry is in TPU-NNTC's options.

    Thresholds, number and channel order of images, form and float roles carry over. TPU-NNTC has no
    tuning pass after the thresholds: `tune` at its default asks for nothing.

    Raises
    ------
    ParameterError
        Naming the field that TPU-NNTC has no counterpart for.
    """

    def refuse(field: str, why: str) -> ParameterError:
        return ParameterError(
            f"strategy {strategy.name!r}: {field}={getattr(strategy, field)!r} "
            f"is not possible with TPU-NNTC: {why} Choose another strategy, or use "
            "toolchain 'mlir'."
        )

    if strategy.method not in _METHODS:
        raise refuse(
            "method",
            "its ACIQ does not tell which distribution it assumes (a TPU-NNTC "
            "strategy with th_method 'ACIQ' takes it as it is).",
        )
    if strategy.tune not in (0, Strategy.model_fields["tune"].default):
        raise refuse("tune", "it has no tuning pass.")
    if strategy.weight_equalization:
        raise refuse("weight_equalization", "it has no such option.")
    if strategy.bias_correction:
        raise refuse("bias_correction", "it has no such option.")
    if not strategy.symmetric:
        raise refuse("symmetric", "its activations are symmetric.")
    if strategy.fuse_preprocess:
        raise refuse("fuse_preprocess", "models with uint8 input are not made with it here.")
    if strategy.search:
        raise refuse("search", "it has no such search; see `auto_calibrate` for its own.")
    if strategy.thresholds != "calibrated":
        raise refuse("thresholds", "learning follows TPU-MLIR's graphs.")
    if strategy.weights != "max":
        raise refuse("weights", "learning follows TPU-MLIR's graphs.")
    if strategy.finetune:
        raise refuse("finetune", "training follows TPU-MLIR's graphs.")
    unknown = [role for role in strategy.float_roles if role not in FLOAT_ROLES]
    if unknown:
        raise refuse(
            "float_roles",
            f"no layer name is known for {unknown[0]!r}, only for {', '.join(FLOAT_ROLES)}.",
        )
    return NntcStrategy(
        name=strategy.name,
        about=strategy.about,
        iterations=strategy.images,
        th_method=_METHODS[strategy.method],
        float_roles=strategy.float_roles,
        channel_order=strategy.channel_order,
        form=strategy.form,
    )


NNTC_STRATEGIES: dict[str, NntcStrategy] = {
    strategy.name: strategy
    for strategy in (
        NntcStrategy(
            name="tutorial",
            iterations=450,
            float_roles=("input", "output"),
            channel_order="rgb",
            about="The tutorial's INT8 script: x.1 and 237, its first and last layer, in float.",
        ),
        NntcStrategy(name="symkl", th_method="SYMKL", about="Symmetric KL divergence."),
        NntcStrategy(name="jsd", th_method="JSD", about="Jensen-Shannon divergence."),
        NntcStrategy(name="admm", th_method="ADMM", about="Alternating directions."),
        NntcStrategy(name="aciq", th_method="ACIQ", about="Analytic clipping."),
        NntcStrategy(
            name="kl-per-channel",
            per_channel=True,
            about="A scale for each output channel of a convolution.",
        ),
        NntcStrategy(
            name="kl-conv-group",
            conv_group=True,
            about="Convolution channels quantized in groups of like range.",
        ),
    )
}


def strategy_named(name: str, chip: str | None = None) -> NntcStrategy:
    """TPU-NNTC strategy by name: its own, one of the common registry, or a JSON file of either.

    Raises
    ------
    ParameterError
        When there is none of that name, or TPU-NNTC cannot do what it asks for.
    """
    if name in NNTC_STRATEGIES:
        return NNTC_STRATEGIES[name]
    if name.endswith(".json"):
        return read_nntc_strategy(name)
    if name not in STRATEGIES and name != "recommended":
        known = ", ".join(["recommended", *NNTC_STRATEGIES, *STRATEGIES])
        raise ParameterError(
            f"strategy {name!r} is not known to TPU-NNTC. Choose from {known}, or name a JSON file."
        )
    return from_common(common_strategy_named(name, chip))


def read_nntc_strategy(path: str | Path) -> NntcStrategy:
    """Read a strategy from JSON: TPU-NNTC's own has ``"toolchain": "nntc"``.

    Raises
    ------
    ParameterError
        When the file is missing, not JSON, or not a strategy that TPU-NNTC can do.
    """
    fields = read_json(path, "strategy file", ParameterError)
    if isinstance(fields, dict) and fields.get("toolchain") == "nntc":
        return checked(NntcStrategy, "TPU-NNTC strategy", fields)
    return from_common(common_strategy_named(str(path)))


def prototxt_layers(text: str) -> list[tuple[str, str]]:
    """``(name, type)`` of the layers of a prototxt, in its order.

    Raises
    ------
    DataError
        When braces or quotes do not match.

    Examples
    --------
    >>> prototxt_layers('layer { name: "x.1" type: "Data" data_param { name: "no" } }')
    [('x.1', 'Data')]
    """
    layers: list[tuple[str, str]] = []
    fields: dict[str, str] = {}
    path: list[str] = []
    key = ""
    for match in re.finditer(r'#[^\n]*|"((?:[^"\\\n]|\\.)*)"|([{}])|([^\s{}":#]+)|(["])', text):
        string, brace, word, stray = match.groups()
        if stray:
            raise DataError("prototxt: a quote is not closed.")
        if brace == "{":
            path.append(key)
            if path == ["layer"]:
                fields = {}
        elif brace == "}":
            if not path:
                raise DataError("prototxt: a brace is closed that was never opened.")
            if path == ["layer"]:
                layers.append((fields.get("name", ""), fields.get("type", "")))
            path.pop()
        elif string is not None:
            if path == ["layer"]:
                fields.setdefault(key, string)
        elif word:
            key = word
    if path:
        raise DataError("prototxt: a brace is not closed.")
    return layers


def layers_of_roles(text: str, roles: Sequence[str]) -> list[str]:
    """Layer names that stand for roles in a network's float prototxt.

    "input" is the data layer and "output" the last layer, the tutorial's ``x.1`` and ``237``; the
    other roles are the convolutions, told apart by their order.

    Raises
    ------
    ToolchainError
        When the prototxt is not built as expected, so that the roles cannot be told.
    """
    if not roles:
        return []
    try:
        layers = prototxt_layers(text)
    except DataError as error:
        raise ToolchainError(f"{error} Name the layers in fpfwd_blocks instead.") from error
    if not layers or layers[0][1] not in ("Data", "Input"):
        found = layers[0][1] if layers else "none"
        raise ToolchainError(
            f"the first layer of the prototxt is of type {found!r}, expected Data "
            "or Input. Name the layers to keep in float in fpfwd_blocks instead "
            "of float_roles."
        )
    convolutions = [name for name, kind in layers if kind == "Convolution"]
    by_role = {"input": [layers[0][0]], "output": [layers[-1][0]]}
    for role in roles:
        if role in by_role:
            continue
        if len(convolutions) != len(_CONVOLUTIONS):
            raise ToolchainError(
                f"the prototxt has {len(convolutions)} convolutions, expected "
                f"{len(_CONVOLUTIONS)}: the layers of role {role!r} cannot be "
                "told. Name them in fpfwd_blocks instead."
            )
        by_role[role] = [name for name, owner in zip(convolutions, _CONVOLUTIONS) if owner == role]
    return [name for role in roles for name in by_role[role]]
