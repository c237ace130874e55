"""BModels without a record: read by themselves and by what is said of them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.datasets.images import PUBLISHED_INPUT, PlateImages, preprocess
from lprnet_nb.datasets.interface import PUBLISHED_INTERFACE, Interface
from lprnet_nb.errors import DataError, EngineError, ParameterError
from lprnet_nb.runtime import open_engine
from lprnet_nb.runtime.bmodel_file import Contents, Graph, Stage, TensorInfo
from lprnet_nb.runtime.foreign import Said, _checked, _stages, foreign_bmodel, label_of, model_at
from lprnet_nb.runtime.inference import infer_plates

SAID = Said(mean="123.7,116.3,103.5", scale="0.0171,0.0175,0.0174", pixel_format="RGB")


@pytest.fixture
def alone(bmodel, tmp_path):
    """The file of a BModel without its record, outside the cache."""
    return shutil.copy(bmodel("BM1688").path, tmp_path / "vendor model.bmodel")


def test_the_file_tells_chip_shapes_and_dtypes(alone, bmodel):
    found, made = model_at(alone, trust=True), bmodel("BM1688")
    for field in ("chip", "batch", "sha256", "input_shape", "output_shape", "input_dtype"):
        assert getattr(found, field) == getattr(made, field)
    assert found.precision == found.weights == found.form == "unknown"
    assert found.alphabet == PUBLISHED and found.interface == PUBLISHED_INTERFACE
    assert found.digest != model_at(alone, SAID, trust=True).digest


def test_by_default_it_is_read_as_the_published_weights_are(alone, bmodel, plates):
    two = plates.take([0, 1])
    mine = infer_plates(bmodel("BM1688"), two, "simulator")
    theirs = infer_plates(model_at(alone, trust=True), two, "simulator", trust=True)
    assert np.array_equal(mine.logits, theirs.logits)
    assert theirs.description["interface"]["input"]["order"] == "bgr"


def test_pixels_are_taken_as_is_said(alone, plates):
    one = plates.take([1])
    found = infer_plates(model_at(alone, SAID, trust=True), one, "simulator", trust=True)
    rgb = one.images[..., ::-1].astype(np.float32).transpose(0, 3, 1, 2)
    mean = np.array([123.7, 116.3, 103.5], np.float32)[:, None, None]
    scale = np.array([0.0171, 0.0175, 0.0174], np.float32)[:, None, None]
    with open_engine(alone, "simulator", trust=True) as engine:
        [graph] = engine.get_graph_names()
        [name] = engine.get_input_names(graph)
        given = np.ascontiguousarray((rgb - mean) * scale)
        [expected] = engine.process(graph, {name: given}).values()
    assert np.array_equal(found.logits, expected)


def test_every_order_of_channels_and_sides(alone):
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 94, 3), dtype=np.uint8)
    inputs = preprocess(images)
    with open_engine(alone, "simulator", trust=True) as engine:
        for dtype, shape, given, expected in (
            ("BM_FLOAT32", (1, 3, 24, 94), inputs, inputs),
            ("BM_FLOAT32", (1, 24, 94, 3), inputs, inputs.transpose(0, 2, 3, 1)),
        ):
            assert np.array_equal(engine._as_stored(given, TensorInfo("x", shape, dtype)), expected)
        engine.interface = Interface(SAID.input())
        given = preprocess(images, SAID.input())
        raw = engine._as_stored(given, TensorInfo("x", (1, 24, 94, 3), "BM_UINT8"))
    assert np.array_equal(raw, images[..., ::-1])  # mean and scale are compiled in


def test_steps_before_classes_are_turned(bmodel, plates, alone):
    model = model_at(alone, trust=True)
    straight = infer_plates(model, plates.take([0]), "simulator", trust=True).logits
    with open_engine(model, "simulator", trust=True) as engine:
        engine.interface = replace(model.interface, layout="ntc")
        turned = engine.infer(preprocess(plates.images[:1]))
    assert np.array_equal(turned, straight.transpose(0, 2, 1)) and turned.flags["C_CONTIGUOUS"]


def test_what_was_not_made_here_is_not_run_unasked(alone):
    with pytest.raises(ParameterError, match=r"no record beside it \(vendor model.json\).*--trust"):
        model_at(alone)
    with open(alone, "ab") as file:
        file.write(b"x")  # a copy of what this machine has made is known by its digest
    with pytest.raises(ParameterError, match="was not made in this machine"):
        infer_plates(
            model_at(alone, trust=True),
            PlateImages("x", np.zeros((1, 24, 94, 3), np.uint8), ("x",)),
            "simulator",
        )


def test_nothing_is_said_of_a_model_with_a_record(bmodel):
    with pytest.raises(ParameterError, match="--mean, --blank: .* has a record"):
        model_at(bmodel("BM1688").path.parent, Said(mean="0", blank=3))
    with pytest.raises(DataError, match="is not there"):
        model_at("no.bmodel", trust=True)


def test_the_emulator_has_nothing_to_run(alone):
    with pytest.raises(EngineError, match="no exported graph"):
        open_engine(model_at(alone, trust=True), "emulator", trust=True)


def test_class_lists(tmp_path):
    assert Said().alphabet() == PUBLISHED
    first = Said(blank=0).alphabet()
    assert first.classes == "-" + PUBLISHED.classes[:-1] and first.blank == 0
    (tmp_path / "c.txt").write_text("AB01", "utf8")
    assert Said(classes=tmp_path / "c.txt", blank=2).alphabet().classes == "AB-01"
    with pytest.raises(DataError, match="outside 0 to 4"):
        Said(classes=tmp_path / "c.txt", blank=5).alphabet()
    (tmp_path / "c.txt").write_text("AB-01", "utf8")
    with pytest.raises(DataError, match="is number 2 in it, and --blank says 1"):
        Said(classes=tmp_path / "c.txt", blank=1).alphabet()


@pytest.mark.parametrize("given", ["", "x", "1,2", "nan", "inf", "1,2,3,4"])
def test_what_is_no_number_is_refused(given):
    for said in (Said(mean=given), Said(scale=given)):
        with pytest.raises(ParameterError, match="one number, or three"):
            said.input()
    with pytest.raises(ParameterError, match="every picture the same"):
        Said(scale="1,0,1").input()


def stage(inputs=((1, 3, 24, 94),), outputs=((1, 68, 18),)):
    return Stage(*(tuple(TensorInfo("t", shape) for shape in side) for side in (inputs, outputs)))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"inputs": [(1, 3, 24, 94), (1, 4)]}, "has 2 inputs and 1 outputs"),
        ({"outputs": [(1, 68, 18)] * 2}, "has 1 inputs and 2 outputs"),
        ({"inputs": [(1, 1, 24, 94)]}, r"takes \[1, 1, 24, 94\]; LPRNet takes pictures of 94x24"),
        ({"outputs": [(1, 71, 18)]}, r"gives \[1, 71, 18\], and the class list has 68 classes"),
        ({"outputs": [(1, 68)]}, r"gives \[1, 68\]"),
    ],
)
def test_what_is_no_lprnet_is_one_sentence(tmp_path, given, said):
    with pytest.raises(EngineError, match=said) as error:
        _checked(
            tmp_path / "v.bmodel",
            Contents("BM1684X", "", "", ()),
            stage(**given),
            PUBLISHED_INPUT,
            PUBLISHED,
        )
    assert str(tmp_path / "v.bmodel") in str(error.value) and "\n" not in str(error.value)


def test_steps_first_and_channels_last_are_lprnets_too(tmp_path):
    turned = stage(inputs=[(4, 24, 94, 3)], outputs=[(4, 18, 68)])
    contents = Contents("BM1684X", "", "", ())
    assert _checked(tmp_path, contents, turned, PUBLISHED_INPUT, PUBLISHED) is turned


def test_dynamic_shapes_are_refused(tmp_path):
    contents = Contents("BM1684X", "", "", (Graph("net", (stage(),), dynamic=True),))
    with pytest.raises(EngineError, match=r"dynamic shapes \(net\), which are not run here"):
        _stages(tmp_path, contents)


def test_a_chip_without_a_runtime_here(alone):
    with open(alone, "rb") as file:
        data = file.read()
    with open(alone, "wb") as file:
        file.write(data.replace(b"BM1688", b"BM1690"))
    with pytest.raises(EngineError, match="for the chip BM1690, whose runtime is not here"):
        foreign_bmodel(alone, PUBLISHED_INPUT, PUBLISHED)


def test_names_of_files_become_names_of_results(tmp_path):
    assert (
        label_of(tmp_path / "车牌 v2.bmodel") == "v2"
        and label_of(tmp_path / "车.bmodel") == "bmodel"
    )


@pytest.mark.slow
def test_one_of_the_bare_compiler(compiler, traced, plates, reference, tmp_path):
    """Made by the vendor's two commands alone, then read as any stranger's."""
    shutil.copy(traced().onnx, tmp_path / "net.onnx")
    for command in (
        "model_transform.py --model_name net --model_def net.onnx --input_shapes [[1,3,24,94]] "
        "--mlir net.mlir",
        "model_deploy.py --mlir net.mlir --quantize F32 --chip bm1688 --model net.bmodel",
    ):
        compiler.run(command.split(), cwd=tmp_path, log=tmp_path / "log", what="compiling")
    found = model_at(tmp_path / "net.bmodel", trust=True)
    assert (found.chip, found.batch, found.network) == ("BM1688", 1, "net")
    two = plates.take([0, 1])
    read = infer_plates(found, two, "simulator", trust=True)
    assert np.abs(read.logits - reference[:2]).max() < 5e-4
    other = model_at(tmp_path / "net.bmodel", SAID, trust=True)
    assert (
        np.abs(infer_plates(other, two, "simulator", trust=True).logits - reference[:2]).max() > 1
    )
