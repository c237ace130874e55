"""Each field of a strategy, changed in turn: its key changes, or it is said not to matter.

Two strategies of one key share calibration tables and BModels.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lprnet_nb.cache import NotMade, nothing_made
from lprnet_nb.model.lprnet.roles import ROLES
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import trace_model
from lprnet_nb.study.cells import calibration_key
from lprnet_nb.toolchain.compile import CalibrationTable, compile_bmodel, top_graph
from lprnet_nb.toolchain.nntc.strategies import NntcStrategy
from lprnet_nb.toolchain.strategies import METHODS, Strategy, make_strategy

BASE = {"name": "mine", "about": "One.", "method": "kl"}
CHANGED = {
    "name": "other",
    "about": "Another.",
    "method": "mse",
    "images": 99,
    "tune": 4,
    "channel_order": "rgb",
    "weight_equalization": True,
    "bias_correction": True,
    "symmetric": False,
    "float_roles": ("input",),
    "layer_methods": (("first", "mse"),),
    "fuse_preprocess": True,
    "search": "search_threshold",
    "form": "forked",
    "finetune": True,
    "thresholds": "learnt",
    "weights": "learnt",
}
# Names; and fine-tuned weights have a digest of their own, which is part of every key.
NOT_IN_THE_KEY = {"name", "about", "finetune"}
# What is decided after the thresholds, or by other parts of a table's key: the graph and images.
NOT_IN_A_TABLE = {
    *("name", "about", "finetune", "symmetric", "float_roles", "images", "form"),
    "layer_methods",  # a table of each method, mixed afterwards
    *("thresholds", "weights"),  # learnt afterwards, into a table of its own
}
# One pass over the images gives the tables of several methods, and everything after is later.
SHARES_A_PASS = {
    *("name", "about", "finetune", "symmetric", "float_roles", "layer_methods"),
    *("thresholds", "weights"),
}

NNTC_BASE = {"name": "mine", "about": "One."}
NNTC_CHANGED = {
    "name": "other",
    "about": "Another.",
    "iterations": 199,
    "th_method": "MAX",
    "fpfwd_inputs": ("x.1",),
    "fpfwd_outputs": ("237",),
    "fpfwd_blocks": ("a",),
    "float_roles": ("input",),
    "accuracy_opt": True,
    "conv_group": True,
    "per_channel": True,
    "graph_transform": True,
    "winograd": True,
    "fuse_preprocess": True,
    "fp32_diff": 0.01,
    "save_test_proto": True,
    "dump_dist": True,
    "load_dist": "d.th",
    "channel_order": "rgb",
    "form": "forked",
}
# `toolchain` has one value; of a distribution's file the contents matter, not the place.
NNTC_NOT_IN_THE_KEY = {"name", "about", "load_dist", "toolchain"}


def test_every_field_is_here():
    assert set(CHANGED) == set(Strategy.model_fields)
    assert set(NNTC_CHANGED) | {"toolchain"} == set(NntcStrategy.model_fields)
    base = make_strategy(**BASE)
    assert not [name for name, value in CHANGED.items() if getattr(base, name) == value]


@pytest.mark.parametrize("field", CHANGED)
def test_a_changed_field_changes_the_key(field):
    base, other = make_strategy(**BASE), make_strategy(**{**BASE, field: CHANGED[field]})
    assert (base.key() == other.key()) == (field in NOT_IN_THE_KEY)
    assert (base.calibration_options() == other.calibration_options()) == (field in NOT_IN_A_TABLE)
    assert (calibration_key(base) == calibration_key(other)) == (field in SHARES_A_PASS)


@pytest.mark.parametrize("field", NNTC_CHANGED)
def test_a_changed_field_of_the_other_compiler_changes_the_key(field):
    base = NntcStrategy(**NNTC_BASE)
    other = NntcStrategy(**{**NNTC_BASE, field: NNTC_CHANGED[field]})
    assert (base.key() == other.key()) == (field in NNTC_NOT_IN_THE_KEY)


def test_every_method_and_role_has_a_key_of_its_own():
    keys = [str(make_strategy(name="mine", method=method).key()) for method in METHODS]
    keys += [str(make_strategy(name="mine", float_roles=(role,)).key()) for role in ROLES]
    keys += [
        str(make_strategy(name="mine", search=search).key())
        for search in ("search_threshold", "search_qtable")
    ]
    assert len(set(keys)) == len(keys)


def test_two_strategies_never_share_a_bmodel(compiler, tmp_path):
    """The keys that the compiler's artifacts would be filed under; nothing is compiled."""
    traced = trace_model(load_own_weights(), batch=7)  # which nobody has compiled
    top_graph(traced)
    # Those fields need graphs of their own, whose digests part the keys already.
    elsewhere = {"form", "fuse_preprocess"}

    def key(chip: str = "BM1684X", precision: str = "int8", digest: str = "table", **fields) -> str:
        strategy = make_strategy(**{**BASE, **fields}) if precision == "int8" else None
        table = CalibrationTable(Path(tmp_path), None, digest) if strategy else None
        with nothing_made(), pytest.raises(NotMade, match="bmodel ") as missing:
            compile_bmodel(traced, chip, precision, strategy=strategy, table=table)
        return str(missing.value)

    same = key(**{field: CHANGED[field] for field in NOT_IN_THE_KEY})
    assert same == key()
    keys = [
        same,
        key("BM1688"),
        key("BM1684"),
        key(digest="another"),
        key(precision="fp32"),
        key(precision="fp16"),
        *(
            key(**{field: value})
            for field, value in CHANGED.items()
            if field not in NOT_IN_THE_KEY | elsewhere
        ),
    ]
    assert len(set(keys)) == len(keys)
