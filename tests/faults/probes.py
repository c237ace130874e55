"""The faults outside the 87: what an attacker, a careless user and an unlucky machine would try.

Five families, as issue 17 counts them: A, code is run that nobody asked for; B, wrong answers with
exit status 0; C, hangs and leftovers; D, loss; E, a traceback or wrong advice. Each probe sets a
trap in a folder of its own and runs a real command, or a function where no command reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .scene import Scene


@dataclass(frozen=True)
class Probe:
    """One trap.

    Parameters
    ----------
    item
        Family and number in issue 17, such as "C15".
    name
        What is done.
    run
        Sets the trap, and returns how it ended: ``"same result"`` or the error. It raises when the
        promise is broken, `Skip` when the trap cannot be set here.
    before
        How it ended when it was first tried; empty where it was not.
    everywhere
        Whether it is tried in every one of `scene.CONTEXTS` too.
    slow
        Takes many seconds.
    """

    item: str
    name: str
    run: Callable[[Scene], str]
    before: str = ""
    everywhere: bool = False
    slow: bool = False

    @property
    def family(self) -> str:
        return self.item[0]


class Table:
    """Probes, gathered by a decorator in the order in which they are written."""

    def __init__(self) -> None:
        self._probes: list[Probe] = []

    def __iter__(self) -> Iterator[Probe]:
        return iter(self._probes)

    def probe(self, item: str, name: str, **options) -> Callable:
        def add(run: Callable[[Scene], str]) -> Callable[[Scene], str]:
            self._probes.append(Probe(item, name, run, **options))
            return run

        return add

    def probes(self, item: str, cases: dict[str, tuple], **options) -> Callable:
        """As `probe`, one for each case: its name, and what `run` gets after the scene."""

        def add(run: Callable) -> Callable:
            for name, given in cases.items():
                self._probes.append(
                    Probe(item, name, lambda scene, given=given: run(scene, *given), **options)
                )
            return run

        return add
