"""Pieces of work: found, made, in this process, in processes and on a cluster started by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import IPython.display
import numpy as np
import psutil
import pytest
from distributed.comm import connect
from distributed.security import Security

from lprnet_nb.cache import NotMade, artifact, locked, nothing_made
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.splits import cross_fit
from lprnet_nb.errors import DataError, EngineError, ParameterError
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.proof.cluster import Cluster
from lprnet_nb.toolchain.strategies import make_strategy
from lprnet_nb.work import scheduler
from lprnet_nb.work.pieces import Piece, given, trace_piece, with_needs
from lprnet_nb.work.transport import receive, send


def number(*needs: int, plus: int) -> int:
    """The sum, kept in the cache; each making is noted."""

    def build(folder: Path) -> None:
        with open(os.environ["SCHEDULER_TEST_LOG"], "a", encoding="utf8") as file:
            file.write(f"{plus}\n")
        (folder / "value").write_text(str(sum(needs) + plus))

    return int((artifact("number", {"needs": needs, "plus": plus}, build) / "value").read_text())


def refuse(_: int) -> None:
    raise DataError("no such luck")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own; gives what was made so far, in order."""
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SCHEDULER_TEST_LOG", str(tmp_path / "log"))
    monkeypatch.delenv(scheduler.SCHEDULER_VARIABLE, raising=False)
    # Workers have to find this module.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def made() -> list[int]:
        log = tmp_path / "log"
        return [int(line) for line in log.read_text().split()] if log.exists() else []

    return made


def sums() -> list[Piece]:
    a, b = Piece("a", number, {"plus": 1}), Piece("b", number, {"plus": 2})
    c = Piece("c", number, {"plus": 10}, (a, b))
    d = Piece("d", number, {"plus": 100}, (c,), here=True)
    return [a, b, c, d, Piece("e", number, {"plus": 1000}, (d, a))]


def made(pieces: list[Piece]) -> dict[str, int]:
    """Results by name."""
    done = scheduler.make(pieces, "x", progress=False)
    return {piece.name: value for piece, value in done.items()}


def test_what_is_made_is_found_and_the_rest_is_made_once(cache):
    assert scheduler.look(sums()) == ({}, set()) and cache() == []
    assert made(sums()[:2]) == {"a": 1, "b": 2}
    whole = {"a": 1, "b": 2, "c": 13, "d": 113, "e": 1114}
    assert made(sums()[-1:]) == whole  # with all that the last one needs
    assert sorted(cache()) == [1, 2, 10, 100, 1000]
    assert scheduler.look(sums())[0][sums()[-1]] == 1114
    assert made([*sums(), *sums()]) == whole and len(cache()) == 5


def test_an_error_of_a_piece_comes_through_and_finished_ones_stay(cache):
    with pytest.raises(DataError, match="no such luck"):
        made([Piece("f", refuse, {}, (sums()[0],))])
    assert scheduler.look(sums())[0] == {sums()[0]: 1}


def test_a_stream_takes_any_number_and_makes_each_once(cache):
    def pieces():
        return (Piece(f"n{plus}", number, {"plus": plus}) for plus in range(50))

    for _ in range(2):
        found = list(scheduler.stream(pieces(), "x", 50, 0.0, progress=False))
        assert {piece.name: value for piece, value in found} == {
            f"n{plus}": plus for plus in range(50)
        }
    assert sorted(cache()) == list(range(50))


def test_nothing_is_made_while_only_looking(cache, tmp_path):
    with nothing_made(), pytest.raises(NotMade) as missing:
        number(plus=5)
    assert not missing.value.running and not (tmp_path / "cache").exists()
    folder = tmp_path / "cache" / "artifacts" / "number"
    number(plus=5)
    [key] = [path.name for path in folder.iterdir() if path.is_dir()]
    for file in (folder / key).iterdir():
        file.unlink()
    with locked(folder / key, "a test"), nothing_made(), pytest.raises(NotMade) as missing:
        number(plus=5)
    assert missing.value.running


def test_a_piece_is_known_by_all_that_decides_its_result_and_by_nothing_else():
    first = Piece("a", number, {"plus": 1}, (given("n", 2),))
    assert first == Piece("b", number, {"plus": 1}, (given("m", 2),), here=True, seconds=9.0)
    for other in (
        Piece("a", number, {"plus": 2}, (given("n", 2),)),
        Piece("a", number, {"plus": 1}, (given("n", 3),)),
        Piece("a", number, {"plus": 1}),
        Piece("a", refuse, {"plus": 1}, (given("n", 2),)),
    ):
        assert first != other
        with pytest.raises(ParameterError, match="two different pieces of work are called 'a'"):
            with_needs([first, Piece("b", number), other])


def test_arguments_are_told_apart_by_what_they_hold():
    plates = generate_plates(3, seed=1, workers=0)
    split, weights = cross_fit(3, 2, 0)[0], load_own_weights()
    mine = make_strategy(name="mine", images=20)
    values = [
        plates.images,
        plates.images.astype(np.int8),
        plates,
        plates.take([0, 1]),
        split,
        cross_fit(3, 2, 1)[0],
        weights,
        mine,
        mine.model_copy(update={"finetune": True}),
        (1, "a"),
        (1, "b"),
        None,
    ]
    assert len({Piece("a", number, {"plus": value}).key for value in values}) == len(values)
    named = mine.model_copy(update={"name": "other", "about": "The same."})
    assert given("a", mine) == given("b", named)
    with pytest.raises(TypeError, match="object cannot be an argument of a piece"):
        _ = given("a", object()).key
    assert trace_piece(weights, 1, "image", "forked") != trace_piece(
        weights, 1, "image", "published"
    )


def test_what_is_needed_comes_first_and_each_piece_once():
    a, b, c, d, e = sums()
    assert with_needs([e, b, e, a]) == [a, b, c, d, e]


def cores_of(cores: int | None = 7, backend: str = "") -> tuple[int | None, str]:
    """What it was told of cores."""
    return cores, backend


def test_cores_are_told_to_pieces_that_ask_for_them_and_to_no_others(cache):
    asks = Piece("a", cores_of, {"backend": "x"}, shares_cores=True)
    with scheduler._cluster(False, False) as cluster:
        shared = dataclasses.replace(cluster, cores=3)
        found = dict(shared.run([asks, Piece("b", cores_of, {"backend": "y"})], {}, None))
    assert sorted(found.values()) == [(3, "x"), (7, "y")]


def test_paths_into_the_cache_follow_the_cache(cache, tmp_path, monkeypatch):
    number(plus=7)
    [folder] = (tmp_path / "cache" / "artifacts" / "number").glob("*/value")
    bare, whole = send([folder, Path("/etc")], False), send(folder, True)
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "other"))
    with pytest.raises(DataError, match="not in this machine's cache"):
        receive(bare)
    moved = receive(whole)
    assert moved.is_relative_to(tmp_path / "other") and moved.read_text() == "7"
    assert receive(bare) == [moved, Path("/etc")]


@pytest.mark.slow
def test_processes_of_this_machine(cache, monkeypatch):
    """``scripts/test.sh -m slow tests/report/test_scheduler.py``."""
    monkeypatch.setattr(scheduler, "PROCESSES_PAY", 0.0)
    monkeypatch.setattr(scheduler, "workers_here", lambda: 2)
    pieces = [Piece(f"infer/{n}", number, {"plus": n}) for n in range(6)]
    assert made(pieces) == {f"infer/{n}": n for n in range(6)}
    assert sorted(cache()) == list(range(6))


@pytest.mark.slow
def test_a_cluster_with_caches_of_its_own(cache, tmp_path, monkeypatch):
    """``scripts/test.sh -m slow tests/report/test_scheduler.py``."""
    hosts = [tmp_path / name / "cache" for name in ("one", "two")]
    hosts_cluster = Cluster(dict(os.environ), hosts)
    monkeypatch.setenv(scheduler.SCHEDULER_VARIABLE, hosts_cluster.address)
    try:
        hosts_cluster.wait()
        assert made(sums())["e"] == 1114
        hosts_cluster.scheduler.kill()
        started = time.monotonic()
        with pytest.raises(ParameterError, match="no scheduler answers"):
            made([Piece("z", number, {"plus": 9})])
        assert time.monotonic() - started < 60
    finally:
        hosts_cluster.close()


def see_or_die(name: str) -> bool:
    """The first worker that is asked dies."""
    try:
        Path(os.environ["SCHEDULER_TEST_LOG"] + ".died").touch(exist_ok=False)
    except FileExistsError:
        return True
    os._exit(1)


@pytest.mark.slow
def test_a_worker_that_dies_while_the_cache_is_looked_for(cache, tmp_path, monkeypatch):
    """``scripts/test.sh -m slow tests/report/test_scheduler.py``."""
    cluster = Cluster(dict(os.environ), [tmp_path / "cache"] * 2)
    monkeypatch.setenv(scheduler.SCHEDULER_VARIABLE, cluster.address)
    monkeypatch.setattr(scheduler, "_sees", see_or_die)
    try:
        cluster.wait()
        assert made(sums())["e"] == 1114
    finally:
        cluster.close()
    assert sorted(cache()) == [1, 2, 10, 100, 1000] and list(tmp_path.glob("*.died"))


def rest(seconds: float) -> None:
    time.sleep(seconds)


def test_a_connection_that_is_lost_and_found_again_is_one_error(cache):
    """The scheduler forgets what a client wanted whose connection broke, and takes it back."""
    with scheduler._cluster(False, False) as cluster:
        client = cluster.client
        client.loop.call_later(0.5, lambda: client.scheduler_comm.comm.abort())
        with pytest.raises(EngineError, match="scheduler of this process is gone, or did not"):
            list(cluster.run([Piece("a", rest, {"seconds": 2.0})], {}, None))


def test_the_dashboard_is_linked_while_the_work_lasts(monkeypatch):
    """In a notebook's cell; the link to somebody's own cluster stays."""
    told = []

    class Handle:
        def update(self, shown):
            told.append(shown.data)

    monkeypatch.setattr(scheduler, "Console", lambda **_: SimpleNamespace(is_jupyter=True))
    monkeypatch.setattr(
        IPython.display, "display", lambda shown, display_id: told.append(shown.data) or Handle()
    )
    with scheduler._shown("http://127.0.0.1:8787/status", lasting=False):
        assert told == [
            "work in progress: <a href='http://127.0.0.1:8787/status'>"
            "http://127.0.0.1:8787/status</a>"
        ]
    assert told.pop() == ""
    with scheduler._shown("http://host:8787/status", lasting=True):
        pass
    assert "http://host:8787/status" in told[-1]


def test_processes_are_hosts_clusterfor_long_inference_alone():
    slow, quick = Piece("infer/a", number, seconds=31.0), Piece("infer/b", number, seconds=1.0)
    compiling = Piece("compile/a", number, seconds=1000.0)
    assert scheduler._in_processes([slow]) and not scheduler._in_processes([quick, compiling])
    assert 1 <= scheduler.workers_here() <= len(os.sched_getaffinity(0))


def listening() -> set[int]:
    """Ports that this process and its children listen on."""
    pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    return {
        connection.laddr.port
        for pid in pids
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


async def asked(address: str, security: Security) -> dict:
    """What a scheduler or worker says of itself; whoever gets that may also have code run."""
    options = security.get_connection_args("client")
    async with asyncio.timeout(5):
        wire = await connect(address, timeout=4, **options)
        await wire.write({"op": "identity", "reply": True})
        return await wire.read()


@pytest.mark.slow
def test_nobody_else_may_talk_to_the_processes_of_this_machine(cache, monkeypatch):
    """Without their certificates nothing is run; without its secret the dashboard shows nothing."""
    monkeypatch.setattr(scheduler, "workers_here", lambda: 1)
    before = listening()
    with scheduler._cluster(True, False) as cluster:
        client = cluster.client
        [worker] = client.nthreads()
        for address in (client.scheduler.address, worker):
            assert asyncio.run(asked(address, client.security))["type"] in ("Scheduler", "Worker")
            with pytest.raises((OSError, TimeoutError)):
                asyncio.run(asked(address, Security.temporary()))  # certificates of another
        for port in listening() - before:
            with pytest.raises((OSError, TimeoutError)):
                asyncio.run(asked(f"tcp://127.0.0.1:{port}", Security()))
        root, secret = client.dashboard_link.removesuffix("/status").rsplit("/", 1)
        assert len(secret) >= 32
        assert b"Dask" in urllib.request.urlopen(client.dashboard_link).read()
        for path in ("", "status", "sitemap.json", "info/main/workers.html", "json/counts.json"):
            with pytest.raises(urllib.error.HTTPError, match="404|500"):
                urllib.request.urlopen(f"{root}/{path}")
    assert listening() <= before


def test_threads_listen_to_nobody_but_this_process(cache):
    before = listening()
    with scheduler._cluster(False, False) as cluster:
        assert cluster.client.scheduler.address.startswith("inproc://")
        for port in listening() - before:
            for path in ("", "status", "json/counts.json"):
                with pytest.raises(urllib.error.HTTPError, match="404|500"):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}")


@pytest.mark.parametrize("stopped", [False, True])
def test_no_worker_is_left_behind_a_cluster(stopped):
    """The exit of this process would wait for it; SIGTERM does not end one that is stopped."""
    fork = multiprocessing.get_context("fork")
    with scheduler._none_left():
        left = fork.Process(target=time.sleep, args=(600,), name="Dask Worker process")
        left.start()
        if stopped:
            os.kill(left.pid, signal.SIGSTOP)
    assert left.exitcode == -signal.SIGKILL
    other = fork.Process(target=time.sleep, args=(0.5,), name="a pool's")
    with scheduler._none_left():
        other.start()
    other.join()
    assert other.exitcode == 0


def test_a_scheduler_without_workers_is_one_error(cache, monkeypatch):
    monkeypatch.setattr(scheduler, "ALONE_SECONDS", 2.0)
    with scheduler._cluster(False, False) as cluster:
        cluster.client.sync(cluster.client.retire_workers)
        with pytest.raises(EngineError, match="has had no workers for 2 s"):
            list(cluster.run([Piece("a", number, {"plus": 1})], {}, None))
