"""A stand-in for sophon.sail on the compiler package's runtime libraries, as unforgiving as sail.

Written from the documented API of sail 3.10.7 and what that does on these libraries: it casts
arrays silently, writes into the caller's memory when an array is not contiguous, runs again on old
input when given none, refuses a wrong rank, holds Python's lock for the whole of a call with
arrays, and takes the process down for an unknown graph or device. The runtime prints to stdout.
Device memory is a buffer of its own, so that a forgotten synchronization shows. There is no bmcv,
and `Handle.get_target()` answers 'Error', as on the simulator.

`TPUKERNEL_FIRMWARE_PATH` names the chip's simulator library, the others lie beside it;
`STANDIN_DEVICES` is how many devices to pretend to have, `STANDIN_TARGET` what chip to call them.
Runs on Python 3.6, as boxes have it.
"""

import ctypes
import enum
import os
import sys
from pathlib import Path

import numpy as np

__version__ = "stand-in for 3.10.7"

_LIBRARIES = Path(os.environ["TPUKERNEL_FIRMWARE_PATH"]).parent
ctypes.CDLL(str(_LIBRARIES / "libbmlib.so.0"), mode=ctypes.RTLD_GLOBAL)
_BMLIB = ctypes.CDLL(str(_LIBRARIES / "libbmlib.so.0"))
_BMRT = ctypes.CDLL(str(_LIBRARIES / "libbmrt.so.1.0"))
_LOCKED = ctypes.PyDLL(str(_LIBRARIES / "libbmrt.so.1.0"))  # Python's lock is held in its calls


class SailEngineError(RuntimeError):
    pass


class IOMode(enum.Enum):
    SYSI, SYSO, SYSIO, DEVIO = range(4)


class Dtype(enum.Enum):
    BM_FLOAT32, BM_FLOAT16, BM_INT8, BM_UINT8 = range(4)


_NUMPY = {
    Dtype.BM_FLOAT32: np.float32,
    Dtype.BM_FLOAT16: np.float16,
    Dtype.BM_INT8: np.int8,
    Dtype.BM_UINT8: np.uint8,
}


class _Shape(ctypes.Structure):
    _fields_ = [("rank", ctypes.c_int), ("sides", ctypes.c_int * 8)]

    @classmethod
    def of(cls, sides):
        return cls(len(sides), (ctypes.c_int * 8)(*sides))

    def list(self):
        return list(self.sides[: self.rank])


class _Stage(ctypes.Structure):
    _fields_ = [
        ("inputs", ctypes.POINTER(_Shape)),
        ("outputs", ctypes.POINTER(_Shape)),
        ("input_memory", ctypes.c_void_p),
        ("output_memory", ctypes.c_void_p),
    ]


class _Network(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dynamic", ctypes.c_bool),
        ("inputs", ctypes.c_int),
        ("input_names", ctypes.POINTER(ctypes.c_char_p)),
        ("input_dtypes", ctypes.POINTER(ctypes.c_int)),
        ("input_scales", ctypes.POINTER(ctypes.c_float)),
        ("outputs", ctypes.c_int),
        ("output_names", ctypes.POINTER(ctypes.c_char_p)),
        ("output_dtypes", ctypes.POINTER(ctypes.c_int)),
        ("output_scales", ctypes.POINTER(ctypes.c_float)),
        ("stages", ctypes.c_int),
        ("stage", ctypes.POINTER(_Stage)),
    ]


_BMRT.bmrt_destroy.argtypes = [ctypes.c_void_p]
_BMRT.bmrt_create.restype = ctypes.c_void_p
_BMRT.bmrt_create.argtypes = [ctypes.c_void_p]
_BMRT.bmrt_load_bmodel.restype = ctypes.c_bool
_BMRT.bmrt_load_bmodel.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_BMRT.bmrt_get_network_number.argtypes = [ctypes.c_void_p]
_BMRT.bmrt_get_network_names.argtypes = [
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.POINTER(ctypes.c_char_p)),
]
_BMRT.bmrt_get_network_info.restype = ctypes.POINTER(_Network)
_BMRT.bmrt_get_network_info.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
for _library in (_BMRT, _LOCKED):
    _library.bmrt_launch_data.restype = ctypes.c_bool
    _library.bmrt_launch_data.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.POINTER(_Shape),
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.POINTER(_Shape),
        ctypes.c_int,
        ctypes.c_bool,
    ]


def _crash(why):
    sys.stderr.write(f"stand-in sail: {why}\n")
    sys.stderr.flush()
    os.abort()


def get_available_tpu_num():
    os.write(1, b"stand-in runtime: a line on stdout\n")
    return int(os.environ.get("STANDIN_DEVICES", "1"))


def set_print_flag(flag):
    if not isinstance(flag, bool):
        raise TypeError("set_print_flag(): incompatible function arguments")


class Handle:
    def __init__(self, tpu):
        if not 0 <= tpu < get_available_tpu_num():
            _crash(f"bm_dev_request failed for device {tpu}")
        self._tpu = tpu
        self._handle = ctypes.c_void_p()
        _BMLIB.bm_dev_request(ctypes.byref(self._handle), 0)

    def __del__(self):
        if getattr(self, "_handle", None):
            _BMLIB.bm_dev_free(self._handle)

    def get_device_id(self):
        return self._tpu

    def get_target(self):
        return os.environ.get("STANDIN_TARGET", "Error")


class Tensor:
    def __init__(self, handle, data, dtype=None, own_sys_data=True, own_dev_data=True):
        if isinstance(data, np.ndarray):
            shape, kind = data.shape, data.dtype
        else:
            shape, kind = tuple(data), np.dtype(_NUMPY[dtype])
        self._sys = np.zeros(shape, kind) if own_sys_data else None
        self._dev = np.zeros(shape, kind) if own_dev_data else None
        if isinstance(data, np.ndarray):
            self.update_data(data)

    def shape(self):
        return list(self._sys.shape if self._sys is not None else self._dev.shape)

    def asnumpy(self):
        if self._sys is None:
            raise RuntimeError("sys_data() is null")
        return self._sys.copy()

    def update_data(self, data):
        if self._sys is None:
            raise RuntimeError("sys_data() is null")
        if data.dtype != self._sys.dtype:
            raise TypeError("update_data(): incompatible function arguments")
        if data.nbytes > self._sys.nbytes:
            _crash("update_data() beyond the end of the tensor")
        self._sys.reshape(-1)[: data.size] = np.ascontiguousarray(data).reshape(-1)

    def sync_s2d(self):
        self._dev[...] = self._sys

    def sync_d2s(self):
        self._sys[...] = self._dev


class Engine:
    def __init__(self, path, tpu=None, mode=IOMode.SYSIO):
        if isinstance(path, bytes):
            raise NotImplementedError("the stand-in loads files alone")
        self._handle = path if isinstance(path, Handle) else Handle(path if tpu is None else tpu)
        self._mode = mode
        self._runtime = _BMRT.bmrt_create(self._handle._handle)
        self._graphs, self._old = {}, {}
        if isinstance(path, str) and not self.load(path):
            raise RuntimeError("invalid bmodel")

    def __del__(self):
        if getattr(self, "_runtime", None):
            _BMRT.bmrt_destroy(self._runtime)

    def load(self, path):
        if not _BMRT.bmrt_load_bmodel(self._runtime, os.fsencode(path)):
            return False
        names = ctypes.POINTER(ctypes.c_char_p)()
        _BMRT.bmrt_get_network_names(self._runtime, ctypes.byref(names))
        for index in range(_BMRT.bmrt_get_network_number(self._runtime)):
            info = _BMRT.bmrt_get_network_info(self._runtime, names[index]).contents
            self._graphs[names[index].decode()] = info
        return True

    def _graph(self, name):
        if name not in self._graphs:
            _crash(f"no graph {name}")
        return self._graphs[name]

    def _side(self, graph, side):
        info = self._graph(graph)
        count = getattr(info, f"{side}s")
        names = [getattr(info, f"{side}_names")[i].decode() for i in range(count)]
        return info, names

    def _of(self, graph, side, tensor, field, unknown):
        info, names = self._side(graph, side)
        return getattr(info, field)[names.index(tensor)] if tensor in names else unknown

    def _shapes(self, graph, side, stage):
        info, names = self._side(graph, side)
        shapes = getattr(info.stage[stage], f"{side}s")
        return {name: shapes[index].list() for index, name in enumerate(names)}

    def _largest(self, graph, side):
        stages = [self._shapes(graph, side, i) for i in range(self._graph(graph).stages)]
        return {name: max((stage[name] for stage in stages), key=np.prod) for name in stages[0]}

    def get_handle(self):
        return self._handle

    def get_device_id(self):
        return self._handle.get_device_id()

    def get_graph_names(self):
        return list(self._graphs)

    def graph_is_dynamic(self, graph):
        return bool(self._graph(graph).dynamic)

    def get_input_names(self, graph):
        return self._side(graph, "input")[1]

    def get_output_names(self, graph):
        return self._side(graph, "output")[1]

    def get_input_shape(self, graph, tensor):
        return self._shapes(graph, "input", 0).get(tensor, [])

    def get_output_shape(self, graph, tensor):
        return self._shapes(graph, "output", 0).get(tensor, [])

    def get_max_input_shapes(self, graph):
        return self._largest(graph, "input")

    def get_max_output_shapes(self, graph):
        return self._largest(graph, "output")

    def get_input_dtype(self, graph, tensor):
        return Dtype(self._of(graph, "input", tensor, "input_dtypes", 0))

    def get_output_dtype(self, graph, tensor):
        return Dtype(self._of(graph, "output", tensor, "output_dtypes", 0))

    def get_input_scale(self, graph, tensor):
        return self._of(graph, "input", tensor, "input_scales", 0.0)

    def get_output_scale(self, graph, tensor):
        return self._of(graph, "output", tensor, "output_scales", 0.0)

    def create_input_tensors_map(self, graph):
        return {
            name: Tensor(self._handle, shape, self.get_input_dtype(graph, name))
            for name, shape in self._shapes(graph, "input", 0).items()
        }

    def create_output_tensors_map(self, graph):
        return {
            name: Tensor(self._handle, shape, self.get_output_dtype(graph, name))
            for name, shape in self._largest(graph, "output").items()
        }

    def process(self, graph, inputs, *rest, core_list=()):
        tensors = [part for part in rest if isinstance(part, dict)]
        if not tensors:
            return self._process_arrays(graph, inputs)
        outputs = tensors[-1]
        shapes = (
            tensors[0]
            if len(tensors) == 2
            else {name: tensor.shape() for name, tensor in inputs.items()}
        )
        if self._mode in (IOMode.SYSI, IOMode.SYSIO):
            for tensor in inputs.values():
                tensor.sync_s2d()
        self._launch(
            graph,
            {name: tensor._dev for name, tensor in inputs.items()},
            shapes,
            {name: tensor._dev for name, tensor in outputs.items()},
        )
        if self._mode in (IOMode.SYSO, IOMode.SYSIO):
            for tensor in outputs.values():
                tensor.sync_d2s()
        return None

    def _process_arrays(self, graph, arrays):
        if self._mode not in (IOMode.SYSI, IOMode.SYSIO):
            raise RuntimeError("IOMode Error! needs SYSI or SYSIO")
        largest = self._largest(graph, "input")
        old = self._old.setdefault(
            graph, {name: np.zeros(shape, np.float32) for name, shape in largest.items()}
        )
        names = self.get_input_names(graph)
        for name, array in arrays.items():
            known = name if name in names else names[0]
            if array.ndim != len(largest[known]):
                raise SailEngineError("bad input")
            packed = np.ascontiguousarray(array)
            if not array.flags.c_contiguous and min(array.strides) > 0:
                ctypes.memmove(array.ctypes.data, packed.ctypes.data, packed.nbytes)
            array = packed.astype(np.float32)
            if array.size > np.prod(largest[known]):
                _crash("an input beyond the end of its tensor")
            old[known] = array
        stored = {}
        for name, array in old.items():
            kind = self.get_input_dtype(graph, name)
            if kind is not Dtype.BM_FLOAT32:
                bounds = np.iinfo(_NUMPY[kind])
                array = np.clip(
                    np.rint(array * np.float32(self.get_input_scale(graph, name))),
                    bounds.min,
                    bounds.max,
                )
            stored[name] = array.astype(_NUMPY[kind])
        outputs = {
            name: np.zeros(shape, _NUMPY[self.get_output_dtype(graph, name)])
            for name, shape in self._largest(graph, "output").items()
        }
        shapes = self._launch(
            graph, stored, {name: array.shape for name, array in stored.items()}, outputs, _LOCKED
        )
        found = {}
        for name, shape in shapes.items():
            array = outputs[name].reshape(-1)[: int(np.prod(shape))].reshape(shape)
            if array.dtype.kind != "f":
                array = array * np.float32(self.get_output_scale(graph, name))
            found[name] = array.astype(np.float32)
        return found

    def _launch(self, graph, inputs, shapes, outputs, library=_BMRT):
        given, wanted = self.get_input_names(graph), self.get_output_names(graph)

        def pointers(names, arrays):
            return (ctypes.c_void_p * len(names))(*(arrays[name].ctypes.data for name in names))

        found = (_Shape * len(wanted))()
        if not library.bmrt_launch_data(
            self._runtime,
            graph.encode(),
            pointers(given, inputs),
            (_Shape * len(given))(*(_Shape.of(shapes[name]) for name in given)),
            len(given),
            pointers(wanted, outputs),
            found,
            len(wanted),
            True,
        ):
            raise RuntimeError("bmrt_launch failed")
        return {name: shape.list() for name, shape in zip(wanted, found)}


class MultiEngine:
    def __init__(self, path, tpu_ids):
        self._engines = [Engine(path, tpu, IOMode.SYSIO) for tpu in tpu_ids]

    def process(self, graph, inputs):
        return self._engines[0].process(graph, inputs)
