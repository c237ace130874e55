from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from lprnet_nb.errors import DataError, EngineError, ParameterError
from lprnet_nb.runtime import open_engine
from lprnet_nb.toolchain.bmodel import BModel

TOLERANCE = 5e-4  # of float32 logits up to 30, sums in another order


def test_auto_is_the_simulator_where_there_is_no_device(bmodel, inputs, reference):
    with open_engine(bmodel("BM1688")) as engine:
        assert engine.description["backend"] == "simulator"
        assert engine.description["tool"].startswith("tpu_mlir ")
        assert np.abs(engine.infer(inputs[:1]) - reference[:1]).max() < TOLERANCE


def test_auto_is_torch_for_a_traced_model(traced):
    assert open_engine(traced()).description["backend"] == "torch"


def test_emulator_reads_what_the_simulator_reads(bmodel, inputs, reference):
    with open_engine(bmodel("BM1688"), "emulator") as engine:
        logits = engine.infer(inputs)
        assert np.abs(logits - reference).max() < TOLERANCE
        [graph], name = engine.get_graph_names(), engine.get_input_names("lprnet")[0]
        [outputs] = engine.process(graph, {name: inputs[:1]}).values()
        assert np.array_equal(outputs, logits[:1])


def test_takes_a_path_with_the_record_beside_it(bmodel, tmp_path, inputs):
    model = bmodel("BM1688")
    for file in ("lprnet.bmodel", "record.json"):
        shutil.copy(model.folder / file, tmp_path)
    shutil.copytree(model.graph, tmp_path / "graph")
    with open_engine(tmp_path, "emulator") as engine:
        assert engine.description["model"] == model.sha256
    (tmp_path / "record.json").rename(tmp_path / "lprnet.json")
    with open_engine(str(tmp_path / "lprnet.bmodel"), "emulator") as engine:
        assert engine.infer(inputs[:1]).shape == (1, 68, 18)
    (tmp_path / "lprnet.bmodel").write_bytes(b"else")
    with pytest.raises(DataError, match="differs from its record"):
        open_engine(tmp_path / "lprnet.bmodel")


def test_an_altered_bmodel_is_refused_before_it_is_loaded(bmodel, tmp_path):
    model = bmodel("BM1684")
    path = tmp_path / "altered.bmodel"
    data = bytearray(model.path.read_bytes())
    data[-100] ^= 1  # in the instructions, where neither file nor runtime tell
    path.write_bytes(data)
    with pytest.raises(EngineError, match="was altered after it was compiled"):
        open_engine(dataclasses.replace(model, path=path))


def test_a_record_of_another_chip_is_refused(bmodel):
    model = bmodel("BM1684")
    with pytest.raises(EngineError, match="is for BM1684, its record says BM1684X"):
        open_engine(dataclasses.replace(model, chip="BM1684X"))


def test_unknown_backends_and_options_list_the_valid_ones(bmodel, traced):
    with pytest.raises(ParameterError, match="'gpu'. Choose one of auto, device, simulator"):
        open_engine(bmodel("BM1688"), "gpu")
    with pytest.raises(ParameterError, match="no option wrokers. It has: .*workers"):
        open_engine(bmodel("BM1688"), "simulator", wrokers=2)
    with pytest.raises(ParameterError, match="no option workers"):
        open_engine(traced(), workers=2)


def test_backends_say_which_models_they_run(bmodel, traced):
    with pytest.raises(ParameterError, match="runs BModels"):
        open_engine(traced(), "simulator")
    with pytest.raises(ParameterError, match="runs traced models"):
        open_engine(bmodel("BM1688"), "torch")
    with pytest.raises(ParameterError, match="needs the record"):
        open_engine("somewhere/lprnet.bmodel", "emulator")
    with pytest.raises(EngineError, match="cannot read BModel"):
        open_engine("somewhere/lprnet.bmodel", "simulator")


def test_a_model_without_its_graph_cannot_be_emulated(bmodel):
    model: BModel = dataclasses.replace(bmodel("BM1688"), graph=None)
    with pytest.raises(EngineError, match="no exported graph"):
        open_engine(model, "emulator")


def test_the_device_backend_says_what_to_install(bmodel):
    with pytest.raises(EngineError, match="needs sophon.sail: .*comes with Sophgo's SDK"):
        open_engine(bmodel("BM1688"), "device")
    with pytest.raises(EngineError, match="the module json .* is not Sophgo's sail"):
        open_engine(bmodel("BM1688"), "device", sail_module="json")


def test_a_bmodel_from_elsewhere_is_run_only_when_it_is_trusted(bmodel, tmp_path, inputs):
    model = bmodel("BM1688")
    data = bytearray(model.path.read_bytes())
    copy = tmp_path / "theirs.bmodel"
    copy.write_bytes(data)
    open_engine(copy, "simulator", workers=1).close()  # the same bytes as one of ours
    copy.write_bytes(data + b"\0" * 8)
    with pytest.raises(ParameterError, match="theirs.bmodel was not made .* `--trust`"):
        open_engine(copy, "simulator", workers=1)
    with open_engine(copy, "simulator", workers=1, trust=True) as engine:
        assert engine.infer(inputs[:1]).shape == (1, 68, 18)


def test_torchscript_from_elsewhere_is_run_only_when_it_is_trusted(traced, tmp_path, inputs):
    network = torch.jit.load(str(traced().path))
    theirs = tmp_path / "theirs.pt"
    torch.jit.save(torch.jit.freeze(network.eval()), str(theirs))
    model = dataclasses.replace(traced(), path=theirs)
    with pytest.raises(ParameterError, match="theirs.pt was not made"):
        open_engine(model)
    with open_engine(model, trust=True) as engine:
        assert engine.infer(inputs[:1]).shape == (1, 68, 18)
