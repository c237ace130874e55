"""The study: statistics against scipy and statsmodels, and a tiny real one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.decode import decode
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.figures import study as study_figures
from lprnet_nb.measure.parameters import Asked
from lprnet_nb.model.lprnet.roles import ROLES
from lprnet_nb.model.lprnet.work import work_by_role
from lprnet_nb.model.trace import float_logits
from lprnet_nb.study import cells as study
from lprnet_nb.study import details, full, results
from lprnet_nb.study.cells import Cell, Plan
from lprnet_nb.study.cost import float_share
from lprnet_nb.toolchain.chips import CHIPS
from lprnet_nb.toolchain.nntc.strategies import strategy_named as nntc_strategy
from lprnet_nb.toolchain.strategies import STRATEGIES, make_strategy, recommended

COUNT = 1000


def row(strategy, draw, right, chip="BM1684X", scheme="cross-fit"):
    return {
        "strategy": strategy,
        "chip": chip,
        "scheme": scheme,
        "draw": draw,
        "images": COUNT,
        "correct": int(right.sum()),
        "by_fold": [],
        "bits": study.pack(right),
    }


def first(count):
    """The first `count` plates read right."""
    return np.arange(COUNT) < count


def known(**draws):
    """A study of known outcomes: right counts of nested sets by strategy."""
    rows = [
        row(name.replace("_", "-"), draw, first(count))
        for name, counts in draws.items()
        for draw, count in enumerate(counts)
    ]
    return {
        "format": 1,
        "provenance": {},
        "rows": rows,
        "float": {"images": COUNT, "correct": 894, "bits": study.pack(first(894))},
    }


@pytest.fixture
def plates():
    texts = ("A", "B", "C", "D")
    return PlateImages("four", np.zeros((4, 24, 94, 3), np.uint8), texts, texts)


def test_bits_round_trip():
    right = np.random.default_rng(0).random(COUNT) < 0.5
    assert np.array_equal(study.unpack(study.pack(right), COUNT), right)
    assert len(study.pack(right)) == COUNT // 4


def test_messages_are_the_tools_own_words(tmp_path):
    log = tmp_path / "deploy.log"
    log.write_text(
        "Entering FusePreprocessPass.\nunimplemented tpu dialect!\n"
        "UNREACHABLE executed at TopToTpuPass.cpp:1921!\n #0 0x0000563bf0bceb27\n"
        "RuntimeError: [!Error]: tpuc-opt lprnet.mlir\n"
    )
    message = (
        f"compiling for BM1684 int8 failed with exit status 1. The end of its log ({log}):\n #0"
    )
    assert study.short(message) == (
        "compiling for BM1684 int8 failed with exit status 1. unimplemented tpu dialect!"
    )
    assert study.short(f"quantizing failed: no. (log: {log})") == "quantizing failed: no."
    assert study.short(f"{tmp_path}/a/graph: tpu.Scale: unknown") == "tpu.Scale: unknown"
    missing = "failed. The end of its log (/nowhere/x.log):"
    assert study.short(missing) == "failed."


def test_rows_put_folds_together(plates):
    cells = [
        Cell("mse", "BM1684", "cross-fit", 0, 0, np.array([0, 2]), ("A", "x")),
        Cell("mse", "BM1684", "cross-fit", 0, 1, np.array([1, 3]), ("B", "D")),
        Cell("mse", "BM1684", "cross-fit", 1, 0, np.array([0, 1]), ("A", "B")),  # half a draw
        Cell("kl", "BM1684", "cross-fit", 0, 0, np.array([0, 2]), error="no such mode"),
        Cell("kl", "BM1684", "cross-fit", 0, 1, np.array([1, 3]), error="no such mode"),
    ]
    whole, refused = study.result_rows(cells, plates)
    assert (whole["correct"], whole["by_fold"]) == (3, [[1, 2], [2, 2]])
    assert study.unpack(whole["bits"], 4).tolist() == [True, True, False, True]
    assert refused == {
        "strategy": "kl",
        "chip": "BM1684",
        "scheme": "cross-fit",
        "error": "no such mode",
    }


def test_summary_agrees_with_scipy_and_statsmodels():
    found = results.summarize(known(mse=(880, 870), kl=(840, 894)), baseline="mse")
    mse, kl = found
    assert (mse["mean"], mse["low"], mse["high"]) == (0.875, 0.870, 0.880)
    # Nested sets: only float is right on 894 - k plates, nowhere only the strategy.
    single = [binomtest(0, 894 - k).pvalue if k < 894 else 1.0 for k in (880, 870, 840, 894)]
    corrected = multipletests(single, method="holm")[1]
    assert mse["p_float"] == pytest.approx(max(corrected[:2]))
    assert kl["p_float"] == pytest.approx(max(corrected[2:]))
    assert mse["worse_draws"] == 2 and kl["worse_draws"] == 1
    against = multipletests([binomtest(0, 40).pvalue, binomtest(0, 24).pvalue], method="holm")[1]
    assert kl["p_baseline"] == pytest.approx(max(against)) and "p_baseline" not in mse


def test_interval_is_that_of_the_mean():
    right = np.random.default_rng(1).random((1, COUNT)) < 0.9
    low, high = results.interval(right)
    share = right.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / COUNT)  # one draw: the binomial's own
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.002)


@pytest.mark.parametrize(
    "counts, verdict",
    [
        (((900, 901, 902), (870, 871, 872)), "holds"),
        (((850, 851, 852), (870, 871, 872)), "does not hold"),
        (((871, 871, 871), (871, 871, 871)), "does not hold"),
        (((880, 862, 871), (871, 871, 871)), "cannot be told"),
        # Too few draws, whatever they say.
        (((900, 901), (870, 871)), "cannot be told"),
        (((871,), (871,)), "cannot be told"),
    ],
)
def test_verdicts(counts, verdict):
    found = results.verdicts(known(mse_rgb=counts[0], mse=counts[1]))
    (line,) = [line for line in found if line["strategy"] == "mse-rgb"]
    assert line["verdict"] == verdict and line["draws"] == len(counts[0])


def test_the_same_evidence_gives_the_same_verdict():
    counts = ((871, 875), (871, 871))
    made = known(kl_bc=counts[0], kl=counts[1], mse_uint8=counts[0], mse=counts[1])
    assert {line["verdict"] for line in results.verdicts(made)} == {"cannot be told"}
    for line in results.verdicts(results.committed_study()):
        assert line["verdict"] == results.verdict(line["interval"], line["draws"])


def test_the_rule_says_the_numbers_it_uses():
    said = results.rule()
    assert f"below {100 * results.OBVIOUS:g} points" in said
    assert f"fewer than {results.ENOUGH_DRAWS} draws" in said


def test_one_matrix_has_every_verdict():
    lines = results.verdicts(results.committed_study())
    [axes] = study_figures.verdict_matrix(lines).axes
    said = [text.get_text() for text in axes.texts]
    assert len(said) == len(lines)
    chips = [text.get_text() for text in axes.get_xticklabels()]
    rows = [text.get_text() for text in axes.get_yticklabels()]
    for line, text in zip(lines, axes.texts):
        x, y = text.xy
        assert chips[x] == line["chip"]
        assert rows[y] == f"{line['tip']}\n{line['strategy']} − {line['baseline']}"
        mark = {"holds": "✓", "does not hold": "✗", "cannot be told": "?"}[line["verdict"]]
        low, high = (f"{100 * end:+.1f}" for end in line["interval"])
        first, second = text.get_text().replace("−", "-").split("\n")
        assert first.startswith(f"{mark} {100 * line['difference']:+.1f}")
        assert second == f"{low} to {high}"
        assert (f"({line['draws']}/5)" in first) == (line["draws"] < 5)


def test_recommendation_is_the_best_that_can_be_compiled():
    made = known(mse=(880, 884), mse_forked=(893, 895), mse_asymmetric=(894, 896), kl=(896,))
    made["models"] = [
        {"strategy": "mse-asymmetric", "chip": "BM1684X", "error": "no code"},
        {"strategy": "mse-forked", "chip": "BM1684X", "predicted_latency_ms": 0.04},
    ]
    (best,) = results.recommendations(made)
    assert (best["strategy"], best["mean"], best["latency_ms"]) == ("mse-forked", 0.894, 0.04)


def test_recommendation_passes_over_what_does_not_fit():
    made = known(
        mse=(880, 880), fast=(893, 893), slow=(894, 894), fused=(895, 895), below=(896, 860)
    )
    made["models"] = [
        {"strategy": name, "chip": "BM1684X", "predicted_latency_ms": time}
        for name, time in (("mse", 0.04), ("fast", 0.05), ("slow", 0.051))
    ]
    made["provenance"]["strategies"] = {"fused": {"name": "fused", "fuse_preprocess": True}}
    names, right = results.candidates(made, "BM1684X")
    assert names == ["below", "mse", "fast"] and right.shape == (3, 2, COUNT)  # fastest first
    (best,) = results.recommendations(made)
    assert best["strategy"] == "fast"
    # 893 of float's 894 by nested sets: one plate differs.
    assert best["p_lowest"] == pytest.approx(binomtest(0, 1).pvalue)


def test_work_in_float():
    def share(form, *roles):
        return float_share(make_strategy(name="s", form=form, float_roles=roles))

    # By hand: 3x3 kernels of 3 channels, 64 maps of 22x92; the fork computes 64 of block 4's and 64
    # of block 11's last channels twice.
    whole = sum(work_by_role("published").values())
    assert sum(work_by_role("forked").values()) - whole == 64 * 20 * 90 * 32 + 64 * 18 * 44 * 64
    assert work_by_role("forked")["input"] == 64 * 22 * 92 * 27
    assert share("published", "input") == pytest.approx(64 * 22 * 92 * 27 / whole)
    assert share("forked", "context-mean", "final-mean") == 0
    assert share("published", *ROLES) == 1
    assert work_by_role("published")["neck"] == 64 * 4 * 256 * 16 * 18
    assert {role for role in ROLES if role in work_by_role("published")} == {
        "input",
        "block4",
        "block8",
        "block11",
        "neck",
        "output",
        "container",
    }


def test_the_other_toolchains_strategies_are_refused():
    asked = Asked("kl", {"BM1684X": nntc_strategy("kl", "BM1684X")})
    with pytest.raises(ParameterError, match="'kl' is TPU-NNTC's"):
        full._on_all_chips(asked)


def test_without_predicted_times_the_work_in_float_is_limited():
    made = known(little=(890, 890), much=(893, 893))
    made["provenance"]["strategies"] = {
        "little": {"name": "little", "form": "forked", "float_roles": ["input"]},
        "much": {"name": "much", "form": "forked", "float_roles": ["block11"]},
    }
    (best,) = results.recommendations(made)
    assert best["strategy"] == "little" and best["in_float"] == pytest.approx(0.0231, abs=1e-4)
    made["models"] = [
        {"strategy": name, "chip": "BM1684X", "predicted_latency_ms": 0.05}
        for name in ("little", "much", "mse")
    ]
    assert results.recommendations(made)[0]["strategy"] == "much"


def test_equal_means_go_to_the_faster():
    made = known(slow=(890, 892), fast=(892, 890))
    made["models"] = [
        {"strategy": "slow", "chip": "BM1684X", "predicted_latency_ms": 0.05},
        {"strategy": "fast", "chip": "BM1684X", "predicted_latency_ms": 0.04},
    ]
    assert results.recommendations(made)[0]["strategy"] == "fast"


def test_nested_choice_pays_for_luck():
    """Strategies of one true accuracy: the best looks better than it is, the nested does not."""
    rng = np.random.default_rng(5)
    made = known()
    made["rows"] = [
        row(f"s{i}", draw, rng.random(COUNT) < 0.88) for i in range(20) for draw in range(2)
    ]
    best = max(line["mean"] for line in results.summarize(made))
    found = results.nested(made, "BM1684X")
    assert best > 0.887 and abs(found["mean"] - 0.88) < 0.005
    assert sum(found["chosen"].values()) == pytest.approx(1)
    assert found["low"] <= found["mean"] <= found["high"]


def test_nested_choice_of_a_clear_winner_is_the_winner():
    found = results.nested(known(mse=(850, 851), kl=(890, 892)), "BM1684X")
    assert found["chosen"] == {"kl": 1.0}
    assert (found["low"], found["high"]) == pytest.approx((0.890, 0.892))


def test_nothing_to_recommend():
    assert results.recommendations(known(mse=(700, 700))) == []
    assert results.nested(known(mse=(700, 700)), "BM1684X") == {}


def test_plan_says_what_runs_where():
    kl, mse = STRATEGIES["kl"], STRATEGIES["mse"]
    plan = Plan(
        (kl, mse),
        ("BM1684",),
        draws=(3, 4),
        calibrated_on_generated=("mse",),
        more_chips={"BM1688": ("kl",)},
        fewer_draws={"kl": 1},
    )
    assert plan.chips_of(kl) == ("BM1684", "BM1688") and plan.chips_of(mse) == ("BM1684",)
    assert [plan.runs(kl, study.CROSS_FIT, draw) for draw in (3, 4)] == [True, False]
    assert plan.runs(mse, study.GENERATED, 4) and not plan.runs(kl, study.GENERATED, 3)
    assert not plan.runs(mse, study.WITHIN, 3)
    images = PlateImages("none", np.zeros((8, 24, 94, 3), np.uint8), tuple("abcdefgh"))
    order = [
        (scheme, split.draw, len(split.evaluate), [s.name for s in chosen])
        for scheme, split, chosen in study._groups(plan, images)
    ]
    assert order == [("cross-fit", 3, 4, ["kl", "mse"])] * 2 + [
        ("cross-fit", 4, 4, ["mse"])
    ] * 2 + [
        ("generated", 3, 8, ["mse"]),
        ("generated", 4, 8, ["mse"]),
    ]


def test_generated_calibration_plates_are_those_of_the_draw():
    plates = PlateImages("none", np.zeros((8, 24, 94, 3), np.uint8), tuple("abcdefgh"))
    split = next(
        split for scheme, split in Plan((), (), draws=(2,)).splits(8) if scheme == study.GENERATED
    )
    images = study._calibration_images(plates, study.GENERATED, split, 3)
    assert np.array_equal(images, generate_plates(3, study.GENERATED_SEED + 2).images)


def test_calibration_passes_are_shared():
    share = study.calibration_key
    assert share(STRATEGIES["mse"]) == share(STRATEGIES["max"]) == share(STRATEGIES["kl-tune0"])
    assert share(STRATEGIES["mse"]) == share(STRATEGIES["mse-in-out"])
    assert (
        len(
            {
                share(STRATEGIES[name])
                for name in (
                    "kl",
                    "mse",
                    "mse-20",
                    "mse-rgb",
                    "mse-forked",
                    "kl-we",
                    "kl-bc",
                    "percentile9999",
                    "aciq-gauss",
                )
            }
        )
        == 9
    )


def test_groups_do_the_first_strategies_first():
    plan = Plan(
        (STRATEGIES["mse-forked"], STRATEGIES["mse"]),
        ("BM1684",),
        draws=(0, 1),
        calibrated_within=("mse",),
    )
    images = PlateImages("none", np.zeros((8, 24, 94, 3), np.uint8), tuple("abcdefgh"))
    order = [
        (scheme, split.draw, [s.name for s in chosen])
        for scheme, split, chosen in study._groups(plan, images)
    ]
    assert order == [
        *[("cross-fit", 0, ["mse-forked"])] * 2,
        *[("cross-fit", 1, ["mse-forked"])] * 2,
        *[("cross-fit", 0, ["mse"])] * 2,
        *[("cross-fit", 1, ["mse"])] * 2,
        ("within", 0, ["mse"]),
        ("within", 1, ["mse"]),
    ]


def test_cells_are_pieces_that_share_calibration_passes(weights):
    mine = make_strategy(name="mine", method="max", images=2)
    plan = Plan((STRATEGIES["mse-20"], mine, STRATEGIES["mse"]), ("BM1684",), draws=(0, 1))
    images = PlateImages("none", np.zeros((8, 24, 94, 3), np.uint8), tuple("abcdefgh"))
    plan = dataclasses.replace(
        plan, strategies=tuple(s.model_copy(update={"images": 2}) for s in plan.strategies)
    )
    cells, pieces = zip(*study.planned_cells(plan, images, weights))
    assert len({piece.needs[0].key for piece in pieces}) == 2 * 2  # of each draw and fold
    assert pieces[0].needs[0].arguments["methods"] == ["max", "mse"]
    # Two of the three are now the same under two names: one piece, and cells of both names.
    assert len({piece.key for piece in pieces}) == 2 * 2 * 2
    places = {(c.strategy, c.chip, c.scheme, c.draw, c.fold) for c in cells}
    assert len(places) == len(cells) == 3 * 2 * 2
    again = dataclasses.replace(plan, strategies=(mine, mine.model_copy(update={"images": 3})))
    with pytest.raises(ParameterError, match="two different pieces of work are called 'cell/mine"):
        study.run_cells(again, images, weights, progress=False)


def test_figures_of_every_case():
    made = known(mse=(880, 884), mse_forked=(893, 895), kl_tune0=(0, 3))
    made["rows"].append({"strategy": "kl-bc", "chip": "BM1684", "scheme": "within", "error": "no"})
    made["models"] = [{"strategy": "mse", "chip": "BM1684X", "predicted_latency_ms": 0.05}]
    lines = results.summarize(made)
    labels = [
        text.get_text() for text in study_figures.accuracy(lines, 0.894).axes[0].get_yticklabels()
    ]
    assert labels == ["mse", "mse-forked", "kl-tune0", "kl-bc (on test images)"]
    refused = study_figures.accuracy(lines, 0.894).get_supxlabel()
    assert refused == "1: BM1684 kl-bc: no"
    named = study_figures.pareto(lines, 0.894).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in named] == ["mse"]
    verdicts = results.verdicts(made)
    assert [line["strategy"] for line in verdicts] == ["mse-forked"]


def test_figure_says_what_is_not_like_the_rest():
    made = known(mse=(880, 884), kl=(870,))
    made["rows"].append(row("mse", 0, first(890), scheme="generated"))
    lines = results.ranked(results.summarize(made))
    labels = [
        text.get_text() for text in study_figures.accuracy(lines, 0.894).axes[0].get_yticklabels()
    ]
    assert labels == ["mse", "kl (1 of 2 draws)", "mse (on generated plates) (1 of 2 draws)"]


def test_front_of_the_pareto_figure():
    made = known(mse=(880,), slow=(879,), best=(893,), fast=(870,))
    made["models"] = [
        {"strategy": name, "chip": "BM1684X", "predicted_latency_ms": time}
        for name, time in (("mse", 0.05), ("slow", 0.06), ("best", 0.055), ("fast", 0.04))
    ]
    legend = study_figures.pareto(results.summarize(made), 0.894).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["fast", "mse", "best", "others"]


def test_other_calibration_images():
    made = known(mse=(880, 884))
    made["rows"] += [
        row("mse", draw, first(890 + draw), scheme=scheme)
        for draw in range(2)
        for scheme in ("generated", "within")
    ]
    lines = results.origins(made)
    assert [line["scheme"] for line in lines] == ["generated", "within"]
    assert lines[0]["difference"] == pytest.approx((890 + 891 - 880 - 884) / 2000)


def test_study_file(tmp_path):
    path = tmp_path / "study.json"
    path.write_text(results.study_text(known(mse=(880,))))
    assert len(path.read_text().splitlines()) == 6  # a row a line
    assert results.read_study(path)["float"]["correct"] == 894
    path.write_text('{"format": 2}')
    with pytest.raises(DataError, match="format 2"):
        results.read_study(path)


PROVENANCE = {
    "plates": "p",
    "weights": "w",
    "tpu_mlir": "1",
    "decoder": "greedy",
    "batch": 1,
    "folds": 2,
    "draws": [0, 1],
    "strategies": {"mse": {"name": "mse", "images": 100}},
}


def test_a_study_grows():
    old = known(mse=(880, 884), kl=(870,)) | {"provenance": PROVENANCE, "company": ["old"]}
    old["rows"].append(
        {"strategy": "uint8", "chip": "BM1684X", "scheme": "cross-fit", "error": "no"}
    )
    old["models"] = [{"strategy": "mse", "chip": "BM1684X", "predicted_latency_ms": 1.0}]
    new = known(kl=(870, 871), uint8=(860,)) | {
        "provenance": {
            **PROVENANCE,
            "draws": [0, 1, 2],
            "strategies": {"kl": {"name": "kl", "images": 100}},
        }
    }
    merged = full.merge(old, new)
    assert [(r["strategy"], r["draw"]) for r in merged["rows"]] == [
        ("mse", 0),
        ("mse", 1),
        ("kl", 0),
        ("kl", 1),
        ("uint8", 0),
    ]  # no longer refused
    assert merged["models"] == old["models"] and merged["company"] == ["old"]
    assert merged["provenance"]["draws"] == [0, 1, 2]
    assert list(merged["provenance"]["strategies"]) == ["mse", "kl"]
    assert full.merge(merged, new) == merged


def test_the_committed_study_grows_by_what_is_made_now(weights, published, compiler):
    """`merge` asks for nothing that `provenance` no longer gives."""
    old = results.committed_study()
    plan = full.full_plan([STRATEGIES["mse"]], ["BM1684X"])
    made = {**known(mse=(880,)), "provenance": study.provenance(plan, published, weights)}
    merged = full.merge(old, made)
    assert len(merged["rows"]) == len(old["rows"])  # draw 0 of mse in place of the old one
    assert merged["provenance"]["emulator"] == old["provenance"]["emulator"]
    assert results.outcomes(merged, "mse", "BM1684X")[0].sum() == 880


def test_a_strategy_that_changed_loses_its_old_rows():
    old = known(mse=(880, 884)) | {"provenance": PROVENANCE}
    new = known(mse=(890,)) | {
        "provenance": {
            **PROVENANCE,
            "strategies": {"mse": {"name": "mse", "images": 50, "about": "Fewer."}},
        }
    }
    assert [r["correct"] for r in full.merge(old, new)["rows"]] == [890]
    new["provenance"]["strategies"]["mse"] = {
        "name": "mse",
        "images": 100,
        "about": "As before.",
        "new": False,
    }
    assert [r["correct"] for r in full.merge(old, new)["rows"]] == [890, 884]


def test_studies_of_other_plates_do_not_mix():
    old = known(mse=(880,)) | {"provenance": PROVENANCE}
    new = known(kl=(880,)) | {"provenance": {**PROVENANCE, "plates": "others"}}
    with pytest.raises(DataError, match="plates others, the study is of p"):
        full.merge(old, new)


def test_the_full_plan():
    plan = full.full_plan()
    assert {s.name for s in plan.strategies} == set(STRATEGIES) and len(plan.draws) == 5
    named = {*full.ON_MORE_CHIPS, *full.FEWER_DRAWS, full.LOOKED_INTO, *full.CALIBRATED_ELSEWHERE}
    assert named <= set(STRATEGIES)
    few = full.full_plan([STRATEGIES["mse"]], ["BM1688"], 2)
    assert (few.all_chips(), few.draws) == (("BM1688",), (0, 1))


def test_a_study_with_another_decoder():
    plan = full.full_plan([STRATEGIES["mse"]], decoder="plate")
    assert plan.decoder == "plate" and not plan.calibrated_within
    assert not plan.calibrated_on_generated
    with pytest.raises(ParameterError, match="greedy, plate: a study reads with one"):
        full.grow_published(Path("none.json"), DECODERS="greedy,plate")


def test_cells_of_decoders_are_kept_apart(published, weights, tmp_path):
    few = published.take(range(0, 1000, 25))
    logits = float_logits(weights, few)
    for decoder in ("plate", "greedy", "plate"):
        read = decode(logits, decoder=decoder).texts
        assert list(study.float_texts(few, weights, decoder)) == list(read)
    assert study.float_texts(few, weights) != study.float_texts(few, weights, "plate")
    own = tmp_path / "own.toml"
    own.write_text('description = "one"\ninclude = ["plate-ordinary"]\n')
    before = study._decoder_key(str(own))
    own.write_text('description = "two"\ninclude = ["plate-new-energy"]\n')
    assert study._decoder_key(str(own)) != before
    assert study._decoder_key("greedy") == {}


def test_shipped_strategies_lose_nothing_under_the_grammar():
    """Within half a point of float on every chip, over five draws."""
    made = results.committed_study("plate")
    reference = made["float"]["correct"] / made["float"]["images"]
    assert reference == 0.934
    found = {
        line["chip"]: line
        for line in results.summarize(made)
        if line["strategy"] == recommended(line["chip"]).name
    }
    assert set(found) == set(CHIPS)
    for line in found.values():
        assert line["draws"] == 5 and abs(line["mean"] - reference) <= 0.005, line
    assert results.committed_study()["provenance"]["decoder"] == "greedy"
    assert results.committed_path("none") is None


@pytest.mark.slow
def test_a_tiny_study_resumes(published, weights, compiler):
    few = published.take(range(0, 1000, 50))
    plan = Plan(
        (
            make_strategy(name="mse", method="mse", images=4),
            make_strategy(name="again", method="mse", images=4),
            make_strategy(
                name="mse-in-out", method="mse", images=4, float_roles=("input", "output")
            ),
        ),
        ("BM1684X",),
        draws=(0,),
    )
    made = study.run_study(plan, few, weights, progress=False)
    rows = {row.pop("strategy"): row for row in made["rows"]}
    assert {name: row["images"] for name, row in rows.items()} == {
        "mse": 20,
        "again": 20,
        "mse-in-out": 20,
    }
    assert rows["again"] == rows["mse"] != rows["mse-in-out"]
    made = study.run_study(plan, few, weights, progress=False)
    assert made == study.run_study(plan, few, weights, progress=False)
    (model, *_) = details.models(plan, few, weights, images=2)
    assert model["same_graph"] and model["simulator"]["identical"]
