from lprnet_nb.evaluate.published import (
    LATEST,
    OURS,
    published_accuracy,
    published_latency,
    published_times,
)


def test_accuracy_anchors():
    rows = published_accuracy()
    assert len(rows) == 58
    latest = {
        (row.chip, row.model, row.batch): row.exact_match
        for row in rows
        if row.source == LATEST and row.program in OURS
    }
    assert latest["BM1684X", "int8", 1] == 0.867
    assert latest["BM1684", "int8", 1] == 0.858
    assert latest["BM1688", "int8", 4] == 0.909
    assert all(0.85 < row.exact_match < 0.92 for row in rows)


def test_latency_anchors_and_selection():
    rows = published_latency("BM1684X", "int8")
    assert {row.bmrt_test_ms_per_image for row in rows} == {0.3, 0.2, 0.507, 0.259}
    assert {row.qps for row in rows} == {580, 1000, None}
    assert len(published_latency(cores=None)) == 27
    assert {row.cores for row in published_latency()} == {1}
    two = published_latency("BM1688", "int8", cores=2)
    assert [(row.batch, row.bmrt_test_ms_per_image) for row in two] == [(1, 0.536), (4, 0.330)]


def test_stage_times_of_the_programs():
    assert len(published_times()) == 60
    [row] = [
        row
        for row in published_times("BM1684X", "int8")
        if row.program == "lprnet_opencv.py" and row.batch == 1
    ]
    assert (row.platform, row.inference_ms) == ("SE7-32", 1.09)
