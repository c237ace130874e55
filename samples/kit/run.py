#!/usr/bin/env python3
"""Prove and measure the kit in this folder on the Sophgo TPU of this machine.

    python3 run.py [--help]

Needs Python 3.6 or newer, numpy and the `sophon.sail` of the machine's SDK; no network. Where
OpenCV is there, decoding is timed too; where sail has bmcv, its program is timed; where the SDK's
`bmrt_test` is there, it is run. First come the checks, then every plate through every model. Each
job runs in a child process that may fall or hang: then this job has failed and the others go on.
Finished jobs are kept in `results.part`, so the same command goes on where it was stopped; all
comes together in `results.json`, to be carried back to `lprnet-nb report --measured`.
"""

import argparse
import base64
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

FORMAT = 1
STEPS = ("decode", "preprocess", "inference", "postprocess", "runtime", "bmrt_test")
SAME_CHIP = {"CV186AH": "CV186X"}  # what the chip calls itself, and the compilers call it
CHIPS = ("BM1684", "BM1684X", "BM1688", "CV186X")
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
NO_SPACE = 74  # exit status of a child that cannot write its report, EX_IOERR of <sysexits.h>


class Wrong(Exception):
    """Something that the user can mend: printed without a traceback, exit status 2."""


# The kit


def sha256(path):
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            state.update(block)
    return state.hexdigest()


def digest(value):
    """SHA-256 of a JSON value in one fixed spelling."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_kit(folder):
    """kit.json, after every file that it names was compared with its SHA-256."""
    path = os.path.join(folder, "kit.json")
    try:
        with open(path, "rb") as file:
            kit = json.loads(file.read().decode("utf8"))
        files = kit["files"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Wrong("%s is no kit: %s. `lprnet-nb kit CHIP -o FOLDER` makes one." % (folder, error))
    if kit.get("format") != FORMAT:
        raise Wrong(
            "%s has format %r, this program reads %d. Use the run.py that came with it."
            % (path, kit.get("format"), FORMAT)
        )
    for name in sorted(files):
        target = os.path.join(folder, *name.split("/"))
        if not os.path.isfile(target):
            raise Wrong("%s is missing from the kit. Copy the kit again." % target)
        if sha256(target) != files[name]:
            raise Wrong(
                "%s was changed on the way: its SHA-256 is not the one that kit.json says. "
                "Copy the kit again." % target
            )
    kit["folder"], kit["digest"] = folder, sha256(path)
    return kit


# What the machine is


def read_text(path):
    """First line of a file that may not be there or not be for us; None then."""
    try:
        with open(path, "rb") as file:
            text = file.read(4096).replace(b"\0", b" ").decode("utf8", "replace").strip()
        return text.splitlines()[0].strip() if text else None
    except OSError:
        return None


def first_text(*patterns):
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            text = read_text(path)
            if text:
                return text
    return None


def os_name():
    try:
        with open("/etc/os-release", encoding="utf8", errors="replace") as file:
            return dict(line.rstrip().split("=", 1) for line in file if "=" in line)[
                "PRETTY_NAME"
            ].strip('"')
    except (OSError, LookupError):
        return None


def sdk():
    """The SDK as its own places name it."""
    for link in ("/opt/sophon/libsophon-current", "/opt/sophon/libsophon"):
        if os.path.isdir(link):
            return os.path.basename(os.path.realpath(link))
    return first_text("/system/data/buildinfo.txt")


def runtime_files():
    """SHA-256 of the vendor's libraries that this process has loaded, by file name."""
    found = {}
    with open("/proc/self/maps", encoding="utf8", errors="replace") as file:
        for line in file:
            path = line.rstrip("\n").partition("/")[2]
            if re.search(r"lib(bmrt|bmlib|bmcv|sophon|tpu|cmodel)[^/]*\.so[^/]*$", path):
                found["/" + path] = None
    return {os.path.basename(path): sha256(path) for path in sorted(found) if os.path.isfile(path)}


def temperatures(sail, tpu):
    """Degrees Celsius where they can be read."""
    found = {}
    for what, name in (("chip", "get_chip_temp"), ("board", "get_board_temp")):
        try:
            found[what] = float(getattr(sail, name)(tpu))
        except Exception:  # not in every sail, not on every board
            pass
    if not found:
        text = first_text("/sys/class/thermal/thermal_zone*/temp")
        if text and re.match(r"-?\d+$", text):
            found["zone"] = int(text) / 1000.0
    return found


def clocks():
    """Hertz of the TPU's and the processor's clocks, where they can be read."""
    found = {}
    for path in glob.glob("/sys/kernel/debug/clk/*tpu*/clk_rate") + glob.glob(
        "/sys/kernel/debug/clk/*tpll*/clk_rate"
    ):
        text = read_text(path)
        if text and text.isdigit():
            found[os.path.basename(os.path.dirname(path))] = int(text)
    text = read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if text and text.isdigit():
        found["processor"] = 1000 * int(text)
    return found


def describe_box(sail, module):
    import numpy

    count = sail.get_available_tpu_num()
    if not count:
        raise Wrong("sail finds no device. Check that the driver is loaded (`bm-smi`).")
    try:
        target = str(sail.Handle(0).get_target())
    except Exception:  # an old sail has no such method
        target = ""
    chip = SAME_CHIP.get(target, target)
    try:
        import cv2

        opencv = cv2.__version__
    except ImportError:
        opencv = None
    memory = re.match(r"MemTotal:\s*(\d+) kB", read_text("/proc/meminfo") or "")
    fixed = {
        "board": first_text("/proc/device-tree/model", "/sys/class/dmi/id/product_name"),
        "chip": chip if chip in CHIPS else None,
        "target": target or None,
        "devices": count,
        "system": os_name(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "memory_mb": int(memory.group(1)) // 1024 if memory else None,
        "host": platform.node(),
        "sdk": sdk(),
        "driver": first_text(
            "/proc/bmsophon/driver_version",
            "/sys/module/bmtpu/version",
            "/sys/module/bmsophon/version",
            "/sys/module/tpu/version",
        ),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "opencv": opencv,
        "sail": getattr(sail, "__version__", None),
        "sail_module": module,
        "sail_file": sha256(sail.__file__) if getattr(sail, "__file__", None) else None,
        "runtime": runtime_files(),
        "bmcv": all(hasattr(sail, part) for part in ("Bmcv", "Decoder", "BMImage", "Format")),
        "bmrt_test": bmrt_test_program(),
    }
    return dict(fixed, temperature=temperatures(sail, 0), clock_hz=clocks())


def box_identity(box):
    """What must stay the same for finished jobs to count: all but what drifts by itself."""
    return {key: value for key, value in box.items() if key not in ("temperature", "clock_hz")}


def load_sail(name):
    import importlib

    try:
        sail = importlib.import_module(name)
    except ImportError as error:
        raise Wrong(no_sail(name, error))
    missing = [
        part
        for part in ("Engine", "Handle", "IOMode", "Tensor", "get_available_tpu_num")
        if not hasattr(sail, part)
    ]
    if missing:
        raise Wrong(
            "the module %s (%s) is not Sophgo's sail: it has no %s."
            % (name, getattr(sail, "__file__", "built in"), ", ".join(missing))
        )
    return sail


def no_sail(name, error):
    """Why sail cannot be imported, where that can be told."""
    here = "Python %s (%s)" % (platform.python_version(), sys.executable)
    others = set()
    for folder in sys.path:
        for path in glob.glob(os.path.join(folder, *name.split(".")) + ".*.so"):
            tag = re.search(r"cpython-3(\d+)", os.path.basename(path))
            others.add("3." + tag.group(1) if tag else os.path.basename(path))
    if others and "3.%d" % sys.version_info[1] not in others:
        return (
            "%s is here for Python %s, and this is %s. Run the kit with that Python, or "
            "install the wheel of this one." % (name, ", ".join(sorted(others)), here)
        )
    return (
        "%s cannot be imported by %s: %s. Install the sail wheel of this machine's SDK "
        "(`pip3 install sophon*.whl`); on a box it may lie below /opt/sophon." % (name, here, error)
    )


def bmrt_test_program():
    return shutil.which("bmrt_test") or next(
        (path for path in sorted(glob.glob("/opt/sophon/libsophon*/bin/bmrt_test"))), None
    )


# One model on one device


class Model:
    """A BModel of the kit, opened in one of sail's modes."""

    def __init__(self, sail, kit, entry, mode="SYSIO", tpu=0):
        self.sail, self.entry, self.tpu = sail, entry, tpu
        self.layout = kit["layout"]
        path = os.path.join(kit["folder"], *entry["file"].split("/"))
        self.engine = sail.Engine(path, tpu, getattr(sail.IOMode, mode))
        self.handle = self.engine.get_handle()
        self.graph = entry["graph"]
        self.tensors = {}
        self.seconds = 0.0  # inside process() of a run by tensors

    def stage(self, batch):
        return next(
            stage for stage in self.entry["stages"] if stage["inputs"][0]["shape"][0] == batch
        )

    def run(self, inputs, cores=()):
        """Arrays in, logits out: sail copies (SYSIO)."""
        stage = self.stage(len(inputs))
        name, output = stage["inputs"][0]["name"], stage["outputs"][0]["name"]
        more = {"core_list": list(cores)} if cores else {}
        made = self.engine.process(self.graph, {name: inputs}, **more)[output]
        return arranged(to_float(made, stage), self.layout)

    def run_tensors(self, inputs):
        """The same by tensors on the device (DEVIO); the run alone is timed."""
        stage = self.stage(len(inputs))
        given, made = stage["inputs"][0], stage["outputs"][0]
        source, target = self.tensor(given), self.tensor(made)
        source.update_data(stored(inputs, given))
        source.sync_s2d()
        started = time.perf_counter()
        self.engine.process(
            self.graph,
            {given["name"]: source},
            {given["name"]: given["shape"]},
            {made["name"]: target},
        )
        self.seconds = time.perf_counter() - started
        target.sync_d2s()
        return arranged(from_stored(target.asnumpy(), made), self.layout)

    def run_tensor(self, source, batch):
        """Run on a tensor that lies on the device already."""
        stage = self.stage(batch)
        given, made = stage["inputs"][0], stage["outputs"][0]
        target = self.tensor(made)
        self.engine.process(
            self.graph,
            {given["name"]: source},
            {given["name"]: given["shape"]},
            {made["name"]: target},
        )
        target.sync_d2s()
        return arranged(from_stored(target.asnumpy(), made), self.layout)

    def tensor(self, about):
        key = (about["name"], tuple(about["shape"]))
        if key not in self.tensors:
            self.tensors[key] = self.sail.Tensor(
                self.handle, about["shape"], getattr(self.sail.Dtype, about["dtype"]), True, True
            )
        return self.tensors[key]


def to_float(array, stage):
    import numpy as np

    array = np.array(array, np.float32)
    if list(array.shape) != stage["outputs"][0]["shape"]:
        raise AssertionError(
            "sail returned the shape %s, the BModel says %s"
            % (list(array.shape), stage["outputs"][0]["shape"])
        )
    return array


_KINDS = {
    "BM_FLOAT32": "float32",
    "BM_FLOAT16": "float16",
    "BM_INT8": "int8",
    "BM_UINT8": "uint8",
    "BM_INT16": "int16",
    "BM_UINT16": "uint16",
}


def stored(array, about):
    """Real values as the chip stores an input: scaled, rounded half to even, cut."""
    import numpy as np

    kind = np.dtype(_KINDS[about["dtype"]])
    if kind.kind == "f":
        return np.ascontiguousarray(array.astype(kind))
    bounds = np.iinfo(kind)
    scaled = np.clip(np.rint(array * np.float32(about["scale"])), bounds.min, bounds.max)
    return np.ascontiguousarray(scaled.astype(kind))


def from_stored(array, about):
    import numpy as np

    kind = np.dtype(_KINDS[about["dtype"]])
    array = np.ascontiguousarray(array).view(kind) if array.dtype != kind else array
    scale = 1.0 if kind.kind == "f" else about["scale"]
    return array.reshape(about["shape"]).astype(np.float32) * np.float32(scale)


def arranged(outputs, layout):
    """Outputs as [N, classes, steps]; `layout` names their axes, 1 an axis of one."""
    import numpy as np

    if layout == "nct":
        return outputs
    axes = layout.replace("1", "")
    kept = outputs.reshape([n for n, axis in zip(outputs.shape, layout) if axis != "1"])
    if "t" not in axes:
        axes, kept = axes + "t", kept[..., None]
    return np.ascontiguousarray(kept.transpose([axes.index(axis) for axis in "nct"]))


def preprocess(images, entry, kit):
    """uint8 BGR [N, height, width, 3] to what a model takes, float32."""
    import numpy as np

    about = entry["stages"][0]["inputs"][0]
    if about["dtype"] == "BM_UINT8":  # the model preprocesses by itself
        if about["shape"][-1] == 3:
            return images.astype(np.float32)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    how = kit["preprocessing"]
    if how["order"] == "rgb":
        images = images[..., ::-1]
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    return (planes - of_planes(how["mean"])) * of_planes(how["scale"])


def of_planes(values):
    """A number for all planes, or one a plane, as it goes with [N, planes, height, width]."""
    import numpy as np

    return np.reshape(np.float32(values), (-1, 1, 1))


def read_plates(logits, kit):
    """Greedy CTC: the best class of each step, repeats collapsed, blanks dropped.

    Of logits that are no CTC, the best class of each step by name, else by number.
    """
    classes, blank = kit["classes"], kit["blank"]
    texts = []
    if kit["output"] == "logits":
        names = [one if one.isprintable() else str(k) for k, one in enumerate(classes)]
        return [" ".join(names[best] for best in row) for row in logits.argmax(1).tolist()]
    for row in logits.argmax(1).tolist():
        kept = [
            best
            for place, best in enumerate(row)
            if best != blank and (place == 0 or best != row[place - 1])
        ]
        texts.append("".join(classes[best] for best in kept))
    return texts


def padded(images, batch):
    """Cut into whole batches; the last one is filled with its last image."""
    import numpy as np

    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        size = len(part)
        if size < batch:
            part = np.concatenate([part, np.repeat(part[-1:], batch - size, axis=0)])
        yield start, size, part


# Checks: each takes what it needs and returns what it saw


class Bench:
    """What the checks share."""

    def __init__(self, sail, kit, entry):
        import numpy as np

        self.sail, self.kit, self.entry = sail, kit, entry
        self.images = np.load(os.path.join(kit["folder"], "plates.npy"), mmap_mode="r")
        expected = entry["expected"]
        self.expected = np.load(
            os.path.join(kit["folder"], *expected["file"].split("/")), mmap_mode="r"
        )
        self.batch = entry["batch"]

    def open(self, mode="SYSIO", tpu=0):
        return Model(self.sail, self.kit, self.entry, mode, tpu)

    def inputs(self, start, stop):
        return preprocess(self.images[start:stop], self.entry, self.kit)

    def first(self):
        """The first whole batch, and how many plates are in it (fewer in a small kit)."""
        return next(
            (size, preprocess(part, self.entry, self.kit))
            for _, size, part in padded(self.images[: self.batch], self.batch)
        )

    def same(self, logits, start, stop):
        import numpy as np

        expected = self.expected[start:stop]
        if logits.shape != expected.shape:
            raise AssertionError(
                "logits have the shape %s, expected %s" % (list(logits.shape), list(expected.shape))
            )
        largest = float(np.abs(logits - expected).max())
        allowed = self.allowed()
        if not largest <= allowed:  # NaN too
            raise AssertionError(
                "logits differ from the %s's by up to %.3g, %.3g is allowed"
                % (self.entry["expected"]["backend"], largest, allowed)
            )
        return "%d plates, largest difference %.3g" % (stop - start, largest)

    def allowed(self):
        import numpy as np

        return self.entry["expected"]["tolerance"] * float(np.abs(self.expected).max())


def check_describes(bench):
    """Names, shapes, dtypes and scales are those of the kit."""
    engine, entry = bench.open().engine, bench.entry
    graph, stage = entry["graph"], entry["stages"][0]
    if list(engine.get_graph_names()) != [graph]:
        raise AssertionError(
            "it has the graphs %s, expected %s" % (engine.get_graph_names(), [graph])
        )
    for side in ("input", "output"):
        names = list(getattr(engine, "get_%s_names" % side)(graph))
        known = {each["name"]: each for each in stage[side + "s"]}
        if sorted(names) != sorted(known):
            raise AssertionError("%ss are %s, expected %s" % (side, names, sorted(known)))
        for name in names:
            dtype = getattr(engine, "get_%s_dtype" % side)(graph, name)
            seen = {
                "shape": list(getattr(engine, "get_%s_shape" % side)(graph, name)),
                "dtype": getattr(dtype, "name", str(dtype).rsplit(".", 1)[-1]),
                "scale": float(getattr(engine, "get_%s_scale" % side)(graph, name)),
            }
            wanted = {key: known[name][key] for key in seen}
            if len(entry["stages"]) > 1:  # which stage is first is sail's to choose
                seen["shape"] = wanted["shape"] = seen["shape"][1:]
                wanted["shape"] = known[name]["shape"][1:]
            if (
                abs(seen.pop("scale") - wanted.pop("scale")) > 1e-6 * abs(known[name]["scale"])
                or seen != wanted
            ):
                raise AssertionError("%s %s is %s, expected %s" % (side, name, seen, wanted))
    return "graph %s, %d stages" % (graph, len(entry["stages"]))


def check_process(bench):
    """process() by arrays gives the expected logits, and the same ones again later."""
    import numpy as np

    model = bench.open()
    size, first = bench.first()
    found = model.run(first)
    model.run(np.ascontiguousarray(first[::-1]) * np.float32(0.5))
    if not np.array_equal(model.run(first), found):
        raise AssertionError("the same input gave other logits later")
    return bench.same(found[:size], 0, size)


def check_tensors(bench):
    """process() by tensors on the device (DEVIO) gives the expected logits."""
    size, first = bench.first()
    return bench.same(bench.open("DEVIO").run_tensors(first)[:size], 0, size)


def check_padding(bench):
    """A last batch that is not full is filled with its last plate, and its results are cut."""
    import numpy as np

    count = len(bench.images)
    start = (count - 1) // bench.batch * bench.batch
    if count % bench.batch == 0 and bench.entry["batch_mean"] == "image":
        start, count = 0, bench.batch - 1
    model, logits = bench.open(), []
    for _, size, part in padded(bench.images[start:count], bench.batch):
        logits.append(model.run(preprocess(part, bench.entry, bench.kit))[:size])
    return bench.same(np.concatenate(logits), start, count)


def check_stages(bench):
    """A BModel of several batch sizes runs each of them, in any order, as they run alone."""
    model = bench.open()
    alone = {
        int(batch): Bench(bench.sail, bench.kit, model_of(bench.kit, name))
        for batch, name in bench.entry["parts"].items()
    }
    sizes = sorted(alone)
    for size in (sizes[-1], sizes[0], sizes[-1]):
        count, inputs = alone[size].first()
        alone[size].same(model.run(inputs)[:count], 0, count)
    return "batches of %s" % " and ".join(map(str, sizes))


def check_devices(bench):
    """Every device of the machine gives the expected logits."""
    count = bench.sail.get_available_tpu_num()
    size, first = bench.first()
    for tpu in range(count):
        bench.same(bench.open(tpu=tpu).run(first)[:size], 0, size)
    return "%d devices" % count


def check_cores(bench):
    """A BModel for several cores gives the expected logits on the cores that are named."""
    size, first = bench.first()
    cores = list(range(bench.entry["cores"]))
    return "cores %s: %s" % (cores, bench.same(bench.open().run(first, cores)[:size], 0, size))


CHECKS = {
    "describes": check_describes,
    "process": check_process,
    "tensors": check_tensors,
    "padding": check_padding,
    "stages": check_stages,
    "devices": check_devices,
    "cores": check_cores,
}


def checks_of(entry):
    names = ["describes", "process", "tensors", "devices"]
    if len(entry["stages"]) > 1:
        names.insert(3, "stages")
    if entry["batch"] > 1:
        names.insert(3, "padding")
    if entry["cores"] > 1:
        names.append("cores")
    return names


# Measuring


def measure_model(bench, settings):
    """All plates once for their logits, then calls in the program's steps, then the run alone."""
    import numpy as np

    kit, entry, batch = bench.kit, bench.entry, bench.batch
    model = bench.open()
    logits = np.empty((len(bench.images),) + tuple(bench.expected.shape[1:]), np.float32)
    for start, size, part in padded(bench.images, batch):
        logits[start : start + size] = model.run(preprocess(part, entry, kit))[:size]
    allowed = bench.allowed()
    digests, different = [], {}
    largest, within = 0.0, 0
    for index, row in enumerate(logits):
        digests.append(hashlib.sha256(row.tobytes()).hexdigest())
        expected = np.ascontiguousarray(bench.expected[index])
        if row.tobytes() != expected.tobytes():
            different[str(index)] = base64.b64encode(row.tobytes()).decode("ascii")
        apart = float(np.abs(row - expected).max())
        largest = max(largest, apart) if apart == apart else float("inf")
        within += apart <= allowed
    times = time_program(model, bench, settings)
    by_tensors = bench.open("DEVIO")
    inputs = bench.first()[1]
    runtime = []
    for _ in range(settings["warm_up"] + settings["repetitions"]):
        by_tensors.run_tensors(inputs)
        runtime.append(by_tensors.seconds)
    times["runtime"] = per_image(runtime[settings["warm_up"] :], batch)
    if within < len(logits):
        passed, seen = (
            False,
            "%d of %d plates differ from the %s's logits by up to %.3g"
            % (len(logits) - within, len(logits), entry["expected"]["backend"], largest),
        )
    else:
        passed, seen = (
            True,
            "%d plates, %d equal to the bit, largest difference %.3g"
            % (len(logits), len(logits) - len(different), largest),
        )
    return {
        "passed": passed,
        "detail": seen,
        "digests": digests,
        "different": different,
        "largest_difference": largest if largest < float("inf") else None,
        "readings": read_plates(logits, kit),
        "times_ms": times,
    }


def time_program(model, bench, settings):
    """Milliseconds an image of each step of a program that reads files, over calls."""
    import numpy as np

    try:
        import cv2
    except ImportError:
        cv2 = None
    kit, batch = bench.kit, bench.batch
    height, width = kit["preprocessing"]["size"]
    names = [plate["file"] for plate in kit["plates"]]
    seconds = {step: [] for step in STEPS[:4]}
    calls = settings["warm_up"] + settings["repetitions"]
    for call in range(calls):
        chosen = [(call * batch + place) % len(names) for place in range(batch)]
        marks = [time.perf_counter()]
        if cv2 is not None:
            images = []
            for index in chosen:
                with open(os.path.join(kit["folder"], *names[index].split("/")), "rb") as file:
                    image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
                images.append(image)
            marks.append(time.perf_counter())
            images = np.stack(
                [
                    image
                    if image.shape[:2] == (height, width)
                    else cv2.resize(image, (width, height))
                    for image in images
                ]
            )
        else:
            images = np.stack([bench.images[index] for index in chosen])
            marks = [time.perf_counter()] * 2
        inputs = preprocess(images, bench.entry, kit)
        marks.append(time.perf_counter())
        logits = model.run(inputs)
        marks.append(time.perf_counter())
        read_plates(logits, kit)
        marks.append(time.perf_counter())
        if call >= settings["warm_up"]:
            for step, began, ended in zip(STEPS[:4], marks, marks[1:]):
                seconds[step].append(ended - began)
    if cv2 is None:
        del seconds["decode"]
    return {step: per_image(values, batch) for step, values in seconds.items()}


def per_image(seconds, batch):
    """Median and quartiles of calls, milliseconds an image."""
    values = sorted(1000.0 * each / batch for each in seconds)
    half = len(values) // 2
    lower, upper = values[:half] or values, values[-half:] or values
    return {
        "median": statistics.median(values),
        "quartiles": [statistics.median(lower), statistics.median(upper)],
        "least": values[0],
        "most": values[-1],
        "calls": len(values),
        "images_per_call": batch,
    }


def measure_bmcv(bench, settings):
    """The program of sail's samples: decoding, resizing and scaling on the device."""
    import numpy as np

    sail, kit, batch = bench.sail, bench.kit, bench.batch
    model = bench.open("DEVIO")
    pictures = Bmcv(sail, model, kit)
    seconds = {step: [] for step in STEPS[:4]}
    readings, largest = [None] * len(kit["plates"]), 0.0
    files = [os.path.join(kit["folder"], *plate["file"].split("/")) for plate in kit["plates"]]
    whole = list(range(0, len(files), batch))
    for call in range(max(settings["warm_up"] + settings["repetitions"], len(whole))):
        start = whole[call % len(whole)]
        part = files[start : start + batch]
        size, part = len(part), part + part[-1:] * (batch - len(part))
        marks = [time.perf_counter()]
        images = [pictures.decode(path) for path in part]
        marks.append(time.perf_counter())
        tensor = pictures.tensor(images, model.stage(batch)["inputs"][0])
        marks.append(time.perf_counter())
        logits = model.run_tensor(tensor, batch)
        marks.append(time.perf_counter())
        texts = read_plates(logits, kit)
        marks.append(time.perf_counter())
        readings[start : start + size] = texts[:size]
        largest = max(
            largest, float(np.abs(logits[:size] - bench.expected[start : start + size]).max())
        )
        if call >= settings["warm_up"]:
            for step, began, ended in zip(STEPS[:4], marks, marks[1:]):
                seconds[step].append(ended - began)
    return {
        "passed": True,
        "readings": readings,
        "largest_difference": largest,
        "detail": "bmcv: largest difference of a logit %.3g" % largest,
        "times_ms": {step: per_image(values or [0.0], batch) for step, values in seconds.items()},
    }


class Bmcv:
    """Decoding and preprocessing in bmcv, as sail's samples do it."""

    def __init__(self, sail, model, kit):
        self.sail, self.handle, self.tpu = sail, model.handle, model.tpu
        self.bmcv, self.how = sail.Bmcv(model.handle), kit["preprocessing"]

    def decode(self, path):
        image = self.sail.BMImage()
        if self.sail.Decoder(path, True, self.tpu).read(self.handle, image) != 0:
            raise AssertionError("the device cannot decode %s" % path)
        return image

    def tensor(self, images, about):
        dtype = getattr(self.sail.Dtype, about["dtype"])
        if about["dtype"] == "BM_UINT8":
            scale, shift = 1.0, 0.0
        else:
            scale = self.how["scale"] * about["scale"]
            shift = -self.how["mean"] * scale
        made = [self.scaled(image, dtype, scale, shift) for image in images]
        batch = made[0]
        if len(made) > 1:
            batch = getattr(self.sail, "BMImageArray%dD" % len(made))()
            for index, image in enumerate(made):
                batch[index] = image.data()
        tensor = self.sail.Tensor(self.handle, about["shape"], dtype, False, False)
        self.bmcv.bm_image_to_tensor(batch, tensor)
        return tensor

    def scaled(self, image, dtype, scale, shift):
        height, width = self.how["size"]
        planar = self.sail.Format.FORMAT_BGR_PLANAR
        colours = self.sail.BMImage(
            self.handle, image.height(), image.width(), planar, image.dtype()
        )
        self.bmcv.convert_format(image, colours)
        if (image.height(), image.width()) != (height, width):
            colours = self.bmcv.resize(colours, width, height)
        made = self.sail.BMImage(
            self.handle, height, width, planar, self.bmcv.get_bm_image_data_format(dtype)
        )
        self.bmcv.convert_to(colours, made, ((scale, shift),) * 3)
        return made


def measure_bmrt_test(kit, entry, settings):
    """The SDK's own benchmark: the `calculate time` of its loops."""
    path = os.path.join(kit["folder"], *entry["file"].split("/"))
    command = [
        bmrt_test_program(),
        "--bmodel",
        path,
        "--devid",
        "0",
        "--loopnum",
        str(settings["repetitions"]),
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    text = done.stdout.decode("utf8", "replace")
    found = [float(value) for value in re.findall(r"calculate\s+time\(s\)\s*:\s*([0-9.]+)", text)]
    if done.returncode or not found:
        raise AssertionError(
            "bmrt_test ended with status %d and %d times: %s"
            % (done.returncode, len(found), text.strip()[-300:])
        )
    return {
        "passed": True,
        "detail": "bmrt_test: %d loops" % len(found),
        "times_ms": {"bmrt_test": per_image(found, entry["batch"])},
    }


# Jobs in child processes


def jobs_of(kit, box, settings):
    """``[kind, name, model id]`` of all that is to be done, checks first."""
    jobs = [["check", name, entry["id"]] for entry in kit["models"] for name in checks_of(entry)]
    jobs += [["plates", "plates", entry["id"]] for entry in kit["models"]]
    single = [entry for entry in kit["models"] if len(entry["stages"]) == 1]
    if box["bmrt_test"]:
        jobs += [["bmrt_test", "bmrt_test", entry["id"]] for entry in single]
    how = kit["preprocessing"]
    plain = how["order"] == "bgr" and not any(isinstance(how[k], list) for k in ("mean", "scale"))
    if box["bmcv"] and plain:  # its program converts with one number for all planes
        jobs += [["bmcv", "bmcv", entry["id"]] for entry in single]
    only = settings["only"]
    return [job for job in jobs if not only or job[2] in only]


def model_of(kit, name):
    return next(entry for entry in kit["models"] if entry["id"] == name)


def do_job(sail, kit, job, settings):
    kind, name, model = job
    entry = model_of(kit, model)
    if kind == "bmrt_test":
        return measure_bmrt_test(kit, entry, settings)
    bench = Bench(sail, kit, entry)
    if kind == "check":
        return {"passed": True, "detail": CHECKS[name](bench)}
    return (measure_model if kind == "plates" else measure_bmcv)(bench, settings)


def child(told):
    """Body of a child process: jobs one after another, each told of as it begins and ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    kit, settings = told["kit"], told["settings"]
    with open(told["report"], "a", encoding="ascii") as report:

        def tell(value):
            try:
                report.write(json.dumps(value) + "\n")
                report.flush()
            except OSError:
                os._exit(NO_SPACE)

        try:
            sail = load_sail(settings["sail_module"])
            if told["jobs"] is None:
                tell({"box": describe_box(sail, settings["sail_module"])})
            for job in told["jobs"] or ():
                tell({"begun": job})
                started = time.time()
                try:
                    found = do_job(sail, kit, job, settings)
                except Exception as error:
                    traceback.print_exc()
                    found = {"passed": False, "detail": "%s: %s" % (type(error).__name__, error)}
                tell(
                    dict(
                        found,
                        job=job,
                        seconds=time.time() - started,
                        temperature=temperatures(sail, 0),
                    )
                )
        except Wrong as wrong:
            tell({"wrong": str(wrong)})
    os._exit(0)  # the runtime's threads may fall while the interpreter ends


def run_child(told, on_line, timeout, scratch):
    """Run a child to its end; None, or how it ended before it was done."""
    told = dict(told, report=os.path.join(scratch, "report"))
    open(told["report"], "w").close()
    paper = os.path.join(scratch, "told")
    with open(paper, "w", encoding="ascii") as file:
        json.dump(told, file)
    read = 0
    with open(os.path.join(scratch, "log"), "wb") as log, open(told["report"], "rb") as report:
        process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--child", paper],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        try:
            limit = time.time() + timeout
            while True:
                ended = process.poll()
                report.seek(read)
                block = report.read()
                block = block[: block.rfind(b"\n") + 1]
                read += len(block)
                for line in block.splitlines():
                    on_line(json.loads(line.decode("ascii")))
                    limit = time.time() + timeout
                if ended is not None and not block:
                    break
                if time.time() > limit:
                    return "did not end within %g s" % timeout
                listener_gone()
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if process.returncode == NO_SPACE:
        raise Wrong(
            "cannot write below %s: is the disk full? Finished jobs are kept; free some "
            "space, or name another place by TMPDIR, and run the same command again." % scratch
        )
    if process.returncode < 0:
        return "fell with " + signal.Signals(-process.returncode).name
    return "ended with status %d" % process.returncode if process.returncode else None


def listener_gone():
    """Stop when nobody reads what is printed: the connection was cut, and will come again."""
    watch = select.poll()
    watch.register(1, 0)
    if any(event & (select.POLLERR | select.POLLNVAL) for _, event in watch.poll(0)):
        raise KeyboardInterrupt


def last_words(scratch):
    with open(os.path.join(scratch, "log"), "rb") as log:
        return log.read().decode("utf8", "replace").strip()[-300:]


def find_box(settings, scratch):
    seen = {}
    end = run_child(
        {"kit": None, "settings": settings, "jobs": None}, seen.update, settings["timeout"], scratch
    )
    if "wrong" in seen:
        raise Wrong(seen["wrong"])
    if "box" not in seen:
        raise Wrong(
            "sail could not be asked what this machine is: the process %s. %s"
            % (end, last_words(scratch))
        )
    return seen["box"]


# What is kept


class Part:
    """Finished jobs, one JSON line each, so that a stopped run goes on."""

    def __init__(self, path, header, session):
        self.path = path
        self.done = {}
        try:
            self.file = open(path, "a+b")
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run of this kit is at work; waiting for it")
            fcntl.flock(self.file, fcntl.LOCK_EX)
        except OSError as error:
            raise Wrong(
                "cannot write %s: %s. Name another place by --output." % (path, error.strerror)
            )
        self.file.seek(0)
        raw = self.file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line.decode("ascii")) for line in whole.splitlines()]
        except ValueError:
            lines = []
        same = bool(lines) and lines[0].get("header") == header
        ended = any("finished" in line for line in lines)
        if same and not (ended and (not session or lines[-1].get("finished") != session)):
            self.file.truncate(len(whole))  # a line that was cut short
            self.done = {
                tuple(line["job"]): line for line in lines if line.get("passed") and "job" in line
            }
        else:
            self.file.truncate(0)
            self.write({"header": header})

    def write(self, line):
        try:
            self.file.write(json.dumps(line).encode("ascii") + b"\n")
            self.file.flush()
        except OSError as error:
            raise Wrong(
                "cannot write %s: %s. Finished jobs are kept; mend that, or name another "
                "place by --output, and run the same command again." % (self.path, error.strerror)
            )

    def add(self, found):
        self.write(found)
        self.done[tuple(found["job"])] = found


def write_results(path, results):
    """By rename: the old file or the new one, never a part."""
    results["seal"] = digest(results)
    temporary = path + ".new"
    try:
        with open(temporary, "w", encoding="ascii") as file:
            json.dump(results, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise Wrong(
            "cannot write %s: %s. Finished jobs are kept; mend that and run the same "
            "command again." % (path, error.strerror)
        )


def gather(kit, box, settings, jobs, done):
    found = [done[tuple(job)] for job in jobs]
    models = []
    for entry in kit["models"]:
        mine = [each for each in found if each["job"][2] == entry["id"]]
        if not mine:
            continue
        model = {
            "id": entry["id"],
            "sha256": entry["sha256"],
            "expected": entry["expected"]["sha256"],
            "backend": entry["expected"]["backend"],
            "programs": {},
        }
        for each in mine:
            if each["job"][0] != "check":
                model["programs"][each["job"][0]] = {
                    key: value for key, value in each.items() if key != "job"
                }
        models.append(model)
    checks = [
        {
            "check": each["job"][1],
            "model": each["job"][2],
            "passed": each["passed"],
            "detail": each["detail"],
            "seconds": each["seconds"],
        }
        for each in found
        if each["job"][0] == "check"
    ]
    return {
        "format": FORMAT,
        "kit": kit["digest"],
        "chip": kit["chip"],
        "box": box,
        "settings": {key: settings[key] for key in ("warm_up", "repetitions", "timeout")},
        "plates": [plate["sha256"] for plate in kit["plates"]],
        "checks": checks,
        "models": models,
    }


# What is printed


def say(*parts):
    line = " ".join(map(str, parts)) + "\n"
    sys.stdout.buffer.write(line.encode("utf8"))
    sys.stdout.buffer.flush()


def show_box(box):
    for key in (
        "board",
        "chip",
        "devices",
        "system",
        "machine",
        "memory_mb",
        "sdk",
        "driver",
        "python",
        "numpy",
        "opencv",
        "sail",
    ):
        if box[key] is not None:
            say("%-10s %s" % (key, box[key]))
    if box["chip"] is None:
        say("%-10s does not tell (%s)" % ("chip", box["target"]))
    for name, value in sorted(box["runtime"].items()):
        say("%-10s %s %s" % ("runtime", name, value[:16]))
    for name, value in sorted(box["temperature"].items()):
        say("%-10s %s %.0f C" % ("heat", name, value))
    for name, value in sorted(box["clock_hz"].items()):
        say("%-10s %s %.0f MHz" % ("clock", name, value / 1e6))


def show_times(results, kit):
    settings = results["settings"]
    say(
        "\nMilliseconds an image, median of %d calls after %d to warm up (± half the middle half)"
        % (settings["repetitions"], settings["warm_up"])
    )
    say(" | ".join(["%-34s" % "program, model", "exact    "] + ["%-15s" % s for s in STEPS]))
    for model in results["models"]:
        program = {"plates": "opencv" if results["box"]["opencv"] else "numpy", "bmcv": "bmcv"}
        for kind in ("plates", "bmcv"):
            found = model["programs"].get(kind)
            if not found or "times_ms" not in found:
                continue
            times = dict(found["times_ms"])
            other = model["programs"].get("bmrt_test", {}).get("times_ms") or {}
            times.update(other if kind == "plates" else {})
            cells = ["%-15s" % cell(times.get(step)) for step in STEPS]
            exact = (
                "%d of %d" % (len(kit["plates"]) - len(found["different"]), len(kit["plates"]))
                if "different" in found
                else "-"
            )
            say(
                " | ".join(
                    ["%-34s" % ("%s %s" % (program[kind], model["id"])), "%-9s" % exact] + cells
                )
            )


def cell(times):
    if times is None:
        return "-"
    low, high = times["quartiles"]
    return "%.3f ± %.3f" % (times["median"], (high - low) / 2)


# The command


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", help="results file; results.json in the kit by default")
    parser.add_argument("--sail-module", default="sophon.sail", help="import path of sail")
    parser.add_argument("--only", default="", help="ids of models, separated by commas")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one job")
    parser.add_argument("--warm-up", type=int, default=20, help="calls that are not counted")
    parser.add_argument("--repetitions", type=int, default=200, help="calls that are timed")
    parser.add_argument("--session", default="", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def checked_settings(given, kit):
    if given.timeout <= 0 or given.warm_up < 0 or given.repetitions < 1:
        raise Wrong("--timeout and --repetitions must be above 0, --warm-up at least 0.")
    only = [name for name in given.only.split(",") if name]
    known = [entry["id"] for entry in kit["models"]]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise Wrong("the kit has no model %s. It has: %s." % (", ".join(unknown), ", ".join(known)))
    return {
        "sail_module": given.sail_module,
        "only": only,
        "timeout": given.timeout,
        "warm_up": given.warm_up,
        "repetitions": given.repetitions,
    }


def check_chip(kit, box):
    if box["chip"] is not None and box["chip"] != kit["chip"]:
        raise Wrong(
            "this kit is for %s, and this machine has a %s. Make one for it: "
            "`lprnet-nb kit %s -o FOLDER`." % (kit["chip"], box["chip"], box["chip"])
        )


def do_pending(kit, settings, part, jobs, scratch):
    """Do the jobs that are left in one child process, which may end before it is through."""
    pending = [job for job in jobs if tuple(job) not in part.done]
    begun = []

    def finish(found):
        part.add(found)
        passed = "ok  " if found["passed"] else "FAIL"
        _, name, model = found["job"]
        say(
            "%d/%d %s %s %s: %s" % (len(part.done), len(jobs), passed, name, model, found["detail"])
        )

    def on_line(line):
        if "begun" in line:
            begun.append(line["begun"])
        elif "wrong" in line:
            raise Wrong(line["wrong"])
        else:
            finish(line)

    slim = {key: value for key, value in kit.items() if key != "files"}
    told = {"kit": slim, "settings": settings, "jobs": pending}
    end = run_child(told, on_line, settings["timeout"], scratch)
    left = [job for job in pending if tuple(job) not in part.done]
    if left:  # it fell, in the job that it had begun, or before it began one
        fallen = begun[-1] if begun and begun[-1] in left else left[0]
        detail = "the process %s. %s" % (end, last_words(scratch))
        finish(
            {"job": fallen, "passed": False, "seconds": None, "temperature": {}, "detail": detail}
        )


def run(given, scratch):
    kit = read_kit(os.path.dirname(os.path.abspath(__file__)))
    settings = checked_settings(given, kit)
    output = os.path.abspath(given.output or os.path.join(kit["folder"], "results.json"))
    box = find_box(settings, scratch)
    check_chip(kit, box)
    say(
        "kit        %s for %s, %d models, %d plates"
        % (kit["digest"][:16], kit["chip"], len(kit["models"]), len(kit["plates"]))
    )
    show_box(box)
    jobs = jobs_of(kit, box, settings)
    same = {key: settings[key] for key in ("sail_module", "warm_up", "repetitions")}
    header = digest({"kit": kit["digest"], "box": box_identity(box), "settings": same})
    part = Part(os.path.splitext(output)[0] + ".part", header, given.session)
    if part.done:
        say("%d of %d jobs were finished before; going on" % (len(part.done), len(jobs)))
    while any(tuple(job) not in part.done for job in jobs):
        do_pending(kit, settings, part, jobs, scratch)
    results = gather(kit, box, settings, jobs, part.done)
    write_results(output, results)
    part.write({"finished": given.session})
    show_times(results, kit)
    failed = [job for job in jobs if not part.done[tuple(job)]["passed"]]
    say("\n%d of %d jobs passed. Results: %s" % (len(jobs) - len(failed), len(jobs), output))
    return 1 if failed else 0


def main():
    given = arguments()
    if given.child:
        with open(given.child, encoding="ascii") as file:
            child(json.load(file))
    scratch = tempfile.mkdtemp(prefix="lprnet-kit-")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(128 + number))
    try:
        return run(given, scratch)
    except Wrong as wrong:
        sys.stderr.buffer.write(("run.py: %s\n" % wrong).encode("utf8"))
        return 2
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    except OSError as error:
        sys.stderr.buffer.write(
            (
                "run.py: %s: %s. Finished jobs are kept; mend that and run the "
                "same command again.\n" % (error.filename or "writing", error.strerror)
            ).encode("utf8")
        )
        return 2
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
