"""What notebook 01 shows: each porting trap as a small experiment with a measurable outcome."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch

from ..datasets import fetch
from ..datasets.images import HEIGHT, WIDTH, PlateImages, preprocess
from ..decode import decode
from ..evaluate.accuracy import correct
from ..evaluate.fidelity import same_top1
from ..language import Text, listed, phrase
from ..measure.data import Data
from ..measure.parameters import Parameters
from ..model.lprnet.layers import BATCH_MEANS, PublishedLPRNet
from ..model.network import Network
from ..model.trace import float_logits, trace_model
from ..model.weights import Weights
from ..runtime.inference import infer_plates
from ..work import scheduler
from ..work.pieces import Piece, Run, float_run

STRIDED_POOLS = {7: 2, 14: 4}  # backbone layer: channel stride
PLATE_RATIO = 440 / 140  # width to height of a blue plate, GA 36


def opening(data: Data) -> Text:
    """What is read here, and why it was chosen."""
    return phrase(
        "{count} images of {name} ({reason}), weights: {weights}",
        count=len(data.plates),
        name=data.plates.name,
        reason=data.reason,
        weights=data.weights.name,
    )


def operation_rows(network: Network) -> list[dict[str, Any]]:
    """Kinds of operations of a user's network, and how many there are of each."""
    count = Counter(node.op_type for node in onnx.load_model_from_string(network.onnx).graph.node)
    return [{"operation": kind, "times": times} for kind, times in count.most_common()]


def possible(weights: Weights, batches: Sequence[int]) -> list[int]:
    """Batch sizes that the network takes."""
    return [batch for batch in batches if batch == 1 or weights.of.batches]


def batch_rows(
    weights: Weights, plates: PlateImages, batches: Sequence[int]
) -> list[dict[str, Any]]:
    """A user's network at several batch sizes against batch 1, in float."""
    alone = float_logits(weights, plates)
    rows = []
    for batch in possible(weights, batches):
        logits = float_logits(weights, plates, batch=batch)
        rows.append(
            {
                "batch": batch,
                "images": len(plates),
                "largest difference": float(np.abs(logits - alone).max()),
                "same likeliest class": same_top1(alone, logits),
            }
        )
    return rows


def size_said(network: torch.nn.Module, weights: Weights) -> Text:
    """How large the network is."""
    return phrase(
        "{count:,} parameters, {classes} classes, 18 time steps",
        count=sum(value.numel() for value in network.parameters()),
        classes=weights.classes,
    )


def pools_said(difference: float, refused: str) -> list[Text]:
    """How far the two forms of the pools lie apart, and what torch says of one of them."""
    return [
        phrase("largest difference, both pools, all values: {difference}", difference=difference),
        phrase("torch on a transposed view: {refused}", refused=refused),
    ]


def published_network(weights: Weights) -> PublishedLPRNet:
    """The network as published, with 3-D pools, in evaluation mode."""
    network = PublishedLPRNet(weights.classes)
    network.load_state_dict(weights.state)
    return network.eval()


def read_images(weights: Weights, images: np.ndarray) -> list[str]:
    """What the float network reads, image by image, greedy; uint8 BGR ``[N, 24, 94, 3]``."""
    with torch.inference_mode():
        logits = weights.network()(torch.from_numpy(preprocess(images))).numpy()
    return decode(logits, weights.alphabet).texts


def strided_pools(weights: Weights, images: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
    """Maps around the two pools that stride over channels, in the published and the portable form.

    Returns
    -------
    dict
        By backbone layer: ``"before"``, ``"published"``, ``"portable"``, float32 ``[N, C, H, W]``.
    """
    portable, published = weights.network().backbone, published_network(weights).backbone
    found = {}
    x = torch.from_numpy(preprocess(images))
    with torch.inference_mode():
        for index, layer in enumerate(portable):
            after = layer(x)
            if index in STRIDED_POOLS:
                found[index] = {
                    "before": x.numpy(),
                    "portable": after.numpy(),
                    "published": published[index](x).numpy(),
                }
            x = after
    return found


def refusal(weights: Weights, images: np.ndarray) -> str:
    """What torch says of the published network on a transposed view of uint8 ``[N, 24, 94, 3]``."""
    view = torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2))
    try:
        with torch.inference_mode():
            published_network(weights)(view)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "accepted"


def coupling(weights: Weights, plates: PlateImages, batches: Sequence[int]) -> list[dict[str, Any]]:
    """Plates read right by batch size, with the mean over the batch and over the image.

    ``"moved"`` counts plates that read differently from batch 1, which stands first.
    """
    rows: list[dict[str, Any]] = []
    alone: list[str] = []
    runs = coupling_runs(weights, plates, batches)
    done = scheduler.make([p for run in runs.values() for p in run.shards], phrase("float network"))
    for (batch, mean), run in runs.items():
        texts = decode(run.read(done).logits, weights.alphabet).texts
        alone = alone or texts
        rows.append(
            {
                "batch": batch,
                "batch_mean": mean,
                "images": len(plates),
                "right": int(correct(plates.known_labels, texts).sum()),
                "moved": sum(a != b for a, b in zip(alone, texts)),
            }
        )
    return rows


def coupling_runs(
    weights: Weights, plates: PlateImages, batches: Sequence[int]
) -> dict[tuple[int, str], Run]:
    """What `coupling` reads, by batch size and mean."""
    return {
        (batch, mean): float_run(weights, plates, batch, mean)
        for batch in _telling(batches)
        for mean in BATCH_MEANS
    }


def pieces(parameters: Parameters, data: Data) -> list[Piece]:
    """The long work of this notebook."""
    if data.weights.of.onnx:  # it has one mean at most, and no other form
        return []
    runs = coupling_runs(data.weights, data.plates, parameters.batches)
    return [piece for run in runs.values() for piece in run.shards]


def _telling(batches: Sequence[int]) -> tuple[int, ...]:
    """Batch 1 and the others, 4 where there is no other: one alone can move nothing."""
    return (1, *([batch for batch in batches if batch != 1] or [4]))


def coupling_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What `coupling` shows."""
    moved = {mean: [r for r in rows if r["batch_mean"] == mean][1:] for mean in BATCH_MEANS}
    parts = [
        phrase(
            "{moved} of {images} at batch {batch}",
            moved=row["moved"],
            images=row["images"],
            batch=row["batch"],
        )
        for row in moved["batch"]
    ]
    still = sum(row["moved"] for row in moved["image"])
    return phrase(
        "with the mean over the batch, {parts} read unlike alone; with the mean over the image, "
        "{still}.",
        parts=listed(parts),
        still=still or phrase("none"),
    )


def preprocessings(weights: Weights, plates: PlateImages) -> dict[str, dict[str, Any]]:
    """Plates read right when the images go in as the vendor's scripts declare or feed them.

    Returns
    -------
    dict
        By name: ``"right"``, ``"images"`` and ``"example"``, the first image as the network sees it
        (uint8 BGR).
    """
    boxed = np.stack([letterbox(image) for image in plates.images])
    found = {}
    for name, images in (
        ("BGR, plain resize", plates.images),
        ("RGB, plain resize", plates.images[..., ::-1]),
        ("BGR, letterbox", boxed),
        ("RGB, letterbox", boxed[..., ::-1]),
    ):
        shown = PlateImages(plates.name, np.ascontiguousarray(images), plates.names, plates.labels)
        logits = infer_plates(trace_model(weights), shown, "torch").logits
        texts = decode(logits, weights.alphabet).texts
        found[name] = {
            "right": int(correct(plates.known_labels, texts).sum()),
            "images": len(plates),
            "example": shown.images[0],
            "text": texts[0],
        }
    return found


def preprocessed_crops(variants: Mapping[str, dict[str, Any]]) -> list[tuple[np.ndarray, Text]]:
    """The example of each of `preprocessings`, with its name and what is read in it."""
    return [
        (found["example"], phrase("{name}: {text}", name=_variant(name), text=found["text"]))
        for name, found in variants.items()
    ]


def preprocessings_said(found: Mapping[str, Mapping[str, Any]]) -> Text:
    """What `preprocessings` shows."""
    (name, best), *others = found.items()
    parts = [
        phrase("{count} with {name}", count=other["right"], name=_variant(other_name))
        for other_name, other in others
    ]
    return phrase(
        "of {images} plates, {right} are read right with {name}, {parts}.",
        images=best["images"],
        right=best["right"],
        name=_variant(name),
        parts=listed(parts),
    )


def _variant(name: str) -> Text:
    return {
        "BGR, plain resize": phrase("BGR, plain resize"),
        "RGB, plain resize": phrase("RGB, plain resize"),
        "BGR, letterbox": phrase("BGR, letterbox"),
        "RGB, letterbox": phrase("RGB, letterbox"),
    }[name]


def letterbox(image: np.ndarray) -> np.ndarray:
    """A crop as a letterbox would have it: the plate's own proportions, black bars at the sides.

    The published crops are 94x24 already; a plate is 440x140 mm, so its letterbox is 75 wide.
    """
    width = round(HEIGHT * PLATE_RATIO)
    left = (WIDTH - width) // 2
    return cv2.copyMakeBorder(
        cv2.resize(image, (width, HEIGHT)), 0, 0, left, WIDTH - width - left, cv2.BORDER_CONSTANT
    )


def weights_file(parameters: Parameters, weights: Weights) -> Path | None:
    """The file that the weights were read from, as it is; None for weights of our own."""
    if weights.name == "published":
        return fetch.weights_path()
    return Path(parameters.weights) if parameters.weights.endswith(".pth") else None


def subnormal_shares(path: str | Path) -> dict[str, float]:
    """Share of subnormal float32 values by convolution, of a ``.pth`` file as it is."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {
        name.removesuffix(".weight"): _subnormal(values.float()).mean(dtype=torch.float).item()
        for name, values in state.items()
        if values.dim() == 4
    }


def _subnormal(values: torch.Tensor) -> torch.Tensor:
    return (values != 0) & (values.abs() < torch.finfo(torch.float32).tiny)


def subnormal_cost(path: str | Path, weights: Weights, images: np.ndarray) -> dict[str, Any]:
    """Time an image with the file's values and with subnormals set to zero, and the difference.

    Returns
    -------
    dict
        ``"milliseconds"`` by variant (median, torch, one thread) and ``"difference"``, the largest
        absolute difference of a logit.
    """
    raw = Weights(
        "raw",
        {
            k: v.float() if v.is_floating_point() else v
            for k, v in torch.load(path, map_location="cpu", weights_only=True).items()
        },
        weights.alphabet,
    )
    inputs = torch.from_numpy(preprocess(images))
    networks = {"as published": raw.network(), "flushed": weights.network()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    difference = 0.0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for image in inputs.split(1):  # by turns, so that a busy machine is busy for both
                logits = []
                for name, network in networks.items():
                    started = time.perf_counter()
                    logits.append(network(image))
                    seconds[name].append(time.perf_counter() - started)
                difference = max(difference, float((logits[0] - logits[1]).abs().max()))
    finally:
        torch.set_num_threads(threads)
    times = {name: 1000 * float(np.median(found)) for name, found in seconds.items()}
    return {"milliseconds": times, "difference": difference}


def subnormal_said(shares: Mapping[str, float], cost: Mapping[str, Any]) -> Text:
    """What `subnormal_shares` and `subnormal_cost` show."""
    before, after = cost["milliseconds"].values()
    mostly = sum(share > 0.5 for share in shares.values())
    pace = (
        phrase("the network runs {times:.1f} times as fast", times=before / after)
        if before > 1.2 * after
        else phrase("the network is no faster on this machine, at this load")
    )
    same = (
        phrase("no logit changes")
        if cost["difference"] == 0
        else phrase("the largest change of a logit is {far:g}", far=cost["difference"])
    )
    return phrase(
        "{mostly} of {all} convolutions consist mostly of values too small to matter. Without them "
        "{pace} ({before:.1f} ms an image before, {after:.1f} after), and {same}.",
        mostly=mostly,
        all=len(shares),
        pace=pace,
        before=before,
        after=after,
        same=same,
    )


def all_forms(weights: Weights, plates: PlateImages) -> dict[str, np.ndarray]:
    """Logits at batch 1 of every form that the network takes on its way, published first.

    Returns
    -------
    dict
        float32 ``[N, classes, 18]`` by form.
    """
    import onnxruntime  # here alone, as it writes below the home folder unless it is told not to

    inputs = torch.from_numpy(preprocess(plates.images)).split(1)
    traced, forked = trace_model(weights), trace_model(weights, form="forked")
    networks = {
        phrase("published (3-D pools)"): published_network(weights),
        phrase("portable"): weights.network(),
        phrase("forked"): weights.network(form="forked"),
        phrase("TorchScript of the portable"): torch.jit.load(str(traced.path)),
        phrase("TorchScript of the forked"): torch.jit.load(str(forked.path)),
    }
    found: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for name, network in networks.items():
            found[name] = torch.cat([network(image) for image in inputs]).numpy()
    for name, model in (
        (phrase("ONNX of the portable"), traced),
        (phrase("ONNX of the forked"), forked),
    ):
        session = onnxruntime.InferenceSession(str(model.onnx), providers=["CPUExecutionProvider"])
        found[name] = np.concatenate(
            [session.run(None, {"input": image.numpy()})[0] for image in inputs]
        )
    return found


def compare_forms(forms: Mapping[str, np.ndarray], weights: Weights) -> list[dict[str, Any]]:
    """Each form against the first: largest difference of a logit, and readings that differ."""
    reference = next(iter(forms.values()))
    texts = decode(reference, weights.alphabet).texts
    return [
        {
            "form": name,
            "largest difference": float(np.abs(logits - reference).max()),
            "readings that differ": sum(
                a != b for a, b in zip(texts, decode(logits, weights.alphabet).texts)
            ),
        }
        for name, logits in forms.items()
    ]


def agreement_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What `compare_forms` shows."""
    exact = sum(row["largest difference"] == 0 for row in rows[1:])
    far = max(row["largest difference"] for row in rows)
    unlike = sum(row["readings that differ"] for row in rows)
    return phrase(
        "{exact} of the {others} other forms give the published logits to the last bit, the rest "
        "differ by {far:.1g} at most, and {unlike} plates are read differently."
        if unlike
        else "{exact} of the {others} other forms give the published logits to the last bit, the "
        "rest differ by {far:.1g} at most, and no plate is read differently.",
        exact=exact,
        others=len(rows) - 1,
        far=far,
        unlike=unlike,
    )
