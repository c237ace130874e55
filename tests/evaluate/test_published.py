from lprnet_nb.evaluate import published_accuracy, published_latency


def test_accuracy_anchors():
    rows = published_accuracy()
    assert len(rows) == 24
    mlir = {(r.chip, r.model, r.batch): r.exact_match for r in rows if r.source.endswith("2024-10")}
    assert mlir["BM1684X", "int8", 1] == 0.867
    assert mlir["BM1684", "int8", 1] == 0.858
    assert all(0.85 < r.exact_match < 0.92 for r in rows)


def test_latency_anchors_and_selection():
    rows = published_latency("BM1684X", "int8")
    assert {r.bmrt_test_ms_per_image for r in rows} == {0.3, 0.2, 0.507, 0.259}
    assert {r.qps for r in rows} == {580, 1000, None}
    assert len(published_latency()) == 18
