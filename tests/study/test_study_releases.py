"""The study over releases: draws, paired lines, what changed, and the file that comes with us."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.evaluate.published import published_accuracy
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.study import published, releases, upgrades
from lprnet_nb.study.cells import pack, unpack
from lprnet_nb.toolchain.compile import CalibrationTable
from lprnet_nb.toolchain.releases import PINNED, RELEASES, VERSIONS

COUNT = 120  # plates of the small study: 20 of them are judged


def test_a_draw_never_judges_what_it_calibrates_on():
    found = releases.draws(1000, 3)
    assert len(found) == 3
    for split in found:
        assert len(split.order) == releases.CALIBRATION and len(split.evaluate) == 900
        assert not set(split.order) & set(split.evaluate)
        assert {*split.order, *split.evaluate} == set(range(1000))
    assert not np.array_equal(found[0].order, found[1].order)


def row(release, strategy, draw, right, graph="g", **more):
    return {
        "release": release,
        "chip": "BM1684X",
        "strategy": strategy,
        "draw": draw,
        "calibrated_by": release,
        "graph": graph,
        "whole": graph,
        "logits": more.pop("logits", f"{graph}{draw}"),
        "images": len(right),
        "correct": int(np.sum(right)),
        "bits": pack(right),
        **more,
    }


def code(release, strategy, predicted, compute=10):
    return {
        "release": release,
        "chip": "BM1684X",
        "strategy": strategy,
        "predicted_ms": predicted,
        "compute": compute,
        "memory": 5,
        "bytes": 640,
        "instructions": "i",
        "same_graph": True,
    }


def small():
    """Two draws; 1.6 reads plates 0 to 9 wrong in both of them where they are judged."""
    splits = releases.draws(COUNT, 2)
    ones = [np.ones(len(s.evaluate), bool) for s in splits]
    lost = [s.evaluate >= 60 for s in splits]  # wrong below plate 60
    rows = []
    for draw, (all_right, some) in enumerate(zip(ones, lost, strict=True)):
        rows += [
            row(PINNED, "kl", draw, all_right),
            row(PINNED, "recommended", draw, all_right, "r"),
            row("1.6", "kl", draw, some, "old"),
            row("1.9", "recommended", draw, all_right, "r"),
            row("1.6", "recommended", draw, all_right, "r"),
            row("1.9", "kl", draw, all_right),
        ]
    for one in rows:  # 1.9 has the logits of the pinned one, and names it
        if one["release"] == "1.9":
            one["as"] = PINNED
            del one["bits"]
    rows.append({"release": "1.6", "chip": "BM1684X", "strategy": "mse", "refused": "no mse"})
    rows[-1]["draw"] = None
    times = {"1.6": 0.09, "1.9": 0.08, PINNED: 0.05}
    return {
        "format": 1,
        "provenance": {"plates": {"images": COUNT}, "draws": 2},
        "rows": rows,
        "code": [code(v, s, t) for v, t in times.items() for s in ("kl", "recommended")],
        "thresholds": [],
    }


def test_releases_are_compared_plate_by_plate_on_the_same_draws():
    lines = {(line["release"], line["strategy"]): line for line in upgrades.summarize(small())}
    splits = releases.draws(COUNT, 2)
    lost = [int((s.evaluate < 60).sum()) for s in splits]
    plates = {p for s in splits for p in s.evaluate if p < 60}
    old = lines["1.6", "kl"]
    assert old["difference"] == pytest.approx(-sum(lost) / 40)
    assert (old["better"], old["worse"]) == (0, len(plates))  # a plate counts once
    assert old["p"] == pytest.approx(2 * 0.5 ** len(plates))
    assert old["mean"] == pytest.approx(1 - sum(lost) / 40) and old["same_logits"] == 0
    same = lines["1.9", "kl"]
    assert (same["mean"], same["difference"], same["p"], same["same_logits"]) == (1.0, 0, 1, 2)
    assert ("1.6", "mse") not in lines and lines["1.6", "kl"]["predicted_ms"] == 0.09
    assert old["p_holm"] == pytest.approx(old["p"]) and "p_holm" not in lines[PINNED, "kl"]


def test_releases_with_the_same_logits_are_one_comparison():
    """What is no other reading is no test of its own, and takes nothing from the others' p."""
    study = small()
    again = [{**one, "release": "1.6.1"} for one in study["rows"] if one["release"] == "1.6"]
    other = [one for one in study["rows"] if one["release"] == "1.9"]
    for one in other:  # now of logits of its own, read alike
        one |= {"logits": f"1.9 {one['strategy']}", "bits": pack(np.ones(20, bool))}
    study["rows"] += again
    lines = {(line["release"], line["strategy"]): line for line in upgrades.summarize(study)}
    assert lines["1.6.1", "kl"]["same_as"] == lines["1.6", "kl"]["same_as"] == "1.6"
    assert lines["1.6.1", "recommended"]["same_as"] == PINNED
    three = pytest.approx(3 * lines["1.6", "kl"]["p"])  # KL of 1.6, and both of 1.9
    assert lines["1.6", "kl"]["p_holm"] == lines["1.6.1", "kl"]["p_holm"] == three
    assert lines["1.6.1", "recommended"]["p_holm"] == 1.0
    assert "1.6 and 1.6.1 BM1684X kl: -" in " ".join(upgrades.said(study))


def test_a_release_has_one_row_of_means_and_times():
    rows = {row["release"]: row for row in upgrades.by_release(upgrades.summarize(small()))}
    assert list(rows) == ["1.6", "1.9", PINNED]
    assert rows["1.6"]["BM1684X kl"] < rows["1.9"]["BM1684X kl"] == 1.0
    assert (rows["1.6"]["ms kl"], rows[PINNED]["ms recommended"]) == (0.09, 0.05)


def test_what_changed_is_told_apart():
    study = small()
    first, second = upgrades.changes(study)
    assert (first["before"], first["release"], second["release"]) == ("1.6", "1.9", PINNED)
    assert first["calibration"] == ["BM1684X"] and first["lowering"] == []
    assert second["calibration"] == second["lowering"] == [] and second["code"] == ["BM1684X"]
    for one in study["rows"]:  # the same thresholds give another graph: no word on calibration
        if one["release"] == "1.6" and one["strategy"] == "recommended":
            one["graph"] = "other"
    first, _ = upgrades.changes(study)
    assert first["lowering"] == ["BM1684X"] and first["calibration"] == []
    for one in study["code"]:
        one |= {"predicted_ms": 0.05}
    assert [one["code"] for one in upgrades.changes(study)] == [[], []]
    study["code"][0]["compute"] += 1
    assert upgrades.changes(study)[0]["code"] == ["BM1684X"]


def test_sentences_say_what_the_study_holds():
    said = " ".join(upgrades.said(small()))
    assert "3 of 28 releases on 2 draws; not run: 1.6.1, " in said
    assert "3 of 4 combinations" in said and "1.6 BM1684X kl: -" in said
    assert "The calibration changed between 1.6 and 1.9." in said  # four releases lie between
    assert "The lowering never changed." in said
    assert "kl: 0.090 ms predicted by 1.6, 0.050 by 1.30.2." in said
    study = small()
    for one in study["rows"]:
        if one["release"] == "1.6" and one["strategy"] == "kl":
            one["bits"] = pack(np.ones(20, bool))
    assert "No release reads better or worse" in " ".join(upgrades.said(study))


def test_repeated_logits_name_the_release_that_has_the_readings():
    known = [row(PINNED, "kl", 0, np.ones(20, bool))]
    new = [row("1.9", "kl", 0, np.ones(20, bool)), row("1.9", "kl", 1, np.ones(20, bool))]
    releases._name_repeats(new, known)
    assert new[0]["as"] == PINNED and "bits" not in new[0]
    assert "as" not in new[1] and "bits" in new[1]  # of another draw
    taken = row("1.28.1", "kl", 0, np.ones(20, bool))  # of a graph whose readings are known
    taken |= {"as": "1.9", "evaluated": False}
    del taken["bits"]
    releases._name_repeats([taken], known)
    assert taken["as"] == "1.9"


def test_a_studys_file_is_not_mixed_with_another(tmp_path):
    weights = load_own_weights()
    plates = PlateImages("few", np.zeros((COUNT, 24, 94, 3), np.uint8), ("a.png",) * COUNT, None)
    begun = releases._begun(None, plates, weights, 2)
    path = tmp_path / "study.json"
    path.write_text(json.dumps(begun))
    assert releases._begun(path, plates, weights, 2) == begun
    with pytest.raises(DataError, match="is a study of draws 2, this one would be of 3"):
        releases._begun(path, plates, weights, 3)
    path.write_text('{"format": 2}')
    with pytest.raises(DataError, match="cannot be read: format 2.*lprnet-nb study"):
        releases.read_releases(path)
    with pytest.raises(ParameterError, match=r"no release '1\.20'"):
        releases.study_releases(["1.9", "1.20"], plates, weights, path=path)


def test_rows_by_an_emulator_that_computes_otherwise_are_not_mixed(tmp_path):
    made = {}
    for _ in range(2):  # a study from before the probe gets it, and goes on
        releases._check_arithmetic(tmp_path / "s.json", made, "as then")
    assert made == {"probe": "as then"}
    with pytest.raises(DataError, match=r"s\.json was judged by an emulator that computes"):
        releases._check_arithmetic(tmp_path / "s.json", made, "otherwise")


def test_thresholds_are_compared_number_by_number(tmp_path):
    texts = {"own": "a 1.0 -1.0 1.0\nb 2.02 -2 2\n", "pinned": "a 1.0 -1.0 1.0\nb 2.0 -2 2\n"}
    tables = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        tables[name] = CalibrationTable(tmp_path / name, None, name)
    found = releases.compare_thresholds(tables["own"], tables["pinned"])
    assert not found["equal"] and (found["layers"], found["differing"]) == (2, 1)
    assert found["median"] == found["largest"] == pytest.approx(0.01)
    assert releases.compare_thresholds(tables["own"], tables["own"])["equal"]


def graph(folder: Path, **changes) -> Path:
    folder.mkdir()
    name, value = changes.pop("weight", ("w", 1))
    first = {"type": "top.Input", "name": "in", "operands": [], "result": {}, "attributes": {}}
    op = {"type": "tpu.Conv2D", "name": "x", "operands": ["in", name], "result": {"scale": 0.5}}
    op |= {"attributes": {"do_relu": True}} | changes
    record = {"inputs": ["in"], "outputs": ["x"], "ops": [first, op], "weights": {name: {"s": 1}}}
    (folder / "graph.json").write_text(json.dumps(record))
    np.savez(folder / "graph.npz", **{name: np.full(3, value, np.int8)})
    return folder


def test_a_graph_is_known_by_what_it_computes(tmp_path):
    base = graph(tmp_path / "base")
    more = graph(tmp_path / "more", attributes={"do_relu": True, "new": 0})
    scale = graph(tmp_path / "scale", result={"scale": 0.25})
    named = graph(tmp_path / "named", weight=("w_f16", 1))
    other = graph(tmp_path / "other", weight=("w", 2))
    digests = [releases.graph_digest(folder) for folder in (base, more, named, scale, other)]
    assert digests[0] == digests[1] == digests[2] and len(set(digests)) == 3
    assert releases.graph_digest(base, attributes=True) != releases.graph_digest(
        more, attributes=True
    )


def test_published_figures_are_those_of_the_program_that_reads_as_we_do():
    found = {
        (c, b): published._published(c, b) for c in published.SCRIPTS for b in published.BATCHES
    }
    assert found["BM1684X", 1] == 0.867 and found["BM1684", 1] == 0.858
    assert found["BM1688", 4] == 0.909
    assert len(published_accuracy("BM1684X", "int8")) > 2  # other programs are there too
    assert published.RECIPE.images == 1000 and published.RECIPE.channel_order == "rgb"


def test_the_committed_study_is_whole():
    study = upgrades.committed_releases()
    assert study is not None
    lines = upgrades.summarize(study)
    studied = {line["release"] for line in lines}
    assert PINNED in studied and len(studied) >= 2 and studied <= set(VERSIONS)
    for line in lines:
        assert line["draws"] >= 3 and 0.5 < line["mean"] < 1, line
    for one in study["rows"]:
        if "refused" in one:
            method = one["strategy"]
            assert method not in RELEASES[one["release"]].methods, one
        elif "bits" in one:
            assert unpack(one["bits"], one["images"]).sum() == one["correct"], one
    assert all(one["same_graph"] for one in study["code"])  # lowered alone, or on the way to code
    for one in study.get("published", []):
        others = [*one["draws"], *(one[key] for key in ("traced", "symmetric") if key in one)]
        assert one["verdict"] == published.verdict(one["published"], one["recipe"], others)
        script = published.SCRIPTS[one["chip"]]
        assert (one["since"], "symmetric" in one) == (script.since, not script.symmetric)
    verdicts = {(one["chip"], one["batch"]): one["verdict"] for one in study["published"]}
    assert {key for key, verdict in verdicts.items() if verdict == "explained"} == {
        (chip, batch) for chip in ("BM1684", "BM1688") for batch in published.BATCHES
    }
    assert "not explained" not in verdicts.values()  # as docs/releases.md says
    assert upgrades.said(study)[0].startswith(f"{len(studied)} of 28 releases")
