"""Counts by hand against results: whether the program counts right in this laboratory."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import napari_bloodcell
from napari_bloodcell.core.errors import InputError, escaped, reason_of
from napari_bloodcell.core.files import csv_text, expanded, staged, text_of_csv
from napari_bloodcell.core.statistics import kappa
from napari_bloodcell.images.files import image_name
from napari_bloodcell.results.exchange.annotated import counts_of_annotations
from napari_bloodcell.results.files import COUNTS
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.specimens.measures import Detection, Kind, Measure
from napari_bloodcell.results.specimens.pages import render
from napari_bloodcell.results.specimens.plots import plots_of
from napari_bloodcell.results.specimens.statistics import (
    bland_altman,
    concordance,
    passing_bablok,
    repeatability,
    spearman,
)
from napari_bloodcell.results.store import json_text, numbers_of

IMAGE, SPECIMEN = "image", "specimen"
"""Columns of a list of counts by hand that are no measures."""
GRADE = "_grade"
"""Measures whose names end so are grades."""
PAGE, PAIRS, FIGURES = "comparison.html", "comparison.csv", "comparison.json"
"""Files of a comparison."""
_YES, _NO = ("yes", "y", "true", "positive", "pos"), ("no", "n", "false", "negative", "neg")
_READERS = ("by hand", "found")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Counts by hand against results.

    Attributes
    ----------
    measures : dict of str to Measure
        By name, in the order of the list.
    pairs : DataFrame
        All pairs: `image`, `specimen`, `measure`, `by_hand`, `found`.
    n_by_hand, n_compared, n_results : int
        Rows of the list, those that have a result, and results.
    warnings : tuple of str
        What was left out, in sentences.
    """

    measures: dict[str, Measure]
    pairs: pd.DataFrame
    n_by_hand: int
    n_compared: int
    n_results: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain numbers, strings, lists and dicts (JSON)."""
        content = {name: asdict(measure) for name, measure in self.measures.items()}
        for name, measure in self.measures.items():
            for key in ("by_hand", "found"):
                del content[name][key]
            content[name]["n"] = measure.n
            if measure.detection is not None:
                for key in ("sensitivity", "specificity"):
                    content[name]["detection"][key] = asdict(getattr(measure.detection, key))
        return {
            "measures": content,
            "n_by_hand": self.n_by_hand,
            "n_compared": self.n_compared,
            "n_results": self.n_results,
            "warnings": list(self.warnings),
        }

    def page(self) -> str:
        """Return the comparison as one page of HTML."""
        measures = [
            {f.name: getattr(measure, f.name) for f in fields(measure)} | {"n": measure.n, "plots": plots_of(measure)}
            for measure in self.measures.values()
        ]
        return render(
            "comparison.html",
            version=napari_bloodcell.__version__,
            measures=measures,
            n_by_hand=self.n_by_hand,
            n_compared=self.n_compared,
            n_results=self.n_results,
            warnings=self.warnings,
        )

    def write(self, folder: str | Path) -> Path:
        """Write ``comparison.html``, ``.json`` and ``.csv`` into a folder, whole or not at all; return the page.

        Raises
        ------
        OutputError
            If the folder cannot be written to.
        """
        folder = expanded(folder)
        with staged(folder, last=FIGURES) as stage:
            (stage / PAGE).write_text(self.page(), encoding="utf-8", newline="\n")
            texts = self.pairs.assign(**{name: self.pairs[name].map(csv_text) for name in (IMAGE, SPECIMEN, "measure")})
            texts.to_csv(stage / PAIRS, index=False, lineterminator="\n")
            (stage / FIGURES).write_bytes(json_text(self.to_dict()).encode())
        return folder / PAGE


def compare(
    by_hand: str | Path | pd.DataFrame,
    results: Iterable[Result | str | Path],
    *,
    positive: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare counts by hand with results: bias, limits, regression, correlation, grades, detection, repeats.

    Parameters
    ----------
    by_hand : path or DataFrame
        A CSV file or table with a row for each image: `image`, the name of the image or of its result's folder, and a
        column for each measure, named as in ``counts.json``: types ("RBC"), kinds ("WBC_neutrophil",
        "neutrophil_percent"), densities ("RBC_per_mm2"), and every other number there. Columns that end with
        "_grade" hold grades (0, 1+, 2+, …), columns of yes and no whether something is there. A blank cell was not
        counted. Several rows with the same `specimen` are repeated smears of it. Or annotations: a COCO file, or the
        folder of a YOLO data set, whose objects are counted.
    results : iterable of Result or path
        Results, their folders, or folders of such folders.
    positive : mapping of str to float, optional
        From which value on a number by measure means that something is there; by default every number above 0.

    Returns
    -------
    Comparison
        The figures of each measure, which `Comparison.write` writes as one page.

    Raises
    ------
    InputError
        The list cannot be read, has no usable column, or none of its images has a result.
    """
    listed = _read_list(by_hand)
    found: dict[tuple[str, ...], dict[str, float | str]] = {}
    for names, values in _measures_of_all(results):
        if names in found:
            raise InputError(f"Two results are called {escaped(names[0])!r}. Give them folders of different names.")
        found[names] = values
    if not found:
        raise InputError("There is no result to compare with. Give folders that `analyse` wrote.")
    matched = {name: match for name in listed[IMAGE] if (match := _match(name, found)) is not None}
    missing = [name for name in listed[IMAGE] if name not in matched]
    if not matched:
        some = ", ".join(map(repr, list(found)[:3]))
        raise InputError(
            f"None of the {len(listed)} images of the list has a result: it names {escaped(listed[IMAGE].iloc[0])!r}, "
            f"and results are of {escaped(some)}. The column {IMAGE!r} holds names of images or of results' folders."
        )
    known = listed[listed[IMAGE].isin(list(matched))]
    measures: dict[str, Measure] = {}
    parts: list[pd.DataFrame] = []
    warnings = _doubts(missing, known)
    for name in (column for column in listed.columns if column not in (IMAGE, SPECIMEN)):
        has = [name in found[matched[image]] for image in known[IMAGE]]
        if not any(has):
            warnings.append(f"No result has the measure {escaped(name)!r}: it is left out.")
            continue
        pairs, kind = _pairs_of(name, known, [found[matched[image]] for image in known[IMAGE]])
        if len(pairs):
            measures[name] = _measure(name, kind, pairs, (positive or {}).get(name))
            parts.append(pairs)
    for name in set(positive or {}) - set(measures):
        raise InputError(f"{name!r} is no measure that is compared; those are {', '.join(measures) or 'none'}.")
    if not measures:
        raise InputError(f"Nothing can be compared. {' '.join(warnings)}")
    return Comparison(measures, pd.concat(parts, ignore_index=True), len(listed), len(known), len(found), (*warnings,))


def measures_of(numbers: Mapping[str, Any]) -> dict[str, float | str]:
    """Return every measure of a result by name, from the content of its ``counts.json``."""
    measures: dict[str, float | str] = {}
    for name, value in numbers.items():
        if isinstance(value, int | float | str) and name != IMAGE:
            measures[name] = value
    for name, n in (numbers.get("counts") or {}).items():
        measures[name] = n
    for name, value in (numbers.get("per_mm2") or {}).items():
        measures[f"{name}_per_mm2"] = value
    for kind, row in (numbers.get("differential") or {}).items():
        measures[f"WBC_{kind}"] = row["n"]
        if row.get("percent") is not None:
            measures[f"{kind}_percent"] = row["percent"]
    return measures


def _read_list(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Return a list of counts by hand as text, with `image` and `specimen`."""
    if isinstance(source, pd.DataFrame):
        table = source.copy()
        where = "the table"
    elif (path := expanded(source)).is_dir() or path.suffix.lower() == ".json":
        table, where = counts_of_annotations(path), str(path)
    else:
        where = str(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
            separator = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
            table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(f"The list {path} cannot be read as CSV (UTF-8): {reason_of(error)}.") from error
        if separator == ";":  # a spreadsheet of a country whose decimals have commas
            table = table.map(lambda cell: cell.replace(",", "."))
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    table = table.map(lambda cell: "" if pd.isna(cell) else text_of_csv(str(cell).strip()))
    if IMAGE not in table.columns and SPECIMEN in table.columns:
        table[IMAGE] = table[SPECIMEN]
    if IMAGE not in table.columns:
        raise InputError(f"{where} has no column {IMAGE!r}; it has {', '.join(table.columns) or 'none'}.")
    if not table.columns.is_unique:
        raise InputError(f"Two columns of {where} have the same name. Each measure has one column.")
    table = table[table[IMAGE] != ""]
    twice = table[IMAGE][table[IMAGE].duplicated()]
    if len(twice):
        raise InputError(
            f"{where} has two rows for {escaped(twice.iloc[0])!r}. Smears of one specimen are told apart by their "
            f"image and share their {SPECIMEN!r}."
        )
    if table.empty or len(table.columns) <= 1 + (SPECIMEN in table.columns):
        raise InputError(f"{where} holds no counts: it needs rows, and a column for each measure.")
    if SPECIMEN not in table.columns:
        table[SPECIMEN] = table[IMAGE]
    return table.assign(**{SPECIMEN: table[SPECIMEN].where(table[SPECIMEN] != "", table[IMAGE])})


def _measures_of_all(
    results: Iterable[Result | str | Path],
) -> Iterator[tuple[tuple[str, ...], dict[str, float | str]]]:
    """Yield the names of each result, and its measures."""
    for result in [results] if isinstance(results, str | Path | Result) else results:
        if isinstance(result, Result):
            numbers = result.numbers or numbers_of(result)
            folder = result.folder
            yield tuple(dict.fromkeys((*([folder.name] if folder else []), result.image_name))), measures_of(numbers)
            continue
        path = expanded(result)
        folders = [path] if (path / COUNTS).is_file() else sorted(p.parent for p in path.glob(f"*/{COUNTS}"))
        if not folders:
            raise InputError(f"{path} holds no result: there is no {COUNTS} in it, nor in a folder in it.")
        for one in folders:
            try:
                numbers = json.loads((one / COUNTS).read_text(encoding="utf-8"))
                measures = measures_of(numbers)
            except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
                raise InputError(f"The result in {one} is damaged: {reason_of(error)}.") from error
            yield tuple(dict.fromkeys((one.resolve().name, str(numbers.get("image", ""))))), measures


def _match(name: str, found: Mapping[tuple[str, ...], Any]) -> tuple[str, ...] | None:
    """Return the result that a name of an image means; the folder's name wins."""
    for wanted in dict.fromkeys((name, Path(name.replace("\\", "/")).name, image_name(Path(name.replace("\\", "/"))))):
        for which in (0, -1):
            fitting = [names for names in found if names[which] == wanted]
            if len(fitting) > 1:
                raise InputError(
                    f"{escaped(name)!r} could be several results: {', '.join(escaped(n[0]) for n in fitting)}. Give "
                    "the name of the result's folder."
                )
            if fitting:
                return fitting[0]
    return None


def _doubts(missing: list[str], known: pd.DataFrame) -> list[str]:
    doubts = []
    if missing:
        some = ", ".join(map(escaped, missing[:5])) + (" …" if len(missing) > 5 else "")
        doubts.append(f"{len(missing)} of the list {'has' if len(missing) == 1 else 'have'} no result: {some}.")
    n_repeats = len(known) - known[SPECIMEN].nunique()
    if n_repeats:
        doubts.append(f"{n_repeats} repeated smears count for the repeatability only.")
    return doubts


def _pairs_of(name: str, listed: pd.DataFrame, measures: list[dict[str, float | str]]) -> tuple[pd.DataFrame, Kind]:
    """Return the pairs of a measure, and its kind; `InputError` names the cell that cannot be read."""
    words = [text.lower() for text in listed[name]]
    kind: Kind = "number"
    if name.endswith(GRADE):
        kind = "grade"
    elif any(words) and all(word in ("", *_YES, *_NO) for word in words):
        kind = "presence"
    rows = []
    for image, specimen, word, row in zip(listed[IMAGE], listed[SPECIMEN], words, measures, strict=True):
        given = row.get(name)
        if word and given is not None and not (isinstance(given, float) and math.isnan(given)):
            rows.append((image, specimen, name, _value(word, kind, name, image), _value(str(given), kind, name, image)))
    return pd.DataFrame(rows, columns=[IMAGE, SPECIMEN, "measure", "by_hand", "found"]), kind


def _value(text: str, kind: str, name: str, image: str) -> float:
    """Return a number, a grade from 0, or presence 0 or 1."""
    word = text.strip().lower()
    if word in _YES or word in _NO:
        return float(word in _YES)
    if kind == "grade":
        word = {"": "", "-": "0", "none": "0"}.get(word, word)
        word = str(len(word)) if word and set(word) == {"+"} else word.removesuffix("+")
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (kind == "grade" and (value < 0 or not value.is_integer() or value > 20)):
        allowed = {"grade": "0, 1+, 2+, 3+", "presence": "yes or no"}.get(kind, "a number")
        raise InputError(f"{name} of {escaped(image)} is {escaped(text)!r}; {allowed} is expected, or nothing.")
    return float(value > 0) if kind == "presence" else value


def _measure(name: str, kind: Kind, pairs: pd.DataFrame, positive_from: float | None) -> Measure:
    first = pairs.drop_duplicates(SPECIMEN)
    x, y = first["by_hand"].to_numpy(np.float64), first["found"].to_numpy(np.float64)
    spread = {
        who: one
        for who, column in zip(_READERS, ("by_hand", "found"), strict=True)
        if kind == "number" and (one := repeatability(pairs[SPECIMEN].tolist(), pairs[column])) is not None
    }
    meaning, from_value = ("there", 1.0) if kind != "number" else ("above 0", math.ulp(0.0))
    if positive_from is not None:
        meaning, from_value = f"{positive_from:g} or more", positive_from
    has, shown = x >= from_value, y >= from_value
    detection = None
    if has.any() and not has.all():
        detection = Detection(
            meaning, int((has & shown).sum()), int(has.sum()), int((~has & ~shown).sum()), int((~has).sum())
        )
    both: dict[str, Any] = {"by_hand": tuple(x.tolist()), "found": tuple(y.tolist()), "detection": detection}
    if kind == "number":
        return Measure(
            name,
            kind,
            **both,
            repeatability=spread,
            bland_altman=bland_altman(x, y),
            passing_bablok=passing_bablok(x, y),
            concordance=concordance(x, y),
            spearman=spearman(x, y),
        )
    k = int(max(x.max(), y.max(), 1)) + 1
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (x.astype(np.int64), y.astype(np.int64)), 1)
    is_grade = kind == "grade"
    return Measure(
        name,
        kind,
        **both,
        kappa=kappa(confusion),
        weighted_kappa=kappa(confusion, "linear") if is_grade else None,
        quadratic_kappa=kappa(confusion, "quadratic") if is_grade else None,
        grades=["0", *(f"{i}+" for i in range(1, k))] if is_grade else ["no", "yes"],
        confusion=confusion.tolist(),
    )
