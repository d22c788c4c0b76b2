"""Features of a GeoJSON file, read one by one: cells and regions of QuPath."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from napari_bloodcell.core.errors import READ_ERRORS, InputError, escaped, reason_of
from napari_bloodcell.core.files import expanded

_CHUNK = 2**20  # characters read at once
_LONGEST = 2**28  # of one feature; longer ones are no cells
_OLD_KINDS = {"PathDetectionObject": "detection", "PathCellObject": "cell", "PathAnnotationObject": "annotation"}


@dataclass(frozen=True, slots=True)
class Feature:
    """One object of a GeoJSON file.

    `rings` are those of all its pieces, each a list of [x, y] in pixels, and `is_hole` tells which are holes. Objects
    without an area (points, lines) have none. `kind` is QuPath's "detection", "cell" or "annotation"; `class_name` is
    as QuPath shows it, such as "WBC: neutrophil", "" for none.
    """

    id: str
    name: str
    kind: str
    class_name: str
    rings: list[Any]
    is_hole: list[bool]


def iter_features(path: str | Path) -> Iterator[Feature]:
    """Yield the features of a GeoJSON file, which is read in parts: a collection, an array, or one feature.

    It may be compressed (``.zip``, ``.gz``). Raises `InputError` if it is missing, damaged, or no GeoJSON.
    """
    path = expanded(path)
    damaged: tuple[type[Exception], ...] = (zipfile.BadZipFile, *READ_ERRORS)
    try:
        with ExitStack() as stack:
            yield from map(_feature, _Reader(_open(path, stack)).iter_features())
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"There is no file {escaped(path)}.") from error
    except damaged as error:
        raise InputError(f"{path} is no intact GeoJSON: {reason_of(error)}.") from error


def _open(path: Path, stack: ExitStack) -> TextIO:
    binary: Any = stack.enter_context(path.open("rb"))
    magic = binary.read(2)
    binary.seek(0)
    if magic == b"PK":
        archive = stack.enter_context(zipfile.ZipFile(binary))
        names = [name for name in archive.namelist() if name.lower().endswith((".json", ".geojson"))]
        if len(names) != 1:
            raise InputError(f"{path} holds {len(names)} GeoJSON files; one is read at a time.")
        binary = stack.enter_context(archive.open(names[0]))
    elif magic == b"\x1f\x8b":
        binary = stack.enter_context(gzip.open(binary))
    return stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8-sig"))


class _Reader:
    """Decodes the values of a JSON text one after another, of which only the part in work is held."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at, self._is_end = file, "", 0, False
        self._decode = json.JSONDecoder().raw_decode

    def iter_features(self) -> Iterator[dict[str, Any]]:
        """Yield the features of the text, whatever holds them."""
        if self._next() == "[":
            yield from self._iter_items()
            return
        rest: dict[str, Any] = {}
        for key in self._iter_keys():
            if key == "features" and self._next() == "[":
                yield from self._iter_items()
            else:
                rest[key] = self._value()
        if rest.get("type") == "Feature":
            yield rest

    def _iter_keys(self) -> Iterator[str]:
        self._take("{")
        while self._next() != "}":
            key = self._value()
            self._take(":")
            yield str(key)
            if self._next() != "}":
                self._take(",")

    def _iter_items(self) -> Iterator[Any]:
        self._take("[")
        while self._next() != "]":
            yield self._value()
            if self._next() != "]":
                self._take(",")
        self._at += 1

    def _next(self) -> str:
        """Return the next character that is no blank."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                raise ValueError("it ends too early")

    def _take(self, character: str) -> None:
        if (found := self._next()) != character:
            raise ValueError(f"{found!r} stands where {character!r} must")
        self._at += 1

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if end < len(self._text) or not self._more():  # a number may go on in the next part
                self._at = end
                return value

    def _more(self) -> bool:
        """Read another part; the longer the value, the larger, so that a long one is not decoded too often."""
        left = self._text[self._at :]
        if len(left) > _LONGEST:
            raise ValueError("one value is longer than any cell's")
        part = self._file.read(max(_CHUNK, len(left)))
        self._text, self._at = left + part, 0
        return bool(part)


def _feature(content: Any) -> Feature:
    if not isinstance(content, dict) or content.get("type") != "Feature":
        raise ValueError("it holds something that is no feature")
    properties = content.get("properties") or {}
    geometry = content.get("geometry") or {}
    kind = properties.get("objectType") or _OLD_KINDS.get(str(content.get("id")), "annotation")
    coordinates = geometry.get("coordinates") or []
    polygons = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(str(geometry.get("type")), [])
    return Feature(
        id=str(content.get("id", "")),
        name=str(properties.get("name") or ""),
        kind=str(kind),
        class_name=_class_name(properties.get("classification")),
        rings=[ring for polygon in polygons for ring in polygon if len(ring) > 2],
        is_hole=[i > 0 for polygon in polygons for i, ring in enumerate(polygon) if len(ring) > 2],
    )


def _class_name(classification: Any) -> str:
    """Return a class as QuPath shows it; its versions write one name, or the names of class and subclass."""
    if isinstance(classification, dict):
        names = classification.get("names")
        return ": ".join(map(str, names)) if names else str(classification.get("name") or "")
    return str(classification or "")
