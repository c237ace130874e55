"""A progress bar for the notebook and the terminal, silent where nobody looks."""

from __future__ import annotations

import contextlib
import html
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .language import LANGUAGES, phrase, spoken, within

Advance = Callable[[int], None]
Say = Callable[[str], None]
Stopwatch = Callable[[str], AbstractContextManager[Say]]

_REDRAW_SECONDS = 0.2


@contextlib.contextmanager
def progress_bar(total: int, label: str, wanted: bool = True) -> Iterator[Advance]:
    """Show a bar over `total` steps; yields a function that moves it on by a number of steps.

    Nothing is shown unless `wanted`, in a Jupyter cell or a terminal.
    """
    console = Console(stderr=True)
    if wanted and console.is_jupyter:
        with _in_notebook(total, label) as advance:
            yield advance
    elif wanted and console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(label, total=total)
            yield lambda steps: progress.advance(task, steps)
    else:
        yield lambda steps: None


@contextlib.contextmanager
def stopwatches() -> Iterator[Stopwatch]:
    """Show labels with the time that has gone in a terminal, each label alone elsewhere.

    Yields a function that gives a label's context manager; several run at once, in any threads.
    What one of these yields prints a line above all labels.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield partial(_announced, console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield partial(_timed, progress)


@contextlib.contextmanager
def _announced(console: Console, label: str) -> Iterator[Say]:
    console.print(f"{label} …", markup=False)
    yield partial(console.print, markup=False)


@contextlib.contextmanager
def _timed(progress: Progress, label: str) -> Iterator[Say]:
    task = progress.add_task(label, total=None)
    try:
        yield partial(progress.console.print, markup=False)
    finally:
        progress.remove_task(task)


@contextlib.contextmanager
def _in_notebook(total: int, label: str) -> Iterator[Advance]:
    """One output, updated in place.

    No widget: that would leave an empty frame in every notebook that is run by papermill. What
    stays holds no time, so that the same run leaves the same notebook.
    """
    from IPython.display import display

    done, drawn = 0, time.monotonic()

    def picture() -> dict[str, Any]:
        said = phrase("{what}: {done} of {total}", what=label, done=done, total=total)
        bar = f"<progress value='{done}' max='{total}'></progress> "
        found = {
            language: {"text/html": bar + html.escape(within(said, language))}
            for language in LANGUAGES
        }
        mine = found.pop(spoken())
        return {"obj": mine, "raw": True, "metadata": {"languages": found}}

    first = picture()
    shown = display(first.pop("obj"), display_id=True, **first)

    def advance(steps: int) -> None:
        nonlocal done, drawn
        done += steps
        if done < total and time.monotonic() - drawn > _REDRAW_SECONDS:
            drawn = time.monotonic()
            shown.update(**picture())

    try:
        yield advance
    finally:
        shown.update(**picture())
