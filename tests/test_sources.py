"""Keys of artifacts hold the code that decides them, and no other."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lprnet_nb import cache, sources

PACKAGE = Path(sources.__file__).parent
COMPILED = {"top", "calibration", "bmodel"}
READ = {
    "logits", "survey", "study-cell", "study-float", "study-role", "contract-kit", "explained",
    "search-read", "search-margins",
}  # fmt: skip
CHANGES = {  # (file, text, what it is changed to): kinds of artifacts that get other keys
    ("datasets/images.py", "(0.0078125,)", "(0.015625,)"): READ
    | {"top", "calibration", "tables", "qat", "learnt", "nntc-umodel", "nntc-bmodel"},
    ("toolchain/compile.py", '"int8": "0.5,0.1"', '"int8": "0.9,0.1"'): {"bmodel"},
    ("toolchain/compile.py", '"--asymmetric"', '"--symmetric"'): {"bmodel"},
    ("toolchain/compile.py", "SEARCH_IMAGES = 30", "SEARCH_IMAGES = 31"): {"calibration"},
    ("toolchain/compile.py", '"--expected_cos", "1"', '"--expected_cos", "0"'): {"calibration"},
    ("toolchain/inside/deploy.py", "import ", "import os, "): {"bmodel", "foreign-bmodel"},
    ("toolchain/inside/quantize_worker.py", "import ", "import os, "): {"tables", "lowered"},
    ("runtime/emulator/kernels.c", "#include <stdint.h>", "#include <stdlib.h>"): {
        "logits", "survey", "study-cell", "study-role", "emulator-kernels", "explained",
        "search-read",
    },
    ("runtime/emulator/native.py", '"-O', '"-g", "-O'): {
        "logits", "survey", "study-cell", "study-role", "emulator-kernels", "explained", "learnt",
        "search-read",
    },
    ("runtime/simulator.py", '"-O2"', '"-O3"'): {"logits", "survey", "shim"},
    ("model/lprnet/layers.py", "KEPT = (2,", "KEPT = (1,"): {
        "trace", "qat", "search-margins", "study-float", "study-role", "example-onnx",
        "sample-onnx",
    },
    ("model/lprnet/roles.py", '(22, 92): "input"', '(22, 92): "neck"'): {
        "bmodel", "lowered", "mixed-table",
    },
    ("datasets/interface.py", "transpose(", "swapaxes("): {
        "logits", "survey", "search-margins", "study-float", "study-role",
    },
    ("decode/ctc.py", "import numpy as np", "import numpy"): {
        "score", "explained", "search-read", "search-margins",
    },
    ("datasets/generate.py", "DRAWN_SHARE = 0.8", "DRAWN_SHARE = 0.7"): {"plates"},
    # What decides nothing.
    ("datasets/images.py", "IMAGE_SUFFIXES = (", 'IMAGE_SUFFIXES = (".x",'): set(),
    ("datasets/images.py", "def preprocess(", "# A comment.\n\n\ndef preprocess("): set(),
    ("proof/contract.py", '"""', '"""Other words. '): set(),
    ("proof/emulator_bench.py", "import ", "import os, "): set(),
}  # fmt: skip


def digests() -> dict[str, str]:
    sources.code_digest.cache_clear()
    try:
        return {kind: sources.code_digest(kind) for kind in sources.DECIDED_BY}
    finally:
        sources.code_digest.cache_clear()


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of the package, and the digests of its code."""
    package = tmp_path_factory.mktemp("package")
    for part in "datasets", "decode", "explain", "model", "proof", "runtime", "study", "toolchain":
        shutil.copytree(PACKAGE / part, package / part, ignore=shutil.ignore_patterns("*.pyc"))
    for part in ("learnt.py", "measure/survey.py", "work/pieces.py"):
        (package / part).parent.mkdir(exist_ok=True)
        shutil.copy(PACKAGE / part, package / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_PACKAGE", package)
        yield package, digests()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change[0]}: {change[2]}"[:60])
def test_a_change_of_the_code_that_decides_a_result_is_another_key(change, copied, monkeypatch):
    name, before, after = change
    package, was = copied
    changed = package / name
    read, afresh = sources._code, sources._code.__wrapped__  # only the changed file is read again
    sources._tree.cache_clear()
    monkeypatch.setattr(
        sources, "_code", lambda path, names: (afresh if path == changed else read)(path, names)
    )
    text = changed.read_text("utf8")
    assert before in text
    changed.write_text(text.replace(before, after, 1), "utf8")
    try:
        now = digests()
    finally:
        changed.write_text(text, "utf8")
    assert {kind for kind in was if was[kind] != now[kind]} == CHANGES[change]


def test_every_kind_of_artifact_says_what_decides_it():
    """A kind that is not in the list would have keys without code."""
    code = "\n".join(path.read_text("utf8") for path in PACKAGE.rglob("*.py"))
    kinds = set(re.findall(r'\bartifact\(\s*"([a-z-]+)"', code))
    assert kinds == set(sources.DECIDED_BY)
    # Where the digest of the inputs is the identity of what was made, it is in them.
    named = set(re.findall(r'"code": code_digest\("([a-z-]+)"\)', code))
    assert named == {
        *COMPILED, "trace", "sample-onnx", "network", "tables", "mixed-table",
        "nntc-umodel", "nntc-bmodel", "score", "learnt",
    }  # fmt: skip


def test_the_code_is_in_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path))
    folder = cache.artifact("score", {"a": 1}, lambda place: None)
    assert cache.find_artifact("score", {"a": 1}) == folder
    monkeypatch.setattr(cache, "code_digest", lambda kind: f"another version's {kind}")
    assert cache.find_artifact("score", {"a": 1}) is None


def test_threads_that_ask_at_once_get_one_digest():
    """Python 3.11 fails with a SystemError where two threads parse at the same moment."""
    for function in (sources.code_digest, sources._code, sources._tree):
        function.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        kinds = [kind for kind in sources.DECIDED_BY for _ in range(8)]
        found = list(pool.map(sources.code_digest, kinds))
    assert [found[8 * number : 8 * number + 8] for number in range(len(found) // 8)] == [
        [sources.code_digest(kind)] * 8 for kind in sources.DECIDED_BY
    ]
