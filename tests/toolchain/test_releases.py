"""Releases of TPU-MLIR: what the table says, what it refuses, and one old release run whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.datasets.images import preprocess
from lprnet_nb.errors import ParameterError, ToolchainError
from lprnet_nb.measure.parameters import check
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.proof import releases as proof
from lprnet_nb.proof.exactness import read_record
from lprnet_nb.runtime.emulator import Emulator
from lprnet_nb.runtime.engine import open_engine
from lprnet_nb.toolchain import compile as compile_stage
from lprnet_nb.toolchain import environment
from lprnet_nb.toolchain.compile import CalibrationTable, TopGraph
from lprnet_nb.toolchain.environment import Compiler
from lprnet_nb.toolchain.releases import (
    METHODS,
    PINNED,
    RELEASES,
    VERSIONS,
    release_like,
    release_named,
)
from lprnet_nb.toolchain.strategies import check_calibrates, make_strategy, strategy_named
from lprnet_nb.work.pieces import compile_piece, trace_piece, with_needs

RECORD = Path(__file__).parents[2] / "data" / "verification" / "releases" / "2026-11.json"


# What the wheels hold at both sides of each change.
@pytest.mark.parametrize(
    "fact, before, first, values",
    [
        (lambda r: r.driver, "1.6.1", "1.7", ("libbmlib.so", "libbmlib.so.0")),
        (lambda r: "mse" in r.methods, "1.8.1", "1.9", (False, True)),
        (lambda r: r.searches, "1.8.1", "1.9", (False, True)),
        (lambda r: "aciq_gauss" in r.methods, "1.17", "1.18", (True, False)),
        (lambda r: "aciq_gauss" in r.methods, "1.23", "1.24", (False, True)),
        (lambda r: r.methods["mse"][1], "1.23", "1.24", ("use_mse", "mse")),
        (lambda r: r.asymmetric, "1.7", "1.8", (False, True)),
        (lambda r: r.method_in_table, "1.23", "1.24", (False, True)),
        (lambda r: r.keeps_weights, "1.22", "1.23", (False, True)),
        (lambda r: r.profile.startswith("lprnet.bmodel."), "1.17", "1.18", (True, False)),
        (lambda r: r.interpreter_judges, "1.27", "1.28.1", (False, True)),
        (
            lambda r: r.simulators["BM1684X"],
            "1.27",
            "1.28.1",
            ("libcmodel_1684x.so", "libcmodel_bm1684x.so"),
        ),
        (lambda r: any("without a word" in f for f in r.faults), "1.8.1", "1.9", (False, True)),
        (lambda r: any("without a word" in f for f in r.faults), "1.17", "1.18", (True, False)),
    ],
)
def test_what_changed_with_a_release(fact, before, first, values):
    assert VERSIONS.index(first) == VERSIONS.index(before) + 1
    assert (fact(RELEASES[before]), fact(RELEASES[first])) == values


def test_the_table_is_whole():
    assert len(RELEASES) == 28 and VERSIONS[-1] == PINNED == environment.VERSION
    assert all("kl" in r.methods and set(r.methods) <= set(METHODS) for r in RELEASES.values())
    assert set(RELEASES[PINNED].methods) == set(METHODS) and not RELEASES[PINNED].faults
    assert release_like("1.20").profile == RELEASES["1.19"].profile  # not on PyPI
    assert release_like("1.30.2+mine") is RELEASES[PINNED]
    json.dumps([release.facts() for release in RELEASES.values()])


def test_an_unknown_release_is_refused_with_those_there_are():
    for refused in (lambda: release_named("1.20"), lambda: check(TPU_MLIR="1.20")):
        with pytest.raises(ParameterError, match=r"no release '1.20'.*1\.6, .*1\.30\.2"):
            refused()
    with pytest.raises(ParameterError, match="of TPU-MLIR, and TOOLCHAIN='nntc' is not"):
        check(TOOLCHAIN="nntc", PRECISIONS="fp32", TPU_MLIR="1.9")


@pytest.mark.parametrize(
    "release, strategy, message",
    [
        ("1.8.1", "mse", "no method 'mse'.*from 1.9 on.*Calibrate with 1.30.2"),
        ("1.18", "aciq-gauss", "no method 'aciq_gauss'.*from 1.9 to 1.17 and from 1.24 on"),
        ("1.6", "kl-bc", "no bias correction.*from 1.9 on"),
        ("1.8", "search-qtable", "no search 'search_qtable'.*from 1.9 on"),
    ],
)
def test_what_a_release_lacks_is_refused_naming_who_brought_it(release, strategy, message):
    with pytest.raises(ParameterError, match=message):
        check(STRATEGIES=strategy, TPU_MLIR=release, CALIBRATION="release")
    assert check(STRATEGIES=strategy, TPU_MLIR=release).calibration == "pinned"  # it can do it


def test_zero_points_are_refused_where_a_release_does_not_heed_them():
    with pytest.raises(ParameterError, match=r"1\.7 quantizes symmetrically.*from 1\.8 on heed it"):
        check(STRATEGIES="kl,mse-asymmetric", TPU_MLIR="1.30.2,1.7")
    check(STRATEGIES="kl,mse-asymmetric", TPU_MLIR="1.8")
    check(STRATEGIES="kl", TPU_MLIR="1.7")


def test_every_release_takes_what_its_table_lists():
    for version, release in RELEASES.items():
        for method in release.methods:
            check_calibrates(version, make_strategy(name="mine", method=method))


def test_pieces_of_two_releases_are_different_work():
    trace = trace_piece(load_own_weights(), 1, "image", "published")
    images = np.zeros((2, 24, 94, 3), np.uint8)

    def models(**releases):
        return compile_piece(
            "x", trace, "BM1684X", "int8", strategy_named("kl"), images, **releases
        )

    pinned, mixed = models(), models(release="1.9")
    own = models(release="1.9", calibrated_by="1.9")
    assert len({piece.key for piece in (pinned, mixed, own)}) == 3
    assert "release" not in pinned.arguments
    assert mixed.arguments["release"] == own.arguments["release"] == "1.9"
    kinds = {
        name: sorted(p.name for p in with_needs([piece]) if p.kind != "trace")
        for name, piece in {"pinned": pinned, "mixed": mixed, "own": own}.items()
    }
    assert kinds["pinned"] == ["calibrate/kl", "compile/x", "translate/published_1b"]
    both = ["translate/published_1b", "translate/published_1b@1.9"]
    assert kinds["mixed"] == ["calibrate/kl", "compile/x", *both]
    assert kinds["own"] == ["calibrate/kl@1.9", "compile/x", both[1]]


# ---- What was asked is what was done -----------------------------------------------------------

LINES = "a 1.0 -1.0 1.0\nb 2.0 -2.0 2.0\n"
HEAD = "# quantization threshold calculation method: {}\n"


def table(folder: Path, text: str, release: str) -> CalibrationTable:
    path = folder / f"table-{release}-{len(list(folder.iterdir()))}"
    path.write_text(text)
    return CalibrationTable(path, None, path.name, release)


def checked(made, kl, method, monkeypatch):
    """`_check_method` where the release gives `kl` when it is asked for KL."""
    monkeypatch.setattr(compile_stage, "calibrate", lambda *_: kl)
    strategy = make_strategy(name="mine", method=method)
    graph = TopGraph(Path(), [], False, "", made.release)
    compile_stage._check_method(made, graph, np.zeros(0), strategy, "BM1684X")


def test_thresholds_by_another_method_are_caught(tmp_path, monkeypatch):
    says_kl = table(tmp_path, HEAD.format("['kl']") + LINES, "1.24")
    with pytest.raises(ToolchainError, match="TPU-MLIR 1.24 was asked.*'mse' and gave 'kl'"):
        checked(says_kl, None, "mse", monkeypatch)
    silent, kl = (table(tmp_path, LINES, "1.9") for _ in range(2))
    with pytest.raises(ToolchainError, match="TPU-MLIR 1.9 was asked.*'mse' and gave 'kl'"):
        checked(silent, kl, "mse", monkeypatch)


def test_thresholds_by_the_method_asked_for_pass(tmp_path, monkeypatch):
    for word in ("mse", "use_mse", "['mse']"):
        checked(table(tmp_path, HEAD.format(word) + LINES, "1.24"), None, "mse", monkeypatch)
    other = table(tmp_path, LINES.replace("2.0", "1.5"), "1.9")
    checked(other, table(tmp_path, LINES, "1.9"), "mse", monkeypatch)
    checked(table(tmp_path, LINES, "1.9"), None, "kl", monkeypatch)


def test_another_releases_table_must_name_every_layer(tmp_path):
    graph = TopGraph(Path(), [{"name": "a"}, {"name": "c"}], False, "", "1.9")
    with pytest.raises(ToolchainError, match="1.30.2 has no threshold for layer 'c' of TPU-MLIR"):
        compile_stage._check_fits(table(tmp_path, LINES, "1.30.2"), graph)
    compile_stage._check_fits(table(tmp_path, LINES, "1.9"), graph)  # its own tools know


def test_only_rewritten_weights_replace_a_networks_own(tmp_path):
    """Weights lie beside every table; those of a tuned network are not the table's."""
    made, folder = tmp_path / "table", tmp_path / "compile"
    name = "lprnet_top_f32_all_weight.npz"
    for place, value in ((made, 1.0), (folder, 2.0)):
        place.mkdir()
        np.savez(place / name, w=np.full(3, value))
    graph = TopGraph(Path(), [], False, "", "1.30.2")
    found = CalibrationTable(made / "t", None, "", "1.30.2")
    compile_stage._copy_rewritten_weights(graph, make_strategy(name="mine"), found, folder)
    assert np.load(folder / name)["w"][0] == 2.0
    equalized = make_strategy(name="mine", weight_equalization=True)
    compile_stage._copy_rewritten_weights(graph, equalized, found, folder)
    assert np.load(folder / name)["w"][0] == 1.0
    np.savez(folder / name, other=np.zeros(3))
    with pytest.raises(ToolchainError, match="under other names"):
        compile_stage._copy_rewritten_weights(graph, equalized, found, folder)


# ---- Installing --------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(environment.ENVIRONMENT_VARIABLE, raising=False)
    return tmp_path / "cache"


def installed(version: str, shared: Path | None = None) -> Compiler:
    """What an installation leaves, without the compiler."""
    prefix = environment.default_prefix(version)
    package = prefix / "lib" / "python3.10" / "site-packages" / "tpu_mlir"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").touch()
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").touch(0o755)
    facts = {"version": version, "package": package.relative_to(prefix).as_posix()}
    facts |= {"shared": str(shared)} if shared else {}
    (prefix / "ready.json").write_text(json.dumps(facts))
    return Compiler(prefix, package, version)


def test_a_damaged_or_orphaned_release_is_installed_again(cache):
    base = installed(PINNED)
    old = installed("1.9", base.package.parent)
    assert environment.find_compiler("1.9") == old and environment.is_installed("1.9")
    for gone in (old.package / "__init__.py", old.python, old.prefix / "ready.json"):
        gone.rename(gone.with_name("away"))
        assert environment.find_compiler("1.9") is None and not environment.is_installed("1.9")
        gone.with_name("away").rename(gone)
    (old.prefix / "ready.json").write_text('{"version": "1.')  # a full disk
    assert environment.find_compiler("1.9") is None
    facts = {"version": "1.9", "package": "lib/python3.10/site-packages/tpu_mlir"}
    (old.prefix / "ready.json").write_text(json.dumps({**facts, "shared": str(cache / "gone")}))
    assert environment.find_compiler("1.9") is None
    assert environment.find_compiler() == base


def test_a_release_removed_in_use_is_one_clear_error(cache, tmp_path):
    old = installed("1.9")
    with pytest.raises(ToolchainError, match="calibrating: TPU-MLIR 1.9 in .* is gone or damaged"):
        old.run(["run_calibration.py"], cwd=tmp_path, log=tmp_path / "log", what="calibrating")


def test_a_release_removed_while_a_tool_of_it_runs_is_named(cache, tmp_path):
    old, log = installed("1.9"), tmp_path / "log"
    tool = old.prefix / "bin" / "tool"
    tool.write_text(
        f"#!/bin/sh\necho started\nwhile [ -d {old.prefix} ]; do sleep 0.05; done\nfalse"
    )
    tool.chmod(0o755)
    (old.prefix / "bin" / "python").unlink()  # the supervisor wants a real one
    (old.prefix / "bin" / "python").symlink_to(sys.executable)

    def remove():
        while not (log.exists() and "started" in log.read_text()):
            time.sleep(0.05)
        shutil.rmtree(old.prefix)

    removing = threading.Thread(target=remove)
    removing.start()
    with pytest.raises(ToolchainError, match=r"deploying: TPU-MLIR 1\.9 in .* is gone or damaged"):
        old.run(["tool"], cwd=tmp_path, log=log, what="deploying")
    removing.join()


def test_a_tool_that_fails_is_not_taken_for_a_removed_release(cache, tmp_path):
    old = installed("1.9")
    (old.prefix / "bin" / "python").unlink()
    (old.prefix / "bin" / "python").symlink_to(sys.executable)
    (old.prefix / "bin" / "tool").symlink_to("/bin/false")
    with pytest.raises(ToolchainError, match="deploying failed with exit status 1"):
        old.run(["tool"], cwd=tmp_path, log=tmp_path / "log", what="deploying")


def test_two_that_want_a_release_install_it_once(cache, monkeypatch):
    base, calls = installed(PINNED), []

    def install(given, version, prefix):
        calls.append(version)
        time.sleep(0.2)
        return installed(version, given.package.parent)

    monkeypatch.setattr(environment, "_install_beside", install)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(environment.compiler("1.9"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["1.9"] and found[0] == found[1]
    assert environment.compiler() == base


def test_an_interrupted_installation_leaves_nothing(cache, monkeypatch):
    base = installed(PINNED)
    prefix = environment.default_prefix("1.9")

    def interrupted(step, **_):
        prefix.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "run_logged", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environment.compiler("1.9")
    assert not prefix.exists() and environment.find_compiler("1.9") is None
    prefix.mkdir()  # of one that was killed
    (prefix / "half").touch()
    monkeypatch.setattr(environment, "self_test", lambda made, log: None)

    def works(step, **_):
        assert not (prefix / "half").exists()
        (prefix / "lib/python3.10/site-packages/tpu_mlir/lib/third_party").mkdir(
            parents=True, exist_ok=True
        )

    monkeypatch.setattr(environment, "run_logged", works)
    assert environment.compiler("1.9").version == "1.9"
    path = prefix / "lib/python3.10/site-packages/shared.pth"
    assert path.read_text().strip() == str(base.package.parent)


# The tools of a stand-in release: they wait as long as `hold` lies in the cache.
_TOOL = """#!python
import sys, time
from pathlib import Path
print("tool of", Path(sys.prefix).name, flush=True)
while (Path(sys.prefix).parent / "hold").exists():
    time.sleep(0.05)
"""
_INSTALL = "import sys; from lprnet_nb.toolchain import environment as e; e.compiler(sys.argv[1])"


def wheel(folder: Path, version: str) -> None:
    """A release that pip installs, and whose tools the self-test can start."""
    info, data = f"tpu_mlir-{version}.dist-info", f"tpu_mlir-{version}.data/scripts"
    files = {
        "tpu_mlir/__init__.py": f"VERSION = {version!r}\n",
        "tpu_mlir/lib/third_party/libz.so.1": "",
        f"{data}/model_transform.py": _TOOL,
        f"{data}/model_deploy.py": _TOOL,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tpu_mlir\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"tpu_mlir-{version}-py3-none-any.whl", "w") as archive:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o100755 << 16
            archive.writestr(member, text)


def of_cache(cache: Path) -> list[str]:
    """Processes that a cache's environments run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            found += [command] if f"{cache}/tpu_mlir-" in command else []
    return found


def wait_for(true) -> None:
    """Wait for what comes within seconds, on a busy machine within minutes."""
    until = time.monotonic() + 300
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_killed_installation_is_made_anew_and_two_are_made_at_once(compiler, tmp_path):
    """By real processes, pip and self-test; what pip installs are stand-ins of two releases."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for version in ("1.9", "1.10"):
        wheel(tmp_path, version)
    variables = {
        "LPRNET_CACHE": str(cache),
        "LPRNET_TPU_MLIR": str(compiler.prefix),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    prefixes = {version: cache / f"tpu_mlir-{version}" for version in ("1.9", "1.10")}

    def start(version):
        command = [sys.executable, "-c", _INSTALL, version]
        return subprocess.Popen(command, env=os.environ | variables, start_new_session=True)

    (cache / "hold").touch()
    first, log = start("1.9"), cache / "tpu_mlir-1.9.install.log"
    wait_for(lambda: first.poll() is not None or (log.exists() and "tool of" in log.read_text()))
    assert first.poll() is None and (prefixes["1.9"] / "bin" / "model_deploy.py").exists()
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for(lambda: not of_cache(cache))  # its tools end with it
    (prefixes["1.9"] / "left.by.it").touch()
    (cache / "hold").unlink()

    both = [start(version) for version in prefixes]
    assert [one.wait(timeout=600) for one in both] == [0, 0]
    for version, prefix in prefixes.items():
        assert json.loads((prefix / "ready.json").read_text())["version"] == version
        package = prefix / "lib/python3.10/site-packages/tpu_mlir"
        assert (package / "__init__.py").read_text() == f"VERSION = {version!r}\n"
        assert (package / "lib/third_party/aside/libz.so.1").exists()
        said = (cache / f"{prefix.name}.install.log").read_text()
        assert said.count(f"tool of {prefix.name}\n") == 2  # transform and deploy, its own
    assert not (prefixes["1.9"] / "left.by.it").exists()


def test_equal_libraries_are_shared_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "SHARED_FROM", 4)
    for name, same, other in (("liba.so", b"12345", b"12345"), ("libb.so.1", b"12345", b"12346")):
        for package, data in (("mine", same), ("theirs", other)):
            (tmp_path / package / "lib").mkdir(parents=True, exist_ok=True)
            (tmp_path / package / "lib" / name).write_bytes(data)
    environment._share(tmp_path / "mine", tmp_path / "theirs")
    inodes = {
        name: len({(tmp_path / p / "lib" / name).stat().st_ino for p in ("mine", "theirs")})
        for name in ("liba.so", "libb.so.1")
    }
    assert inodes == {"liba.so": 1, "libb.so.1": 2}
    assert (tmp_path / "mine/lib/libb.so.1").read_bytes() == b"12345"


# ---- Whole -------------------------------------------------------------------------------------


def test_an_old_release_compiles_what_its_simulator_and_the_emulator_agree_on(
    compiler, weights, published
):
    there = [v for v in reversed(VERSIONS) if v != PINNED and environment.is_installed(v)]
    if not there:
        pytest.skip("no release besides the pinned one is installed: `lprnet-nb releases`")
    bmodel = proof.compiled_by(
        there[0],
        "BM1684",
        make_strategy(name="kl-20", images=20, tune=1),
        weights,
        published.images[-20:],
    )
    assert bmodel.tools == {"tpu_mlir": there[0], "calibrated_by": PINNED}
    judged = proof.judge_release(bmodel, published.take(slice(0, 1)))
    assert judged["simulator"] == f"tpu_mlir {there[0]}"
    assert RELEASES[there[0]].simulators["BM1684"] in judged["libraries"]
    assert judged["identical"] and judged["largest_logit"] > 10
    with open_engine(bmodel, "simulator", workers=1, libraries=compiler.library_folder) as engine:
        assert RELEASES[PINNED].simulators["BM1684"] in engine.description["libraries"]
        # A BModel of another release on this runtime: its logits are the same.
        inputs = preprocess(published.images[:1])
        [graph] = engine.get_graph_names()
        [name] = engine.get_input_names(graph)
        [logits] = engine.process(graph, {name: inputs}).values()
    np.testing.assert_array_equal(logits, Emulator(bmodel.exported).run(inputs))


def test_the_committed_record():
    record = read_record(RECORD)
    assert record["summary"] == proof.summarize(record["rows"])
    assert record["missing"] == proof.missing(record["rows"])
    rows = [row for row in record["rows"] if "images" in row]
    assert {"1.6", "1.8.1", "1.9", "1.18.1", "1.24", "1.28.1"} <= {row["release"] for row in rows}
    for row in rows:
        assert row["simulator"] == f"tpu_mlir {row['release']}"
        assert row["same_greedy"] == row["images"] >= 4, row
        if row["precision"] == "int8":
            assert row["identical"], row
        else:  # rows of before floats were exact differ in their last bits
            assert row["identical"] or row["max_abs_difference"] < 1e-4, row
    exact = {row["release"] for row in rows if row["precision"] == "fp32" and row["identical"]}
    assert {"1.6", "1.8.1", "1.9", "1.18.1", "1.28.1", PINNED} <= exact
    for release in set(VERSIONS) - set(record["missing"]):
        read = [row for row in rows if row["release"] == release and row["precision"] == "int8"]
        for chip in proof.CHIPS:
            assert max(row["images"] for row in read if row["chip"] == chip) >= 20, release


def test_one_table_gives_one_quantized_graph():
    graphs: dict[tuple, set[str]] = {}
    for row in read_record(RECORD)["rows"]:
        if row["calibration"] != "release" and "graph" in row:
            key = (row["chip"], row["precision"], row["strategy"])
            graphs.setdefault(key, set()).add(row["graph"])
    assert len(graphs) >= 4 and all(len(found) == 1 for found in graphs.values())


def test_interpreters_are_as_the_table_says():
    judged = 0
    for row in read_record(RECORD)["rows"]:
        found = row.get("own_interpreter", {})
        if "interpreter" in found:
            exact = row["chip"] == "BM1684" or RELEASES[row["release"]].interpreter_judges
            assert (found["interpreter"] == 0) == exact, row
            judged += 1
    assert judged >= 16


def test_what_the_record_refuses_is_what_the_table_lacks():
    for row in read_record(RECORD)["rows"]:
        lacks = (
            row["strategy"] is not None and row["strategy"] not in RELEASES[row["release"]].methods
        )
        assert ("refused" in row) == (row["calibration"] == "release" and lacks), row
