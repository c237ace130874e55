"""Hostile input: broken bytes, broken JSON, and small valid samples to break."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st

# Texts that parsers are known to fall over.
NASTY = tuple(
    text.encode("utf8", "surrogatepass")
    for text in (
        "",
        "\0",
        "\ufeff{}",
        "null",
        "true",
        "[]",
        "{}",
        "0",
        '""',
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 5000,
        "[" * 100_000,
        '{"a":' * 20_000,
        "a = " + "[" * 3000,
        "a" + ".a" * 3000 + " = 1",
        "a" * 20_000,
        "x = " + "9" * 5000,
        '"\\ud800"',
        "\ud800",
        "{" * 1000,
        "a,b\r\n" * 3,
        '"',
        "'''",
        "\r",
        "-" * 70,
        '{"schema": 1}',
        '{"schema": 1e999}',
        '{"schema": [[]]}',
        "\x1b[31m",
        "../../etc/passwd",
    )
)
NASTY += (
    b"\xff\xfe\0\0",
    b"\x80abc",
    b"\x93NUMPY",
    b"PK\x03\x04",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**18, max_value=10**30),
    st.floats(),
    st.text(max_size=12),
    st.just(float("nan")),
    st.sampled_from(["..", "/", ".", "\0", "a" * 300, "\ud800", "record.json", "int8", "BM1684X"]),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def broken(draw: Callable, samples: tuple[bytes, ...]) -> bytes:
    """A valid sample with some of its bytes changed, cut or doubled; or anything at all."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=300))
    if kind == 1:
        return draw(st.sampled_from(NASTY))
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 6)):
            case 0:
                del data[at:]
            case 1:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 2:
                data[at : at + 4] = draw(
                    st.sampled_from(
                        [b"\xff" * 4, b"\0" * 4, b"\x01\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
                    )
                )
            case 3:
                data[at:at] = draw(st.binary(max_size=12))
            case 4:
                del data[at : at + draw(st.integers(1, 40))]
            case 5:
                data[at:at] = data[at : at + draw(st.integers(1, 60))]
            case 6:
                data[at:at] = draw(st.sampled_from(NASTY))[:200]
    return bytes(data)


@st.composite
def edited(draw: Callable, sample: Any) -> bytes:
    """A valid JSON value with some of its parts replaced, removed or added, as text."""
    value = copy.deepcopy(sample)
    for _ in range(draw(st.integers(1, 3))):
        parent, key, place = None, None, value
        while isinstance(place, dict | list) and place and draw(st.integers(0, 3)):
            key = draw(
                st.sampled_from(
                    sorted(place, key=str) if isinstance(place, dict) else range(len(place))
                )
            )
            parent, place = place, place[key]
        new = draw(trees)
        match draw(st.integers(0, 3)), parent:
            case _, None:
                if isinstance(value, dict):
                    value[draw(st.text(max_size=8))] = new
                else:
                    value = new
            case 0, _:
                del parent[key]
            case 1, list():
                parent.insert(key, new)
            case _:
                parent[key] = new
    return dump(value)


def dump(value: Any) -> bytes:
    """JSON with all that Python writes but JSON has not: NaN, lone surrogates."""
    return json.dumps(value, ensure_ascii=False).encode("utf8", "surrogatepass")


def json_cases(sample: Any) -> st.SearchStrategy[bytes]:
    """Broken text, edited values and random values in place of a valid one."""
    return st.one_of(edited(sample), broken((dump(sample),)), trees.map(dump))


def images() -> tuple[bytes, ...]:
    """Small valid images in the formats that are read."""
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return tuple(cv2.imencode(suffix, picture)[1].tobytes() for suffix in (".jpg", ".png", ".bmp"))


def arrays() -> bytes:
    """A small npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weight=np.arange(6, dtype=np.int8).reshape(1, 6))
    return buffer.getvalue()


def bmodel() -> bytes:
    """A BModel of one network with 32 bytes of weights, as `runtime.bmodel_file` reads it."""
    weights = bytes(range(32))

    def tensor(name: bytes, shape: tuple[int, ...]) -> dict:
        return {0: name, 1: ("I", 0), 5: [{0: ("shape", shape)}], 7: ("f", 1.0)}

    stage = {
        0: [tensor(b"input", (1, 3, 24, 94))],
        1: [tensor(b"logits", (1, 68, 18))],
        4: {1: hashlib.sha256(weights).digest(), 2: ("QQ", 0, 32)},
        5: ("I", 0),
    }
    metadata = bytearray(struct.pack("<I", 4))
    _table(metadata, {1: b"2.2", 2: b"today", 3: b"BM1684X", 4: [{0: b"lprnet", 3: [stage]}]}, 0)
    return (
        struct.pack("<IIII", 0xFF55AAEE, 64, len(metadata), 32).ljust(64, b"\0")
        + bytes(metadata)
        + weights
    )


def _table(out: bytearray, fields: dict[int, Any], slot: int) -> None:
    """Append a FlatBuffers table, its fields after it, and point `slot` at it."""
    sizes = {
        index: 16 if isinstance(value, tuple) and value[0] == "QQ" else 4
        for index, value in fields.items()
    }
    entries, offset = [0] * (max(fields) + 1), 4
    for index, size in sizes.items():
        entries[index], offset = offset, offset + size
    layout = len(out)
    out += struct.pack(f"<HH{len(entries)}H", 4 + 2 * len(entries), offset, *entries)
    start = len(out)
    struct.pack_into("<I", out, slot, start - slot)
    out += struct.pack("<i", start - layout) + bytes(offset - 4)
    for index, value in fields.items():
        at = start + entries[index]
        if isinstance(value, tuple) and value[0] != "shape":
            struct.pack_into(f"<{value[0]}", out, at, *value[1:])
        elif isinstance(value, dict):
            _table(out, value, at)
        else:
            _vector(out, value, at)


def _vector(out: bytearray, value: Any, slot: int) -> None:
    struct.pack_into("<I", out, slot, len(out) - slot)
    if isinstance(value, list):
        first = len(out) + 4
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for number, item in enumerate(value):
            _table(out, item, first + 4 * number)
    elif isinstance(value, tuple):
        out += struct.pack(f"<I{len(value[1])}Q", len(value[1]), *value[1])
    else:
        out += struct.pack("<I", len(value)) + value
