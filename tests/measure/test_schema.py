from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import report_sample
from hypothesis import given, settings
from hypothesis import strategies as st

from lprnet_nb.errors import DataError
from lprnet_nb.measure import schema
from lprnet_nb.places import repository


def _write(folder: Path, value: object, name: str = "metrics.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf8")
    return path


def test_reads_what_a_run_leaves(tmp_path: Path) -> None:
    folder = report_sample.build(tmp_path)
    metrics = schema.read_metrics(folder / "metrics.json")
    assert metrics.dataset.images == 1000 and len(metrics.rows) == len(report_sample.ROWS)
    row = metrics.rows[3]
    assert (row.id, row.right, row.ci95) == ("bm1684x_int8_1b_kl", 868, (0.845605, 0.887578))
    assert metrics.rows[0].id == "float_1b" and metrics.rows[0].mcnemar_p is None
    facts = schema.read_bmodel_facts(folder / "bmodels" / "bm1684x_int8_1b_kl.json")
    assert facts.layers[3].sqnr_db == pytest.approx(41.0 - 1.3 * 21)
    assert schema.read_timings(folder / "timings.json").total_s == 143.2
    assert schema.read_manifest(folder / "manifest.json").parameters["IMAGES"] == 0


@pytest.mark.parametrize(
    ("change", "place", "what"),
    [
        (lambda m: m.update(extra=1), "extra", "not permitted"),
        (lambda m: m["dataset"].pop("digest"), "dataset.digest", "required"),
        (lambda m: m["rows"][0].pop("backend"), "rows[0].backend", "required"),
        (lambda m: m["rows"][2].update(chip="BM1690"), "rows[2].chip", "BM1684X"),
        (lambda m: m["rows"][1].update(precision="FP32"), "rows[1].precision", "fp32"),
        (lambda m: m["rows"][1].update(exact_match=89.4, ci95=None), "rows[1].exact_match", "1"),
        (lambda m: m["rows"][1].update(ci95=[0.9, 0.8]), "rows[1].ci95", "wrong way round"),
        (lambda m: m["rows"][1].update(ci95=[0.1, 0.2]), "rows[1]", "outside ci95"),
        (lambda m: m["rows"][1].update(ci95=None), "rows[1]", "go together"),
        (lambda m: m["rows"][1].update(mcnemar_p="0.1"), "rows[1].mcnemar_p", "number"),
        (lambda m: m["rows"][1].update(batch=True), "rows[1].batch", "integer"),
        (lambda m: m["rows"][3].update(strategy="../../kl"), "rows[3].strategy", "pattern"),
        (lambda m: m["rows"].append(m["rows"][0]), "the whole", "row 15 says again"),
    ],
)
def test_refuses_naming_file_and_place(tmp_path: Path, change, place: str, what: str) -> None:
    value = copy.deepcopy(report_sample.metrics())
    change(value)
    with pytest.raises(DataError) as caught:
        schema.read_metrics(_write(tmp_path, value))
    message = str(caught.value)
    assert "metrics.json" in message and what in message and "docs/metrics.md" in message
    assert f"{place}:" in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"schema": 4, "rows": []}', "reads schema 1 and 2 and 3"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a Metrics"),
        (
            '{"schema": 1, "dataset": {"name": "a", "images": 1, "digest": "aa"}, "rows": [NaN]}',
            "not a Metrics",
        ),
    ],
)
def test_refuses_other_files(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        schema.read_metrics(_write(tmp_path, text))


def test_missing_and_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json is missing"):
        schema.read_metrics(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json cannot be read"):
        schema.read_metrics(tmp_path / "binary.json")


def test_facts_must_be_about_their_file(tmp_path: Path) -> None:
    folder = report_sample.build(tmp_path)
    path = folder / "bmodels" / "bm1684_fp32_1b.json"
    with pytest.raises(DataError, match="Name it bm1684_fp32_1b.json"):
        schema.read_bmodel_facts(path.rename(path.with_name("other.json")))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["schema", "dataset", "rows", "name", "images", "digest", "chip", "ci95"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(value=_JSON, where=st.sampled_from(["whole", "dataset", "rows", "row"]))
def test_anything_else_is_one_clear_error(
    value: object, where: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = report_sample.metrics()
    if where == "whole":
        whole = value
    elif where == "row":
        whole["rows"][0] = value
    else:
        whole[where] = value
    path = _write(tmp_path_factory.getbasetemp(), whole)
    try:
        found = schema.read_metrics(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(found, schema.Metrics)


def test_document_is_what_the_code_says() -> None:
    written = (repository() / "docs" / "metrics.md").read_text("utf8")
    assert written == schema.markdown(), "run: python -m lprnet_nb.measure.schema > docs/metrics.md"
    for key in ("exact_match", "ci95", "mcnemar_p", "latency_by_layer", "metrics_sha256"):
        assert f"| `{key}` |" in written
