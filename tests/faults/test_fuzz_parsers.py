"""Whatever lies in a file from outside: it is read, or it is one error of ours. Nothing else.

A night run: ``LPRNET_FUZZ_EXAMPLES=8000 scripts/test.sh tests/faults/test_fuzz_parsers.py`` tries
8,000 inputs on each of the parsers, other ones every time; the default is a quick, fixed subset.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lprnet_nb.cache import digest, file_digest
from lprnet_nb.datasets import ccpd
from lprnet_nb.datasets.alphabet import PUBLISHED_CLASSES, read_alphabet
from lprnet_nb.datasets.folder import load_plates
from lprnet_nb.datasets.images import read_image
from lprnet_nb.datasets.labels import read_labels
from lprnet_nb.datasets.lmdb import decode_datum, encode_datum
from lprnet_nb.decode.grammar import load_grammar
from lprnet_nb.errors import LprnetError
from lprnet_nb.measure import schema
from lprnet_nb.model.weights import load_weights
from lprnet_nb.runtime.bmodel_file import read_contents
from lprnet_nb.runtime.emulator import load_graph
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.toolchain.compile import CalibrationTable
from lprnet_nb.toolchain.nntc.strategies import prototxt_layers, read_nntc_strategy
from lprnet_nb.toolchain.profile import parse_profile
from lprnet_nb.toolchain.strategies import read_strategy

from .fuzz_cases import NASTY, arrays, bmodel, broken, dump, images, json_cases

EXAMPLES = int(os.environ.get("LPRNET_FUZZ_EXAMPLES", "0"))
FEW = 30
LONGEST = 10.0  # seconds of processor time for one input

NAME = "025-95_113-154&383_386&473-386&473_177&454_154&383_363&402-0_0_22_27_27_33_16-37-15.jpg"
GRAMMAR = b"""description = "two digits"
include = ["plate-ordinary"]
[sets]
digit = "0123456789"
[[form]]
name = "two"
slots = ["digit", "digit"]
limits = [{ set = "digit", from = 1, to = 2, at_most = 2 }]
[pairs]
"1" = "0123"
"""
PROFILE = b"""ENGINE_BD                       ENGINE_GDMA
                                Load_1|GDMA_TENSOR|s:0|b:0|g:1|e:499|t:500|dr:0|sz:64|bw:1
Conv2D_2|CONV|s:500|b:1|g:1|e:999|t:500
API_END total_cycle:1000|b:1|g:1
DDR BW USAGE : 50.0%
flops: 7, runtime: 0.001ms, ComputationAbility: 0.1T"""
TENSOR = {
    "shape": [1, 6],
    "storage": "i8",
    "expressed": "f32",
    "scale": 0.5,
    "zero_point": 0,
    "range": None,
}
GRAPH = {
    "format": 1,
    "module": {"module.chip": "bm1684x", "module.mode": "INT8", "module.asymmetric": False},
    "inputs": ["in"],
    "outputs": ["out"],
    "weights": {"weight": TENSOR},
    "ops": [
        {"type": "top.Input", "name": "in", "operands": [], "result": TENSOR, "attributes": {}},
        {
            "type": "tpu.Add",
            "name": "out",
            "operands": ["in", "weight", None],
            "result": TENSOR,
            "attributes": {"do_relu": True},
        },
    ],
}
STRATEGY = {"name": "mine", "method": "mse", "images": 20, "float_roles": ["input", "output"]}
NNTC = {"toolchain": "nntc", "name": "mine", "th_method": "MSE", "fpfwd_blocks": ["x.1", "237"]}
ROW = {
    "chip": "BM1684X",
    "precision": "int8",
    "batch": 1,
    "batch_mean": "image",
    "strategy": "kl",
    "backend": "emulator",
    "decoder": "greedy",
    "images": 10,
    "exact_match": 0.9,
    "ci95": [0.6, 0.98],
    "character_accuracy": 0.95,
    "agreement_with_float": 0.9,
    "mcnemar_p": 1.0,
    "logits_cosine": 0.99,
    "logits_sqnr_db": 20.0,
    "predicted_latency_ms": 0.05,
}
METRICS = {"schema": 1, "dataset": {"name": "d", "images": 10, "digest": "ab"}, "rows": [ROW]}
TIMINGS = {
    "schema": 1,
    "rows": [{"id": "a", "decoder": "greedy", "backend": "torch", "decode_ms": 1.0}],
}
MANIFEST = {
    "schema": 1,
    "profile": "quick",
    "parameters": {},
    "versions": {},
    "data": {},
    "bmodels": {},
    "metrics_sha256": None,
    "revision": None,
}
FACTS = {
    "id": "facts",
    "chip": "BM1684",
    "precision": "fp32",
    "batch": 1,
    "strategy": None,
    "predicted_latency_ms": None,
    "sha256": "0" * 64,
    "tools": {},
}


def record() -> dict[str, Any]:
    """A record of the file that `_record` puts beside it."""
    return {
        "path": "lprnet.bmodel",
        "chip": "BM1684X",
        "precision": "fp32",
        "batch": 1,
        "batch_mean": "image",
        "form": "published",
        "strategy": None,
        "predicted_latency_ms": 0.1,
        "sha256": hashlib.sha256(b"model").hexdigest(),
        "digest": digest("x"),
        "tools": {"tpu_mlir": "1"},
        "input_shape": [1, 3, 24, 94],
        "output_shape": [1, 68, 18],
        "input_dtype": "float32",
        "weights": "published",
        "network": "lprnet",
        "graph": None,
        "alphabet": {"classes": PUBLISHED_CLASSES, "blank": 67},
        "seals": {
            "graph": None,
            "alphabet": digest({"classes": PUBLISHED_CLASSES, "blank": 67}),
            "files": None,
        },
    }


@dataclass(frozen=True)
class Parser:
    """What is fed to a parser, a valid sample of it, and how it is called on a folder."""

    cases: st.SearchStrategy
    valid: Any
    read: Callable[[Path], Any]
    file: str = "file"
    beside: tuple[tuple[str, bytes], ...] = ()


def json_parser(
    sample: Any,
    read: Callable[[Path], Any],
    file: str = "file.json",
    beside: tuple[tuple[str, bytes], ...] = (),
) -> Parser:
    return Parser(
        json_cases(sample), dump(sample), lambda folder: read(folder / file), file, beside
    )


def bytes_parser(
    samples: tuple[bytes, ...], read: Callable[[Path], Any], file: str = "file"
) -> Parser:
    return Parser(broken(samples), samples[0], lambda folder: read(folder / file), file)


BESIDE_GRAPH = (("graph.npz", arrays()),)
PARSERS: dict[str, Parser] = {
    "image": bytes_parser(images(), read_image, "皖A12345.jpg"),
    "labels.json": json_parser({"a.jpg": "皖A12345", "b.jpg": "京B67890"}, read_labels),
    "plates by labels.csv": Parser(
        broken(("file,plate\na.png,皖A12345\n".encode(), b"a.png,A1\r\n")),
        "a.png,皖A12345\n".encode(),
        load_plates,
        "labels.csv",
        (("a.png", images()[1]),),
    ),
    "plates by labels.json": Parser(
        json_cases({"a.png": "皖A12345"}),
        dump({"a.png": "皖A12345"}),
        load_plates,
        "labels.json",
        (("a.png", images()[1]),),
    ),
    "class list": bytes_parser(
        (PUBLISHED_CLASSES.encode(), "\n".join("01AB-").encode()), read_alphabet
    ),
    "strategy": json_parser(STRATEGY, read_strategy),
    "recommended strategy": json_parser({"strategy": STRATEGY, "evidence": {}}, read_strategy),
    "TPU-NNTC strategy": json_parser(NNTC, read_nntc_strategy),
    "grammar": bytes_parser((GRAMMAR,), load_grammar, "own.toml"),
    "graph.json": Parser(json_cases(GRAPH), dump(GRAPH), load_graph, "graph.json", BESIDE_GRAPH),
    "graph.npz": Parser(
        broken((arrays(),)), arrays(), load_graph, "graph.npz", (("graph.json", dump(GRAPH)),)
    ),
    "BModel": bytes_parser((bmodel(),), read_contents, "x.bmodel"),
    "record.json": Parser(
        json_cases(record()),
        dump(record()),
        BModel.load,
        "record.json",
        (("lprnet.bmodel", b"model"),),
    ),
    "calibration table": bytes_parser(
        (b"# generated\n# op_name    threshold    min    max\nin 1.0 -1.0 1.0\nout 2 -2 2\n",),
        lambda path: CalibrationTable(path, None, "").thresholds(),
    ),
    "profile": Parser(
        broken((PROFILE,)).map(lambda raw: raw.decode("utf8", "replace")),
        PROFILE.decode(),
        None,
        "",
    ),
    "prototxt": Parser(
        broken(
            (
                b'layer { name: "x.1" type: "Data" data_param { batch_size: 1 } }\n'
                b'# end\nlayer { name: "237" type: "Convolution" }',
            )
        ).map(lambda raw: raw.decode("utf8", "replace")),
        'layer { name: "x.1" }',
        None,
        "",
    ),
    "CCPD name": Parser(
        st.one_of(
            st.text(max_size=120),
            broken((NAME.encode(),)).map(lambda raw: raw.decode("utf8", "surrogateescape")),
        ),
        NAME,
        None,
        "",
    ),
    "LMDB entry": bytes_parser(
        (encode_datum(np.ones((1, 3, 2, 2), np.float32)),),
        lambda path: decode_datum(path.read_bytes()),
    ),
    "metrics.json": json_parser(METRICS, schema.read_metrics),
    "timings.json": json_parser(TIMINGS, schema.read_timings),
    "manifest.json": json_parser(MANIFEST, schema.read_manifest),
    "facts.json": json_parser(FACTS, schema.read_bmodel_facts, "facts.json"),
    "weights": Parser(
        broken(
            (b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01.")
        ),
        None,
        lambda folder: load_weights(folder / "w.pth"),
        "w.pth",
    ),
}
TEXTS = {"profile": parse_profile, "prototxt": prototxt_layers, "CCPD name": ccpd.parse_name}


def feed(name: str, folder: Path, case: bytes | str) -> Any:
    """Let a parser read a case; errors pass through."""
    parser = PARSERS[name]
    if name in TEXTS:
        return TEXTS[name](case)
    (folder / parser.file).write_bytes(case)
    return parser.read(folder)


def read_or_refuse(name: str, folder: Path, case: bytes | str) -> None:
    """Let a parser read a case; errors of ours are what it may answer, in reasonable time."""
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            feed(name, folder, case)
    except LprnetError as error:
        assert str(error)
    assert time.process_time() - started < LONGEST, f"{case[:60]!r} takes too long"


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for name, data in PARSERS[request.node.callspec.params["name"]].beside:
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("name", [name for name, parser in PARSERS.items() if parser.valid])
def test_samples_are_valid(name, folder):
    assert feed(name, folder, PARSERS[name].valid) is not None


@pytest.mark.parametrize("name", PARSERS)
def test_anything_is_read_or_refused(name, folder):
    @settings(
        max_examples=EXAMPLES or FEW,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(PARSERS[name].cases)
    def check(case):
        read_or_refuse(name, folder, case)

    for case in NASTY:
        read_or_refuse(name, folder, case.decode("utf8", "replace") if name in TEXTS else case)
    check()


def test_the_sample_bmodel_says_what_it_is(tmp_path):
    (tmp_path / "x.bmodel").write_bytes(bmodel())
    contents = read_contents(tmp_path / "x.bmodel")
    assert contents.chip == "BM1684X" and contents.graphs[0].name == "lprnet"
    assert contents.graphs[0].stages[0].inputs[0].shape == (1, 3, 24, 94)


def test_a_record_names_no_file_but_its_own(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(record() | {"path": "."}))
    with pytest.raises(LprnetError):
        BModel.load(tmp_path)
    (tmp_path / "lprnet.bmodel").write_bytes(b"model")
    (tmp_path / "record.json").write_text(json.dumps(record()))
    assert BModel.load(tmp_path).sha256 == file_digest(tmp_path / "lprnet.bmodel")


def test_a_file_name_that_is_not_utf8_is_one_error(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"\udcffa.png": "皖A12345"}))
    with open(os.fsencode(tmp_path) + b"/\xffa.png", "wb") as file:
        file.write(images()[1])
    with pytest.raises(LprnetError, match=r"file name '\\udcffa.png' is not UTF-8"):
        load_plates(tmp_path)
