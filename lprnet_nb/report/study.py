"""The quantization study: strategies by chip, draw and fold, each cell an artifact that is kept.

A cell is one strategy quantized for one chip with one draw of calibration images, judged on the
images of one fold, which were not among them. It runs on the emulator; per strategy and chip one
BModel is compiled for its predicted latency, its graph is compared with the cell's, and the chip
simulator reads a few images of it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest, artifact, atomic_write, cache_dir, digest, file_digest, repository
from ..datasets.images import PlateImages, preprocess
from ..datasets.splits import Split, cross_fit, within
from ..decode import decode
from ..errors import DataError, EngineError, ToolchainError
from ..evaluate.accuracy import correct
from ..evaluate.fidelity import sqnr_db
from ..evaluate.paired import holm, mcnemar_exact
from ..model.trace import float_logits, trace_model
from ..model.weights import Weights
from ..runtime import emulator
from ..runtime.crosscheck import crosscheck
from ..runtime.emulator import Emulator
from ..runtime.progress import Advance, progress_bar
from ..toolchain.compile import CalibrationTable, compile_bmodel, top_graph
from ..toolchain.environment import compiler
from ..toolchain.lowering import Quantizer
from ..toolchain.strategies import ROLES, Strategy

CROSS_FIT, WITHIN = "cross-fit", "within"
TUNED_METHODS = ("kl", "aciq_gauss", "aciq_laplace")  # the compiler tunes these only


@dataclass(frozen=True)
class Plan:
    """What a study runs.

    Parameters
    ----------
    strategies
        In order of importance: cells of the first are done first.
    chips
        Such as ("BM1684X", "BM1684").
    draws
        Seeds of calibration draws.
    folds
        Parts of the cross-fit.
    calibrated_within
        Names of strategies that are also run as published figures were, calibrated on images that
        they are judged on.
    """

    strategies: tuple[Strategy, ...]
    chips: tuple[str, ...]
    draws: tuple[int, ...] = (0, 1, 2, 3, 4)
    folds: int = 2
    calibrated_within: tuple[str, ...] = ()

    def splits(self, count: int) -> list[tuple[str, Split]]:
        """``(scheme, split)`` in the order in which they run: whole draws, one by one."""
        made = []
        for draw in self.draws:
            made += [(CROSS_FIT, split) for split in cross_fit(count, self.folds, draw)]
            if self.calibrated_within:
                made.append((WITHIN, within(count, draw)))
        return made


@dataclass(frozen=True)
class Cell:
    """What one cell found.

    Parameters
    ----------
    strategy, chip, scheme, draw, fold
        Which cell.
    evaluate
        int64: the images it was judged on.
    texts
        Readings of those images; empty where the cell failed.
    error
        What the tool said, or None.
    """

    strategy: str
    chip: str
    scheme: str
    draw: int
    fold: int
    evaluate: np.ndarray
    texts: tuple[str, ...] = ()
    error: str | None = None


@dataclass
class _Bench:
    """What all cells share: data, and a warm quantizer per thread."""

    plates: PlateImages
    weights: Weights
    log: Path
    threads: int
    here: threading.local = field(default_factory=threading.local)
    all: list[Quantizer] = field(default_factory=list)

    def quantizer(self) -> Quantizer:
        if not hasattr(self.here, "quantizer"):
            number = len(self.all)
            self.here.quantizer = Quantizer(self.log.with_suffix(f".{number}.log"))
            self.all.append(self.here.quantizer)
        return self.here.quantizer

    def close(self) -> None:
        for quantizer in self.all:
            quantizer.__exit__(None, None, None)


def run_cells(plan: Plan, plates: PlateImages, weights: Weights, *, workers: int = 2,
              progress: bool = True, found: Callable[[Cell], None] | None = None) -> list[Cell]:
    """Run all cells that are not there yet, and give all.

    Parameters
    ----------
    plan, plates, weights
        What to run on what.
    workers
        Cells at a time.
    progress
        Show a bar over the cells.
    found
        Called with each cell as it is done.

    Returns
    -------
    list of Cell
        By strategy, chip, scheme, draw and fold. A setting that a chip or the tool cannot do is a
        cell with its message.
    """
    bench = _Bench(plates, weights, cache_dir() / "logs" / "study.log", max(1, 2 // workers))
    groups = _groups(plan, plates)
    total = sum(len(strategies) for *_, strategies in groups) * len(plan.chips)
    cells: list[Cell] = []
    with progress_bar(total, "study", progress) as advance:
        def work(group: tuple) -> None:
            for cell in _run_group(bench, plan.chips, *group, advance):
                cells.append(cell)
                if found is not None:
                    found(cell)
        try:
            with ThreadPoolExecutor(workers) as pool:
                try:
                    for done in [pool.submit(work, group) for group in groups]:
                        done.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        finally:
            bench.close()
    names = [strategy.name for strategy in plan.strategies]
    return sorted(cells, key=lambda c: (names.index(c.strategy), plan.chips.index(c.chip), c.scheme,
                                        c.draw, c.fold))


def calibration_key(strategy: Strategy) -> tuple:
    """What a pass over calibration images depends on; methods of one key share the pass."""
    tune = strategy.tune if strategy.method in TUNED_METHODS else 0
    return (strategy.form, strategy.fuse_preprocess, strategy.images, strategy.channel_order, tune,
            _needs_tool(strategy) and strategy.name)


def _needs_tool(strategy: Strategy) -> bool:
    """Whether calibrating rewrites weights or searches, so that the tool itself has to run."""
    return bool(strategy.weight_equalization or strategy.bias_correction or strategy.search)


def _groups(plan: Plan, plates: PlateImages) -> list[tuple]:
    """``(scheme, split, strategies of one calibration pass)``, the important ones first."""
    keys: dict[tuple, list[Strategy]] = {}
    for strategy in plan.strategies:
        keys.setdefault(calibration_key(strategy), []).append(strategy)
    groups = []
    for scheme, split in plan.splits(len(plates)):
        for rank, strategies in enumerate(keys.values()):
            chosen = [s for s in strategies
                      if scheme == CROSS_FIT or s.name in plan.calibrated_within]
            if chosen:
                groups.append((rank, scheme, split, chosen))
    groups.sort(key=lambda group: (group[0], group[1] == WITHIN, group[2].draw, group[2].fold))
    return [group[1:] for group in groups]


def _run_group(bench: _Bench, chips: Sequence[str], scheme: str, split: Split,
               strategies: Sequence[Strategy], advance: Advance):
    first = strategies[0]
    images = bench.plates.images[split.calibrate(first.images)]
    tables: dict[str, CalibrationTable] = {}
    failure = None
    try:
        graph = top_graph(trace_model(bench.weights, form=first.form),
                          fuse_preprocess=first.fuse_preprocess)
        if not _needs_tool(first):
            tables = bench.quantizer().tables(
                graph, images, sorted({s.method for s in strategies}),
                tune=calibration_key(first)[4], channel_order=first.channel_order)
    except ToolchainError as error:
        failure = str(error)
    for strategy in strategies:
        for chip in chips:
            place = (strategy.name, chip, scheme, split.draw, split.fold, split.evaluate)
            try:
                if failure is not None:
                    raise ToolchainError(failure)
                if _needs_tool(strategy):
                    folder = compile_bmodel(trace_model(bench.weights, form=strategy.form), chip,
                                            "int8", strategy=strategy,
                                            calibration_images=images).graph
                else:
                    folder = bench.quantizer().lower(graph, chip, strategy,
                                                     tables[strategy.method])
                texts = _read(bench, folder, split.evaluate, strategy.fuse_preprocess)
                yield Cell(*place, texts=texts)
            except (ToolchainError, EngineError) as error:
                yield Cell(*place, error=_short(str(error)))
            advance(1)


def _short(message: str) -> str:
    """The tool's own words, without the place of its log."""
    return message.split(" (log:")[0].split("The end of its log")[0].strip()[:400]


def _read(bench: _Bench, folder: Path, evaluate: np.ndarray, fused: bool) -> tuple[str, ...]:
    inputs = {"graph": [file_digest(folder / "graph.json"), file_digest(folder / "graph.npz")],
              "images": array_digest(bench.plates.images[evaluate]),
              "classes": bench.weights.alphabet.classes, "emulator": _emulator_digest()}

    def build(place: Path) -> None:
        images = bench.plates.images[evaluate]
        given = np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if fused else preprocess(images)
        logits = Emulator(folder, threads=bench.threads).run(given)
        texts = decode(logits, bench.weights.alphabet).texts
        (place / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf8")

    return tuple(json.loads((artifact("study-cell", inputs, build) / "texts.json")
                            .read_text("utf8")))


@cache
def _emulator_digest() -> str:
    folder = Path(emulator.__file__).parent
    return digest({path.name: file_digest(path) for path in sorted(folder.iterdir())
                   if path.suffix in (".py", ".c")})


def float_texts(plates: PlateImages, weights: Weights) -> tuple[str, ...]:
    """Readings of the float network, batch 1."""
    inputs = {"plates": plates.digest, "weights": weights.digest}

    def build(place: Path) -> None:
        texts = decode(float_logits(weights, plates), weights.alphabet).texts
        (place / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf8")

    return tuple(json.loads((artifact("study-float", inputs, build) / "texts.json")
                            .read_text("utf8")))


# ---- What a study found, as data -------------------------------------------------------------


def result_rows(cells: Sequence[Cell], plates: PlateImages) -> list[dict[str, Any]]:
    """One row per strategy, chip, scheme and draw: all images, or the tool's message.

    Returns
    -------
    list of dict
        ``strategy, chip, scheme, draw, images, correct, by_fold, bits`` (see `pack`) or ``strategy,
        chip, scheme, error``. A draw of which a fold is missing is left out.
    """
    labels = np.array(plates.labels)
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.strategy, cell.chip, cell.scheme, cell.draw), []).append(cell)
    rows, refused = [], set()
    for (strategy, chip, scheme, draw), parts in groups.items():
        error = next((part.error for part in parts if part.error), None)
        if error is not None:
            if (strategy, chip, scheme) not in refused:
                refused.add((strategy, chip, scheme))
                rows.append({"strategy": strategy, "chip": chip, "scheme": scheme, "error": error})
            continue
        right = np.zeros(len(plates), bool)
        judged = np.zeros(len(plates), int)
        for part in parts:
            right[part.evaluate] = labels[part.evaluate] == np.array(part.texts)
            judged[part.evaluate] += 1
        if (judged != 1).any():
            continue
        parts = sorted(parts, key=lambda part: part.fold)
        rows.append({"strategy": strategy, "chip": chip, "scheme": scheme, "draw": draw,
                     "images": len(plates), "correct": int(right.sum()),
                     "by_fold": [[int(right[p.evaluate].sum()), len(p.evaluate)] for p in parts],
                     "bits": pack(right)})
    return rows


def pack(right: np.ndarray) -> str:
    """Which plates were read right, as hex: bit i (from the left) is image i by file name.

    >>> pack(np.array([True, False, False, False, True]))
    '88'
    """
    return np.packbits(np.asarray(right, bool)).tobytes().hex()


def unpack(bits: str, count: int) -> np.ndarray:
    """Inverse of `pack`, bool ``[count]``."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=count).astype(bool)


def sensitivity(plates: PlateImages, weights: Weights, chips: Sequence[str], base: Strategy, *,
                draw: int = 0, images: int = 200, workers: int = 2, progress: bool = True
                ) -> list[dict[str, Any]]:
    """What each role costs: one role in float at a time, and one role quantized at a time.

    Calibrated outside the first fold of a draw, judged on the first images of that fold.

    Returns
    -------
    list of dict
        ``{"chip", "mode", "role", "images", "correct", "steps_off", "sqnr_db"}`` with mode "all"
        (role None), "float" (only this role in float) or "int8" (only this role quantized);
        ``steps_off`` counts time steps whose class differs from float's, ``sqnr_db`` is that of the
        logits. ``error`` in place of figures where the tool refuses.
    """
    settings = [("all", None, ())] + [("float", role, (role,)) for role in ROLES]
    settings += [("int8", role, tuple(r for r in ROLES if r != role)) for role in ROLES]
    split = cross_fit(len(plates), 2, draw)[0]
    judged = plates.take(split.evaluate[:images])
    inputs, wanted = preprocess(judged.images), float_logits(weights, judged)
    graph = top_graph(trace_model(weights, form=base.form))
    bench = _Bench(plates, weights, cache_dir() / "logs" / "sensitivity.log", 1)

    def one(job: tuple) -> dict[str, Any]:
        chip, mode, role, float_roles = job
        line = {"chip": chip, "mode": mode, "role": role}
        try:
            table = bench.quantizer().tables(graph, plates.images[split.calibrate(base.images)],
                                             [base.method], tune=calibration_key(base)[4])
            folder = bench.quantizer().lower(
                graph, chip, base.model_copy(update={"float_roles": float_roles}),
                table[base.method])
            logits = Emulator(folder, threads=1).run(inputs)
        except (ToolchainError, EngineError) as error:
            return {**line, "error": _short(str(error))}
        texts = decode(logits, weights.alphabet).texts
        noise = sqnr_db(wanted, logits)
        return {**line, "images": len(judged), "correct": int(correct(judged.labels, texts).sum()),
                "steps_off": int((logits.argmax(1) != wanted.argmax(1)).sum()),
                "sqnr_db": round(noise, 2) if np.isfinite(noise) else None}

    jobs = [(chip, *setting) for chip in chips for setting in settings]
    with progress_bar(len(jobs), "roles", progress) as advance:
        def work(job: tuple) -> dict[str, Any]:
            line = one(job)
            advance(1)
            return line
        try:
            with ThreadPoolExecutor(workers) as pool:
                return list(pool.map(work, jobs))
        finally:
            bench.close()


def company(plates: PlateImages, weights: Weights, chips: Sequence[str], strategy: Strategy, *,
            batch: int = 4, orders: int = 4) -> list[dict[str, Any]]:
    """How INT8 readings depend on which images share a batch.

    The images are read in several random orders, so that each is in other company each time.

    Returns
    -------
    list of dict
        ``{"chip", "batch_mean", "batch", "images", "right": [per order], "moved"}``; ``moved``
        counts images whose reading differs between any two orders.
    """
    split = cross_fit(len(plates), 2, 0)[0]
    labels = np.array(plates.labels)
    inputs = preprocess(plates.images)
    shuffles = [np.arange(len(plates))] + [np.random.default_rng([order, 3]).permutation(
        len(plates)) for order in range(1, orders)]
    lines = []
    with Quantizer(cache_dir() / "logs" / "company.log") as quantizer:
        for mean in ("batch", "image"):
            single = top_graph(trace_model(weights, 1, mean, strategy.form))
            table = quantizer.tables(single, plates.images[split.calibrate(strategy.images)],
                                     [strategy.method])[strategy.method]
            graph = top_graph(trace_model(weights, batch, mean, strategy.form))
            for chip in chips:
                runner = Emulator(quantizer.lower(graph, chip, strategy, table))
                texts = np.empty((orders, len(plates)), object)
                for row, order in zip(texts, shuffles):
                    row[order] = decode(runner.run(inputs[order]), weights.alphabet).texts
                lines.append({"chip": chip, "batch_mean": mean, "batch": batch,
                              "images": len(plates),
                              "right": [int((row == labels).sum()) for row in texts],
                              "moved": int((texts != texts[0]).any(0).sum())})
    return lines


def models(plan: Plan, plates: PlateImages, weights: Weights, *, images: int = 0
           ) -> list[dict[str, Any]]:
    """One BModel per strategy and chip, from the first draw: latency, and proof of the cells.

    Returns
    -------
    list of dict
        ``{"strategy", "chip", "predicted_latency_ms", "sha256", "same_graph"}``: whether the
        BModel's graph is the one that the cell ran; with ``images`` above 0 also ``simulator``, see
        `runtime.crosscheck`. ``error`` in place of it where the tool refuses.
    """
    split = cross_fit(len(plates), plan.folds, plan.draws[0])[0]
    judged = plates.take(split.evaluate)
    lines = []
    with Quantizer(cache_dir() / "logs" / "models.log") as quantizer:
        for strategy in plan.strategies:
            if _needs_tool(strategy):
                continue
            traced = trace_model(weights, form=strategy.form)
            graph = top_graph(traced, fuse_preprocess=strategy.fuse_preprocess)
            chosen = plates.images[split.calibrate(strategy.images)]
            for chip in plan.chips:
                line: dict[str, Any] = {"strategy": strategy.name, "chip": chip}
                lines.append(line)
                try:
                    methods = sorted({s.method for s in plan.strategies
                                      if calibration_key(s) == calibration_key(strategy)})
                    table = quantizer.tables(graph, chosen, methods,
                                             tune=calibration_key(strategy)[4],
                                             channel_order=strategy.channel_order)[strategy.method]
                    folder = quantizer.lower(graph, chip, strategy, table)
                    model = compile_bmodel(traced, chip, "int8", strategy=strategy, table=table)
                except (ToolchainError, EngineError) as error:
                    line["error"] = _short(str(error))
                    continue
                line.update(predicted_latency_ms=model.predicted_latency_ms, sha256=model.sha256,
                            same_graph=_same_graph(folder, model.graph))
                if images and not strategy.fuse_preprocess:
                    some = judged.take(slice(images))
                    logits = Emulator(model.graph).run(preprocess(some.images))
                    found = crosscheck(model, some, logits, images=images)
                    line["simulator"] = {key: found[key] for key in ("images", "identical",
                                                                     "max_abs_difference")}
    return lines


def _same_graph(one: Path, other: Path) -> bool:
    texts = [json.loads((folder / "graph.json").read_text("utf8")) for folder in (one, other)]
    with np.load(one / "graph.npz") as a, np.load(other / "graph.npz") as b:
        return texts[0] == texts[1] and set(a) == set(b) and all(
            np.array_equal(a[name], b[name]) for name in a)


def provenance(plan: Plan, plates: PlateImages, weights: Weights) -> dict[str, Any]:
    """What a study was made of, so that its figures can be made again."""
    return {"plates": {"name": plates.name, "images": len(plates), "digest": plates.digest},
            "weights": {"name": weights.name, "digest": weights.digest},
            "tpu_mlir": compiler().version, "backend": "emulator", "emulator": _emulator_digest(),
            "decoder": "greedy", "batch": 1, "folds": plan.folds, "draws": list(plan.draws),
            "strategies": {s.name: s.model_dump(mode="json") for s in plan.strategies}}


def run_study(plan: Plan, plates: PlateImages, weights: Weights, *, workers: int = 2,
              progress: bool = True) -> dict[str, Any]:
    """Run a plan's cells and give the study as JSON-able data, see `result_rows`."""
    cells = run_cells(plan, plates, weights, workers=workers, progress=progress)
    right = np.array(float_texts(plates, weights)) == np.array(plates.labels)
    return {"format": 1, "provenance": provenance(plan, plates, weights),
            "float": {"images": len(plates), "correct": int(right.sum()), "bits": pack(right)},
            "rows": result_rows(cells, plates)}


def complete(plan: Plan, plates: PlateImages, weights: Weights, best: Strategy, *,
             workers: int = 2, progress: bool = True) -> dict[str, Any]:
    """A study with everything: cells, BModels, roles and company.

    Parameters
    ----------
    best
        The strategy whose roles and batches are looked into.
    """
    made = run_study(plan, plates, weights, workers=workers, progress=progress)
    made["models"] = models(plan, plates, weights, images=1)
    made["sensitivity"] = sensitivity(plates, weights, plan.chips, best, workers=workers,
                                      progress=progress)
    made["company"] = company(plates, weights, plan.chips, best)
    return made


def write_recommendations(study: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``<CHIP>/recommended.json`` below `folder`, each with its evidence."""
    paths = []
    for found in recommendations(study):
        fields = study["provenance"]["strategies"][found["strategy"]]
        evidence = {**{key: value for key, value in found.items() if key != "strategy"},
                    "float": study["float"]["correct"] / study["float"]["images"],
                    **{key: study["provenance"][key]
                       for key in ("plates", "weights", "tpu_mlir", "decoder", "folds")}}
        text = json.dumps({"strategy": fields, "evidence": evidence}, indent=1, ensure_ascii=False)
        paths.append(atomic_write(folder / found["chip"] / "recommended.json", text + "\n"))
    return paths


def read_study(path: Path) -> dict[str, Any]:
    """Read a study's JSON file.

    Raises
    ------
    DataError
        When it cannot be read or is of another format.
    """
    try:
        study = json.loads(path.read_text("utf8"))
    except (OSError, ValueError) as error:
        raise DataError(f"study {path} cannot be read: {error}.") from error
    if study.get("format") != 1:
        raise DataError(f"study {path} has format {study.get('format')!r}, this version reads 1.")
    return study


def committed_study() -> dict[str, Any] | None:
    """The full study that comes with the repository, or None where it does not."""
    found = sorted((repository() / "data" / "studies").glob("*.json"))
    return read_study(found[-1]) if found else None


def outcomes(study: dict[str, Any], strategy: str, chip: str, scheme: str = CROSS_FIT
             ) -> dict[int, np.ndarray]:
    """Which plates were read right, bool ``[N]`` by draw; empty where the strategy was refused."""
    return {row["draw"]: unpack(row["bits"], row["images"]) for row in study["rows"]
            if (row["strategy"], row["chip"], row["scheme"]) == (strategy, chip, scheme)
            and "bits" in row}


def summarize(study: dict[str, Any], *, baseline: str = "kl") -> list[dict[str, Any]]:
    """One line per strategy, chip and scheme: accuracy over draws, and paired tests.

    Returns
    -------
    list of dict
        ``mean, low, high`` of exact match over draws; ``interval``, 95 % for the mean by resampling
        draws and images; ``p_float`` and ``p_baseline``, the largest p of the draws' exact McNemar
        tests (against float; against the baseline calibrated with the same draw), corrected by
        Holm for all tests of that kind in the table; ``worse_draws``, draws that are
        significantly below float after the correction. Refused settings carry ``error``.
    """
    reference = unpack(study["float"]["bits"], study["float"]["images"])
    lines, against_float, against_baseline = [], [], []
    keys = dict.fromkeys((r["strategy"], r["chip"], r["scheme"]) for r in study["rows"])
    latency = {(r["strategy"], r["chip"]): r["predicted_latency_ms"]
               for r in study.get("models", []) if "predicted_latency_ms" in r}
    for strategy, chip, scheme in keys:
        draws = outcomes(study, strategy, chip, scheme)
        line: dict[str, Any] = {"strategy": strategy, "chip": chip, "scheme": scheme,
                                "draws": len(draws)}
        lines.append(line)
        if not draws:
            here = (strategy, chip, scheme)
            line["error"] = next(r["error"] for r in study["rows"] if "error" in r
                                 and (r["strategy"], r["chip"], r["scheme"]) == here)
            continue
        rates = [right.mean() for right in draws.values()]
        line.update(mean=float(np.mean(rates)), low=float(min(rates)), high=float(max(rates)),
                    interval=list(_interval(np.stack(list(draws.values())))),
                    latency_ms=latency.get((strategy, chip)))
        against_float += [(line, mcnemar_exact(right, reference)) for right in draws.values()]
        other = outcomes(study, baseline, chip, scheme) if strategy != baseline else {}
        against_baseline += [(line, mcnemar_exact(draws[d], other[d])) for d in draws if d in other]
    for name, tests in (("p_float", against_float), ("p_baseline", against_baseline)):
        for (line, test), p in zip(tests, holm([test.p for _, test in tests])):
            line[name] = max(float(p), line.get(name, 0.0))
            if name == "p_float" and p < LEVEL and test.b < test.c:
                line["worse_draws"] = line.get("worse_draws", 0) + 1
    return lines


def difference(study: dict[str, Any], strategy: str, baseline: str, chip: str
               ) -> dict[str, Any] | None:
    """Exact match of a strategy minus a baseline's over their common draws, with an interval.

    Returns
    -------
    dict or None
        ``difference`` and ``interval`` (95 %, draws and images resampled), ``draws``,
        ``baseline_spread`` (largest minus smallest exact match of the baseline's draws); None
        where either was refused or not run.
    """
    ours, theirs = outcomes(study, strategy, chip), outcomes(study, baseline, chip)
    common = sorted(set(ours) & set(theirs))
    if not common:
        return None
    change = np.stack([ours[d].astype(float) - theirs[d] for d in common])
    rates = [theirs[d].mean() for d in common]
    return {"difference": float(change.mean()), "interval": list(_interval(change)),
            "draws": len(common), "baseline_spread": float(max(rates) - min(rates))}


def _interval(values: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap of a mean over ``[draws, images]``, both resampled."""
    chosen = np.random.default_rng(0)
    draws, images = values.shape
    # Images enter by how often they are drawn: a matrix product instead of an index per value.
    counts = chosen.multinomial(images, np.full(images, 1 / images), resamples) / images
    weights = chosen.multinomial(draws, np.full(draws, 1 / draws), resamples) / draws
    means = ((counts @ values.T.astype(float)) * weights).sum(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


@dataclass(frozen=True)
class Tip:
    """A piece of advice, and the strategies that judge it.

    Parameters
    ----------
    title
        What it says.
    pairs
        ``(with the advice, without)``.
    """

    title: str
    pairs: tuple[tuple[str, str], ...]


TIPS: tuple[Tip, ...] = (
    Tip("calibrate on RGB (bgr2rgb)", (("mse-rgb", "mse"), ("kl-rgb", "kl"))),
    Tip("fewer calibration images (20)", (("mse-20", "mse"), ("kl-20", "kl"))),
    Tip("more calibration images (450)", (("mse-450", "mse"), ("kl-450", "kl"))),
    Tip("first and last layer in float", (("mse-in-out", "mse"), ("kl-in-out", "kl"))),
    Tip("another threshold method (mse)", (("mse", "kl"),)),
    Tip("the whole global context in float", (("mse-context", "mse"),)),
    Tip("a convolution of their own for pooled channels", (("mse-forked", "mse"),)),
    Tip("the first layer and the context in float, once forked",
        (("mse-forked-in-context", "mse-forked"),)),
)
OBVIOUS = 0.005  # a gain that anyone would call one: 5 plates of 1,000
LEVEL = 0.05
SLOWER = 1.25  # predicted time that a recommendation may take, of the all-INT8 model's


def verdicts(study: dict[str, Any], tips: Sequence[Tip] = TIPS) -> list[dict[str, Any]]:
    """One line per tip, pair and chip: holds, does not hold, or cannot be told.

    A tip holds when its whole interval lies above zero. It does not hold when the interval lies
    below `OBVIOUS`: whatever gain there may be is smaller than what the tip promises. Otherwise
    the data cannot tell.
    """
    lines = []
    chips = dict.fromkeys(row["chip"] for row in study["rows"])
    for tip in tips:
        for strategy, baseline in tip.pairs:
            for chip in chips:
                found = difference(study, strategy, baseline, chip)
                if found is None:
                    continue
                low, high = found["interval"]
                verdict = ("holds" if low > 0 else "does not hold" if high < OBVIOUS
                           else "cannot be told")
                lines.append({"tip": tip.title, "strategy": strategy, "baseline": baseline,
                              "chip": chip, **found, "verdict": verdict,
                              "sentence": _sentence(tip.title, baseline, chip, found, verdict)})
    return lines


def _sentence(title: str, baseline: str, chip: str, found: dict[str, Any], verdict: str) -> str:
    low, high = found["interval"]
    said = {"holds": "The tip holds", "does not hold": "The tip does not hold",
            "cannot be told": "It cannot be told with this data"}[verdict]
    return (f"{chip}, on top of {baseline}: {title}. {said}: "
            f"{found['difference'] * 100:+.1f} points (95 % interval {low * 100:+.1f} to "
            f"{high * 100:+.1f}, {found['draws']} draws), while draws of {baseline} alone differ "
            f"by up to {found['baseline_spread'] * 100:.1f}.")


def table(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`summarize`'s lines for reading: rounded, refused settings with the tool's words."""
    return [{"strategy": line["strategy"], "chip": line["chip"], "calibrated": line["scheme"],
             "draws": line["draws"], "mean": _round(line.get("mean"), 4),
             "lowest": _round(line.get("low"), 3), "highest": _round(line.get("high"), 3),
             "95 %": "–".join(f"{end:.3f}" for end in line.get("interval", [])),
             "predicted ms": _round(line.get("latency_ms"), 4), "note": line.get("error", "")}
            for line in lines]


def test_table(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The paired tests of `summarize`'s lines, for reading."""
    return [{"strategy": line["strategy"], "chip": line["chip"], "calibrated": line["scheme"],
             "p against float": _round(line["p_float"], 3),
             "draws below float": line.get("worse_draws", 0),
             "p against the baseline": _round(line.get("p_baseline"), 3)}
            for line in lines if "p_float" in line]


def role_table(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`sensitivity`'s lines for reading."""
    said = {"all": "all in INT8", "float": "only this in float", "int8": "only this in INT8"}
    return [{"chip": line["chip"], "setting": said[line["mode"]], "role": line["role"] or "",
             "exact match": _round(line["correct"] / line["images"] if "correct" in line else None,
                                   3),
             "time steps off": line.get("steps_off"),
             "logits' SQNR in dB": _round(line.get("sqnr_db"), 1), "note": line.get("error", "")}
            for line in lines]


def recommendations(study: dict[str, Any]) -> list[dict[str, Any]]:
    """The best strategy of a study by chip.

    The highest mean of those without a draw that is significantly below float, with all draws run,
    whose BModel compiles and is not predicted to take more than `SLOWER` times the time of the
    published form all in INT8. Equal means go to the shorter predicted time.
    """
    lines = [line for line in summarize(study) if line["scheme"] == CROSS_FIT and "mean" in line]
    refused = {(r["strategy"], r["chip"]) for r in study.get("models", []) if "error" in r}
    found = []
    for chip in dict.fromkeys(line["chip"] for line in lines):
        here = [line for line in lines if line["chip"] == chip
                and (line["strategy"], chip) not in refused]
        most = max((line["draws"] for line in here), default=0)
        plain = next((line["latency_ms"] for line in here if line["strategy"] == "mse"), None)
        good = [line for line in here if line["draws"] == most and not line.get("worse_draws")
                and (plain is None or (line["latency_ms"] or 0) <= SLOWER * plain)]
        if good:
            best = max(good, key=lambda x: (x["mean"], -(x["latency_ms"] or 0)))
            found.append({"chip": chip, **{key: best.get(key) for key in (
                "strategy", "draws", "mean", "low", "high", "interval", "p_float", "latency_ms")}})
    return found


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
