"""A search over all layers for a chip: which stay in float, and whose thresholds another method
chooses, within a predicted time.

Every candidate is quantized by the compiler and read by the emulator, on plates that have labels.
It is worth the exact match to be expected of it: the mean probability that the network gives to the
truth (CTC, summed over its paths, `decode.text_log_prob`); plates that it reads right decide where
that is equal. The count comes second because neighbours differ by a plate or two on some hundred
plates, which may be chance. Steps are, in this order: the form of the network and one method for
all layers; another method for single layers, tried one by one and then together; single layers and
whole roles in float, from what helps most.

Three sets of plates never meet: those that calibrate, those that are searched on, and those that
judge what was found. Of the plates to search on, only those are read that the float network is
least sure of (`SHARE`): of the readings unlike float's in the committed study, of strategies that
read 0.87 or more, 96 % lie there on both chips.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import artifact, digest
from ..datasets.images import PlateImages
from ..datasets.splits import Split, cross_fit, within
from ..decode import decode, log_softmax, text_log_prob
from ..decode.ctc import PAD
from ..errors import EngineError, ParameterError, ToolchainError
from ..evaluate.accuracy import correct
from ..model.trace import float_arithmetic, float_logits, trace_model
from ..model.weights import Weights
from ..runtime.emulator import Emulator
from ..toolchain.compile import CalibrationTable, TopGraph, compile_bmodel, mixed_table, top_graph
from ..toolchain.layers import grouped
from ..toolchain.lowering import kept_quantizer
from ..toolchain.strategies import Method, Strategy, make_strategy
from ..work import scheduler
from ..work.pieces import Piece
from .cells import graph_key, network_input, pack, short
from .cost import share_of_layers

METHODS: tuple[Method, ...] = ("mse", "kl", "max", "aciq_gauss")  # the first starts
CALIBRATION = 100  # plates
LEAST = 100  # plates to search on
SHARE = 0.3  # of them that are read
ALIKE = 0.15  # thresholds that differ by no more of themselves are one candidate
TRIED = 6  # layers that are tried at each step of those that helped alone
LEVELS = 4  # budgets of the front, from all in INT8 to the one that was asked for
FOLDS = 5
GAIN = 0.25  # plates that a step must bring, expected: less is noise that adds up
NAME = "searched"


@dataclass(frozen=True)
class Unit:
    """Layers that become one on the chip: a convolution with its scale, or a single layer."""

    layers: tuple[str, ...]
    op: str

    @property
    def roles(self) -> tuple[str, ...]:
        """Its layers as roles of a strategy."""
        return tuple(f"name:{glob.escape(name)}" for name in self.layers)


def units(graph: TopGraph) -> list[Unit]:
    """Units of a network in execution order, its input included."""
    found: dict[str, Unit] = {}
    for layer in graph.layers:
        source = layer["inputs"][0] if layer["inputs"] else None
        if layer["op"] == "top.Scale" and source in found and found[source].op == "Conv":
            unit = found.pop(source)
            found[layer["name"]] = replace(unit, layers=(*unit.layers, layer["name"]))
        else:
            found[layer["name"]] = Unit((layer["name"],), layer["op"].removeprefix("top."))
    return list(found.values())


def plain(form: str, method: Method = METHODS[0]) -> Strategy:
    """A candidate with all layers in INT8 and one threshold method."""
    return make_strategy(name=NAME, method=method, form=form)


def _roles(graph: TopGraph) -> list[Unit]:
    """Roles of several layers: in float together they need fewer casts than one by one."""
    found = grouped(graph.layers, graph.network) if graph.network.find_roles else {}
    return [Unit(tuple(names), role) for role, names in found.items() if len(names) > 2]


class Costs:
    """What strategies cost on a chip: the compiler's predicted milliseconds, or work in float.

    Parameters
    ----------
    weights, plates
        Those of the search; the first plates of draw 0 calibrate the BModels that are timed, which
        changes nothing in their times that could be seen.
    chip
        On a chip of which the compiler predicts no time (BM1684), the part of the
        multiply-accumulates that is left in float stands for it.
    """

    def __init__(self, weights: Weights, plates: PlateImages, chip: str) -> None:
        self.weights, self.chip = weights, chip
        self._images = plates.images[within(len(plates), 0).order[:CALIBRATION]]
        self._graphs: dict[str, TopGraph] = {}

    @cached_property
    def unit(self) -> str:
        """Of the costs: "ms" or "work in float"."""
        usual = plain(self.weights.of.forms[-1])
        return "ms" if self._predicted(usual) is not None else "work in float"

    def of(self, strategy: Strategy) -> float:
        """Of a strategy, by compiling it where the compiler predicts times."""
        if self.unit == "ms":
            return self._predicted(strategy) or 0.0
        return share_of_layers(self.graph(strategy.form), strategy.float_roles)

    def graph(self, form: str) -> TopGraph:
        """Top-level graph of a form."""
        if form not in self._graphs:
            self._graphs[form] = top_graph(trace_model(self.weights, form=form))
        return self._graphs[form]

    def _predicted(self, strategy: Strategy) -> float | None:
        plain = Strategy(
            name=NAME, method=METHODS[0], form=strategy.form, float_roles=strategy.float_roles
        )
        tables = kept_quantizer().tables(self.graph(plain.form), self._images, [plain.method])
        traced, table = trace_model(self.weights, form=plain.form), tables[plain.method]
        model = compile_bmodel(traced, self.chip, "int8", strategy=plain, table=table)
        return model.predicted_latency_ms


@dataclass(frozen=True)
class Found:
    """A candidate, and what it was worth on the plates that were searched on.

    Attributes
    ----------
    strategy
        What it is.
    expected
        Plates to be expected to be read right: probabilities of the truth, summed.
    right
        Plates that it reads right.
    cost
        As the steps to it add up, see `Costs`.
    """

    strategy: Strategy
    expected: float
    right: int
    cost: float

    @property
    def rank(self) -> tuple[float, int]:
        """The better, the higher."""
        return self.expected, self.right

    def improves(self, other: Found) -> bool:
        """Whether it is better by more than `GAIN`."""
        return self.expected > other.expected + GAIN


class Search:
    """One search: for a chip, from one set of calibration plates, on one set of other plates.

    Parameters
    ----------
    weights, plates, chip
        What to quantize, labelled plates, and for which chip.
    split
        Its order: the first `CALIBRATION` plates calibrate, all others are searched on.
    budget
        What a candidate may cost.
    """

    def __init__(
        self, weights: Weights, plates: PlateImages, chip: str, split: Split, budget: float
    ) -> None:
        self.weights, self.chip, self.budget = weights, chip, budget
        self.costs = Costs(weights, plates, chip)
        on = split.order[CALIBRATION:]
        count = max(1, round(SHARE * len(on)))
        least_sure = np.argsort(margins(plates, weights)[on], kind="stable")[:count]
        self.lesson = plates.take(on[np.sort(least_sure)])
        self._images = plates.images[split.order[:CALIBRATION]]
        self._tables: dict[tuple[str, str], CalibrationTable] = {}
        self.found: dict[str, Found] = {}
        self.refused: dict[str, str] = {}
        self.tried = 0

    def run(self) -> None:
        """Try candidates; those worth keeping are in `found` then, each with what it was worth."""
        self._float(self._methods(self._start()))

    def best(self, budget: float) -> Found:
        """The best candidate that costs no more, as it is compiled."""
        for found in sorted(self.found.values(), key=lambda one: one.rank, reverse=True):
            if found.cost <= budget * (1 + 1e-9):
                found = replace(found, cost=self.costs.of(found.strategy))
                if found.cost <= budget * (1 + 1e-9):
                    return found
        raise ParameterError(f"no candidate costs {budget:g} {self.costs.unit} or less.")

    def folder(self, strategy: Strategy) -> Path:
        """The quantized graph of a candidate."""
        graph = self.costs.graph(strategy.form)
        return kept_quantizer().lower(graph, self.chip, strategy, self.table(strategy))

    def table(self, strategy: Strategy) -> CalibrationTable:
        """The thresholds of a candidate."""
        tables = {method: self._table(strategy.form, method) for method in strategy.methods}
        return mixed_table(tables, self.costs.graph(strategy.form), strategy)

    def _table(self, form: str, method: Method) -> CalibrationTable:
        if (form, method) not in self._tables:
            graph = self.costs.graph(form)
            found = kept_quantizer().tables(graph, self._images, [method])
            self._tables[form, method] = found[method]
        return self._tables[form, method]

    def _try(self, strategy: Strategy, cost: float) -> Found | None:
        """A candidate's worth; None where it costs too much, or a tool refuses it."""
        key = digest(strategy.key())
        if key not in self.found and key not in self.refused and self._affords(cost):
            try:
                right, log_probs = read(self.folder(strategy), self.lesson, self.weights)
            except (ToolchainError, EngineError) as error:
                self.refused[key] = short(str(error))
            else:
                expected = float(np.exp(log_probs).sum())
                self.found[key] = Found(strategy, expected, int(right.sum()), cost)
            self.tried += 1
        return self.found.get(key)

    def _start(self) -> Found:
        forms = [self._try(each, self.costs.of(each)) for each in map(plain, self.weights.of.forms)]
        best = _best(forms)
        if best is None:
            raise ParameterError(
                f"the search on {self.chip} has nothing to start from: all in INT8, every form "
                f"of the network costs more than {self.budget:g} {self.costs.unit}, or a tool "
                f"refuses it. {next(iter(self.refused.values()), '')}".strip()
            )
        form = best.strategy.form
        by_method = [self._try(plain(form, method), best.cost) for method in METHODS]
        return _best(by_method) or best

    def _methods(self, base: Found) -> Found:
        """Other methods for single layers: each alone, then those that helped, one by one more."""
        helped = []
        for unit in units(self.costs.graph(base.strategy.form)):
            tried = [self._by_method(base, unit, m) for m in self._others(base, unit)]
            best = _best([one for one in tried if one and one.improves(base)])
            if best is not None:
                helped.append((best, unit, best.strategy.layer_methods[-1][1]))
        for _, unit, method in sorted(helped, key=lambda one: one[0].rank, reverse=True):
            more = self._by_method(base, unit, method)
            base = more if more and more.improves(base) else base
        return base

    def _others(self, base: Found, unit: Unit) -> Iterator[Method]:
        """Methods that give a unit other thresholds."""
        form, name = base.strategy.form, unit.layers[-1]
        seen = [self._table(form, base.strategy.method).thresholds().get(name, (0.0,))[0]]
        for method in METHODS:
            if method != base.strategy.method:
                value = self._table(form, method).thresholds().get(name, (0.0,))[0]
                if all(abs(value - other) > ALIKE * abs(other) for other in seen):
                    seen.append(value)
                    yield method

    def _by_method(self, base: Found, unit: Unit, method: Method) -> Found | None:
        pairs = (*base.strategy.layer_methods, *((role, method) for role in unit.roles))
        return self._try(base.strategy.model_copy(update={"layer_methods": pairs}), base.cost)

    def _float(self, base: Found) -> Found:
        """Layers and roles in float, from what helps most, as long as one is paid for."""
        start, helped = base, []
        graph = self.costs.graph(base.strategy.form)
        for unit in [*units(graph)[1:], *_roles(graph)]:
            # Its cost is asked for only where it helps: to compile takes longer than to read.
            one = self._try(with_float(base.strategy, unit), base.cost)
            if one is not None and one.improves(base):
                one = self._priced(one)
                if self._affords(one.cost):
                    helped.append((one, unit))
            elif one is not None:
                del self.found[digest(one.strategy.key())]
        helped.sort(key=lambda one: one[0].rank, reverse=True)
        while helped:
            tried = [
                (self._try(with_float(base.strategy, unit), base.cost + alone.cost - start.cost), n)
                for n, (alone, unit) in enumerate(helped[:TRIED])
            ]
            better = [(one, n) for one, n in tried if one is not None and one.improves(base)]
            if not better:
                break
            best, number = max(better, key=lambda one: one[0].rank)
            best = self._priced(best)
            base = best if self._affords(best.cost) else base
            helped.pop(number)
        return base

    def _affords(self, cost: float) -> bool:
        return cost <= self.budget * (1 + 1e-9)

    def _priced(self, found: Found) -> Found:
        """A candidate with what it costs by itself, in place of what steps add up to."""
        priced = replace(found, cost=self.costs.of(found.strategy))
        self.found[digest(found.strategy.key())] = priced
        return priced


def with_float(strategy: Strategy, unit: Unit) -> Strategy:
    """A strategy with one more unit in float."""
    roles = tuple(sorted({*strategy.float_roles, *unit.roles}))
    return strategy.model_copy(update={"float_roles": roles})


def _best(tried: Sequence[Found | None]) -> Found | None:
    return max((one for one in tried if one), key=lambda one: one.rank, default=None)


def margins(plates: PlateImages, weights: Weights) -> np.ndarray:
    """How much more likely the float network finds each reading than the next one.

    Returns
    -------
    float ``[N]``
    """
    inputs = {
        "plates": plates.digest,
        "weights": weights.digest,
        "arithmetic": float_arithmetic(),
    }

    def build(place: Path) -> None:
        logits = float_logits(weights, plates)
        np.save(place / "margins.npy", decode(logits, weights.alphabet).margin)

    return np.load(artifact("search-margins", inputs, build) / "margins.npy")


def read(folder: Path, plates: PlateImages, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """How a quantized graph reads labelled plates: right (bool ``[N]``), and log P of the truth.

    Returns
    -------
    right : bool ``[N]``
    log_probs : float64 ``[N]``
    """
    labels = plates.known_labels
    inputs = {
        **graph_key(folder, plates.images),
        "labels": list(labels),
        "classes": weights.alphabet.listed,
        **({"network": weights.of.digest} if weights.of.digest else {}),
    }

    def build(place: Path) -> None:
        given = network_input(plates.images, False, weights.of.input)
        logits = weights.of.interface.arranged(Emulator(folder, threads=1).run(given))
        texts = [weights.alphabet.encode(label) for label in labels]
        padded = np.full((len(texts), max(map(len, texts))), PAD, np.int64)
        for row, text in zip(padded, texts):
            row[: len(text)] = text
        blank = weights.alphabet.blank
        np.savez(
            place / "read.npz",
            right=correct(labels, decode(logits, weights.alphabet).texts),
            log_probs=text_log_prob(log_softmax(logits), padded, blank),
        )

    with np.load(artifact("search-read", inputs, build) / "read.npz") as kept:
        return kept["right"], kept["log_probs"]


# ---- Many searches: each fold's, judged on the fold, and the one that is shipped ---------------


def check_plates(plates: PlateImages) -> None:
    """Make sure that a search and its judges have enough labelled plates.

    Raises
    ------
    ParameterError
        Naming how many it takes.
    DataError
        When they have no labels.
    """
    plates.known_labels  # noqa: B018  raises where there are none
    least = -(-(CALIBRATION + LEAST) * FOLDS // (FOLDS - 1))
    if len(plates) < least:
        raise ParameterError(
            f"{len(plates)} plates are too few for a search: it takes {least}, in {FOLDS} folds "
            f"each judged by a search on the others: {CALIBRATION} plates that calibrate and "
            f"{LEAST} that are searched on."
        )


def levels(costs: Costs, budget: float) -> list[float]:
    """Budgets of a front: the cheapest form all in INT8, the one asked for, and between them.

    Raises
    ------
    ParameterError
        When nothing meets the budget.
    """
    least = min(costs.of(plain(form)) for form in costs.weights.of.forms)
    if not least <= budget:
        raise ParameterError(
            f"a budget of {budget:g} {costs.unit} is met by nothing: all in INT8, "
            f"{costs.chip} takes {least:g}. Name that much or more."
        )
    steps = np.linspace(least, budget, LEVELS)
    return [least, *dict.fromkeys(step for step in steps[1:].round(6).tolist() if step > least)]


def search_piece(
    weights: Weights, plates: PlateImages, chip: str, split: Split, budgets: Sequence[float]
) -> Piece:
    """One search with its front; what it left in the cache is found again where it was stopped."""
    return Piece(
        f"search/{chip.lower()}/{split.draw}.{split.fold}",
        _searched,
        {
            "weights": weights,
            "plates": plates,
            "chip": chip,
            "split": split,
            "budgets": list(budgets),
        },
        seconds=300.0,
    )


def _searched(
    *, weights: Weights, plates: PlateImages, chip: str, split: Split, budgets: Sequence[float]
) -> dict[str, Any]:
    """``points``: of each budget the strategy, its cost, and the fold's plates that it reads."""
    search = Search(weights, plates, chip, split, max(budgets))
    search.run()
    points = []
    for budget in budgets:
        found = search.best(budget)
        point = {
            "budget": budget,
            "cost": found.cost,
            "strategy": found.strategy,
            "searched_right": found.right,
            "expected": found.expected,
        }
        if len(split.evaluate):
            judged = plates.take(split.evaluate)
            point["right"] = read(search.folder(found.strategy), judged, weights)[0]
        points.append(point)
    return {
        "points": points,
        "tried": search.tried,
        "refused": len(search.refused),
        "read": len(search.lesson),
    }


def shipped_split(count: int) -> Split:
    """Of the search whose result is shipped: it has no plates that judge it, so others do."""
    order = within(count, 0).order
    return Split(0, FOLDS, order, np.array([], int))


def search_chip(
    weights: Weights,
    plates: PlateImages,
    chip: str,
    budgets: Sequence[float],
    draws: int,
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """All searches of a chip: rows of the judged points, and the strategies that are shipped.

    Returns
    -------
    dict
        ``points``: by draw and budget ``images, correct, bits`` (all plates, each read by the
        strategy that was found without it), ``cost`` (the folds' mean) and ``folds``, their
        strategies; ``shipped``: by budget ``strategy, cost, searched_right, searched``; ``counts``
        of each search.
    """
    splits = [s for draw in range(draws) for s in cross_fit(len(plates), FOLDS, draw)]
    splits.append(shipped_split(len(plates)))
    pieces = [search_piece(weights, plates, chip, split, budgets) for split in splits]
    done = scheduler.make(pieces, "search", progress=progress)
    results = [done[piece] for piece in pieces]
    return {
        "points": [
            _judged(chip, draw, number, budget, splits, results, len(plates))
            for draw in range(draws)
            for number, budget in enumerate(budgets)
        ],
        "shipped": [
            {
                "chip": chip,
                "budget": point["budget"],
                "cost": point["cost"],
                "strategy": fields_of(point["strategy"]),
                "searched_right": point["searched_right"],
                "expected": round(point["expected"], 3),
                "searched": results[-1]["read"],
            }
            for point in results[-1]["points"]
        ],
        "counts": [
            {
                "chip": chip,
                "draw": split.draw,
                "fold": split.fold,
                **{key: result[key] for key in ("tried", "refused", "read")},
            }
            for split, result in zip(splits, results)
        ],
    }


def _judged(
    chip: str,
    draw: int,
    number: int,
    budget: float,
    splits: Sequence[Split],
    results: Sequence[dict[str, Any]],
    count: int,
) -> dict[str, Any]:
    right, costs, strategies = np.zeros(count, bool), [], []
    for split, result in zip(splits, results):
        if split.draw == draw and len(split.evaluate):
            point = result["points"][number]
            right[split.evaluate] = point["right"]
            costs.append(point["cost"])
            strategies.append(fields_of(point["strategy"]))
    return {
        "chip": chip,
        "draw": draw,
        "budget": budget,
        "cost": float(np.mean(costs)),
        "images": count,
        "correct": int(right.sum()),
        "bits": pack(right),
        "folds": strategies,
    }


def fields_of(strategy: Strategy) -> dict[str, Any]:
    """A strategy's fields that are not their defaults, as its file has them."""
    return strategy.model_dump(mode="json", exclude_defaults=True)
