"""Shapes of red cells as a laboratory reports them: percent with its interval, grade, probability of each grade."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.stats import beta

from napari_bloodcell.core.cells import KINDS, RBC, UNIDENTIFIED
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.core.files import expanded
from napari_bloodcell.stages.red_cells.population import share_of

Grades = Mapping[str, Mapping[str, float]]
"""Shape → grade → lowest percent of it, rising."""
SHIPPED: Final = Path(__file__).with_name("grades.toml")
FEWEST_CELLS: Final = 1000
"""With fewer red cells, grades of rare shapes are mostly chance."""
INFECTED: Final = "infected"
NAMES: Final = ("1+", "2+", "3+")
COLUMNS: Final = ("n", "percent", "low", "high", "grade", *(f"p_{name}" for name in ("none", *NAMES)))


def read_grades(path: str | Path = "") -> Grades:
    """Return the table of grades in a TOML file; that of the program for "".

    Raises
    ------
    InputError
        If the file cannot be read, or holds anything but rising percentages of 1+, 2+ and 3+.
    """
    file = expanded(path) if path else SHIPPED
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except READ_ERRORS as error:
        raise InputError(f"{file} is no table of grades: {reason_of(error)}.") from error
    for shape, limits in content.items():
        if not (isinstance(limits, dict) and limits and set(limits) <= set(NAMES)):
            raise InputError(f"{file}: give {shape!r} one or more of {', '.join(NAMES)}, each with its lowest percent.")
        rising = [limits[name] for name in NAMES if name in limits]
        is_number = all(isinstance(v, int | float) and 0 <= v <= 100 for v in rising)
        if not is_number or rising != sorted(set(rising)):
            raise InputError(f"{file}: the percentages of {shape!r} are {rising}; they must rise, from 0 to 100.")
    return {str(shape): {name: float(v[name]) for name in NAMES if name in v} for shape, v in content.items()}


def morphology_table(kinds: Mapping[str, int], grades: Grades) -> pd.DataFrame:
    """Return the shapes of red cells: index kind; `n`, `percent` with its exact 95 % interval, `grade`, its doubt.

    `kinds` are numbers of red cells per shape; they make up the 100 %. `p_1+` is the probability, given these cells
    alone, that the share of the smear lies in that grade; "" and NaN where a shape has no grades.
    """
    total, rows = sum(kinds.values()), []
    for shape, n in kinds.items():
        limits = grades.get(shape)
        told: list[Any] = list(share_of(n, total))
        if limits is None:
            rows.append([*told, "", *[np.nan] * (len(NAMES) + 1)])
            continue
        percent = told[1]
        grade = [name for name, limit in limits.items() if percent >= limit and n][-1:]
        above = {name: float(beta.sf(limit / 100, n + 0.5, total - n + 0.5)) for name, limit in limits.items()}
        rows.append([*told, *(grade or [""]), *_probabilities(above)])
    index = pd.Index(list(kinds), name="kind", dtype=object)
    return pd.DataFrame(rows, index=index, columns=list(COLUMNS)).astype({"n": "int64", "grade": object})


def _probabilities(above: Mapping[str, float]) -> list[float]:
    """Return the probability of no grade and of each, from those of being at least in it."""
    reached = [1.0]
    for name in NAMES:
        reached.append(above.get(name, np.nan))
    known = [v for v in reached if np.isfinite(v)] + [0.0]
    differences = iter(-np.diff(known))
    return [float(next(differences)) if np.isfinite(v) else 0.0 for v in reached]


def parasitaemia(n_infected: int, n_red: int, target: int) -> dict[str, Any] | None:
    """Return infected red cells in percent of all, with the exact 95 % interval; None where there is no red cell.

    `is_enough` says whether `target` red cells were counted.
    """
    if n_red < 1:
        return None
    n, percent, low, high = share_of(min(n_infected, n_red), n_red)
    told = {"infected": n, "red_cells": n_red, "percent": percent, "low": low, "high": high}
    return told | {"target": target, "is_enough": n_red >= target}


def in_order(kinds: Mapping[str, int]) -> dict[str, int]:
    """Return numbers per kind in the order of a report, without those of no shape: infected, unidentified."""
    known = [name for name in KINDS[RBC] if name in kinds]
    others = [name for name in kinds if name not in known]
    return {name: kinds[name] for name in (*known, *others) if name not in (INFECTED, UNIDENTIFIED)}
