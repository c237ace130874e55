"""A progress bar for the notebook and the terminal, silent where nobody looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(total: int, label: str, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a bar over `total` steps; yields a function that moves it on by a number of steps.

    Nothing is shown unless `wanted`, in a Jupyter cell or a terminal.
    """
    console = Console(stderr=True)
    if not wanted or not (console.is_terminal or console.is_jupyter):
        yield lambda steps: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(label, total=total)
        yield lambda steps: progress.advance(task, steps)
