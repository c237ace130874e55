"""Train LPRNet or a network of one's own, from scratch or from weights.

Plates are generated, or of a set of one's own.

The loss is CTC. On generated plates the place of every character is known, so for the first steps a
second term tells each time step its character: it spares CTC the long phase in which it emits
nothing but blanks, and fades out. Batches depend on the seed and the step alone, so an interrupted
run goes on from its checkpoint to the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..children import clean_own_environment
from ..datasets.alphabet import PUBLISHED, Alphabet
from ..datasets.generate import ONE_ROW, Severity, generate_plates, stream_chunks
from ..datasets.images import PlateImages
from ..datasets.margins import Margin, with_margin
from ..decode import decode
from ..errors import DataError, ParameterError
from ..files import check_writable, write_whole
from ..inputs import note
from .trace import float_logits
from .trainee import Trainee, lprnet
from .weight_files import load_checked
from .weights import Weights

OPTIMIZERS = ("adamw", "muon")
OBJECTIVES = ("likelihood", "accuracy")
LIKELIHOOD_SHARE = 0.1  # of the loss in "accuracy": else a plate read all wrong pulls no more
PLAIN_SEED = 2_000_003  # beside the seed, of the plates that do not stray
BLANK_SHARE = 0.3  # weight of blank time steps in the alignment term
LEAST_DOUBT = 0.015  # of a plate in `inclusion`: the ones that are read are not forgotten


@dataclass(frozen=True)
class TrainConfig:
    """What a training run depends on.

    Parameters
    ----------
    output
        Where the weights go (``.pth``, fp16 but for the batch norms).
    checkpoint
        Where the state of the run is kept; beside it ``.jsonl`` gets one line of metrics a
        report.
    steps, batch
        Optimizer steps, and plates a step.
    learning_rate
        Peak of the one-cycle schedule (AdamW).
    candidates
        Plates drawn for a step, more than ``batch``: the averaged weights read them all, and
        ``batch`` are learnt from, see `inclusion`. 0: all that are drawn.
    seed
        Of the initial weights and of all plates.
    forms
        Plate forms to generate.
    easy_steps
        Steps over which the pictures go from easy to fully hard.
    align_steps
        Steps over which the alignment term fades out.
    dropout
        Probability in the two dropout layers; endless fresh plates need none.
    optimizer
        ``"adamw"``, or ``"muon"``: steps of the convolutions' weights made orthogonal
        (`torch.optim.Muon`), of AdamW's size; AdamW for the rest.
    objective
        ``"likelihood"``: CTC loss, nats a character. ``"accuracy"``: one minus the probability of
        the true text, the expected share of plates misread, and a tenth of the CTC loss, nats a
        plate; for weights that read already. It lets go of plates that nobody can read.
    weight_decay
        On convolution weights.
    glyphs, soft, wild
        How far generated plates stray from the drawn faces, are blurred, and look like those of
        other detectors and cameras, see `Severity`.
    plain
        Part of each step's generated plates that are not so, but of the default severity.
    average
        Decay of the exponential moving average of the weights, which is what is kept.
    report_every, report_plates
        Steps between two reports, and held-out plates they are read on.
    workers
        Processes that draw plates; 0 draws in this one.
    threads
        Threads of torch; None leaves them as they are.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    start_from
        Weights to start from in place of random ones: "published", "generated" or a file, of the
        same class list or of another, see `start`. They read already: ``easy_steps=0`` and
        ``align_steps=0`` go with them.
    """

    output: Path
    checkpoint: Path
    steps: int = 25_000
    batch: int = 16
    candidates: int = 0
    learning_rate: float = 1.5e-3
    seed: int = 0
    forms: tuple[str, ...] = ONE_ROW
    easy_steps: int = 2000
    align_steps: int = 3000
    dropout: float = 0.0
    optimizer: str = "adamw"
    objective: str = "likelihood"
    weight_decay: float = 1e-4
    glyphs: float = 0.0
    soft: float = 0.0
    wild: float = 0.0
    plain: float = 0.0
    average: float = 0.999
    report_every: int = 100
    report_plates: int = 128
    workers: int = 1
    threads: int | None = None
    device: str = "auto"
    start_from: str | Path | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "report_every", "report_plates"):
            if getattr(self, name) < 1:
                raise ParameterError(f"training: {name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.learning_rate < 1:
            raise ParameterError(
                f"training: learning_rate={self.learning_rate} must be between 0 and 1."
            )
        if self.optimizer not in OPTIMIZERS:
            raise ParameterError(
                f"training: optimizer={self.optimizer!r} is not known. Choose from "
                f"{', '.join(OPTIMIZERS)}."
            )
        if self.objective not in OBJECTIVES or (self.objective == "accuracy" and self.align_steps):
            raise ParameterError(
                f"training: objective={self.objective!r} is not known or does not "
                f"go with align_steps={self.align_steps}. Choose from "
                f"{', '.join(OBJECTIVES)}; accuracy only with align_steps 0, for "
                "weights that read already."
            )
        if min(self.glyphs, self.soft, self.wild) < 0:
            raise ParameterError("training: glyphs, soft and wild must be zero or more.")
        if not 0 <= self.plain < 1:
            raise ParameterError(f"training: plain={self.plain} must be at least 0 and below 1.")
        if self.candidates and (self.candidates <= self.batch or self.align_steps):
            raise ParameterError(
                f"training: candidates={self.candidates} must be more than batch="
                f"{self.batch}, and align_steps 0: weights that read already "
                "choose among them."
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise ParameterError(
                f"training: device={self.device!r} is not known. Choose auto, cpu or cuda."
            )


# May differ between the parts of an interrupted run: none of them changes a batch.
_FREE = (
    "output",
    "checkpoint",
    "steps",
    "report_every",
    "report_plates",
    "workers",
    "threads",
    "device",
)


def train(
    config: TrainConfig,
    plates: PlateImages | None = None,
    trainee: Trainee | None = None,
    *,
    stop_at: int | None = None,
) -> Path:
    """Train, or go on where the checkpoint stopped, and write the weights.

    Parameters
    ----------
    config
        The run.
    plates
        Labelled plates to train on; generated ones by default.
    trainee
        The network; LPRNet with the published class list by default.
    stop_at
        Leave after this step with the checkpoint written, as an interruption would.

    Returns
    -------
    Path
        The weights, readable by `load_weights`.

    Raises
    ------
    ParameterError
        When the checkpoint belongs to another run, of other plates too, or a file that is not of
        this run would be replaced.
    DataError
        When the plates have no labels, a label does not fit the network, the class list lacks what
        generated plates have, or the files cannot be written. All of it before the first step.
    """
    log = config.checkpoint.with_suffix(".jsonl")
    _check_files(config, log)
    clean_own_environment()
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    trainee = trainee or lprnet()
    alphabet = trainee.alphabet
    if plates is None:
        _check_classes(alphabet)
    given = trainee.load(config.start_from) if config.start_from else None
    identity = _identity(config, trainee, given, plates)
    network, average, optimizer, first = _start(config, identity, trainee, given, device)
    held_out = plates or generate_plates(
        config.report_plates, config.seed + 1_000_003, forms=config.forms, workers=0
    )
    batches = (
        _generated(config, first, trainee)
        if plates is None
        else _own(plates, config, first, trainee)
    )
    scorer = deepcopy(network).eval()
    losses, started = [], time.perf_counter()
    last = min(config.steps, stop_at or config.steps)
    for step in range(first, last):
        images, targets, lengths, aligned = next(batches)
        weights = None
        if config.candidates:
            scorer.load_state_dict(average)
            images, targets, lengths, weights = _choose(
                scorer,
                images,
                targets,
                lengths,
                trainee,
                config.batch,
                np.random.default_rng([config.seed, step, config.batch]),
            )
        rate = learning_rate(config, step)
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout is of the step alone
        share = max(0.0, 1 - step / config.align_steps) if config.align_steps else 0.0
        loss = _loss(
            trainee.logits(network(_tensor(trainee, images, device))),
            targets,
            lengths,
            aligned,
            share,
            alphabet,
            weights,
            config.objective,
        )
        network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step(rate)
        _follow(average, network, min(config.average, (1 + step) / (10 + step)))
        losses.append(loss.detach())
        done = step + 1
        if done % config.report_every == 0 or done == last:
            seconds = time.perf_counter() - started
            scorer.load_state_dict(average)
            texts = decode(_logits(scorer, held_out.images, trainee).cpu().numpy(), alphabet).texts
            row = {
                "step": done,
                "loss": round(float(torch.stack(losses).mean()), 4),
                "rate": round(rate, 6),
                "seconds": round(seconds, 1),
                "plates_per_second": round(len(losses) * config.batch / seconds, 1),
                "exact_match": round(_share(texts, held_out), 4),
            }
            # First the checkpoint: a log or weights without one are not of this run.
            _save(config.checkpoint, identity, done, network, average, optimizer)
            with log.open("a", encoding="utf8") as lines:
                lines.write(json.dumps(row) + "\n")
            losses, started = [], time.perf_counter()
    batches.close()
    return write_weights(config.output, average)


def learning_rate(config: TrainConfig, step: int) -> float:
    """One cycle: a linear rise over 5 % of the steps, then half a cosine down to 1 %."""
    rise = max(1, config.steps // 20)
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    along = (step - rise) / max(1, config.steps - rise)
    return config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * along)) / 2)


def alignment(
    centres: np.ndarray, texts: np.ndarray, blank: int, columns: np.ndarray
) -> np.ndarray:
    """Class of every time step when each character is told at the step that looks at it.

    Parameters
    ----------
    centres
        ``[N, L]``: column of each character's centre in the crop, NaN past the text's end.
    texts
        int ``[N, L]``: class of each character.
    blank
        Class of the time steps between.
    columns
        ``[steps]``: column at which each time step looks, see `Trainee`.

    Returns
    -------
    np.ndarray
        int64 ``[N, steps]``; the characters stand in order, one step each.
    """
    there = ~np.isnan(centres)
    stride = columns[1] - columns[0]
    steps = np.round((np.where(there, centres, 0) - columns[0]) / stride).astype(int)
    length = there.sum(1)
    for place in range(steps.shape[1]):
        room = len(columns) - length + place  # leaves a step for each character still to come
        steps[:, place] = np.clip(steps[:, place], place, room)
        if place:
            steps[:, place] = np.maximum(steps[:, place], steps[:, place - 1] + 1)
    classes = np.full((len(centres), len(columns)), blank, np.int64)
    rows, places = np.nonzero(there)
    classes[rows, steps[rows, places]] = texts[rows, places]
    return classes


def inclusion(losses: np.ndarray, count: int) -> np.ndarray:
    """Chances at which plates are taken: proportional to the doubt in their readings.

    The gradient of a plate's loss is nearly as long as ``1 - exp(-loss)``, and a sum over samples
    that are drawn by their length and divided by their chances varies least [1]_. Weights that read
    19 of 20 plates right are in doubt of so few that 16 of 96 chosen tell nearly as much as all.

    Parameters
    ----------
    losses
        ``[N]``: CTC loss of each plate, nats.
    count
        Plates to take, at most N.

    Returns
    -------
    np.ndarray
        float64 ``[N]``, at most 1, with sum `count`.

    References
    ----------
    .. [1] A. Katharopoulos, F. Fleuret, "Not All Samples Are Created Equal: Deep Learning with
       Importance Sampling", ICML 2018, arXiv:1803.00942.
    """
    doubt = np.maximum(-np.expm1(-np.asarray(losses, np.float64)), LEAST_DOUBT)
    sure = np.zeros(len(doubt), bool)
    while True:
        chances = np.where(sure, 1.0, doubt * (count - sure.sum()) / max(doubt[~sure].sum(), 1e-30))
        over = chances > 1
        if not over.any():
            return chances
        sure |= over


def exact_match(weights: Weights, plates: PlateImages) -> float:
    """Share of plates that the weights read right in float, greedily, mean per image."""
    return _share(read(weights, plates), plates)


def _share(texts: list[str], plates: PlateImages) -> float:
    return float(np.mean([a == b for a, b in zip(texts, plates.known_labels)]))


def by_group(weights: Weights, plates: PlateImages) -> list[dict]:
    """Right readings ``k`` of ``n`` by length of the text and by province (first character)."""
    right = _right(weights, plates)
    rows = []
    for kind, key in (("length", len), ("province", lambda text: text[0])):
        groups = [key(text) for text in plates.known_labels]
        for group in sorted(set(groups), key=lambda g: groups.index(g)):
            hits = [bool(r) for r, g in zip(right, groups) if g == group]
            rows.append({"kind": kind, "group": str(group), "k": sum(hits), "n": len(hits)})
    return rows


def _right(weights: Weights, plates: PlateImages) -> list[bool]:
    return [a == b for a, b in zip(read(weights, plates), plates.known_labels)]


def read(weights: Weights, plates: PlateImages) -> list[str]:
    """Texts that the weights read in float, greedily, mean per image."""
    logits = (
        float_logits(weights, plates.fitted(weights.of.size))
        if weights.of.onnx
        else _logits(_reader(weights), plates.images).numpy()
    )
    return decode(logits, weights.alphabet).texts


def plate_losses(weights: Weights, plates: PlateImages) -> np.ndarray:
    """CTC loss of each labelled plate in float, mean per image: float32 ``[N]``, nats.

    ``exp(-loss)`` is the probability that the weights give the true text.
    """
    return _losses(
        _logits(_reader(weights), plates.images),
        *_packed(plates.known_labels, weights.alphabet),
        weights.alphabet,
    ).numpy()


def _reader(weights: Weights) -> nn.Module:
    network = weights.network("image")
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's hints


def _logits(
    network: nn.Module, images: np.ndarray, trainee: Trainee | None = None, batch: int = 16
) -> torch.Tensor:
    # Channels last and small batches, which stay in the cache: two to four times the plates.
    device, trainee = next(network.parameters()).device, trainee or lprnet()
    with torch.inference_mode():
        return torch.cat(
            [
                trainee.logits(network(_tensor(trainee, images[start : start + batch], device)))
                for start in range(0, len(images), batch)
            ]
        )


def margin_curve(
    weights: Weights,
    plates: PlateImages,
    margins: tuple[float, ...] = (-0.1, -0.05, -0.025, 0, 0.025, 0.05, 0.1, 0.15),
) -> dict[float, float]:
    """Exact match by the margin that is added to (or cut from) the crops."""
    return {m: exact_match(weights, with_margin(plates, Margin(m, m))) for m in margins}


def write_weights(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """Write a plain state dict: fp16, but batch norms (small, and beyond fp16's range) as they are.

    The file appears by rename.
    """
    norms = {name.rsplit(".", 1)[0] for name in state if name.endswith("running_var")}
    small = {
        name: (
            value
            if name.rsplit(".", 1)[0] in norms or not value.is_floating_point()
            else value.half()
        )
        .detach()
        .cpu()
        .clone()
        for name, value in state.items()
    }
    _write_torch(path, small)
    return path


def _write_torch(path: Path, value: dict) -> None:
    write_whole(path, lambda file: torch.save(value, file))


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ParameterError("training: device='cuda', but torch sees no GPU. Choose cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _check_classes(alphabet: Alphabet) -> None:
    """Raise a DataError when generated plates have characters that the class list has not."""
    missing = "".join(c for c in PUBLISHED.characters[:-3] if c not in alphabet.characters)
    if missing:  # of the published list, I, O and the blank are on no plate
        raise DataError(
            f"the class list has no {missing[:10]}{'…' * (len(missing) > 10)}, which "
            "generated plates have. Train on plates of your own (--images), or add "
            "them to the class list."
        )


def _start(
    config: TrainConfig,
    identity: dict,
    trainee: Trainee,
    given: Weights | None,
    device: torch.device,
) -> tuple[nn.Module, dict, _Optimizer, int]:
    torch.manual_seed(config.seed)
    network = trainee.build()
    if given:
        told = trainee.carry(given, network)
        if not config.checkpoint.exists():
            note(told)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's hints
    network.train()
    if given and _unfitted(given):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    optimizer = _Optimizer(config, network)
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    if not config.checkpoint.exists():
        return network, average, optimizer, 0
    try:
        state = load_checked(config.checkpoint, device)
        known = json.loads(state["config"])
    except Exception as error:  # on a damaged file, whatever some part of torch's reader raises
        raise DataError(
            f"checkpoint {config.checkpoint} cannot be read: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}. Remove it to "
            "start afresh."
        ) from error
    for name, value in identity.items():
        if known.get(name) != value:
            differs = (
                "on other plates"
                if name == "plates"
                else f"with {name}={known.get(name)!r}, not {value!r}"
            )
            raise ParameterError(
                f"checkpoint {config.checkpoint} is of a run {differs}. Name another file to "
                f"write, or remove it and {config.output} to start afresh."
            )
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return network, {k: v.clone() for k, v in state["average"].items()}, optimizer, state["step"]


def _unfitted(given: Weights) -> bool:
    """Whether batch norm was an identity in training, as in the published weights.

    By the statistics of a batch those read nothing at all (0 of 64 test plates, 58 as they are), so
    training leaves the identity in place.
    """
    return all(
        bool((value == float(name.endswith("running_var"))).all())
        for name, value in given.state.items()
        if "running" in name
    )


def _check_files(config: TrainConfig, log: Path) -> None:
    """Raise, before any work, unless all files can be written and are this run's to write."""
    for path in (config.output, config.checkpoint, log):
        check_writable(path)
    if config.checkpoint.exists():
        return
    foreign = [path for path in (config.output, log) if path.is_file() and path.stat().st_size]
    if foreign:
        raise ParameterError(
            f"{foreign[0]} is there, and training did not write it: it has no checkpoint "
            f"{config.checkpoint}. Name another file to write, or move it away."
        )


def _identity(
    config: TrainConfig, trainee: Trainee, given: Weights | None, plates: PlateImages | None
) -> dict:
    whole = json.loads(json.dumps(asdict(config), default=str))
    return {k: v for k, v in whole.items() if k not in _FREE} | {
        "network": trainee.digest,
        "classes": trainee.alphabet.classes,
        "start_from": given and given.digest,
        "plates": plates and plates.digest,
    }


class _Optimizer:
    """What `TrainConfig.optimizer` names, over all parameters of a network."""

    def __init__(self, config: TrainConfig, network: nn.Module) -> None:
        rate, decay = config.learning_rate, config.weight_decay
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._steppers: list[torch.optim.Optimizer] = []
        rest = dict(enumerate(network.parameters()))
        if config.optimizer == "muon":  # which takes matrices only, here views of the weights
            for place, weight in [(k, p) for k, p in rest.items() if p.ndim > 1]:
                matrix = _matrix(weight.detach())
                if matrix.data_ptr() == weight.data_ptr():
                    self._matrices.append((rest.pop(place), nn.Parameter(matrix)))
            matrices = [matrix for _, matrix in self._matrices]
            self._steppers.append(
                torch.optim.Muon(
                    matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        groups = [
            {"params": [p for p in rest.values() if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in rest.values() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        there = [group for group in groups if group["params"]]
        self._steppers.append(torch.optim.AdamW(there, lr=rate, foreach=True))

    def step(self, rate: float) -> None:
        for parameter, matrix in self._matrices:
            matrix.grad = None if parameter.grad is None else _matrix(parameter.grad)
        for stepper in self._steppers:
            for group in stepper.param_groups:
                group["lr"] = rate
            stepper.step()

    def state_dict(self) -> list[dict]:
        return [stepper.state_dict() for stepper in self._steppers]

    def load_state_dict(self, states: list[dict]) -> None:
        for stepper, state in zip(self._steppers, states, strict=True):
            stepper.load_state_dict(state)


def _matrix(values: torch.Tensor) -> torch.Tensor:
    """Weights ``[O, I, ...]`` as ``[O, ... * I]``, a view if channels come last."""
    return values.movedim(1, -1).flatten(1)


def _save(
    checkpoint: Path,
    identity: dict,
    step: int,
    network: nn.Module,
    average: dict,
    optimizer: _Optimizer,
) -> None:
    _write_torch(
        checkpoint,
        {
            "config": json.dumps(identity),
            "step": step,
            "network": network.state_dict(),
            "average": average,
            "optimizer": optimizer.state_dict(),
        },
    )


def _follow(average: dict, network: nn.Module, decay: float) -> None:
    state = network.state_dict()
    moving = [name for name, value in state.items() if value.is_floating_point()]
    with torch.no_grad():
        torch._foreach_lerp_(
            [average[name] for name in moving], [state[name] for name in moving], 1 - decay
        )
        for name in state.keys() - moving:
            average[name].copy_(state[name])


def _tensor(trainee: Trainee, images: np.ndarray, device: torch.device) -> torch.Tensor:
    return trainee.inputs(images, device).to(memory_format=torch.channels_last)


def _losses(
    logits: torch.Tensor, targets: torch.Tensor, lengths: torch.Tensor, alphabet: Alphabet
) -> torch.Tensor:
    """CTC loss of each plate, nats."""
    log_probs = logits.permute(2, 0, 1).log_softmax(2)
    steps = torch.full((log_probs.shape[1],), log_probs.shape[0], dtype=torch.long)
    return functional.ctc_loss(
        log_probs,
        targets.to(logits.device),
        steps,
        lengths,
        blank=alphabet.blank,
        reduction="none",
        zero_infinity=True,
    )


def _loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    lengths: torch.Tensor,
    aligned: torch.Tensor | None,
    share: float,
    alphabet: Alphabet,
    weights: torch.Tensor | None,
    objective: str,
) -> torch.Tensor:
    """`TrainConfig.objective`; the plates' mean, or their sum by weights."""
    losses = _losses(logits, targets, lengths, alphabet)
    losses = (
        LIKELIHOOD_SHARE * losses - torch.expm1(-losses)
        if objective == "accuracy"
        else losses / lengths.to(logits.device)
    )
    loss = losses.mean() if weights is None else (losses * weights.to(losses)).sum()
    if aligned is None or not share:
        return loss
    weight = torch.ones(alphabet.size, device=logits.device)
    weight[alphabet.blank] = BLANK_SHARE
    told = functional.cross_entropy(logits, aligned.to(logits.device), weight)
    return loss + 2 * share * told


def _choose(
    scorer: nn.Module,
    images: np.ndarray,
    targets: torch.Tensor,
    lengths: torch.Tensor,
    trainee: Trainee,
    count: int,
    dice: np.random.Generator,
) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`count` plates by `inclusion`, and the weights that make their loss that of all."""
    losses = _losses(_logits(scorer, images, trainee), targets, lengths, trainee.alphabet)
    chances = inclusion(losses.cpu().numpy(), count)
    order = dice.permutation(len(chances))
    ends = np.cumsum(chances[order])  # systematic sampling: each chance of at most 1 is met once
    chosen = order[np.searchsorted(ends, (np.arange(count) + dice.random()) * ends[-1] / count)]
    parts = targets.split(lengths.tolist())
    return (
        images[chosen],
        torch.cat([parts[i] for i in chosen]),
        lengths[chosen],
        torch.from_numpy(1 / (len(chances) * chances[chosen])),
    )


Batch = tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor | None]


def _generated(config: TrainConfig, first: int, trainee: Trainee) -> Generator[Batch, None, None]:
    alphabet, size = trainee.alphabet, config.candidates or config.batch
    plain = round(size * config.plain)
    strays = {"glyphs": config.glyphs, "soft": config.soft, "wild": config.wild}
    kinds = [(config.seed, size - plain, strays), (config.seed + PLAIN_SEED, plain, {})]
    streams = [
        stream_chunks(
            seed,
            first=first,
            forms=config.forms,
            severities=_hardening(config.easy_steps, kind),
            workers=-(-config.workers * count // size),
            size=count,
        )
        for seed, count, kind in kinds
        if count
    ]
    for chunks in zip(*streams):
        labels = [label for chunk in chunks for label in chunk.labels]
        aligned = None
        if config.align_steps:
            centres = np.concatenate([chunk.centres for chunk in chunks])
            texts = np.full(centres.shape, alphabet.blank)
            for row, label in zip(texts, labels):
                row[: len(label)] = alphabet.encode(label)
            aligned = torch.from_numpy(alignment(centres, texts, alphabet.blank, trainee.columns))
        images = np.concatenate([chunk.images for chunk in chunks])
        yield (images, *_packed(labels, alphabet), aligned)


def _hardening(easy_steps: int, strays: dict[str, float]) -> dict[int, Severity]:
    """Severity by the step from which it holds, to the full one after `easy_steps`."""
    stages, severities = 5, {}
    for stage in range(stages):
        hard = 0.3 + 0.7 * stage / (stages - 1)
        severities[easy_steps * stage // (stages - 1)] = Severity(
            hard, hard, **{name: hard * amount for name, amount in strays.items()}
        )
    return severities


def _own(
    plates: PlateImages, config: TrainConfig, first: int, trainee: Trainee
) -> Generator[Batch, None, None]:
    if plates.labels is None:
        raise DataError(f"{plates.name} has no labels. Training needs a text for every image.")
    alphabet = trainee.alphabet
    for label in plates.labels:
        repeats = sum(a == b for a, b in pairwise(label))
        if not label or len(alphabet.encode(label)) + repeats > trainee.steps:
            raise DataError(
                f"{plates.name}: label {label!r} does not fit {trainee.steps} time steps."
            )
    step = first
    while True:
        rng = np.random.default_rng([config.seed, step])
        chosen = rng.integers(0, len(plates), config.candidates or config.batch)
        images = plates.images[chosen]
        labels = [plates.labels[i] for i in chosen]
        yield (images, *_packed(labels, alphabet), None)
        step += 1


def _packed(
    labels: list[str] | tuple[str, ...], alphabet: Alphabet
) -> tuple[torch.Tensor, torch.Tensor]:
    targets = np.concatenate([alphabet.encode(label) for label in labels])
    return torch.from_numpy(targets), torch.tensor([len(label) for label in labels])
