"""A dask cluster of its own processes, to be measured and to be killed."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from ..children import DEVNULL, Child, TimeoutExpired, environment, start

_START_SECONDS = 60.0
# Told to end, it ends its own; where nobody is left to tell it, it ends by itself.
_DASK = (
    "import runpy, sys; from lprnet_nb.children import end_with; end_with(int(sys.argv.pop(1))); "
    "runpy.run_module('dask', run_name='__main__', alter_sys=True)"
)


class Cluster:
    """A scheduler and workers started by hand, as on a rack of machines.

    Parameters
    ----------
    caches
        Cache folder of each worker, as if each were a machine of its own.
    """

    def __init__(self, environment: dict[str, str], caches: list[Path]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._environment = environment
        self.scheduler = self._start(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            self.address.rsplit(":", 1)[1],
            "--no-dashboard",
        )
        self.workers = [
            self._start(
                "worker",
                self.address,
                "--nthreads",
                "1",
                "--no-dashboard",
                "--local-directory",
                str(cache.parent / "dask"),
                LPRNET_CACHE=str(cache),
            )
            for cache in caches
        ]

    def _start(self, *arguments: str, **variables: str) -> Child:
        return start(
            [sys.executable, "-P", "-c", _DASK, str(os.getpid()), *arguments],
            supervisor=None,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env=environment() | self._environment | variables,
        )

    def wait(self) -> None:
        """Until all workers are there."""
        from distributed import Client

        with Client(self.address, timeout=_START_SECONDS) as client:
            client.wait_for_workers(len(self.workers), timeout=_START_SECONDS)

    def tries(self) -> int:
        """How often the scheduler hands out a piece whose worker dies, as it is set up."""
        from distributed import Client

        with Client(self.address, timeout=_START_SECONDS) as client:
            return client.run_on_scheduler(_allowed_failures) + 1

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.terminate()
        for process in [*self.workers, self.scheduler]:
            try:
                process.wait(20)
            except TimeoutExpired:
                process.kill()
                process.wait()


def _allowed_failures(dask_scheduler: Any) -> int:
    return dask_scheduler.allowed_failures
