"""Ways to damage bytes, text and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

WEIRD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 10**400, -(10**30), 0.5, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), "", "x", "nan", "../../etc/passwd", "/etc/passwd", "C:\\x", "\0", "\ud800"),
    *("a" * 5000, "µ∂ß日本", [], {}, [[]], [None], [1e400], {"a": {"b": []}}, [0] * 1000),
)


def pick(rng: np.random.Generator, items: Any) -> Any:
    """Return one of some items, as it is."""
    return items[int(rng.integers(len(items)))]


def spoil(rng: np.random.Generator, content: bytes) -> bytes:
    """Return bytes with one to three things wrong with them; now and then they stay whole."""
    if rng.random() < 0.04:
        return content
    for _ in range(int(rng.integers(1, 4))):
        content = pick(rng, _SPOILERS)(rng, content)
    return content


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _cut_near_the_head(rng: np.random.Generator, content: bytes) -> bytes:
    return content[: int(rng.integers(min(len(content), 64) + 1))]


def _flip(rng: np.random.Generator, content: bytes) -> bytes:
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 20)) if out else 0):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _flip_in_the_head(rng: np.random.Generator, content: bytes) -> bytes:
    return _flip(rng, content[:256]) + content[256:]


def _overwrite(rng: np.random.Generator, content: bytes) -> bytes:
    start, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 200))
    filler = pick(rng, (b"\0" * length, b"\xff" * length, rng.bytes(length)))
    return content[:start] + filler + content[start + length :]


def _huge_number(rng: np.random.Generator, content: bytes) -> bytes:
    start = int(rng.integers(min(len(content), 400) + 1))
    number = pick(rng, (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\xff" * 8))
    return content[:start] + number + content[start + len(number) :]


def _insert(rng: np.random.Generator, content: bytes) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + rng.bytes(int(rng.integers(1, 100))) + content[start:]


def _drop(rng: np.random.Generator, content: bytes) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + content[start + int(rng.integers(1, 300)) :]


def _repeat(rng: np.random.Generator, content: bytes) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + content[start : start + 500] * int(rng.integers(2, 5)) + content[start + 500 :]


def _garbage(rng: np.random.Generator, content: bytes) -> bytes:
    return rng.bytes(int(rng.integers(300)))


_SPOILERS = (
    *(_cut, _cut_near_the_head, _flip, _flip_in_the_head, _overwrite, _huge_number, _insert, _drop, _repeat, _garbage),
    *(_flip, _flip_in_the_head, _huge_number, _cut),  # those that decoders get furthest with, more often
)


def spoil_json(rng: np.random.Generator, value: Any) -> Any:
    """Return JSON content with one to three values replaced, taken away, added or nested too deep."""
    if rng.random() < 0.04:
        return value
    value = json.loads(json.dumps(value))
    for _ in range(int(rng.integers(1, 4))):
        value = _spoil_somewhere(rng, value)
    return value


def _spoil_somewhere(rng: np.random.Generator, value: Any) -> Any:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not inner or rng.random() < 0.15:
        return _weird(rng, value)
    if isinstance(value, dict):
        key = pick(rng, list(value))
        what = rng.random()
        if what < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.25:
            return {**value, pick(rng, ("foreign", "", "__class__", "model", key.upper())): pick(rng, WEIRD)}
        return {**value, key: _spoil_somewhere(rng, value[key])}
    i = int(rng.integers(len(value)))
    if rng.random() < 0.3:
        return pick(rng, (value[:i], value + value[:1], value[::-1], value * 2))
    return [*value[:i], _spoil_somewhere(rng, value[i]), *value[i + 1 :]]


def _weird(rng: np.random.Generator, value: Any) -> Any:
    if isinstance(value, int | float) and abs(value) < 1e300 and rng.random() < 0.5:
        return pick(rng, (-value, value * 1e6, value + 0.5, str(value), [value], 0, float("nan")))
    if rng.random() < 0.05:
        deep: Any = []
        for _ in range(300):
            deep = [deep]
        return deep
    return pick(rng, WEIRD)


def spoil_text(rng: np.random.Generator, text: str) -> bytes:
    """Return text in another encoding, with other line ends, or damaged as bytes."""
    what = rng.random()
    if what < 0.1:
        return text.encode("utf-16", "surrogatepass")
    if what < 0.2:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    if what < 0.25:
        return text.encode("latin-1", "replace") + b"\xb5\xff"
    if what < 0.35:
        return text.replace("\n", "\r\n").encode("utf-8", "surrogatepass")
    content = text.encode("utf-8", "surrogatepass")
    return spoil(rng, content) if what < 0.7 else content
