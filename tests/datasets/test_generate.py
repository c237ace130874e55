import os
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from lprnet_nb.datasets import generate
from lprnet_nb.datasets.alphabet import PROVINCES, PUBLISHED
from lprnet_nb.datasets.folder import load_plates
from lprnet_nb.datasets.generate import (
    Severity,
    contact_sheet,
    draw_chunk,
    generate_plates,
    stream_chunks,
    write_plates,
)
from lprnet_nb.datasets.generator import glyphs, layout
from lprnet_nb.datasets.generator.camera import homographies, project
from lprnet_nb.decode.grammar import compile_grammar, load_grammar
from lprnet_nb.errors import DataError, ParameterError

FLAT = Severity(view=0, image=0, margin=0)


def test_plates_depend_on_the_seed_alone():
    here = generate_plates(130, seed=7, workers=0)
    elsewhere = generate_plates(130, seed=7, workers=2)
    assert here.digest == elsewhere.digest
    assert generate_plates(130, seed=8, workers=0).digest != here.digest
    shorter = generate_plates(70, seed=7, workers=0)
    assert shorter.labels == here.labels[:70]
    np.testing.assert_array_equal(shorter.images, here.images[:70])


def test_the_stream_goes_on_where_it_is_told_to():
    stream = stream_chunks(3, first=5, workers=0, size=8, severities={0: FLAT, 6: Severity()})
    first, second = next(stream), next(stream)
    assert first.labels == draw_chunk(3, 5, severity=FLAT, size=8).labels
    np.testing.assert_array_equal(first.images, draw_chunk(3, 5, severity=FLAT, size=8).images)
    np.testing.assert_array_equal(second.images, draw_chunk(3, 6, size=8).images)


@pytest.mark.parametrize(
    "form, grammar",
    [
        ("blue", "plate-ordinary"),
        ("yellow", "plate-ordinary"),
        ("two-row", "plate-ordinary"),
        ("green", "plate-new-energy"),
    ],
)
def test_texts_follow_the_grammar_of_their_form(form, grammar):
    rules = load_grammar(grammar)
    automaton = compile_grammar(rules, PUBLISHED)
    texts = layout.draw_texts(form, np.arange(3100) % 31, np.random.default_rng(0))
    assert all(automaton.accepts(PUBLISHED.encode(text)) for text in texts)
    assert [text[0] for text in texts[:31]] == list(PROVINCES)
    used = [set().union(*slot) for slot in zip(*texts)]  # and the whole grammar, not a corner of it
    for place, found in enumerate(used):
        assert found == set().union(*(form.slots[place] for form in rules.forms))


def test_serials_hold_as_many_letters_as_the_standard_allows():
    texts = layout.draw_texts("blue", np.arange(6200) % 31, np.random.default_rng(1))
    letters = [sum(c in glyphs.LETTERS for c in text[2:]) for text in texts]
    shares = np.bincount(letters, minlength=3) / len(texts)
    np.testing.assert_allclose(shares, layout.LETTERS_IN_SERIAL, atol=0.02)
    places = np.array([[c in glyphs.LETTERS for c in text[2:]] for text in texts]).mean(0)
    np.testing.assert_allclose(places, 0.3, atol=0.02)  # wherever they stand


def test_forms_provinces_and_characters_are_balanced():
    chunks = [draw_chunk(1, i, severity=FLAT) for i in range(9)]
    labels = [label for chunk in chunks for label in chunk.labels][:558]
    forms = [form for chunk in chunks for form in chunk.forms][:558]
    for form in ("blue", "yellow", "green"):
        of_form = [label[0] for label, f in zip(labels, forms) if f == form]
        assert {of_form.count(p) for p in PROVINCES} == {6}
    counts = {c: sum(label[1:].count(c) for label in labels) for c in glyphs.LATIN}
    digits = [counts[c] for c in glyphs.DIGITS]
    letters = [counts[c] for c in glyphs.LETTERS if c not in "ABCDEFGHJK"]  # new-energy marks
    assert max(digits) < 1.5 * min(digits) and max(letters) < 1.8 * min(letters)
    # The standard allows two letters in a serial: with the office, 2.5 of 24 to 3.5 of 10 digits.
    assert np.mean(digits) < 5 * np.mean(letters)


def test_cells_stand_where_the_standard_puts_them():
    blue, green = layout.FORMS["blue"].cells, layout.FORMS["green"].cells
    assert [cell[0] for cell in blue] == [15.5, 72.5, 151.5, 208.5, 265.5, 322.5, 379.5]
    assert blue[-1][0] + 45 == 440 - 15.5
    assert green[0][2:] == (45, 90) and green[1][2:] == (43, 90)
    assert green[2][0] - (green[1][0] + 43) == 49
    assert green[-1][0] + 43 == 480 - 15.5
    rows = layout.FORMS["two-row"].cells
    assert [cell[2:] for cell in rows] == [(80, 60)] * 2 + [(65, 110)] * 5
    assert rows[-1][0] + 65 == 440 - 27.5 and rows[-1][1] + 110 <= 220 - 15


def test_ink_fills_its_cells_and_nothing_between():
    mask = layout.draw_mask("blue", "京H88888", 2, 3)
    assert mask.shape == (70, 220)
    columns = mask[13:57].max(0)
    second = columns[36:58]
    assert second[0] > 100 and second[-2] > 100  # the stems of H stand at the cell's edges
    assert columns[60:64].max() == 0 and columns[71:75].max() == 0  # 12 mm beside the dot
    assert mask[35, 67] == 255  # the dot, 134.5 mm from the left
    assert mask[35, 1] > 100 and mask[35, 4] == 0  # frame from 1.5 to 4.5 mm


@pytest.mark.parametrize("stroke", [6.5, 11.0])
def test_strokes_are_as_wide_as_asked(stroke):
    letter = glyphs.stroke_glyph("H", stroke)
    row = letter[20 * glyphs.FINE]
    assert row.astype(float).sum() / 255 / glyphs.FINE == pytest.approx(2 * stroke, abs=0.8)


def test_a_narrow_glyph_is_not_stretched():
    one = glyphs.font_glyph("BarlowCondensed-Medium", "1").max(0) > 0
    zero = glyphs.font_glyph("BarlowCondensed-Medium", "0").max(0) > 0
    assert one.sum() < 0.7 * zero.sum()
    assert 0.75 * 180 < zero.sum() <= 180  # a font keeps its side bearings
    assert abs(np.flatnonzero(one).mean() - 90) < 12


def test_every_face_tells_all_characters_apart():
    faces = range(len(glyphs.province_faces(True)))
    provinces = np.stack([glyphs.province_glyphs(45, 90, face) for face in faces])
    for faces, count in ((glyphs.latin_atlas(45, 90), 34), (provinces, 31)):
        assert faces.shape[1:] == (count, 45, 22)
        for face in faces.reshape(len(faces), count, -1).astype(float):
            distances = np.abs(face[:, None] - face[None]).mean(2) + 255 * np.eye(count)
            assert distances.min() > 2


def test_further_faces_are_of_strayed_plates_alone(monkeypatch):
    seen: list[int] = []

    def drawn(form, text, latin, chinese):
        seen.append(chinese)
        return layout.draw_mask(form, text, latin, chinese)

    monkeypatch.setattr(generate, "draw_mask", drawn)
    usual, every = (len(glyphs.province_faces(strayed)) for strayed in (False, True))
    for severity, low, high in ((Severity(), 0, usual), (Severity(glyphs=1), usual, every)):
        seen.clear()
        draw_chunk(1, 0, severity=severity, size=200)
        assert max(seen) in range(low, high)


def test_a_flat_view_maps_corner_to_corner():
    maps = homographies("blue", 3, FLAT, np.random.default_rng(0))
    points = np.array([[0, 0], [440, 140], [38, 70]])
    expected = [[0, 0], [94, 24], [94 * 38 / 440, 12]]
    np.testing.assert_allclose(project(maps, points), [expected] * 3, atol=1e-6)


def test_the_crop_is_the_box_around_the_corners():
    view = Severity(view=1, margin=0)
    maps = homographies("green", 500, view, np.random.default_rng(4))
    corners = project(maps, np.array([[0, 0], [480, 0], [480, 140], [0, 140]]))
    low, high = corners.min(1), corners.max(1)
    assert abs(np.median(low[:, 0])) < 0.6 and abs(np.median(high[:, 0]) - 94) < 0.6
    assert np.median(high[:, 1] - low[:, 1]) == pytest.approx(24, abs=1)
    tilted = np.abs(corners[:, 0, 1] - corners[:, 1, 1])
    assert 1.5 < np.median(tilted) < 7  # pixels of slope over the plate: what real crops show


def test_centres_point_at_the_characters():
    chunk = draw_chunk(2, 0, forms=("blue",), severity=FLAT, size=4)
    expected = [94 * (x + 22.5) / 440 for x, *_ in layout.FORMS["blue"].cells]
    np.testing.assert_allclose(chunk.centres[:, :7], [expected] * 4, atol=1e-3)
    assert np.isnan(chunk.centres[:, 7]).all()


@pytest.mark.parametrize("form, channel", [("blue", 0), ("green", 1), ("yellow", 2)])
def test_grounds_have_their_colour(form, channel):
    images = draw_chunk(5, 0, forms=(form,), severity=FLAT, size=16).images
    means = np.median(images.reshape(16, -1, 3).astype(float), 1)
    assert (means.argmax(1) == channel).mean() > 0.8


def test_severity_makes_images_harder():
    easy = draw_chunk(6, 0, severity=Severity(0.2, 0.1), size=48).images
    hard = draw_chunk(6, 0, severity=Severity(1, 1.5), size=48).images

    def sharpness(images):
        return np.median([cv2.Laplacian(i[..., 1], cv2.CV_32F).std() for i in images])

    assert sharpness(hard) < sharpness(easy)


def test_strokes_stray_as_far_as_told():
    """Single dots, whose centre is known, stay within 4 standard deviations and do move."""
    cell, spacing = (15.5, 25, 45, 90), 20
    moved = []
    for seed in range(8):
        for column in range(30, 200, spacing):
            mask = np.zeros((70, 220), np.uint8)
            cv2.circle(mask, (column, 35), 4, 255, -1)
            found = layout.strayed(mask, cell, 1.0, np.random.default_rng(seed))
            weights = cv2.moments(found)
            moved.append(
                (weights["m10"] / weights["m00"] - column, weights["m01"] / weights["m00"] - 35)
            )
    spread = np.sqrt(np.mean(np.square(moved)))  # pixels; a plate strays by an even part of STRAY
    assert 0.25 < spread / (layout.STRAY * layout.DRAWN) < 0.75
    assert np.abs(moved).max() < 4 * layout.STRAY * layout.DRAWN
    mask = layout.draw_mask("blue", "京A00000", 0, 0)
    assert np.array_equal(layout.strayed(mask, cell, 0.0, np.random.default_rng(0)), mask)


def test_training_pictures_are_softer():
    plain = draw_chunk(6, 0, severity=Severity(0.2, 0.2), size=48)
    soft = draw_chunk(6, 0, severity=Severity(0.2, 0.2, soft=2.4), size=48)
    blur = [
        np.median([cv2.Laplacian(i[..., 1], cv2.CV_32F).std() for i in chunk.images])
        for chunk in (plain, soft)
    ]
    assert blur[1] < 0.7 * blur[0]


def _margins(wild: float) -> np.ndarray:
    """Left and upper margin of 2,000 crops that are seen from the front, parts of their sides."""
    maps = homographies("blue", 2000, Severity(view=0, wild=wild), np.random.default_rng(5))
    corner = project(maps, np.array([[0.0, 0.0]]))[:, 0]
    return corner / (94, 24)


def test_wild_crops_are_cut_and_loose():
    wild, tame = _margins(1), _margins(0)
    assert np.ptp(tame, axis=0).max() < 1e-9  # one margin for all, that of the detector
    cut, loose = (wild < -0.005).mean(axis=0), (wild > 0.06).mean(axis=0)
    assert (cut > 0.1).all() and (loose > 0.15).all()
    # 6 % of the width and 10 % of the height cut, as parts of what is left.
    assert np.allclose(wild.min(axis=0), (-0.06 / 0.88, -0.1 / 0.8))


def test_wild_plates_are_slanted():
    def upright(wild: float) -> np.ndarray:
        maps = homographies("blue", 500, Severity(view=0, wild=wild), np.random.default_rng(5))
        top, bottom = project(maps, np.array([[220.0, 0.0], [220.0, 140.0]])).transpose(1, 0, 2)
        return (bottom - top)[:, 0]

    assert np.abs(upright(0)).max() < 1e-6
    assert 0.3 < (np.abs(upright(1)) > 1).mean() < 0.6


def test_wild_pictures_are_dark_and_framed():
    tame, wild = (draw_chunk(7, 0, ("blue",), Severity(wild=part), 300) for part in (0, 1))
    assert tame.labels == wild.labels
    dark = [(chunk.images.mean(axis=(1, 2, 3)) < 40).mean() for chunk in (tame, wild)]
    assert dark[1] > dark[0] + 0.02
    # The blue of a plate's upper edge is gone under a frame in one of five.
    flat = Severity(view=0, image=0, margin=0)
    upper = [
        draw_chunk(7, 0, ("blue",), replace(flat, wild=wild), 300).images[:, 2, 30:60]
        for wild in (0, 1)
    ]
    blue = [(part[..., 0] > 1.5 * part[..., 2]).mean(axis=1) > 0.5 for part in upper]
    assert blue[0].all() and 0.1 < 1 - blue[1].mean() < 0.35


def test_the_sheet_holds_every_crop():
    plates = generate_plates(5, seed=0)
    sheet = contact_sheet(plates, columns=2, zoom=2)
    assert sheet.shape == (3 * 48, 2 * 188, 3)
    assert (sheet[-48:, 188:] == 255).all()


def test_what_is_impossible_is_said():
    with pytest.raises(ParameterError, match="pink"):
        generate_plates(3, 0, forms=("pink",))
    with pytest.raises(ParameterError, match="at least one"):
        generate_plates(0, 0)


def test_a_written_set_reads_back(tmp_path):
    plates = generate_plates(3, 9)
    again = load_plates(write_plates(plates, tmp_path / "set").parent)
    assert again.names == plates.names and again.labels == plates.labels
    np.testing.assert_array_equal(again.images, plates.images)


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "draw.py"
    script.write_text(
        "import multiprocessing\n"
        "from lprnet_nb.datasets.generate import stream_chunks\n"
        "if __name__ == '__main__':\n"
        "    stream = stream_chunks(0, workers=1, size=2)\n"
        "    next(stream)\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert workers
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, f"workers {workers} outlive their parent"
        time.sleep(0.2)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_plates_without_labels_are_not_written(tmp_path):
    plates = replace(generate_plates(2, seed=0), labels=None)
    with pytest.raises(ParameterError, match="no labels"):
        write_plates(plates, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["labels.json", "labels.csv", "0000.png", "holiday.jpg"])
def test_a_folder_of_ones_own_gets_no_generated_plates(tmp_path, name):
    plates = generate_plates(3, seed=1, workers=0)
    plates = replace(plates, names=("0000.png", "0001.png", "0002.png"))
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(DataError, match=f"{name} is not of these plates"):
        write_plates(plates, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"mine"}


def test_plates_of_which_some_are_written_are_written_whole(tmp_path):
    plates = generate_plates(3, seed=1, workers=0)
    whole = write_plates(plates, tmp_path)
    expected = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    whole.unlink()
    (tmp_path / plates.names[1]).unlink()
    write_plates(plates, tmp_path)
    write_plates(plates, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected
    with pytest.raises(DataError, match="not of these plates"):
        write_plates(generate_plates(4, seed=1, workers=0), tmp_path)


def test_kept_plates_are_the_drawn_ones_and_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path))
    drawn, kept = generate.generate_plates(70, 3, workers=0), generate.kept_plates(70, 3)
    assert (kept.digest, kept.names, kept.labels) == (drawn.digest, drawn.names, drawn.labels)
    assert kept.name == drawn.name
    monkeypatch.setattr(generate, "draw_chunk", None)
    assert generate.kept_plates(70, 3).names == drawn.names
    with pytest.raises(TypeError):
        generate.kept_plates(70, 4)
