from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.errors import EngineError, ParameterError
from lprnet_nb.runtime import simulator
from lprnet_nb.runtime.bmodel_file import read_contents

TOLERANCE = 5e-4  # of float32 logits up to 30, sums in another order


@pytest.fixture
def simulate(compiler, bmodel):
    """Open the simulator on a file or a chip's BModel; closed after the test."""
    opened = []

    def open_one(what="BM1688", **options):
        path = what if isinstance(what, Path) else bmodel(what).path
        opened.append(simulator.SimulatorEngine(path, compiler.library_folder, **options))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.close()


def processes(engine):
    return [worker._process.pid for worker in engine._workers]


def gone(pid, within=20.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("chip", ["BM1684", "BM1684X", "BM1688"])
def test_agrees_with_torch(simulate, chip, inputs, reference):
    engine = simulate(chip)
    logits = engine.infer(inputs)
    assert np.abs(logits - reference).max() < TOLERANCE
    assert np.array_equal(logits.argmax(1), reference.argmax(1))
    assert engine.description["chip"] == chip and engine.description["shim"] == "yes"
    assert 0 < engine.runtime_seconds <= engine.seconds * engine.description["workers"]


def test_cv186x_runs_on_the_bm1688_simulator(simulate, inputs, reference):
    engine = simulate("CV186X")
    assert np.abs(engine.infer(inputs[:2]) - reference[:2]).max() < TOLERANCE
    assert "libcmodel_bm1688.so" in engine.description["libraries"]


def test_batches_with_a_mean_per_image_give_the_same_logits(simulate, bmodel, inputs, reference):
    engine = simulate(bmodel("BM1688", 4).path)
    assert engine.batch == 4
    assert np.abs(engine.infer(inputs) - reference).max() < TOLERANCE


def test_process_reads_as_sail_does(simulate, inputs, reference):
    engine = simulate()
    [graph] = engine.get_graph_names()
    [name], [output] = engine.get_input_names(graph), engine.get_output_names(graph)
    logits = engine.process(graph, {name: inputs[:1]})[output]
    assert logits.shape == (1, 68, 18) and logits.dtype == np.float32
    assert np.abs(logits - reference[:1]).max() < TOLERANCE


def test_one_and_two_workers_agree_to_the_bit(simulate, inputs):
    one, two = simulate(workers=1), simulate(workers=2)
    assert np.array_equal(one.infer(inputs), two.infer(inputs))
    assert len(processes(one)) == 1 and len(processes(two)) == 2


def test_an_idle_simulator_leaves_the_processor_alone(simulate, inputs):
    engine = simulate()
    engine.infer(inputs[:1])
    (pid,) = processes(engine)

    def spent():  # seconds of processor time, all threads
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = spent()
    time.sleep(3)
    assert spent() - before < 0.15  # 0.55 with threads that poll as they do at work


def test_without_the_shim_it_says_so(simulate, monkeypatch, inputs, reference, tmp_path):
    monkeypatch.setattr(simulator.children, "program", lambda *names: None)
    engine = simulate()
    assert engine.description["shim"].startswith("no: no C compiler found")
    assert np.abs(engine.infer(inputs[:1]) - reference[:1]).max() < TOLERANCE


def test_a_compiler_that_fails_costs_the_shim_alone(simulate, monkeypatch, tmp_path):
    monkeypatch.setattr(simulator, "artifact", lambda kind, inputs, build: build(tmp_path))
    monkeypatch.setattr(simulator.children, "program", lambda *names: "/bin/false")
    assert simulate().description["shim"] == "no: /bin/false failed: "


def test_a_cache_folder_that_cannot_be_preloaded_from_costs_the_shim_alone(simulate, monkeypatch):
    monkeypatch.setattr(simulator, "artifact", lambda *_: Path("/srv/my cache"))
    assert simulate().description["shim"].startswith("no: LD_PRELOAD cannot name /srv/my cache")


def test_a_killed_worker_is_replaced_and_its_image_run_again(simulate, inputs):
    expected = simulate(workers=1).infer(inputs)
    engine = simulate(workers=2)
    [first] = processes(engine)
    killer = threading.Timer(0.1, os.kill, (first, signal.SIGKILL))
    killer.start()
    assert np.array_equal(engine.infer(inputs), expected)
    assert first not in processes(engine)
    for pid in processes(engine):  # between two runs
        os.kill(pid, signal.SIGKILL)
    assert np.array_equal(engine.infer(inputs[:2]), expected[:2])


def test_a_call_that_keeps_killing_workers_is_an_error(simulate, monkeypatch, tmp_path, inputs):
    worker = tmp_path / "worker.py"
    source = simulator._WORKER.read_text()
    worker.write_text(
        source.replace(
            "    started = time.perf_counter()\n",
            "    print('about to fall', flush=True)\n    os.abort()\n",
        )
    )
    monkeypatch.setattr(simulator, "_WORKER", worker)
    engine = simulate(workers=1)
    with pytest.raises(EngineError, match=r"died 3 times running .*SIGABRT(.|\n)*about to fall"):
        engine.infer(inputs[:1])
    monkeypatch.undo()
    assert engine.infer(inputs[:1]).shape == (1, 68, 18)


def test_a_worker_that_dies_loading_is_an_error(simulate, monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setattr(simulator, "_WORKER", worker)
    with pytest.raises(EngineError, match="died 3 times loading .*SIGSEGV"):
        simulate()


def test_a_call_that_takes_too_long_is_an_error_and_the_engine_goes_on(simulate, inputs):
    engine = simulate(workers=1, timeout=1.5)
    [pid] = processes(engine)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match="did not answer within 1.5 s while running"):
        engine.infer(inputs[:1])
    assert gone(pid)
    engine._timeout = 60
    assert engine.infer(inputs[:1]).shape == (1, 68, 18)


def test_an_interrupt_leaves_a_usable_engine(simulate, inputs):
    engine = simulate(workers=2)
    expected = engine.infer(inputs)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(20):
            engine.infer(inputs)
    assert np.array_equal(engine.infer(inputs), expected)


def test_threads_may_share_an_engine(simulate, inputs):
    engine = simulate(workers=1)
    expected = engine.infer(inputs[:3])
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: engine.infer(inputs[i : i + 1])}))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[i][0], expected[i]) for i in range(3))


def test_close_ends_the_processes(simulate, inputs):
    engine = simulate(workers=2)
    engine.infer(inputs)
    pids = processes(engine)
    engine.close()
    assert len(pids) == 2 and all(gone(pid) for pid in pids)


@pytest.mark.parametrize("forked", [False, True])
def test_no_process_outlives_a_killed_parent(compiler, bmodel, forked):
    """Killed while its workers run; also where a process forked from it holds the pipes."""
    script = textwrap.dedent(f"""
        import os, signal, sys, threading, time
        from pathlib import Path
        import numpy as np
        from lprnet_nb.runtime.simulator import SimulatorEngine
        engine = SimulatorEngine(Path({str(bmodel("BM1688").path)!r}),
                                 Path({str(compiler.library_folder)!r}), workers=2)
        inputs = np.zeros((50, 3, 24, 94), np.float32)
        threading.Thread(target=engine.infer, args=(inputs,), daemon=True).start()
        while len(engine._workers) < 2: time.sleep(0.01)
        other = os.fork() if {forked} else 0
        if {forked} and not other:
            time.sleep(60)
        print(other, *(worker._process.pid for worker in engine._workers), flush=True)
        time.sleep(60)
        """)
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True
    )
    other, *workers = map(int, parent.stdout.readline().split())
    parent.kill()
    parent.wait()
    try:
        assert len(workers) == 2 and all(gone(pid) for pid in workers)
    finally:
        parent.stdout.close()
        if other:
            os.kill(other, signal.SIGKILL)


def test_a_forked_process_neither_uses_nor_kills_the_workers(simulate, inputs):
    engine = simulate(workers=1)
    pid = os.fork()
    if not pid:
        try:
            engine.infer(inputs[:1])
        except EngineError:
            engine.close()
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert engine.infer(inputs[:1]).shape == (1, 68, 18)


def test_damaged_metadata_costs_an_error_at_most(simulate, bmodel, tmp_path, inputs):
    """Seeded damage that our own reading may not see, given to the runtime itself."""
    data = bmodel("BM1684").path.read_bytes()
    dice = random.Random(11)
    path = tmp_path / "damaged.bmodel"
    outcomes = {"ran": 0, "refused": 0}
    for _ in range(12):
        damaged = bytearray(data)
        place = 64 + dice.randrange(int.from_bytes(data[8:12], "little"))
        damaged[place : place + 4] = dice.randbytes(4)
        path.write_bytes(damaged)
        try:
            simulate(path, timeout=20).infer(inputs[:1])
            outcomes["ran"] += 1
        except EngineError:
            outcomes["refused"] += 1
    assert sum(outcomes.values()) == 12 and outcomes["refused"]


def test_a_bmodel_for_another_chip_is_refused(simulate, bmodel, tmp_path):
    path = tmp_path / "other.bmodel"
    path.write_bytes(bmodel("BM1684X").path.read_bytes().replace(b"BM1684X\0", b"BM1690X\0"))
    with pytest.raises(EngineError, match="for the chip BM1690X, which cannot be simulated"):
        simulate(path)
    path.write_bytes(bmodel("BM1684X").path.read_bytes().replace(b"BM1684X\0", b"BM1684\0\0"))
    if read_contents(path).chip != "BM1684X":  # its name alone was changed
        with pytest.raises(EngineError):
            simulate(path)


def test_missing_libraries_are_named(bmodel, tmp_path):
    with pytest.raises(EngineError, match="libbmlib.so.0 is missing"):
        simulator.SimulatorEngine(bmodel("BM1688").path, tmp_path)


@pytest.mark.parametrize("options", [{"workers": 0}, {"timeout": 0}, {"workers": 1000}])
def test_impossible_options_are_refused(simulate, options):
    with pytest.raises(ParameterError, match="is not possible"):
        simulate(**options)
