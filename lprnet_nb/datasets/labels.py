"""Labels of plates, as tools and people write them: lists, and names of files.

A list gives a plate to a file name or path: ``labels.json`` (``{file: plate}``), CSV with or
without a heading, PaddleOCR's ``rec_gt.txt`` (tab), CBLPRD's ``train.txt`` (name, plate, kind). A
file name is a label only where it can be one, see `labels_in_names`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..inputs import decode_text, note, read_json, read_text
from .alphabet import PROVINCES, PUBLISHED_CLASSES, Alphabet, normalize
from .images import IMAGE_SUFFIXES

LIST_SUFFIXES = (".json", ".csv", ".tsv", ".txt")
LONGEST = 18  # characters: the time steps of the network

_NAME_WORDS = re.compile(
    "(file|image|img|picture)?_?(name|path|file)?|文件(名|名称)?|(图片|图像)(名|名称|文件|路径)?|路径|名称"
)
_PLATE_WORDS = re.compile(
    "(licen[cs]e_?)?plates?(_?(number|no|text))?|labels?|text|gt|(ground_?)?truth|transcription"
    "|licen[cs]e|lp|words|车牌(号|号码)?|牌照|号牌(号码)?|号码|标签|标注|真值|文本|内容"
)
_DELIMITERS = "\t;,，|"
_SAMPLE = 1 << 16  # characters and lines from which the kind of a list is told
_QUOTES = "\"'“”‘’"

# GA 36-2018 as in the packaged grammar "plate", which a test holds it to; and, behind it, plates
# that end in a character of their own, for class lists that have it.
_SERIAL = "[0-9A-HJ-NP-Z]"
_ORDINARY = re.compile(rf"[{PROVINCES}][A-HJ-NP-Z](?!(?:[0-9]*[A-Z]){{3}}){_SERIAL}{{5}}")
_NEW_ENERGY = re.compile(rf"[{PROVINCES}][A-HJ-NP-Z](?:[A-HJK]{_SERIAL}[0-9]{{4}}|[0-9]{{5}}[DF])")
_SPECIAL = re.compile(rf"[{PROVINCES}][A-HJ-NP-Z]{_SERIAL}{{4}}[学警港澳挂领试超]")


@dataclass(frozen=True)
class LabelList:
    """A label file as it was written.

    Parameters
    ----------
    path
        The file.
    rows
        ``(where, name, plate)``: the place in the file for messages, the name or path, and the
        text, as they are written.
    """

    path: Path
    rows: tuple[tuple[str, str, str], ...]

    def mapping(self, *, doubles: bool = True) -> dict[str, str]:
        """Plate by name.

        Raises
        ------
        DataError
            When a name has two plates; with ``doubles=False`` when it occurs twice at all.
        """
        found: dict[str, str] = {}
        for where, name, plate in self.rows:
            if name in found and (not doubles or found[name] != plate):
                raise DataError(
                    f"label file {self.path}, {where}: {name!r} occurs twice, as "
                    f"{found[name]!r} and as {plate!r}. Remove the wrong one."
                )
            found[name] = plate
        return found


def read_list(path: str | Path) -> LabelList:
    """Read a label file of any kind: JSON by its suffix, else lines.

    Raises
    ------
    DataError
        When it cannot be read or is not such a list, with the line.
    """
    path = Path(path)
    rows = (
        _json_rows(path)
        if path.suffix.lower() == ".json"
        else _text_rows(path, read_text(path, "label file"))
    )
    return LabelList(path, tuple(rows))


def read_labels(path: str | Path, *, doubles: bool = True) -> dict[str, str]:
    """Plate by name of a label or results file; see `read_list` and `LabelList.mapping`."""
    return read_list(path).mapping(doubles=doubles)


def picture_keys(images: Iterable[str]) -> frozenset[str]:
    """The images' names as `names_a_picture` compares them."""
    return frozenset(_key(_clean(image)) for image in images)


def names_a_picture(path: Path, pictures: Container[str]) -> bool:
    """Whether a text is a label list: it has a name and a plate a line, and one of `pictures`."""
    try:
        text = decode_text(path, "label file")[0]
        rows = _text_rows(path, text[: text.rfind("\n", 0, _SAMPLE) + 1] or text)
    except DataError:
        return False
    return any(_key(_clean(name)) in pictures for _, name, _ in rows)


def _clean(name: str) -> str:
    """A name or path to compare with others: ``/``, no quotes around it, no capitals."""
    name = name.strip().strip(_QUOTES).strip().replace("\\", "/").casefold()
    return name[2:] if name.startswith("./") else name


def _json_rows(path: Path) -> list[tuple[str, str, str]]:
    # Objects become lists of pairs, so that a key that occurs twice is seen.
    found = read_json(path, "label file", pairs=list)
    plates = _of(found, "plates")
    if isinstance(plates, list) and all(isinstance(item, tuple) for item in plates):
        found = [(name, _of(facts, "plate")) for name, facts in plates]  # of `infer --details`
    if not isinstance(found, list) or not all(
        isinstance(item, tuple) and isinstance(item[1], str) for item in found
    ):
        raise DataError(f"label file {path} is not a mapping {{file name: plate}}.")
    return [(f"entry {number}", name, plate) for number, (name, plate) in enumerate(found, 1)]


def _of(pairs: object, key: str) -> object:
    """What an object that was read as pairs has by a key; None for everything else."""
    items = pairs if isinstance(pairs, list) else []
    return next((item[1] for item in items if isinstance(item, tuple) and item[0] == key), None)


def _text_rows(path: Path, text: str) -> list[tuple[str, str, str]]:
    delimiter = None
    if match := re.match(r"sep=(.)\r?\n", text):  # how Excel is told the delimiter
        delimiter, text = match[1], "\n" + text[match.end() :]
    sample = re.split(r"\r\n|\r|\n", text[:_SAMPLE])
    lines = [line for line in sample if line.strip(_DELIMITERS + " \u3000")]
    if delimiter is None:
        delimiter = max(_DELIMITERS, key=lambda d: sum(d in line for line in lines))
    if sum(delimiter in line for line in lines) * 2 < len(lines):
        table = [
            (f"line {number}", _by_spaces(line, path, number))
            for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1)
            if line.strip()
        ]
    else:
        table = _by_delimiter(text, delimiter, path)
    short = next((where for where, cells in table if len(cells) < 2), None)
    if short is not None or not table:
        raise DataError(
            f"label file {path}, {short or 'which is empty'}: expected a file name and "
            "a plate, such as 'a.jpg,京A12345'."
        )
    name, plate, heading = _columns([cells for _, cells in table])
    narrow = next((where for where, cells in table if len(cells) <= max(name, plate)), None)
    if narrow:
        raise DataError(
            f"label file {path}, {narrow}: has fewer columns than the other lines. Mend that line."
        )
    return [(where, cells[name], cells[plate]) for where, cells in table[heading:]]


def _by_delimiter(text: str, delimiter: str, path: Path) -> list[tuple[str, list[str]]]:
    table = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            if any("\n" in cell or "\r" in cell for cell in cells):
                raise csv.Error
            if any(cell.strip() for cell in cells):
                table.append((f"line {reader.line_num}", cells))
    except csv.Error:
        raise DataError(
            f"label file {path}, line {reader.line_num}: a quote before or in this line is not "
            "closed. Mend that line."
        ) from None
    return table


def _by_spaces(line: str, path: Path, number: int) -> list[str]:
    """Name and plate of a line without delimiters; a name may have spaces before its suffix."""
    suffixes = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    match = re.match(rf"\s*(.+?(?:{suffixes}))\s+(\S.*)", line, re.IGNORECASE)
    name, _, rest = (match[1], "", match[2]) if match else line.strip().partition(" ")
    first, *more = rest.split() or [""]
    if not first:
        return [name]
    known = frozenset(PUBLISHED_CLASSES)
    if not more or is_plate(normalize(first, known)) or not re.match(r"[0-9A-Za-z·]", more[0]):
        return [name, first]
    if is_plate(normalize(rest, known)):
        return [name, rest]
    raise DataError(
        f"label file {path}, line {number}: {rest!r} may be a plate with spaces or "
        "several columns. Put a tab or a comma between the columns."
    )


def _columns(table: Sequence[Sequence[str]]) -> tuple[int, int, int]:
    """Column of the names, column of the plates, and how many lines are a heading."""
    words = [
        cell.strip(_QUOTES + " ").lower().replace(" ", "_").replace("-", "_") for cell in table[0]
    ]
    names = [column for column, word in enumerate(words) if word and _NAME_WORDS.fullmatch(word)]
    plates = [column for column, word in enumerate(words) if _PLATE_WORDS.fullmatch(word)]
    width = min(map(len, table))
    files = [
        sum(_names_a_file(cells[column]) for cells in table[:_SAMPLE]) for column in range(width)
    ]
    by_suffix = max(range(width), key=lambda column: files[column])
    count = min(len(table), _SAMPLE)
    name = by_suffix if files[by_suffix] * 2 > count or not names else names[0]
    plate = next(
        (column for column in plates if column != name),
        name + 1 if name + 1 < width else int(name == 0),
    )
    heading = bool(names or plates) or files[name] == count - 1 > 0
    return name, plate, int(heading and not _names_a_file(table[0][name]))


def _names_a_file(cell: str) -> bool:
    return cell.rstrip(_QUOTES + " ").lower().endswith(IMAGE_SUFFIXES)


def label_of_each(labels: LabelList, folder: Path, images: Sequence[str]) -> tuple[list[str], int]:
    """The label of each image as it is written, and how many labels are of no image.

    A name or path in the list is that of an image when one ends with the other, folder by folder:
    ``a.jpg``, ``images/a.jpg`` and ``D:/plates/a.jpg`` all name the only ``a.jpg`` below the
    folder. The suffix may be missing.

    Raises
    ------
    DataError
        When an image has no label or two labels.
    """
    texts = labels.mapping()
    found = {image: texts[image] for image in images if image in texts}
    rest = [name for name in texts if name not in found]
    unused = _match_paths(labels.path, texts, rest, folder, images, found) if rest else 0
    lacking = [image for image in images if image not in found]
    if lacking:
        none = len(lacking) == len(images) and texts
        raise DataError(
            f"{len(lacking)} images of {folder} have no label in {labels.path}, the "
            f"first is {lacking[0]}"
            + (f"; what it names is {next(iter(texts))!r} and so on" if none else "")
            + ". Add them to the label file or move them away."
        )
    doubles = len(labels.rows) - len(texts)
    if doubles:
        note(f"label file {labels.path}: {doubles} lines say again what others say.")
    return [found[image] for image in images], unused


def _match_paths(
    path: Path,
    texts: dict[str, str],
    rest: Iterable[str],
    folder: Path,
    images: Sequence[str],
    found: dict[str, str],
) -> int:
    """Add the labels of names that are not exactly an image's; returns how many are of none."""
    by_base = defaultdict(list)
    for name in rest:
        by_base[_key(_clean(name))].append(name)
    taken: dict[str, str] = {}
    above = [part.casefold() for part in folder.parts[1:]]
    for image in images:
        names = by_base.get(_key(_clean(image)))
        if names is None:
            continue
        below = _clean(image).split("/")
        candidates: dict[str, int] = {}
        for name in names:
            own = _clean(name).split("/")
            if not (own[-1].endswith(IMAGE_SUFFIXES) and below[-1].endswith(IMAGE_SUFFIXES)):
                own[-1] = below[-1]  # one of them has no suffix; the rest is the same
            same = _common_tail(own, [*above, *below])
            if same == len(own) or same >= len(below):  # one ends with the other
                candidates[name] = same
        exact = found.get(image)
        longest = max(candidates.values(), default=0)
        best = {name for name, same in candidates.items() if same == longest or exact is not None}
        plates = {texts[name] for name in best} | ({exact} if exact is not None else set())
        if len(plates) > 1:
            raise DataError(
                f"label file {path}: {sorted(best)[0]!r} and others give the image "
                f"{image} different plates, {' and '.join(sorted(plates))}. Remove "
                "the wrong one."
            )
        for name in best:
            if name in taken:
                raise DataError(
                    f"label file {path}: {name!r} may be {taken[name]} or {image}. "
                    f"Write paths into it, relative to {folder}."
                )
            taken[name] = image
            found[image] = texts[name]
    return sum(name not in taken for name in rest)


def _key(name: str) -> str:
    base = name.rsplit("/", 1)[-1]
    stem, dot, suffix = base.rpartition(".")
    return stem if dot and f".{suffix}" in IMAGE_SUFFIXES else base


def _common_tail(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other)):
        if a != b:
            break
        count += 1
    return count


def normalized(
    path: Path, images: Sequence[str], texts: Sequence[str], alphabet: Alphabet
) -> tuple[str, ...]:
    """Labels as the class list writes them, with a note of how many were written otherwise.

    Raises
    ------
    DataError
        When one is empty.
    """
    known = {text: alphabet.normalize(text) for text in dict.fromkeys(texts)}
    for image, text in zip(images, texts):
        if not known[text]:
            raise DataError(
                f"label file {path}: the label of {image} is empty. Fill it in or move "
                "the image away."
            )
    changed = [text for text in texts if known[text] != text]
    if changed:
        note(
            f"label file {path}: {len(changed)} labels were written in another way (full width, "
            f"lower case, dots, spaces or quotes), such as {changed[0]!r} for "
            f"{known[changed[0]]!r}."
        )
    return tuple(known[text] for text in texts)


def check_labels(
    folder: Path, images: Sequence[str], labels: Sequence[str], alphabet: Alphabet
) -> None:
    """Raise a DataError that names the images unless the class list can write every label."""
    unknown = unwritable(images, labels, alphabet)
    if not unknown:
        return
    if len(unknown) == 1:
        [(image, text)] = unknown.items()
        try:
            alphabet.encode(text)
        except DataError as error:
            raise DataError(f"{folder / image}: {error}") from error
    raise DataError(
        f"{folder}: {len(unknown)} of {len(labels)} labels have characters that are not in the "
        f"class list: {_named(unknown)}. Correct them, name the class list of your weights, or "
        "judge the rest: --skip-unknown, in a notebook DATA = 'skip-unknown:FOLDER'."
    )


def unwritable(images: Sequence[str], labels: Sequence[str], alphabet: Alphabet) -> dict[str, str]:
    """Images and labels, of those labels that the class list cannot write."""
    return {image: text for image, text in zip(images, labels) if not alphabet.writes(text)}


def note_skipped(place: Path, unknown: Mapping[str, str], remain: int) -> None:
    """Say which plates are left out because their labels cannot be written, all of them.

    Raises
    ------
    DataError
        When no plate remains.
    """
    said = (
        f"{place}: {len(unknown)} plates left out whose labels have characters that are not in "
        f"the class list: {_named(unknown)}; {remain} remain"
    )
    if not remain:
        raise DataError(f"{said}. Name the class list of your weights.")
    if unknown:
        note(f"{said}.")


def _named(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{image} {text!r}" for image, text in labels.items())


def is_plate(text: str) -> bool:
    """Whether a text is an ordinary, a new-energy or a special plate.

    Examples
    --------
    >>> [is_plate(text) for text in ("皖A12B34", "京AD12345", "粤Z1234港", "A01", "京A1234")]
    [True, True, True, False, False]
    """
    return any(form.fullmatch(text) for form in (_ORDINARY, _NEW_ENERGY, _SPECIAL))


def labels_in_names(images: Sequence[str], alphabet: Alphabet) -> list[str | None]:
    """The plate in each file name, or None where the name is not a plate.

    It is the part of the name before the first ``-``, ``_``, ``.`` or bracket, else the only part
    that is a plate. What is a plate is decided by the grammar of Chinese plates; with another class
    list also by the shape that most names of the folder share: as many characters, all of them
    classes, and not a mere numbering.

    Parameters
    ----------
    images
        File names or paths.
    alphabet
        Class list.

    Examples
    --------
    >>> from lprnet_nb.datasets.alphabet import PUBLISHED
    >>> labels_in_names(["京A12345-2.jpg", "a/皖AD12345_1.png", "0001.jpg"], PUBLISHED)
    ['京A12345', '皖AD12345', None]
    """
    stems = [image.rsplit("/", 1)[-1].rpartition(".")[0] for image in images]
    found = [_plate_in(stem, alphabet) for stem in stems]
    if alphabet.classes == PUBLISHED_CLASSES or all(found):
        return found
    heads = [next(iter(_parts(stem)), "").replace(" ", "") for stem in stems]
    shape = _shared_shape([head for head, plate in zip(heads, found) if plate is None], alphabet)
    return [
        plate or (head if shape and _shape(head, alphabet) == shape else None)
        for plate, head in zip(found, heads)
    ]


def _parts(stem: str) -> list[str]:
    return [part for part in re.split(r"[-_.()（）【】\[\]]+", stem) if part.strip()]


def _plate_in(stem: str, alphabet: Alphabet) -> str | None:
    parts = _parts(stem)
    options = [alphabet.normalize(part) for part in parts]
    options += [
        alphabet.normalize(word) for part in parts if " " in part.strip() for word in part.split()
    ]  # "京A12345 copy"
    fit = list(dict.fromkeys(text for text in options if is_plate(text)))
    if not fit and len(parts) > 1 and len(parts[0]) == 2 and is_plate("".join(options[:2])):
        return "".join(options[:2])  # "京A-12345"
    return options[0] if options and options[0] in fit else fit[0] if len(fit) == 1 else None


def _shape(text: str, alphabet: Alphabet) -> str:
    """Length, and which characters are letters or digits; nothing for what cannot be a label."""
    if not 4 <= len(text) <= LONGEST or not alphabet.writes(text):
        return ""
    return "".join("a" if c.isascii() and c.isalnum() else "汉" for c in text)


def _shared_shape(heads: Sequence[str], alphabet: Alphabet) -> str:
    """The shape that most heads share, unless they are a numbering or digests."""
    shape, count = Counter(_shape(head, alphabet) for head in heads).most_common(1)[0]
    same = [head for head in heads if _shape(head, alphabet) == shape]
    # In IMG0001 only the digits differ, and a digest has no letter beyond F.
    letters = {re.sub(r"[0-9]", "", head) for head in same}
    numbered = len(letters) <= 1 + min(3, len(same) // 20)
    digests = set("".join(same)) <= set("0123456789ABCDEFabcdef") and alphabet.writes("K")
    return "" if count * 2 <= len(heads) or numbered or digests else shape
