"""Kernels of the notebooks that papermill runs: in an environment of ours, ended from anywhere."""

from __future__ import annotations

import contextlib
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from .. import children
from ..places import repository

_running: set[Kernel] = set()


class Kernel(AsyncKernelManager):
    """A kernel that stands in the checkout and takes nothing of the user's settings.

    Papermill would change this process's own folder and environment for it, which notebooks that
    run side by side share.
    """

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        self._until_gone = contextlib.ExitStack()
        environment = self._until_gone.enter_context(children.kernel_environment())
        _running.add(self)
        await super().start_kernel(env=environment, cwd=str(repository()), **options)

    async def cleanup_resources(self, restart: bool = False) -> None:  # type: ignore[override]
        await super().cleanup_resources(restart)
        _running.discard(self)
        self._until_gone.close()


def end_kernels() -> None:
    """End every kernel here at once; the notebooks that other threads run in them fail."""
    for kernel in [*_running]:
        process = getattr(kernel.provisioner, "process", None)
        if process is not None and process.poll() is None:
            children.kill_group(process)
