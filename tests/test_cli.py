from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from faults.commands import Commands

from lprnet_nb import __version__, inputs
from lprnet_nb.datasets.folder import load_images
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.datasets.labels import is_plate
from lprnet_nb.datasets.lmdb import convert_imageset, read_lmdb
from lprnet_nb.decode import decode
from lprnet_nb.decode.views import decode_views, stretched
from lprnet_nb.doctor import summary
from lprnet_nb.evaluate.calibrations import packaged_calibration
from lprnet_nb.runtime.inference import infer_plates
from lprnet_nb.study.results import committed_study
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.toolchain.compile import compile_bmodel
from lprnet_nb.toolchain.strategies import STRATEGIES, make_strategy

FORKED: list[Commands] = []  # one: Python's start takes longer than most commands


@pytest.fixture(scope="module", autouse=True)
def forked(tmp_path_factory) -> Iterator[None]:
    FORKED.append(Commands(tmp_path_factory.mktemp("forked"), {"LC_ALL": "C.UTF-8"}, "utf8"))
    yield
    FORKED.pop().close()


def run(*arguments, code=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    [forks] = FORKED
    done = forks.run(list(map(str, arguments)), cwd=Path.cwd(), env=environment, within=600)
    output = done.output.decode()
    assert done.status == code, output + done.errors
    assert "Traceback" not in done.errors
    return subprocess.CompletedProcess(arguments, code, output, done.errors)


@pytest.fixture(scope="module")
def bmodel(compiler, weights, published) -> BModel:
    from lprnet_nb.model.trace import trace_model

    return compile_bmodel(
        trace_model(weights, 1, "image"),
        "BM1684X",
        "int8",
        strategy=make_strategy(name="kl-20", images=20, tune=1),
        calibration_images=published.images[-20:],
    )


def write_images(folder, plates: PlateImages):
    folder.mkdir()
    for name, image in zip(plates.names, plates.images):
        (folder / name.replace(".jpg", ".png")).write_bytes(
            cv2.imencode(".png", image)[1].tobytes()
        )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compile", "BM168"], "Choose from BM1684"),
        (["report", "--profile", "huge"], "quick, full"),
        (["report", "--name", "../up"], "report name"),
        (["report", "--chips", "BM1684", "--precisions", "int4"], "int4"),
        (["infer", "no.bmodel", "."], "no.bmodel is not there. Compile it"),
        (["compile", "BM1684", "--tpu-mlir", "1.20"], "no release '1.20' of TPU-MLIR. There are"),
        (["bench", "releases", "--tpu-mlir", "1.20"], "no release '1.20' of TPU-MLIR. There are"),
        (
            ["report", "--strategies", "mse", "--tpu-mlir", "1.8.1", "--calibration", "release"],
            "no method 'mse', which strategy 'mse' asks for; it is there from 1.9 on",
        ),
        (["evaluate", "no.json", "no.json"], "cannot be read"),
        (["contract", "--backend", "torch"], "no contract"),
        (["trace", "--weights", "misspelt.pth"], "misspelt.pth cannot be read: No such file"),
        (["train", "o.pth", "--steps", "1", "--start-from", "no.pth"], "No such file"),
    ],
)
def test_errors_are_one_message_and_exit_status_2(arguments, message):
    assert message in run(*arguments, code=2).stderr


def end(body, tmp_path, stdout=subprocess.PIPE, **environment):
    """How a command with this body ends: (status, what it said on standard error, output)."""
    script = (
        "import sys; from lprnet_nb import cli\n"
        f"@cli.app.command()\ndef odd():\n    {body}\n"
        "sys.argv = ['lprnet-nb', 'odd']\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "LPRNET_CACHE": str(tmp_path / "cache"), **environment},
    )
    return done.returncode, done.stderr.decode(), (done.stdout or b"").decode()


def test_what_slips_through_is_one_message_and_its_traceback_is_kept(tmp_path):
    status, said, _ = end("{}['the reason']", tmp_path)
    [log] = (tmp_path / "cache" / "logs" / "errors").iterdir()
    assert status == 70 and "Traceback" not in said
    assert "KeyError: 'the reason'" in said and str(log) in said
    kept = log.read_text("utf8")
    assert "Traceback" in kept and "{}['the reason']" not in said and "in odd" in kept


def test_without_a_cache_to_write_the_traceback_is_kept_elsewhere(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    (tmp_path / "tmp").mkdir()
    status, said, _ = end("1 / 0", tmp_path, TMPDIR=str(tmp_path / "tmp"))
    [log] = (tmp_path / "tmp").glob("*.log")
    assert status == 70 and str(log) in said and "ZeroDivisionError" in log.read_text()


@pytest.mark.parametrize("body", ["print('x')", "print('x' * 10_000_000)", "cli._print_json('x')"])
def test_a_full_disk_behind_the_output_is_one_message(body, tmp_path):
    with open("/dev/full", "w") as full:
        status, said, _ = end(body, tmp_path, full)
    assert status == 1 and said.count("\n") == 1
    assert "No space left on device: standard output" in said


def test_a_name_that_no_file_can_have_is_one_message(tmp_path):
    name = "x" * 300
    results = tmp_path / "results.json"
    results.write_text('{"a.jpg": "b"}')
    for arguments in (["evaluate", results, name], ["infer", name, tmp_path]):
        said = run(*arguments, code=2).stderr
        assert "name too long" in said.lower() and said.count("\n") == 1


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    assert end("print('x' * 10_000_000)", tmp_path, writing)[:2] == (1, "")
    assert end("print('x')", tmp_path, writing)[:2] == (1, "")
    os.close(writing)


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "ascii"])
def test_json_is_utf8_in_every_locale_and_no_character_is_a_traceback(encoding, tmp_path):
    status, said, output = end(
        "print('\\udcff'); cli._print_json({'皖.png': '皖A12345'})",
        tmp_path,
        PYTHONIOENCODING=encoding,
    )
    assert (status, said) == (0, "")
    assert output.splitlines() == ["\\udcff", '{"皖.png": "皖A12345"}']


def test_infer_and_evaluate_a_folder(bmodel, published, tmp_path):
    some = published.take([0, 500])
    write_images(tmp_path / "plates", some)
    results = tmp_path / "results.json"
    run("infer", bmodel.folder, tmp_path / "plates", "--backend", "simulator", "--output", results)
    read = json.loads(results.read_text("utf8"))
    labels = {name.replace(".jpg", ".png"): label for name, label in zip(some.names, some.labels)}
    assert list(read) == sorted(labels)
    (tmp_path / "labels.json").write_text(json.dumps(labels), "utf8")
    judged = json.loads(run("evaluate", results, tmp_path / "labels.json").stdout)
    right = sum(read[name] == labels[name] for name in labels)
    assert judged["images"] == 2 and judged["exact_match"] == right / 2


def test_evaluate_takes_a_folder_and_says_what_the_results_lack(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_said", set())
    run("generate", tmp_path / "mine", "--count", "4")
    labels = json.loads((tmp_path / "mine" / "labels.json").read_text("utf8"))
    first, second, *_ = labels
    results = tmp_path / "results.json"
    results.write_text(json.dumps({first: labels[first], second: "x"}), "utf8")
    for truth in (tmp_path / "mine", tmp_path / "mine" / "labels.json"):
        inputs._said.clear()
        done = run("evaluate", results, truth)
        judged = json.loads(done.stdout)
        assert (judged["images"], judged["missing"], judged["exact_match"]) == (2, 2, 0.5)
        assert "lacks 2 of 4 labelled pictures; only the other 2 are judged" in done.stderr
    results.write_text(f'{{"{first}": "a", "{first}": "a"}}')
    assert "occurs twice" in run("evaluate", results, truth, code=2).stderr
    results.write_text("{}")
    assert "has no results. Name the file" in run("evaluate", results, truth, code=2).stderr


def test_infer_one_picture_and_a_list(bmodel, published, tmp_path):
    some = published.take([0, 500])
    write_images(tmp_path / "plates", some)
    names = [name.replace(".jpg", ".png") for name in some.names]
    (tmp_path / "list.txt").write_text(f"plates/{names[1]}\n", "utf8")
    given = ("infer", bmodel.folder, "--backend", "emulator")
    both = json.loads(run(*given, tmp_path / "plates").stdout)
    one = json.loads(run(*given, tmp_path / "plates" / names[0], tmp_path / "list.txt").stdout)
    assert sorted(one) == sorted(names) == sorted(both)
    assert one == both


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "pandas", "matplotlib"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from lprnet_nb.cli import main
main()
"""


def without_heavy_packages(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, arguments)],
        text=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_infer_evaluate_and_doctor_start_without_torch_pandas_and_matplotlib(
    bmodel, published, tmp_path
):
    some = published.take([0, 500])
    write_images(tmp_path / "plates", some)
    (tmp_path / "labels.json").write_text(
        json.dumps({n.replace(".jpg", ".png"): t for n, t in zip(some.names, some.labels)})
    )
    infer = ("infer", bmodel.folder, tmp_path / "plates", "--backend")
    read = without_heavy_packages(*infer, "emulator")
    assert without_heavy_packages(*infer, "simulator", "--details", "--decoder", "plate")["plates"]
    (tmp_path / "results.json").write_text(json.dumps(read))
    judged = without_heavy_packages("evaluate", tmp_path / "results.json", tmp_path / "labels.json")
    assert judged["images"] == 2
    rows = without_heavy_packages("doctor", "--json")["checks"]
    assert next(row for row in rows if row["what"] == "torch")["ok"]  # found by its metadata


def test_infer_prints_json_alone_whatever_the_runtime_prints(bmodel, published, tmp_path):
    write_images(tmp_path / "plates", published.take([7]))
    done = run("infer", bmodel.folder, tmp_path / "plates", "--backend", "simulator")
    assert list(json.loads(done.stdout)) == [published.names[7].replace(".jpg", ".png")]


def test_details_say_how_sure_each_reading_is(bmodel, published, tmp_path):
    some = published.take([0, 3, 500, 700])
    write_images(tmp_path / "plates", some)
    given = ("infer", bmodel.folder, tmp_path / "plates", "--backend", "emulator")
    plain = json.loads(run(*given).stdout)
    found = json.loads(run(*given, "--details").stdout)
    assert found["backend"] == "emulator" and found["decoder"] == "greedy"
    assert found["confidence"] == "calibrated on the 1,000 published plates, read in float"
    assert list(found["milliseconds"]) == ["decode", "preprocess", "inference", "postprocess"]
    assert all(value > 0 for value in found["milliseconds"].values())
    assert {name: one["plate"] for name, one in found["plates"].items()} == plain
    readings = decode(infer_plates(bmodel, load_images(tmp_path / "plates"), "emulator").logits)
    sure = packaged_calibration("published", "greedy").apply(readings.confidence)
    for one, expected, second in zip(found["plates"].values(), sure, readings.runner_up):
        assert one["confidence"] == pytest.approx(expected, abs=1e-6)
        assert one["second"] == second and one["grammar"] == is_plate(one["plate"])
        assert len(one["characters"]) == len(one["plate"]) and max(one["characters"]) <= 1
    (tmp_path / "labels.json").write_text(json.dumps(plain), "utf8")
    for name in ("all.json", "all.csv"):
        assert run(*given, "--details", "--output", tmp_path / name).stdout
        judged = json.loads(run("evaluate", tmp_path / name, tmp_path / "labels.json").stdout)
        assert (judged["images"], judged["exact_match"]) == (4, 1.0)
    with open(tmp_path / "all.csv", encoding="utf8", newline="") as file:
        heading, first, *_ = csv.reader(file)
    assert heading[:6] == ["file", "plate", "confidence", "characters", "second", "grammar"]
    assert heading[6:] == ["decode_ms", "preprocess_ms", "inference_ms", "postprocess_ms"]
    assert first[:2] == [next(iter(plain)), next(iter(plain.values()))]


def test_readings_in_doubt_are_left_out_and_counted(bmodel, published, tmp_path):
    write_images(tmp_path / "plates", published.take([0, 3, 500, 700]))
    given = ("infer", bmodel.folder, tmp_path / "plates", "--backend", "emulator")
    plates = json.loads(run(*given, "--details").stdout)["plates"]
    level = sorted(one["confidence"] for one in plates.values())[2] - 1e-5
    kept = [name for name, one in plates.items() if one["confidence"] >= level]
    done = run(*given, "--reject", level, "--details")
    found = json.loads(done.stdout)
    assert list(found["plates"]) == kept and 0 < len(kept) < 4
    assert found["rejected"] == {"below": level, "images": 4 - len(kept)}
    assert f"{4 - len(kept)} of 4 readings are left out" in done.stderr
    assert "calibrated on the 1,000 published plates" in done.stderr
    assert "above 0 and at most 1" in run(*given, "--reject", "95", code=2).stderr


def test_a_bmodel_without_a_record_is_read_when_that_is_said(bmodel, published, tmp_path):
    alone = tmp_path / "vendor.bmodel"
    alone.write_bytes(bmodel.path.read_bytes())
    write_images(tmp_path / "plates", published.take([0, 500]))
    given = ("infer", alone, tmp_path / "plates", "--backend", "simulator")
    assert "no record beside it" in run(*given, code=2).stderr
    ours = run("infer", bmodel.folder, tmp_path / "plates", "--backend", "simulator").stdout
    assert json.loads(run(*given, "--trust").stdout) == json.loads(ours)
    found = json.loads(run(*given, "--trust", "--details", "--pixel-format", "rgb").stdout)
    assert found["confidence"].endswith("calibrated on nothing")  # of weights that nobody knows
    assert list(found["plates"]) == list(json.loads(ours))
    (tmp_path / "c.txt").write_text("AB01-", "utf8")
    said = run(*given, "--trust", "--classes", tmp_path / "c.txt", code=2).stderr
    assert "gives [1, 68, 18], and the class list has 5 classes" in said


def test_a_photograph_is_named_and_not_read(bmodel, tmp_path):
    photograph = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    (tmp_path / "car.jpg").write_bytes(cv2.imencode(".jpg", photograph)[1].tobytes())
    for place in (tmp_path, tmp_path / "car.jpg"):
        said = run("infer", bmodel.folder, place, "--backend", "emulator", code=2).stderr
        assert "car.jpg is 1920x1080 pixels, the shape of a whole scene" in said


def test_a_folder_unlike_the_calibration_is_told(bmodel, published, tmp_path):
    """Blank crops are; as many of the plates that it was calibrated on are not, nor is one."""
    blank = PlateImages(
        "", np.full((25, 24, 94, 3), 120, np.uint8), tuple(f"{i}.png" for i in range(25))
    )
    write_images(tmp_path / "blank", blank)
    write_images(tmp_path / "known", published.take(range(0, 1000, 40)))
    write_images(tmp_path / "one", blank.take([0]))
    (tmp_path / "none").mkdir()
    given = ("--backend", "emulator", "--details")
    done = run("infer", bmodel.folder, tmp_path / "blank", *given)
    assert "These 25 crops are unlike those that the confidence was calibrated on" in done.stderr
    found = json.loads(done.stdout)["unlike"]
    assert found["plates"] == 25 and found["on"].startswith("the 1,000 published plates")
    here, there = found["signs"]["confidence"]
    assert here < there - 0.05 and found["signs"]["no plate"][0] == 1
    for known in ("known", "one"):
        done = run("infer", bmodel.folder, tmp_path / known, *given, "--margin", "auto")
        assert "unlike" not in done.stderr + done.stdout and "margin none" in done.stderr
    said = run("infer", bmodel.folder, tmp_path / "none", *given, code=2).stderr
    assert "none has no image" in said
    said = run("infer", bmodel.folder, tmp_path / "known", "--margin", "-50/0", code=2).stderr
    assert "more than -50, at most 100" in said


def test_evaluate_reads_what_the_vendors_script_writes(tmp_path):
    """sophon-demo's lprnet_opencv.py: {file name: plate} as JSON, whatever the file is called."""
    results = tmp_path / "results" / "lprnet_int8_1b.bmodel_test_opencv_python_result.json"
    results.parent.mkdir()
    read = {"皖A12345.jpg": "皖A12345", "皖B23456.jpg": "皖B2345", "京C34567.jpg": "京C34567"}
    results.write_text(json.dumps(read, indent=4, ensure_ascii=False), "utf8")
    truth = {name: name[:-4] for name in read}
    (tmp_path / "test_label.json").write_text(json.dumps(truth, ensure_ascii=False), "utf8")
    judged = json.loads(run("evaluate", results, tmp_path / "test_label.json").stdout)
    assert (judged["images"], judged["missing"]) == (3, 0)
    assert judged["exact_match"] == pytest.approx(2 / 3)


def test_evaluate_leaves_out_labels_that_no_class_writes_when_that_is_said(tmp_path):
    truth = {"a.png": "京A1234学", "b.png": "皖A12345", "c.png": "皖B23456"}
    (tmp_path / "labels.json").write_text(json.dumps(truth), "utf8")
    (tmp_path / "results.json").write_text(json.dumps({**truth, "c.png": "x"}), "utf8")
    given = ("evaluate", tmp_path / "results.json", tmp_path / "labels.json")
    assert json.loads(run(*given).stdout)["images"] == 3
    done = run(*given, "--skip-unknown")
    judged = json.loads(done.stdout)
    assert (judged["images"], judged["skipped"], judged["exact_match"]) == (2, 1, 0.5)
    assert "a.png '京A1234学'" in done.stderr


VENDOR = {
    "as its script calls it": "--imageset_rootfolder=IN --imageset_lmdbfolder=OUT "
    "--resize_height=24 --resize_width=94 --shuffle=True --bgr2rgb=True --gray=False",
    "apart": "--imageset_rootfolder IN --imageset_lmdbfolder OUT --resize_height 24 "
    "--resize_width 94 --shuffle true --bgr2rgb TRUE --gray false",
    "ours": "--imageset-rootfolder IN --imageset-lmdbfolder OUT --shuffle --bgr2rgb",
    "ours, no": "--imageset-rootfolder IN --imageset-lmdbfolder OUT --shuffle --bgr2rgb --no-gray",
}


@pytest.mark.parametrize("how", VENDOR)
def test_options_of_the_vendors_converter(published, tmp_path, how):
    """Command lines of sophon-demo's LPRNet sample and of the BMNNSDK examples."""
    write_images(tmp_path / "in", published.take(range(5)))
    arguments = VENDOR[how].replace("IN", f"{tmp_path}/in").replace("OUT", f"{tmp_path}/out")
    assert "5 arrays" in run("lmdb", *arguments.split()).stdout
    convert_imageset(tmp_path / "in", tmp_path / "expected", shuffle=True, bgr2rgb=True)
    assert [(k, v.tobytes()) for k, v in read_lmdb(tmp_path / "out")] == [
        (k, v.tobytes()) for k, v in read_lmdb(tmp_path / "expected")
    ]


def test_the_vendors_defaults_and_wrong_truths(published, tmp_path):
    write_images(tmp_path / "in", published.take(range(2)))
    message = run("lmdb", f"--imageset_rootfolder={tmp_path}/in", "--gray=maybe", code=2).stderr
    assert "--gray=maybe: write --gray=True or --gray=False." in message
    run(
        "lmdb",
        f"--imageset_rootfolder={tmp_path}/in",
        "--gray=True",
        "--resize_height=0",
        "--resize_width=0",
    )
    assert {v.shape for _, v in read_lmdb(tmp_path / "in")} == {(1, 1, 24, 94)}


def test_three_looks_at_each_plate(bmodel, published, tmp_path):
    some = published.take(range(0, 1000, 125))
    write_images(tmp_path / "plates", some)
    given = ("infer", bmodel.folder, tmp_path / "plates", "--backend", "emulator", "--views")
    read = json.loads(run(*given, "--decoder", "plate").stdout)
    plates = load_images(tmp_path / "plates")
    logits = [
        infer_plates(bmodel, replace(plates, images=view), "emulator").logits
        for view in stretched(plates.images)
    ]
    assert read == dict(zip(plates.names, decode_views(np.stack(logits)).texts))
    assert len(logits) == 3 and not np.array_equal(logits[0], logits[1])
    assert "views are read with a grammar, which 'greedy' has not" in run(*given, code=2).stderr


def test_doctor_says_what_is_there_and_what_is_missing():
    facts = json.loads(run("doctor", "--json").stdout)["checks"]
    by_name = {row["what"]: row for row in facts}
    assert by_name["torch"]["found"].startswith("2.13.0") and by_name["torch"]["ok"]
    assert not by_name["compiler TPU-NNTC"]["ok"] and "SDK" in by_name["compiler TPU-NNTC"]["found"]
    assert "sophon.sail" in by_name["backend device"]["found"]
    weights = by_name["weights"]["found"]
    here = by_name["published data"]["ok"]
    assert "generated, the package's own: for plates from elsewhere" in weights
    assert ("the tutorial's reference" in weights) == here == ("not here" not in weights)
    last = run("doctor").stdout.splitlines()[-1]
    assert by_name["backend device"]["optional"] and "a device" in last


def test_doctors_last_line_says_what_works_and_what_is_optional():
    def check(what, ok, optional=False):
        return {"what": what, "ok": ok, "optional": optional, "found": ""}

    fine = [check("torch", True), check("backend device", True, True)]
    assert summary(fine) == "Ready: reports, notebooks and single steps work here."
    without = summary([check("torch", True), check("C compiler", False, True)])
    assert without.startswith("Ready") and "not here: a C compiler" in without
    broken = summary([check("torch", False), check("reports", False)])
    assert broken == "Not ready: torch, reports (see above)."


def test_version():
    assert run("--version").stdout == f"lprnet-nb {__version__}\n"


def test_strategies_say_where_they_stand():
    found = {one["name"]: one for one in json.loads(run("strategies", "--json").stdout)}
    assert set(found) == set(STRATEGIES)
    # By the rows of the committed study, one by one.
    study = committed_study()
    for name, chip in (("kl", "BM1684X"), ("mse", "BM1684"), ("mse-forked-b4-square", "CV186X")):
        draws = [
            row["correct"] / row["images"]
            for row in study["rows"]
            if (row["strategy"], row["chip"], row["scheme"]) == (name, chip, "cross-fit")
        ]
        stands = found[name]["exact_match"][chip]
        assert stands["draws"] == len(draws) >= 5
        assert stands["mean"] == pytest.approx(sum(draws) / len(draws))
        assert (stands["low"], stands["high"]) == (min(draws), max(draws))
    assert found["mse-forked-b4-square"]["recommended"] == ["BM1684X", "BM1688", "CV186X"]
    assert found["kl"]["in_float"] == 0 < found["mse-forked-b4-square"]["in_float"] < 1
    [line] = [
        line
        for line in run("strategies", "--chips", "BM1684X").stdout.splitlines()
        if line.strip().startswith("kl ")
    ]
    assert line.split()[-1] == f"{found['kl']['exact_match']['BM1684X']['mean']:.3f}"
    assert "Choose from BM1684" in run("strategies", "--chips", "BM9", code=2).stderr


def test_generate_writes_images_with_their_labels(tmp_path):
    run("generate", tmp_path / "out", "--count", "3", "--seed", "5")
    labels = json.loads((tmp_path / "out" / "labels.json").read_text("utf8"))
    assert len(labels) == 3
    for name, label in labels.items():
        image = cv2.imdecode(np.fromfile(tmp_path / "out" / name, "uint8"), 1)
        assert image.shape == (24, 94, 3) and len(label) in (7, 8)


def test_bench_generate_counts_what_it_drew():
    facts = json.loads(run("bench", "generate", "--plates", 640, "--rounds", 2).stdout)
    assert len(facts["seconds"]) == 2 and facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["plates_per_second"] == pytest.approx(
        640 / min(facts["seconds"]), rel=0.02, abs=0.5
    )
    spent = 2 * 640 / facts["plates_per_processor_second"]
    assert 0 < spent <= facts["cores"] * sum(facts["seconds"]) * 1.1  # the workers' time is counted
    assert spent > 0.1
