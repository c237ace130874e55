"""Make pieces of work on dask.distributed: in this process, on all cores, or on a cluster.

There is one way: what is in the cache is found, the rest is handed to a scheduler. Small work runs
on threads of this process, where starting others would take longer than it does; large work on an
embedded cluster of processes; any work on the cluster that `LPRNET_SCHEDULER` names.
"""

from __future__ import annotations

import contextlib
import faulthandler
import html
import logging
import os
import secrets
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from ..cache import NotMade, nothing_made
from ..children import clean_own_environment, running, stop_tools
from ..errors import EngineError, ParameterError
from ..files import make_folder, private_folder
from ..memory import keep_memory
from ..places import cache_dir
from ..progress import progress_bar
from ..runtime.inference import close_models
from ..settings import settings, variable
from ..toolchain.lowering import close_quantizers
from .pieces import SHARED, Piece, with_needs
from .transport import receive, send

SCHEDULER_VARIABLE = variable("scheduler")
PROCESSES_PAY = 30.0  # seconds of inference on one core, from which on processes are worth starting
WORKER_GIB = 2.0  # of memory for each: torch, an emulator, a simulator child
TRIES = 3  # of a piece whose worker died; a scheduler started by hand has a setting of its own
CONNECT_SECONDS = 20.0
# A process of this machine that gives no sign for so long is stopped, and is ended and replaced: on
# a machine at load 20 it gets seconds of processor time meanwhile. Until then it is only slow.
STALLED_SECONDS = 120.0
SLOW_SECONDS = 120.0  # that processes of this machine may take to answer one another
ALONE_SECONDS = 300.0  # that a scheduler may be without workers, or without an answer, under work
WORKER_SECONDS = 60.0  # that a scheduler without workers is given
TUNED = {  # what docs/scaling.md advises for a scheduler and workers that are started by hand, too
    # A piece takes seconds: one that waits at a busy worker would be late at the end.
    "distributed.scheduler.worker-saturation": 1.0,
    # Looking at its own stack a hundred times a second costs a worker 2 to 3 %.
    "distributed.worker.profile.enabled": False,
}
_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_AHEAD = 16  # pieces of a stream for each worker, handed out at a time


def make(
    pieces: Iterable[Piece], label: str, *, progress: bool = True, limit: float | None = None
) -> dict[Piece, Any]:
    """Find or make pieces and all that they need, each once.

    Parameters
    ----------
    pieces
        What is wanted.
    label
        What the progress bar says.
    progress
        Show a bar and the dashboard's address, in a notebook or a terminal.
    limit
        Seconds for each piece in place of its own limit.

    Returns
    -------
    dict
        Results by piece.

    Raises
    ------
    LprnetError
        What a piece raised; `ParameterError` when different pieces have one name; `EngineError`
        when its worker died too often or ran out of time, with the log's place and end, and when
        the scheduler is lost. Finished pieces are kept, and the same call goes on with the rest.
    """
    pieces = with_needs(pieces)
    done, _ = look(pieces)
    missing = [piece for piece in pieces if piece not in done]
    with progress_bar(len(pieces), label, progress) as advance, contextlib.ExitStack() as stack:
        advance(len(done))
        stack.callback(_let_go)
        cluster: _Cluster | None = None
        while missing:
            for piece in missing:
                if piece.here and done.keys() >= set(piece.needs):
                    done[piece] = _call(piece, done)
                    advance(1)
            ready = _without_here([piece for piece in missing if piece not in done])
            if ready:
                if cluster is None:
                    cluster = stack.enter_context(_cluster(_in_processes(ready), progress))
                for piece, result in cluster.run(ready, done, limit):
                    done[piece] = result
                    advance(1)
            missing = [piece for piece in missing if piece not in done]
    return done


def stream(
    pieces: Iterable[Piece], label: str, total: int, seconds: float, *, progress: bool = True
) -> Iterator[tuple[Piece, Any]]:
    """Find or make any number of pieces that need no others; only a few are in memory at a time.

    Parameters
    ----------
    pieces
        Taken one by one.
    label, progress
        See `make`.
    total
        How many they are.
    seconds
        About how long they take together on one core.

    Yields
    ------
    tuple
        A piece and its result, in no particular order.

    Raises
    ------
    LprnetError
        As `make` raises it.
    """
    with progress_bar(total, label, progress) as advance, contextlib.ExitStack() as stack:
        cluster: _Cluster | None = None
        missing: list[Piece] = []
        waiting = iter(pieces)
        while True:
            for piece in waiting:
                done, _ = look([piece])
                if done:
                    yield piece, done[piece]
                    advance(1)
                    continue
                missing.append(piece)
                if cluster is None:
                    cluster = stack.enter_context(_cluster(seconds >= PROCESSES_PAY, progress))
                    stack.callback(_let_go)
                if len(missing) == _AHEAD * cluster.size():
                    break
            if not missing or cluster is None:
                return
            for piece, result in cluster.run(missing, {}, None):
                yield piece, result
                advance(1)
            missing = []


def look(pieces: Sequence[Piece]) -> tuple[dict[Piece, Any], set[Piece]]:
    """Results that are in the cache, and the pieces that some process is making at this moment.

    A piece is looked for by making it where nothing may be made. The names of its artifacts cannot
    be told beforehand: they are digests of what it needs as that came out (a BModel's bytes), of
    what an opened engine says of its libraries, and some pieces leave one artifact after another.
    What makes them is the one place that knows them.

    Parameters
    ----------
    pieces
        Those that are needed before those that need them, as `with_needs` gives them.
    """
    done: dict[Piece, Any] = {}
    running: set[Piece] = set()
    for piece in pieces:
        if done.keys() >= set(piece.needs):
            try:
                with nothing_made():
                    done[piece] = _call(piece, done)
            except NotMade as error:
                if error.running:
                    running.add(piece)
    return done, running


def _call(piece: Piece, done: Mapping[Piece, Any]) -> Any:
    return piece.make(*(done[need] for need in piece.needs), **piece.arguments)


def _let_go() -> None:
    """Close what pieces of this process kept open for the next one."""
    close_models()
    close_quantizers()


def _without_here(missing: list[Piece]) -> list[Piece]:
    """Pieces that wait for none that is made here."""
    blocked = {piece for piece in missing if piece.here}
    ready = []
    for piece in missing:
        if not piece.here and blocked.isdisjoint(piece.needs):
            ready.append(piece)
        else:
            blocked.add(piece)
    return ready


@contextlib.contextmanager
def _cluster(large: bool, progress: bool) -> Iterator[_Cluster]:
    """The cluster that work is worth, closed afterwards with everything it started."""
    import dask
    from distributed import Client
    from distributed.comm import CommClosedError

    address = settings().scheduler
    cores: int | None
    quiet: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        "distributed.scheduler.worker-ttl": STALLED_SECONDS,
        "distributed.comm.timeouts.connect": CONNECT_SECONDS if address else SLOW_SECONDS,
        "distributed.worker.daemon": False,
        # dask puts its folders in front of what Python imports, the scheduler's into this process.
        "temporary-directory": str(private_folder()),
        **TUNED,
    }
    secret = secrets.token_urlsafe(24)
    if not address:
        routes = dask.config.get("distributed.scheduler.http.routes") if large else []
        quiet["distributed.scheduler.http.routes"] = [f"{__package__}.closed", *routes]
        quiet["distributed.worker.http.routes"] = []
        quiet["distributed.dashboard.link"] = f"{{scheme}}://{{host}}:{{port}}/{secret}/status"
    # What a dying cluster has to say comes as one error of ours.
    for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with dask.config.set(quiet), contextlib.ExitStack() as stack:
            if address:
                client = stack.enter_context(_connected(address))
                with_files = not _shared(client)
                cores = 1
            else:
                count = workers_here() if large else 0
                with_files = False
                # A process has its cores' share; in this process each piece may use them all.
                cores = max(1, cores_here() // count) if count else None
                clean_own_environment()  # workers and their successors start from it
                stack.enter_context(_none_left())
                local = stack.enter_context(_local_cluster(count, secret))
                stack.callback(_signal_workers, signal.SIGCONT)  # a stopped one cannot close
                client = stack.enter_context(Client(local))
            if progress and (address or count):
                stack.enter_context(_shown(client.dashboard_link, lasting=bool(address)))
            try:
                yield _Cluster(client, address, cores, with_files, contained=bool(address or count))
            except BaseException:
                stop_tools()  # threads of this process would wait for theirs
                close_quantizers()
                raise
    except CommClosedError as error:  # between two answers of the scheduler
        raise _gone(address) from error


def _local_cluster(count: int, secret: str) -> Any:
    """A cluster of `count` processes, or of threads for 0, that no other user may talk to.

    Whoever reaches a scheduler or worker runs code as its user, and the other users of this machine
    reach its loopback: threads talk without it, processes by certificates made for this cluster
    alone. The dashboard is below `secret`, a part of its address that nobody can guess.
    """
    from distributed import LocalCluster
    from distributed.security import Security

    shared: dict[str, Any] = {
        "silence_logs": logging.CRITICAL,
        "memory_limit": None,
        "dashboard_address": "127.0.0.1:0",
    }
    try:
        if not count:
            return LocalCluster(
                n_workers=1,
                threads_per_worker=workers_here(),
                processes=False,
                scheduler_kwargs={"dashboard": False},
                **shared,
            )
        return LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            security=Security.temporary(),
            scheduler_kwargs={"http_prefix": secret},
            death_timeout=ALONE_SECONDS,
            **shared,
        )
    except ImportError as error:
        raise EngineError(
            "worker processes of this machine know one another by certificates, for which the "
            f"package 'cryptography' is missing ({error}). Install it into this environment (pip "
            "install cryptography), and run the same command again; finished pieces are kept."
        ) from error
    # dask asserts, while it closes what did not start in time, that it had.
    except (RuntimeError, OSError, AssertionError) as error:
        raise EngineError(
            f"the worker processes of this machine did not start ({error}). See that it has memory "
            "and is not overloaded, and run the same command again; finished pieces are kept."
        ) from error


@contextlib.contextmanager
def _none_left() -> Iterator[None]:
    """Afterwards no worker process is left, whatever became of the cluster.

    dask may start the successor of a lost worker while it closes, and asks a stopped one to end,
    which it cannot. The exit of this process would wait for either without end.
    """
    try:
        yield
    finally:
        for process in _signal_workers(signal.SIGKILL):
            process.join()


def _signal_workers(sign: signal.Signals) -> list[Any]:
    """Send a signal to the worker processes of this process; returns them."""
    workers = running("Dask")
    for worker in workers:
        if worker.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, sign)
    return workers


def _gone(address: str | None) -> EngineError:
    return EngineError(
        f"the scheduler {_where(address)} is gone, or did not answer for long. Finished "
        "pieces are kept; see that it runs and run the same command again."
    )


def _where(address: str | None) -> str:
    return f"at {address}" if address else "of this process"


def _in_processes(pieces: list[Piece]) -> bool:
    """Whether these pieces are worth processes: compilers are processes of their own anyway."""
    return sum(piece.seconds for piece in pieces if piece.kind == "infer") >= PROCESSES_PAY


def workers_here() -> int:
    """Worker processes that this machine's cores and free memory allow, at least one."""
    with open("/proc/meminfo", encoding="ascii") as file:
        facts = dict(line.split(":", 1) for line in file)
    free = int(facts["MemAvailable"].split()[0]) / 2**20
    return max(1, min(cores_here(), int(free / WORKER_GIB)))


def cores_here() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"no scheduler answers at {address!r} ({error}). Start one with `dask "
            "scheduler`, and name the address it prints, such as "
            "tcp://host:8786."
        ) from error
    try:
        from distributed import TimeoutError as Late

        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except Late as error:
            raise EngineError(
                f"the scheduler at {address} has no workers. Start some with `dask "
                f"worker {address} --nthreads 1`, where lprnet-nb is installed."
            ) from error
        yield client
    finally:
        client.close()


def _shared(client: Any) -> bool:
    """Whether all workers see this process's cache folder, by a file that is there for a moment.

    Not known of a worker that dies meanwhile: then files travel, which is never wrong.
    """
    token = cache_dir() / "artifacts" / f".seen-{secrets.token_hex(8)}"
    make_folder(token.parent)
    token.touch()
    try:
        answers = client.run(_sees, token.name, on_error="return")
        return bool(answers) and all(answer is True for answer in answers.values())
    finally:
        token.unlink()


def _sees(name: str) -> bool:
    return (cache_dir() / "artifacts" / name).exists()


@contextlib.contextmanager
def _shown(dashboard: str, lasting: bool) -> Iterator[None]:
    """Show where the work can be watched: a link in a notebook, a line in a terminal.

    The link to a cluster that ends with the work goes when that does.
    """
    console, shown = Console(stderr=True, highlight=False), None
    if console.is_jupyter:
        from IPython.display import HTML, display

        link = html.escape(dashboard, quote=True)
        shown = display(HTML(f"work in progress: <a href='{link}'>{link}</a>"), display_id=True)
    elif console.is_terminal:
        console.print(f"work in progress: {dashboard}")
    try:
        yield
    finally:
        if shown is not None and not lasting:
            shown.update(HTML(""))


@dataclass(frozen=True)
class _Cluster:
    client: Any
    address: str | None
    cores: int | None
    with_files: bool
    contained: bool

    def size(self) -> int:
        """How many pieces are made at a time."""
        return max(1, sum(self.client.nthreads().values()))

    def run(
        self, pieces: list[Piece], done: Mapping[Piece, Any], limit: float | None
    ) -> Iterator[tuple[Piece, Any]]:
        """Make pieces; yields them and their results as they come."""
        from distributed import CancelledError

        futures: dict[Piece, Any] = {}
        shared: dict[int, Any] = {}
        run = uuid.uuid4().hex  # dask knows results by name; ours are in our own cache
        try:
            for piece in pieces:
                values = dict(piece.arguments)
                large = {
                    key: values.pop(key) for key in [*values] if isinstance(values[key], SHARED)
                }
                for value in large.values():
                    if id(value) not in shared:
                        # A task, not scattered data: it is made again when its holder dies.
                        shared[id(value)] = self.client.submit(
                            _same, value, key=f"shared-{len(shared)}#{run}", pure=False
                        )
                task = _Task(
                    piece.name,
                    piece.make,
                    limit or piece.limit,
                    self.contained,
                    self.with_files,
                    {"cores": self.cores} if piece.shares_cores else {},
                )
                futures[piece] = self.client.submit(
                    _work,
                    task,
                    send(values, self.with_files),
                    {key: shared[id(value)] for key, value in large.items()},
                    [
                        send(done[need], self.with_files) if need in done else futures[need]
                        for need in piece.needs
                    ],
                    key=f"{piece.name}#{run}",
                    pure=False,
                )
            yield from self._gather({future: piece for piece, future in futures.items()})
        except CancelledError as error:  # the connection was lost, and perhaps is there again
            raise _gone(self.address) from error
        finally:
            self.client.cancel([*futures.values(), *shared.values()], force=True)

    def _gather(self, waiting: dict[Any, Piece]) -> Iterator[tuple[Piece, Any]]:
        from distributed import TimeoutError as Late
        from distributed import wait

        heard = time.monotonic()
        while waiting:
            with contextlib.suppress(Late):
                wait(list(waiting), _POLL_SECONDS, return_when="FIRST_COMPLETED")
            if self.client.status not in ("running", "newly-created"):
                raise _gone(self.address)
            finished = [future for future in waiting if future.done()]
            if finished or self._has_workers():
                heard = time.monotonic()
            elif time.monotonic() - heard > ALONE_SECONDS:
                raise EngineError(
                    f"the scheduler {_where(self.address)} has had no workers for "
                    f"{ALONE_SECONDS:.0f} s, or does not answer. Finished pieces are kept; see "
                    "that workers run and are not stopped, and run the same command again."
                )
            for future in finished:
                yield waiting.pop(future), self._result(future)

    def _has_workers(self) -> bool:
        try:
            return bool(self._ask_workers())
        except (TimeoutError, OSError):
            return False

    def _ask_workers(self) -> Any:
        return self.client.sync(self.client.scheduler.ncores, callback_timeout=_ANSWER_SECONDS)

    def _result(self, future: Any) -> Any:
        from distributed.scheduler import KilledWorker

        if future.cancelled() or future.status == "lost":
            raise _gone(self.address)
        try:
            return receive(future.result())
        except KilledWorker as error:
            # A piece that waited for the one that died is told of that one.
            name = str(error.task).split("#")[0]
            raise EngineError(
                f"piece {name} lost its worker {error.allowed_failures + 1} times, "
                f"the last at {error.last_worker.address}. Either something ended "
                "it, perhaps for want of memory, or it was stopped, or the piece took too long or "
                f"crashed; finished pieces are kept.{_log_of(name)}"
            ) from error


@dataclass(frozen=True)
class _Task:
    """What a worker has to know of a piece besides its arguments."""

    name: str
    make: Any
    limit: float
    contained: bool
    with_files: bool
    cores: dict[str, int | None]


def _same(value: Any) -> Any:
    return value


def _work(task: _Task, values: bytes, shared: dict[str, Any], needs: list[bytes]) -> bytes:
    """Make one piece, in a worker."""
    arguments = receive(values) | shared | task.cores
    if task.contained:  # a process of its own
        keep_memory()
    with _watched(task) if task.contained else contextlib.nullcontext():
        return send(task.make(*map(receive, needs), **arguments), task.with_files)


def log_path(name: str) -> Path:
    """Where the worker of a piece writes what it is at, until the piece is done."""
    return cache_dir() / "logs" / "pieces" / f"{name.replace('/', '-')}.log"


@contextlib.contextmanager
def _watched(task: _Task) -> Iterator[None]:
    """Leave a log that a crash completes, and end this process when the piece takes too long.

    The worker is then replaced and the piece tried again, as after any other death.
    """
    log = log_path(task.name)
    make_folder(log.parent)
    with open(log, "a", encoding="utf8", buffering=1) as file:
        file.write(
            f"{time.strftime('%F %T')} {task.name} on {socket.gethostname()}, process "
            f"{os.getpid()}\n"
        )
        with _watchdog(task.limit, file):
            try:
                yield
            except BaseException as error:
                file.write(f"{type(error).__name__}: {error}\n")
                raise
    log.unlink(missing_ok=True)


@contextlib.contextmanager
def _watchdog(limit: float, file: IO[str]) -> Iterator[None]:
    """Say where a crash happened; end the process after `limit` seconds, saying where it was."""
    ended = threading.Event()

    def end() -> None:
        if not ended.wait(limit):
            file.write(f"not done within {limit:g} s; it was here:\n")
            faulthandler.dump_traceback(file)
            os._exit(1)

    faulthandler.enable(file)
    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        faulthandler.disable()


def _log_of(name: str, characters: int = 1500) -> str:
    log = log_path(name)
    try:
        lines = log.read_text("utf8", "replace").splitlines()
    except OSError:
        return ""
    # faulthandler ends with hundreds of names of modules.
    text = "\n".join(line for line in lines if not line.startswith("Extension modules:"))
    return f" The end of its log ({log}):\n{text[-characters:].strip()}"
