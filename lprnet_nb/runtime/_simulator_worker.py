"""One simulator process: loads the vendor's runtime and a BModel, runs what it is sent.

Run as a script by `simulator.py`, with nothing but the standard library, so that it starts at once
and a crash of the runtime takes nothing else down. Settings come as the first argument (JSON),
requests as JSON lines on standard input, replies as JSON lines on the descriptor named in the
settings; arrays lie in a shared memory file.
"""

import ctypes
import json
import mmap
import os
import resource
import select
import shutil
import sys
import threading
import time
from typing import Any

_DIMENSIONS = 8  # of bm_shape_t
_LINE_BUFFERED = 1  # _IOLBF of stdio.h


class _Shape(ctypes.Structure):
    _fields_ = [("rank", ctypes.c_int), ("sides", ctypes.c_int * _DIMENSIONS)]


class _StageInfo(ctypes.Structure):
    _fields_ = [
        ("input_shapes", ctypes.POINTER(_Shape)),
        ("output_shapes", ctypes.POINTER(_Shape)),
        ("input_memory", ctypes.c_void_p),
        ("output_memory", ctypes.c_void_p),
    ]


class _NetworkInfo(ctypes.Structure):
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
        ("stage", ctypes.POINTER(_StageInfo)),
    ]


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, whatever the main thread is doing.

    A closed pipe alone does not tell: a process forked from the parent may hold it open.
    PR_SET_PDEATHSIG is no use either: it fires when the *thread* that started us ends.
    """
    poll = select.poll()
    poll.register(0, 0)  # asks for hang-up alone
    while not poll.poll(500) and os.getppid() == parent:
        pass
    if os.getppid() != parent:  # else the parent removes the folder, when the worker is gone
        shutil.rmtree(os.getcwd(), ignore_errors=True)
    os._exit(0)


def _load(settings: dict) -> tuple:
    """Load the runtime and the BModel; returns the runtime, its handle and what it found."""
    ctypes.CDLL(settings["driver"], mode=ctypes.RTLD_GLOBAL)
    device_library = ctypes.CDLL(settings["driver"])
    runtime = ctypes.CDLL(settings["runtime"])
    runtime.bmrt_create.restype = ctypes.c_void_p
    runtime.bmrt_create.argtypes = [ctypes.c_void_p]
    runtime.bmrt_load_bmodel.restype = ctypes.c_bool
    runtime.bmrt_load_bmodel.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    runtime.bmrt_get_network_info.restype = ctypes.POINTER(_NetworkInfo)
    runtime.bmrt_get_network_info.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    runtime.bmrt_launch_data.restype = ctypes.c_bool
    runtime.bmrt_launch_data.argtypes = [
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
    device = ctypes.c_void_p()
    if device_library.bm_dev_request(ctypes.byref(device), 0) != 0:
        raise OSError("the simulated device cannot be opened")
    handle = runtime.bmrt_create(device)
    if not handle:
        raise OSError("the runtime cannot be created")
    if not runtime.bmrt_load_bmodel(handle, os.fsencode(settings["bmodel"])):
        raise OSError("the runtime refuses the BModel")
    found = {
        name: _describe(runtime.bmrt_get_network_info(handle, name.encode()))
        for name in settings["graphs"]
    }
    return runtime, handle, found


def _describe(pointer: Any) -> dict:
    """Shapes of a network's stages as the runtime reads them."""
    if not pointer:
        raise OSError("the runtime does not find a network that the BModel lists")
    info = pointer.contents

    def shapes(of_stage: Any, count: int) -> list[list[int]]:
        return [list(each.sides[: each.rank]) for each in of_stage[:count]]

    stages = info.stage[: info.stages]
    return {
        "inputs": [shapes(stage.input_shapes, info.inputs) for stage in stages],
        "outputs": [shapes(stage.output_shapes, info.outputs) for stage in stages],
    }


def _launch(runtime: ctypes.CDLL, handle: int, memory: int, request: dict) -> dict:
    """Run one request; arrays are at the offsets that it names in the shared memory."""

    def pointers(offsets: list[int]) -> ctypes.Array:
        return (ctypes.c_void_p * len(offsets))(*(memory + offset for offset in offsets))

    inputs, outputs = request["inputs"], request["outputs"]
    shapes = (_Shape * len(inputs))(
        *(_Shape(len(shape), (ctypes.c_int * _DIMENSIONS)(*shape)) for shape in request["shapes"])
    )
    found = (_Shape * len(outputs))()
    started = time.perf_counter()
    done = runtime.bmrt_launch_data(
        handle,
        request["graph"].encode(),
        pointers(inputs),
        shapes,
        len(inputs),
        pointers(outputs),
        found,
        len(outputs),
        True,
    )
    return {
        "ok": bool(done),
        "seconds": time.perf_counter() - started,
        "error": "" if done else "the runtime refuses to run the network",
        "shapes": [list(each.sides[: each.rank]) for each in found],
    }


def main() -> None:
    settings = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is reported, not dumped
    libc = ctypes.CDLL(None)  # the log has to tell all up to a crash: write it line by line
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _LINE_BUFFERED, 0)
    try:  # of the shim: between two runs the engine threads rest
        idle = ctypes.c_int.in_dll(libc, "simulator_idle")
    except ValueError:  # it is not loaded
        idle = ctypes.c_int()
    threading.Thread(target=_end_with, args=(settings["parent"],), daemon=True).start()

    def reply(message: dict) -> None:
        os.write(settings["replies"], json.dumps(message).encode() + b"\n")

    try:
        runtime, handle, found = _load(settings)
    except OSError as error:
        reply({"ok": False, "error": str(error)})
        return
    reply({"ok": True, "graphs": found})
    memory, mapped = None, 0
    idle.value = 1
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if memory is None:
            memory = mmap.mmap(settings["memory"], 0)
            mapped = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        idle.value = 0
        answer = _launch(runtime, handle, mapped, request)
        idle.value = 1
        reply(answer)


if __name__ == "__main__":
    main()
    os._exit(0)  # the runtime's threads do not end by themselves
