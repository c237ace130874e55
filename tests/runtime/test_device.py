"""Guards of the device backend, on a sail that is nothing but its answers; what sail computes is
checked by the contract suite on a stand-in that runs."""

from __future__ import annotations

import enum
import sys
import time
import types

import numpy as np
import pytest

from lprnet_nb.errors import EngineError, ParameterError
from lprnet_nb.runtime.bmodel_file import read_contents
from lprnet_nb.runtime.device import DeviceEngine, _check_chip, device_there


class Dtype(enum.Enum):
    BM_FLOAT32 = 0


@pytest.fixture
def sail(bmodel, monkeypatch):
    """A module `fake_sail` that answers for the BM1688 BModel; tests change its answers."""
    module = types.ModuleType("fake_sail")
    [graph] = read_contents(bmodel("BM1688").path).graphs
    [given], [result] = graph.stages[0].inputs, graph.stages[0].outputs
    module.calls, module.count, module.target = [], 2, "BM1688"
    module.dtype, module.output = Dtype.BM_FLOAT32, (1, 68, 18)

    class Handle:
        def __init__(self, tpu):
            self.tpu = tpu

        def get_target(self):
            return module.target

    class Engine:
        def __init__(self, path, tpu, mode):
            module.calls.append(("open", tpu, mode))
            self.tpu = tpu

        def get_handle(self):
            return Handle(self.tpu)

        def get_graph_names(self):
            return ["lprnet"]

        def get_input_names(self, graph):
            return [given.name]

        def get_output_names(self, graph):
            return [result.name]

        def get_input_dtype(self, graph, tensor):
            return module.dtype

        get_output_dtype = get_input_dtype

        def process(self, graph, inputs, *tensors):
            module.calls.append(("tensors" if tensors else "arrays", self.tpu))
            array = inputs[given.name].array if tensors else inputs[given.name]
            found = np.full(module.output, array[0, 0, 0, 0])
            if not tensors:
                return {result.name: found}
            time.sleep(0.02)  # Python's lock is free here, but not in a call with arrays
            tensors[-1][result.name].array = found
            return None

    class Tensor:
        def __init__(self, handle, shape, dtype, own_sys, own_dev):
            self.array = np.zeros(shape, np.float32)

        def update_data(self, array):
            self.array = array

        def sync_s2d(self):
            pass

        sync_d2s = sync_s2d

        def asnumpy(self):
            return self.array

    module.Handle, module.Engine, module.Dtype, module.Tensor = Handle, Engine, Dtype, Tensor
    module.IOMode = types.SimpleNamespace(SYSIO="sysio", DEVIO="devio")
    module.get_available_tpu_num = lambda: module.count
    module.set_print_flag = lambda flag: module.calls.append(("print", flag))
    monkeypatch.setitem(sys.modules, "fake_sail", module)
    return module


@pytest.fixture
def device(bmodel):
    return lambda **options: DeviceEngine(bmodel("BM1688").path, sail_module="fake_sail", **options)


def images(count):
    array = np.zeros((count, 3, 24, 94), np.float32)
    array[:, 0, 0, 0] = np.arange(count)
    return array


def test_opens_and_describes_itself(sail, device):
    engine = device(tpu_ids=[1], print_times=True)
    assert sail.calls == [("print", True), ("open", 1, "sysio")]
    assert engine.get_device_id() == 1
    assert engine.description["device"] == engine.description["chip"] == "BM1688"
    assert engine.description["tool"] == "fake_sail of unknown version"


def test_batches_are_shared_out_over_devices(sail, device):
    engine = device(tpu_ids=[0, 1])
    logits = engine.infer(images(8))
    assert logits[:, 0, 0].tolist() == list(range(8))
    # By tensors, whatever was asked for: with arrays sail would let one wait for the other.
    assert set(sail.calls[3:]) == {("tensors", 0), ("tensors", 1)}
    assert engine.description["io_mode"] == "DEVIO" and engine.runtime_seconds > 0
    single = device(tpu_ids=[1])
    single.infer(images(1))
    assert sail.calls[-1] == ("arrays", 1) and single.description["io_mode"] == "SYSIO"


@pytest.mark.parametrize("ids", [[2], [-1], [], [0, 0], ["0"]])
def test_device_numbers_are_checked_before_anything_is_opened(sail, device, ids):
    with pytest.raises(ParameterError, match="this machine has the devices 0, 1"):
        device(tpu_ids=ids)
    assert sail.calls == []


def test_no_device_is_an_error_and_not_there(sail, device):
    assert device_there("fake_sail")
    sail.count = 0
    with pytest.raises(EngineError, match="sail finds no device. Check that the driver"):
        device()
    assert not device_there("fake_sail") and not device_there("no_such_module")


def test_another_chip_than_the_devices_is_refused(sail, device):
    sail.target = "BM1684X"
    with pytest.raises(EngineError, match="is for BM1688, device 0 is a BM1684X"):
        device()
    assert sail.calls == []


def test_a_cv186x_calls_itself_cv186ah(sail, bmodel):
    sail.target = "CV186AH"
    path = bmodel("BM1688").path
    with pytest.raises(EngineError, match="device 0 is a CV186X. Compile it for CV186X"):
        _check_chip(sail, 0, "BM1688", path)
    assert _check_chip(sail, 0, "CV186X", path) == "CV186X"


def test_a_device_that_does_not_tell_its_chip_is_taken(sail, device):
    sail.target = "Error"
    assert device().description["device"] == "does not tell its chip"


def test_sails_own_errors_become_ours(sail, device, monkeypatch):
    def fail(*_):
        raise RuntimeError("invalid bmodel")

    engine = device()
    monkeypatch.setattr(sail.Engine, "process", fail)
    with pytest.raises(EngineError, match="failed to run 'lprnet' on device 0: invalid bmodel"):
        engine.infer(images(1))
    monkeypatch.setattr(sail.Engine, "__init__", fail)
    with pytest.raises(EngineError, match="sail cannot load .*: invalid bmodel"):
        device()


def test_sail_must_find_what_the_file_says(sail, device, monkeypatch):
    monkeypatch.setattr(sail.Engine, "get_input_names", lambda self, graph: ["data"])
    with pytest.raises(EngineError, match="sail finds the inputs {'data': 'BM_FLOAT32'}"):
        device()
    monkeypatch.setattr(sail.Engine, "get_graph_names", lambda self: ["other"])
    with pytest.raises(EngineError, match="does not find the graph 'lprnet'"):
        device()


def test_an_output_of_another_shape_is_an_error(sail, device):
    sail.output = (1, 68, 17)
    with pytest.raises(EngineError, match=r"in the shape \[1, 68, 17\], the BModel says"):
        device().infer(images(1))


def test_unknown_modes_are_refused(sail, device):
    with pytest.raises(ParameterError, match="'SYSI'. Choose SYSIO or DEVIO"):
        device(io_mode="SYSI")
