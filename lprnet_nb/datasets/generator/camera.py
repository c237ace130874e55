"""What stands between a plate and its 94x24 crop: viewpoint, detector, lens, light, compression.

Everything random is drawn for a whole chunk of plates at once; one perspective warp a plate carries
all of the geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..images import HEIGHT, WIDTH
from .glyphs import DRAWN
from .layout import FORMS, blank_plate

SCENE = (2 * WIDTH, 2 * HEIGHT)  # pixels at which a plate is seen before the final resize


@dataclass(frozen=True)
class Severity:
    """How hard the images are.

    Parameters
    ----------
    view
        Scale of the angles and of the crop's jitter; 1 is what hand-held pictures have.
    image
        Scale of blur, noise, compression, light and dirt.
    margin
        Mean margin that the detector leaves, as a part of the crop's side; 0 is a tight crop.
    glyphs
        Scale of how far strokes stray from the drawn faces, see `layout.strayed`; 0 keeps the
        faces. For training: a face that is not free differs from ours in ways that we do not know.
    soft
        Largest blur that pictures have beside all others, in pixels of the scene (two of which make
        one of the crop): drawn evenly from 0. For training too; 0 keeps the pictures.
    wild
        Scale of what other detectors and cameras add, see `WILD`; 0 keeps the pictures.
    """

    view: float = 1.0
    image: float = 1.0
    margin: float = 0.02
    glyphs: float = 0.0
    soft: float = 0.0
    wild: float = 0.0


@dataclass(frozen=True)
class Wild:
    """What plates of other origin have, and what share of pictures has it at `Severity.wild` 1.

    Nothing here was read off plates of a test. The margins are what boxes may have that CCPD [1]_
    still counts as found (intersection over union above 0.6: 10 % cut or 15 % added on each side),
    but that no more than 6 % are cut where the province and the last character stand. The slant is
    the lower half of CCPD's "tilt" (15 to 45 degrees), the rest is named by CCPD's other parts
    ("blur", "DB": dark, uneven or bright) and by the corruptions of [2]_ (noise, brightness,
    pixelate, JPEG from quality 25 down), milder, since a crop has no pixel to spare.

    References
    ----------
    .. [1] Z. Xu et al., "Towards End-to-End License Plate Detection and Recognition: A Large
       Dataset and Baseline", ECCV 2018.
    .. [2] D. Hendrycks, T. Dietterich, "Benchmarking Neural Network Robustness to Common
       Corruptions and Perturbations", ICLR 2019, arXiv:1903.12261.
    """

    boxes: float = 0.6  # boxes with a margin of `cut` to `added`, not of `Severity.margin`
    cut: tuple[float, float] = (0.06, 0.10)  # across and down, parts of the crop's sides
    added: float = 0.15
    slanted: float = 0.5
    slant: float = 12.0  # degrees, standard deviation
    framed: float = 0.2
    frame: tuple[float, float] = (10, 32)  # mm of the upper edge hidden; characters start at 25
    coarse: float = 0.25
    columns: tuple[float, float] = (38, 80)  # pixels across of the coarse ones
    combed: float = 0.06  # every other line of the scene later than its neighbours: interlace
    night: float = 0.12
    light: tuple[float, float] = (0.22, 0.55)  # at night, parts of a day's
    grain: float = 0.03  # noise at night, standard deviation, part of white
    glare: float = 0.08
    sharpened: float = 0.15
    packed: float = 0.25
    quality: tuple[int, int] = (18, 45)  # of JPEG


WILD = Wild()


def homographies(form: str, count: int, severity: Severity, rng: np.random.Generator) -> np.ndarray:
    """Maps from plate millimetres to the pixels of the scene.

    A pinhole camera at 3 to 9 plate widths sees the plate turned about three axes; the crop is the
    box around the four corners, upright as a detector's, with a margin of its own on each side.

    Returns
    -------
    np.ndarray
        float64 ``[count, 3, 3]``.
    """
    width, height = FORMS[form].width, FORMS[form].height
    degrees = severity.view * np.stack(
        [
            rng.normal(0, 17, count),  # about the horizontal axis
            rng.normal(0, 23, count),  # about the vertical axis
            rng.normal(0, 6, count),
        ],
        1,
    )  # in the image plane
    a, b, c = np.radians(np.clip(degrees, [-40, -50, -14], [40, 50, 14])).T
    zero, one = np.zeros(count), np.ones(count)
    about_x = _matrices([one, zero, zero, zero, np.cos(a), -np.sin(a), zero, np.sin(a), np.cos(a)])
    about_y = _matrices([np.cos(b), zero, np.sin(b), zero, one, zero, -np.sin(b), zero, np.cos(b)])
    about_z = _matrices([np.cos(c), -np.sin(c), zero, np.sin(c), np.cos(c), zero, zero, zero, one])
    turned = about_z @ about_x @ about_y
    distance = width * rng.uniform(3, 9, count)
    if severity.wild:
        turned[:, :, 1] += _slants(count, severity.wild, rng)[:, None] * turned[:, :, 0]
    maps = turned.copy()
    maps[:, :, 2] = turned @ np.array([-width / 2, -height / 2, 0])
    # The third column now holds where the plate's corner (0, 0) is, before the camera.
    maps[:, 2, 2] += distance
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]]).T
    seen = maps @ corners
    seen = seen[:, :2] / seen[:, 2:]
    low, high = seen.min(2), seen.max(2)
    size = high - low
    jitter = np.abs(severity.view) * rng.normal(0, 1, (count, 4)) * [0.022, 0.05, 0.022, 0.05]
    margins = severity.margin * np.array([1, 1.6, 1, 1.6]) + jitter
    margins = np.clip(margins, [-0.03, -0.07, -0.03, -0.07], None)
    if severity.wild:
        wide = rng.random(count) < WILD.boxes * severity.wild
        margins[wide] = _boxes(int(wide.sum()), rng)
    low, high = low - margins[:, :2] * size, high + margins[:, 2:] * size
    scale = np.array(SCENE) / (high - low)
    crop = _matrices(
        [
            scale[:, 0],
            zero,
            -low[:, 0] * scale[:, 0],
            zero,
            scale[:, 1],
            -low[:, 1] * scale[:, 1],
            zero,
            zero,
            one,
        ]
    )
    return crop @ maps


def _slants(count: int, wild: float, rng: np.random.Generator) -> np.ndarray:
    """Columns by which a slanted plate moves a row: 0 for most plates."""
    angles = np.clip(rng.normal(0, WILD.slant * wild, count), -30, 30)
    return np.where(rng.random(count) < WILD.slanted, np.tan(np.radians(angles)), 0)


def _boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Margins of a detector that is not ours: one size a plate, and each side's own way off it."""
    low = -np.array([*WILD.cut, *WILD.cut])
    size = rng.random((count, 1)) + rng.normal(0, 0.12, (count, 4))
    return low + np.clip(size, 0, 1) * (WILD.added - low)


def _matrices(rows: list[np.ndarray]) -> np.ndarray:
    return np.stack(rows, 1).reshape(-1, 3, 3)


def project(maps: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Pixels ``[N, P, 2]`` of the final crop, of points in plate millimetres ``[P, 2]``."""
    seen = maps @ np.concatenate([points, np.ones((len(points), 1))], 1).T
    return (seen[:, :2] / seen[:, 2:]).transpose(0, 2, 1) / 2


def colours(
    form: str, count: int, severity: Severity, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paint of ground (upper and lower edge) and characters as cameras show it.

    Returns
    -------
    tuple
        float32 BGR ``[count, 2, 3]`` and ``[count, 3]``.
    """
    shape = FORMS[form]
    ground = np.repeat(np.array(shape.ground, np.float32)[None], count, 0)
    ink = np.repeat(np.array(shape.ink, np.float32)[None], count, 0)
    spread = min(1.0, severity.image)
    if form == "blue":
        # From navy over pure blue to a bleached sky blue.
        light = rng.random((count, 1)) ** 1.5
        base = np.array([150, 22, 4]) + light * np.array([100, 120, 35])
        ground[:] = (base + rng.normal(0, 14, (count, 3)))[:, None]
        ink -= np.abs(rng.normal(0, 22, (count, 3))) * spread
    else:
        ground += rng.normal(0, 18, (count, 1, 3)) * spread
        ground *= rng.uniform(0.75, 1.05, (count, 1, 1))
        ink += np.abs(rng.normal(0, 25, (count, 1))) * spread + rng.normal(0, 6, (count, 3))
    return ground.astype(np.float32), ink.astype(np.float32)


def _field(rng: np.random.Generator, count: int, rows: int, columns: int) -> np.ndarray:
    """Smooth random fields of unit spread, float32 ``[count, 24, 94]``."""
    coarse = rng.standard_normal((count, rows, columns), np.float32)
    return np.stack([cv2.resize(f, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for f in coarse])


def _scenery(rng: np.random.Generator) -> np.ndarray:
    """Car body around a plate: a coarse patch of colours, often dark, with hard edges."""
    rows, columns = (3, 2) if rng.random() < 0.6 else (5, 6)
    base = rng.uniform(0, 255) if rng.random() < 0.5 else rng.uniform(0, 90)
    patch = base + rng.normal(0, 45, (rows, columns, 1)) + rng.normal(0, 16, (rows, columns, 3))
    way = cv2.INTER_NEAREST if rng.random() < 0.35 else cv2.INTER_LINEAR
    return cv2.resize(np.clip(patch, 0, 255).astype(np.uint8), SCENE, interpolation=way)


def photograph(
    form: str,
    masks: list[np.ndarray],
    maps: np.ndarray,
    severity: Severity,
    rng: np.random.Generator,
) -> np.ndarray:
    """Crops of drawn plates.

    Parameters
    ----------
    form
        Form of all the plates.
    masks
        Coverage of each plate's paint, see `layout.draw_mask`.
    maps
        From millimetres to scene pixels, see `homographies`.
    severity
        How hard the images are.
    rng
        Source of randomness.

    Returns
    -------
    np.ndarray
        uint8 BGR ``[N, 24, 94, 3]``.
    """
    count, hard = len(masks), severity.image
    ground, ink = colours(form, count, severity, rng)
    outline = blank_plate(form)[1]
    to_mm = np.array([[1 / DRAWN, 0, 0.5 / DRAWN], [0, 1 / DRAWN, 0.5 / DRAWN], [0, 0, 1]])
    from_pixels = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]]) @ maps @ to_mm
    defocus = np.abs(rng.normal(0, 0.65, count)) * hard  # pixels of the scene
    if severity.soft:
        defocus = np.hypot(defocus, rng.uniform(0, severity.soft, count))
    motion = np.where(rng.random(count) < 0.12, rng.uniform(2, 5, count), 0) * hard
    motion_angle = rng.uniform(0, np.pi, count)
    small = np.where(rng.random(count) < 0.12 * hard, rng.uniform(60, WIDTH, count), SCENE[0])
    aliased = rng.random(count) < 0.6
    combed = np.zeros(count, int)
    if severity.wild:
        coarse = rng.random(count) < WILD.coarse * severity.wild
        small = np.where(coarse, rng.uniform(*WILD.columns, count), small)
        combed = rng.integers(1, 5, count) * (rng.random(count) < WILD.combed * severity.wild)
    crops = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    ramp = np.linspace(0, 1, outline.shape[0], dtype=np.float32)[:, None]
    for i, mask in enumerate(masks):
        plate = _painted(mask, ground[i], ink[i], ramp, rng, hard)
        if severity.wild and rng.random() < WILD.framed * severity.wild:
            _framed(plate, rng)
        scene = _scenery(rng)
        matrix = from_pixels[i]
        alpha = cv2.warpPerspective(outline, matrix, SCENE)
        seen = cv2.warpPerspective(plate, matrix, SCENE, borderMode=cv2.BORDER_REPLICATE)
        cv2.copyTo(seen, alpha, scene)
        if defocus[i] > 0.4:
            scene = cv2.GaussianBlur(scene, (0, 0), float(defocus[i]))
        if motion[i] >= 1:
            scene = cv2.filter2D(scene, -1, _streak(motion[i], motion_angle[i]))
        if combed[i]:
            scene[1::2] = np.roll(scene[1::2], combed[i], axis=1)
        if small[i] < SCENE[0]:
            scene = cv2.resize(
                scene,
                (round(small[i]), max(10, round(small[i] / 3.4))),
                interpolation=cv2.INTER_AREA,
            )
        way = cv2.INTER_LINEAR if aliased[i] else cv2.INTER_AREA
        crops[i] = cv2.resize(scene, (WIDTH, HEIGHT), interpolation=way)
    return _developed(crops, severity, rng)


def _painted(
    mask: np.ndarray,
    ground: np.ndarray,
    ink: np.ndarray,
    ramp: np.ndarray,
    rng: np.random.Generator,
    hard: float,
) -> np.ndarray:
    """Colour a plate and put its screws in, uint8 BGR."""
    if np.array_equal(ground[0], ground[1]):
        steps = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
        table = np.clip(ground[0] + steps * (ink - ground[0]), 0, 255).astype(np.uint8)
        plate = cv2.LUT(cv2.merge([mask] * 3), table[None])
    else:
        rows = ground[0] + ramp * (ground[1] - ground[0])
        cover = mask.astype(np.float32) / 255
        plate = cv2.merge(
            [
                np.clip(row + cover * (paint - row), 0, 255).astype(np.uint8)
                for row, paint in zip(rows.T[:, :, None], ink)
            ]
        )
    height, width = mask.shape
    if rng.random() < 0.8:
        shade = tuple(rng.uniform(40, 255) + rng.normal(0, 12, 3))
        # Holes stand over the 2nd and between the 5th and 6th character, often below as well.
        rows = (0.09, 0.91) if rng.random() < 0.4 else (0.09,)
        for row in rows:
            for column in (0.25, 0.75):
                centre = (
                    round(width * (column + rng.normal(0, 0.008))),
                    round(height * (row + rng.normal(0, 0.02))),
                )
                cv2.circle(plate, centre, int(rng.integers(2, 6)), shade, -1, cv2.LINE_AA)
    if rng.random() < 0.12 * hard:  # mud, stickers, a tow hook in front
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(3, 16)), int(rng.integers(2, 9)))
        cv2.ellipse(
            plate,
            centre,
            axes,
            float(rng.uniform(0, 180)),
            0,
            360,
            tuple(rng.uniform(20, 200) + rng.normal(0, 15, 3)),
            -1,
            cv2.LINE_AA,
        )
    return plate


def _framed(plate: np.ndarray, rng: np.random.Generator) -> None:
    """Put a holder around a plate that hides its upper edge, and sometimes the others a little."""
    shade = tuple(rng.uniform(0, 230) + rng.normal(0, 8, 3))
    height, width = plate.shape[:2]
    cv2.rectangle(plate, (0, 0), (width, round(rng.uniform(*WILD.frame) * DRAWN)), shade, -1)
    if rng.random() < 0.5:
        sides = round(rng.uniform(4, 18) * DRAWN)
        cv2.rectangle(plate, (0, 0), (width - 1, height - 1), shade, sides)


def _streak(length: float, angle: float) -> np.ndarray:
    """Kernel of a straight motion of `length` pixels."""
    side = int(np.ceil(length)) | 1
    kernel = np.zeros((side, side), np.float32)
    half = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    ends = np.round((side // 2 + np.stack([-half, half])) * 16).astype(int)
    cv2.line(kernel, tuple(ends[0].tolist()), tuple(ends[1].tolist()), 1, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()


def _developed(crops: np.ndarray, severity: Severity, rng: np.random.Generator) -> np.ndarray:
    """Light, dirt, sensor, sharpening and JPEG of a chunk of crops, uint8."""
    count, hard = len(crops), severity.image
    one = (count, 1, 1)
    # float32 throughout, with the columns' colours in one axis: a short last axis is slow in numpy.
    image = crops.reshape(count, HEIGHT, 3 * WIDTH).astype(np.float32) / 255
    light = 1 + 0.13 * hard * _field(rng, count, 2, 4)
    shadowed = rng.random(count) < 0.15 * hard
    edge = _field(rng, count, 2, 3) + rng.normal(0, 0.7, one).astype(np.float32)
    depth = rng.uniform(0.35, 0.8, one).astype(np.float32)
    shadow = 1 - (1 - depth[shadowed]) / (1 + np.exp(-12 * edge[shadowed]))
    light[shadowed] *= shadow
    image *= _each_colour(light)
    dirty = rng.random(count) < 0.12 * hard
    if dirty.any():
        cover = _each_colour(np.clip(_field(rng, count, 6, 20)[dirty] - 0.8, 0, 0.7))
        dirt = rng.uniform(0.1, 0.55, (*one, 1)) + rng.normal(0, 0.03, (*one, 3))
        image[dirty] += cover * (_each_column(dirt)[dirty] - image[dirty])
    veil = np.minimum(np.abs(rng.normal(0, 0.12, one)) * hard, 0.4).astype(np.float32)
    haze = rng.uniform(0, 1, one).astype(np.float32)
    image += veil * (haze - image)
    gain = np.exp(rng.normal(0, 0.28, (*one, 1)) * hard) * np.exp(
        rng.normal(0, 0.10, (*one, 3)) * hard
    )
    gamma = np.exp(rng.normal(0, 0.22, one) * hard).astype(np.float32)
    image *= _each_column(gain)
    image = np.clip(image, 0, 1.25) ** gamma
    noise = np.abs(rng.normal(0, 0.011, one)) * hard
    if severity.wild:
        image, grain = _lit(image, severity.wild, rng)
        noise = noise + grain
    image += noise.astype(np.float32) * rng.standard_normal(image.shape, np.float32)
    sharp = np.where(rng.random(count) < 0.4, rng.uniform(0.3, 1.5, count), 0) * hard
    quality = np.where(rng.random(count) < 0.8, rng.integers(45, 96, count), 100)
    if severity.wild:
        again = rng.random((2, count)) < severity.wild * np.array([[WILD.sharpened], [WILD.packed]])
        sharp = np.where(again[0], rng.uniform(1.5, 3, count), sharp)
        quality = np.where(again[1], rng.integers(*WILD.quality, count), quality)
    seen = np.clip(image * 255, 0, 255).astype(np.uint8).reshape(crops.shape)
    for i in range(count):
        if sharp[i]:
            soft = cv2.GaussianBlur(seen[i], (0, 0), 1.0)
            seen[i] = cv2.addWeighted(seen[i], 1 + sharp[i], soft, -sharp[i], 0)
        if hard and quality[i] < 100:
            packed = cv2.imencode(".jpg", seen[i], [cv2.IMWRITE_JPEG_QUALITY, int(quality[i])])[1]
            decoded = cv2.imdecode(packed, cv2.IMREAD_COLOR)
            assert decoded is not None  # it was encoded just now
            seen[i] = decoded
    return seen


def _lit(image: np.ndarray, wild: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures ``[N, 24, 282]`` at night, or under a lamp or the sun; and their grain."""
    count = len(image)
    one = (count, 1, 1)
    night, glare = (rng.random(one) < wild * share for share in (WILD.night, WILD.glare))
    image = image * np.where(night, rng.uniform(*WILD.light, one), 1).astype(np.float32)
    middle, width = rng.uniform(0, 1, (2, *one)), rng.uniform(0.06, 0.3, one)
    far = np.linspace(0, 1, WIDTH)[None, None] - middle[0]
    down = (np.linspace(0, 1, HEIGHT)[None, :, None] - middle[1]) / 3
    lamp = rng.uniform(0.3, 1.2, one) * np.exp(-(far**2 + down**2) / (2 * width**2))
    image += _each_colour(np.where(glare, lamp, 0).astype(np.float32))
    return image, np.where(night, rng.uniform(0, WILD.grain, one), 0)


def _each_colour(fields: np.ndarray) -> np.ndarray:
    """A value a pixel ``[N, 24, 94]`` for its three colours: ``[N, 24, 282]``."""
    return np.repeat(fields, 3, axis=2)


def _each_column(colours: np.ndarray) -> np.ndarray:
    """A colour an image ``[N, 1, 1, 3]`` for all its columns: float32 ``[N, 1, 282]``."""
    return np.tile(colours.astype(np.float32)[:, :, 0], (1, 1, WIDTH))
