"""The C++ sample, built and run on the chip simulator."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lprnet_nb.datasets import fetch
from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.datasets.images import image_files
from lprnet_nb.datasets.labels import is_plate
from lprnet_nb.decode import decode
from lprnet_nb.decode.characters import character_confidence, in_grammar
from lprnet_nb.model.lprnet.layers import LPRNet
from lprnet_nb.model.trace import trace_model
from lprnet_nb.model.weights import Weights
from lprnet_nb.runtime.files import infer_files
from lprnet_nb.toolchain.compile import compile_bmodel

SAMPLE = Path(__file__).parents[2] / "samples" / "cpp"


@pytest.fixture(scope="module")
def program(compiler, tmp_path_factory):
    """The built sample; skips where CMake, a C++ compiler or OpenCV's headers are missing."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"the C++ sample needs {tool}")
    folder = tmp_path_factory.mktemp("cpp")
    made = subprocess.run(
        ["cmake", "-S", SAMPLE, "-B", folder, f"-DSOPHON_LIBRARIES={compiler.library_folder}"],
        capture_output=True,
        text=True,
    )
    if "OpenCV" in made.stderr:
        pytest.skip(
            "the C++ sample needs OpenCV's headers and libraries (Debian: "
            "libopencv-imgcodecs-dev libopencv-imgproc-dev)"
        )
    assert made.returncode == 0, made.stderr
    subprocess.run(["cmake", "--build", folder], check=True, capture_output=True)
    return folder / "lprnet"


@pytest.fixture
def run(program, compiler):
    def run(*arguments):
        return subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "TPUKERNEL_FIRMWARE_PATH": str(compiler.library_folder / "libcmodel_bm1688.so"),
            },
        )

    return run


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Images of seeded noise, one at another size, one with quotes in its name."""
    folder = tmp_path_factory.mktemp("noise")
    dice = np.random.default_rng(5)
    names = ["皖A12345.png", "b.png", "c.bmp", 'q"uo\\te.png', "e.png"]
    for index, name in enumerate(names):
        shape = (48, 188, 3) if index == 1 else (24, 94, 3)
        image = np.sort(dice.integers(0, 256, shape, dtype=np.uint8), axis=index % 2)
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, image)[1].tobytes())
    (folder / "notes.txt").write_text("no image")
    return folder


def compiled(weights, batch):
    return compile_bmodel(trace_model(weights, batch), "BM1688", "fp32").path


def python_reads(bmodel, files):
    found = infer_files(bmodel, files, "simulator")
    return dict(zip((file.name for file in files), decode(found.logits).texts, strict=True))


@pytest.mark.parametrize("batch", [1, 4])
def test_reads_what_python_reads(run, noise, tmp_path, batch):
    torch.manual_seed(7)
    bmodel = compiled(Weights("seeded", LPRNet(68).eval().state_dict()), batch)
    done = run("--input", noise, "--bmodel", bmodel, "--output", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text("utf8"))
    files = [file for file in sorted(noise.iterdir()) if file.suffix != ".txt"]
    assert results == python_reads(bmodel, files)
    assert list(results) == [file.name for file in files] and any(results.values())
    assert "5 images, ms each: decode " in done.stdout


def test_details_are_pythons(run, noise, tmp_path):
    torch.manual_seed(7)
    bmodel = compiled(Weights("seeded", LPRNet(68).eval().state_dict()), 1)
    outputs = [tmp_path / "details.json", tmp_path / "details.csv", tmp_path / "plain.csv"]
    for output, more in zip(outputs, (["--details"], ["--details"], [])):
        done = run("--input", noise, "--bmodel", bmodel, "--output", output, *more)
        assert done.returncode == 0, done.stderr
    found = json.loads(outputs[0].read_text("utf8"))
    files = [file for file in sorted(noise.iterdir()) if file.suffix != ".txt"]
    logits = infer_files(bmodel, files, "simulator").logits
    readings = decode(logits)
    characters = character_confidence(logits, readings.texts, PUBLISHED)
    assert list(found["plates"]) == [file.name for file in files]
    for one, text, sure, second, each, valid in zip(
        found["plates"].values(),
        readings.texts,
        readings.confidence,
        readings.runner_up,
        characters,
        in_grammar(readings),
        strict=True,
    ):
        assert (one["plate"], one["second"], one["grammar"]) == (text, second, valid)
        assert one["confidence"] == pytest.approx(sure, rel=1e-3)
        assert one["characters"] == pytest.approx(each, rel=1e-3)
    with open(outputs[1], encoding="utf8", newline="") as file:
        heading, *rows = csv.reader(file)
    assert heading == [
        "file", "plate", "confidence", "characters", "second", "grammar",
        "decode_ms", "preprocess_ms", "inference_ms", "postprocess_ms",
    ]  # fmt: skip
    texts = dict(zip((file.name for file in files), readings.texts))
    assert {name: text for name, text, *_ in rows} == texts
    with open(outputs[2], encoding="utf8", newline="") as file:
        assert list(csv.reader(file)) == [["file", "plate"], *map(list, texts.items())]
    assert set(found["milliseconds"]) == {"decode", "preprocess", "inference", "postprocess"}


def test_the_programs_grammar_is_pythons(tmp_path):
    """`is_plate` and what it needs, built alone, on plates of every kind and near misses."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler is here")
    source = (SAMPLE / "main.cpp").read_text("utf8")
    parts = [
        source[source.index("constexpr int kBlank") : source.index("constexpr const char *kUsage")],
        source[source.index("bool is_province") : source.index("// The best class of each step")],
    ]
    dice = np.random.default_rng(4)
    letters = PUBLISHED.classes[:67]
    texts = ["皖A12345", "京AD12345", "京A12345D", "京A1234AD", "京AAA2345", "京AL12345"]
    texts += ["京AABC45", "京AABC456", "京I12345", "京A1234O", "", "京"]
    for text in [*texts[:6]] * 60:
        place = dice.integers(len(text))
        texts.append(text[:place] + letters[dice.integers(67)] + text[place + 1 :])
    rows = ", ".join("{" + ", ".join(map(str, PUBLISHED.encode(t))) + "}" for t in texts)
    (tmp_path / "g.cpp").write_text(
        "#include <array>\n#include <cstdio>\n#include <string>\n#include <vector>\n"
        + "".join(parts)
        + f"const std::vector<std::vector<int>> kTexts{{{rows}}};\n"
        + "int main() { for (auto &text : kTexts) std::putchar(is_plate(text) ? '1' : '0'); }\n"
    )
    subprocess.run(["c++", "-std=c++17", tmp_path / "g.cpp", "-o", tmp_path / "g"], check=True)
    said = subprocess.run([tmp_path / "g"], capture_output=True, text=True, check=True).stdout
    assert said == "".join("01"[is_plate(text)] for text in texts) and said.count("1") > 60


@pytest.mark.slow
def test_reads_published_plates_as_python_does(run, weights, tmp_path):
    files = image_files(fetch.images_folder())[:100]
    folder = tmp_path / "plates"
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder)
    bmodel = compiled(weights, 1)
    done = run("--input", folder, "--bmodel", bmodel, "--output", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text("utf8")) == python_reads(bmodel, files)


def test_says_what_is_wrong(run, noise, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    (tmp_path / "none").mkdir()
    (tmp_path / "scene").mkdir()
    scene = np.zeros((480, 640, 3), np.uint8)
    (tmp_path / "scene" / "car.png").write_bytes(cv2.imencode(".png", scene)[1].tobytes())
    torch.manual_seed(7)
    good = compiled(Weights("seeded", LPRNet(68).eval().state_dict()), 1)
    model = tmp_path / "no.bmodel"
    model.write_bytes(b"plate" * 99)
    for arguments, message in [
        (["--input", noise], "--bmodel:  is no file"),
        (["--inputs", noise], "unknown option --inputs"),
        (["--input"], "lacks its value"),
        (["--input", tmp_path / "not", "--bmodel", model], "is no folder"),
        (["--input", tmp_path / "none", "--bmodel", model], "has no image"),
        (["--input", noise, "--bmodel", model], "the runtime refuses"),
        (["--input", tmp_path / "scene", "--bmodel", good], "the shape of a whole scene"),
    ]:
        done = run(*arguments)
        assert done.returncode == 1 and message in done.stderr


def test_help_is_printed(run):
    for option in ("--help", "-h"):
        done = run(option)
        assert done.returncode == 0 and done.stderr == ""
        assert "lprnet --input FOLDER --bmodel FILE [--dev_id 0]" in done.stdout


def configured(folder, *options):
    return subprocess.run(
        ["cmake", "-S", SAMPLE, "-B", folder, *options], capture_output=True, text=True
    )


def test_cross_build_for_a_box(tmp_path):
    """Compiled by a real cross compiler; the box's libraries are empty ones of their names."""
    for tool in ("cmake", "aarch64-linux-gnu-g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} is here (Debian: g++-aarch64-linux-gnu)")
    headers = Path("/usr/include/opencv4")
    if not headers.is_dir():
        pytest.skip("OpenCV's headers are not here (Debian: libopencv-imgcodecs-dev)")
    sdk = tmp_path / "soc-sdk"
    (sdk / "include").mkdir(parents=True)
    (sdk / "include" / "opencv4").symlink_to(headers)
    (sdk / "lib").mkdir()
    for name in ("bmrt", "bmlib", "opencv_core", "opencv_imgcodecs", "opencv_imgproc"):
        library = sdk / "lib" / f"lib{name}.so"
        options = ["-shared", "-x", "c++", "/dev/null", f"-Wl,-soname,{library.name}", "-o"]
        subprocess.run(["aarch64-linux-gnu-g++", *options, library], check=True)
    made = configured(
        tmp_path / "build",
        f"-DCMAKE_TOOLCHAIN_FILE={SAMPLE / 'aarch64.cmake'}",
        "-DTARGET_ARCH=soc",
        f"-DSDK={sdk}",
        "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--unresolved-symbols=ignore-all -Wl,--no-as-needed",
    )
    assert made.returncode == 0, made.stderr
    built = subprocess.run(["cmake", "--build", tmp_path / "build"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    program = (tmp_path / "build" / "lprnet").read_bytes()
    assert program[:4] == b"\x7fELF" and program[18:20] == b"\xb7\x00"  # EM_AARCH64, elf.h
    needed = (b"libbmrt.so", b"libbmlib.so", b"libopencv_imgcodecs.so")
    assert all(name in program for name in needed)
    assert b"libstdc++.so" not in program  # a box's is older than the compiler's
    assert b"/opt/sophon/libsophon-current/lib" in program


def test_a_build_for_a_box_needs_its_sdk(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("the C++ sample needs cmake")
    for options, said in [
        (["-DTARGET_ARCH=soc"], "needs -DSDK=FOLDER with include/ and lib/"),
        (["-DTARGET_ARCH=soc", f"-DSDK={tmp_path}"], "needs -DSDK=FOLDER with include/ and lib/"),
        (["-DTARGET_ARCH=arm"], "TARGET_ARCH is pcie or soc, not 'arm'"),
    ]:
        made = configured(tmp_path / "build", *options)
        assert made.returncode and said in " ".join(made.stderr.split())
