"""Audits: how many of a random sample of cells have the right type, told by people who do not see it.

What is judged is a correction like any other, with the name of its audit: the journal is all there is to keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.statistics import Estimate, exact_interval, kappa, proportion
from napari_bloodcell.corrections.correction import Correction, group_by_cell, standing


@dataclass(frozen=True, slots=True)
class Drawn:
    """A cell of a sample: its id, its type when it was drawn, and how many cells had that type then."""

    cell: int
    cell_type: str
    of_cells: int

    def fields(self, audit: str) -> dict[str, Any]:
        """Return what a correction of this audit says about the sample."""
        return {"audit": audit, "audit_type": self.cell_type, "audit_cells": self.of_cells}


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What one reader found.

    Attributes
    ----------
    right, n : int
        Cells whose type is the one the reader gave, and cells judged.
    share : Estimate
        Share of right cells in the sample, exact interval.
    weighted : Estimate
        Share of right cells among all: classes count by their number of cells, not of samples.
    by_type : dict of str to tuple of int
        (right, judged, of all cells) by the type that was audited.
    """

    right: int
    n: int
    share: Estimate
    weighted: Estimate
    by_type: dict[str, tuple[int, int, int]]

    def __str__(self) -> str:
        """Return "right 197 of 200, 98.5 % (95.7–99.7 %)", and the weighted share."""
        if not self.n:
            return "nothing judged yet"
        return (
            f"right {self.right:,} of {self.n:,}, {_percent(self.share)}; weighted by class {_percent(self.weighted)}"
        )


@dataclass(frozen=True, slots=True)
class Readers:
    """How far two readers of one audit agree: Cohen's kappa over the cells that both judged."""

    names: tuple[str, str]
    kappa: Estimate
    n: int

    def __str__(self) -> str:
        """Return the readers and their kappa."""
        low, high = self.kappa.low, self.kappa.high
        within = f" ({low:.2f}–{high:.2f})" if math.isfinite(low) else ""
        return f"{self.names[0]} and {self.names[1]}: κ = {self.kappa.value:.2f}{within} over {self.n:,} cells"


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f}–{100 * share.high:.1f} %)"


def draw_sample(ids: ArrayLike, types: Sequence[str], n_per_type: int, *, seed: int | None = None) -> list[Drawn]:
    """Draw cells of each type at random, in random order.

    Parameters
    ----------
    ids : array of int, shape (N,)
        Ids of the cells that may be drawn.
    types : sequence of str, length N
        Their types; cells without one are not drawn.
    n_per_type : int
        Most cells of a type; of rarer ones all are drawn.
    seed : int, optional
        For the same sample again.

    Raises
    ------
    InputError
        If no cell has a type.
    """
    random = np.random.default_rng(seed)
    every, names = np.asarray(ids, np.int64), np.asarray(types, object)
    drawn: list[Drawn] = []
    for name in sorted({str(t) for t in names} - {""}):
        of_type = every[names == name]
        some = random.choice(of_type, min(n_per_type, of_type.size), replace=False)
        drawn += [Drawn(int(cell), name, int(of_type.size)) for cell in some]
    if not drawn:
        raise InputError("No cell has a type that a model gave it: there is nothing to audit. Classify first.")
    return [drawn[i] for i in random.permutation(len(drawn))]


def audits_of(corrections: Iterable[Correction]) -> dict[str, dict[str, list[Correction]]]:
    """Return what was judged, by audit and by reader; of a cell that a reader judged twice the last judgement."""
    audits: dict[str, dict[str, list[Correction]]] = {}
    for one in standing(corrections):
        if one.audit:
            audits.setdefault(one.audit, {}).setdefault(one.annotator, []).append(one)
    return {
        audit: {who: [group[-1] for group in group_by_cell(said)] for who, said in readers.items()}
        for audit, readers in audits.items()
    }


def result_of(judged: Iterable[Correction]) -> AuditResult:
    """Return the result of what one reader judged in one audit, of any images.

    Notes
    -----
    The weighted share is the sum over types of their share of all cells times their share of right ones. Its interval
    is Clopper and Pearson's with the number of cells that a simple sample of the same variance would have (Korn and
    Graubard, Surv Methodol 1998; 24: 193).
    """
    tally: dict[str, list[int]] = {}
    totals: dict[tuple[str, str], int] = {}
    for one in judged:
        row = tally.setdefault(one.audit_type, [0, 0])
        row[0] += one.to_type == one.audit_type
        row[1] += 1
        totals[one.audit_type, one.image_sha256] = one.audit_cells
    by_type = {
        name: (right, n, max(sum(total for (t, _), total in totals.items() if t == name), n))
        for name, (right, n) in sorted(tally.items())
    }
    right, n = (sum(row[i] for row in by_type.values()) for i in (0, 1))
    return AuditResult(right, n, proportion(right, n), _weighted(list(by_type.values())), by_type)


def _weighted(rows: Sequence[tuple[int, int, int]]) -> Estimate:
    if not rows:
        return Estimate(math.nan)
    right, n, total = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    weight = total / total.sum()
    share = float((weight * right / n).sum())
    effective = 1 / float((weight**2 / n).sum())
    p = right / n
    variance = float((weight**2 * p * (1 - p) / n).sum())
    if variance > 0:
        effective = min(effective, share * (1 - share) / variance)
    return Estimate(share, *exact_interval(share * effective, effective))


def agreement_of(readers: dict[str, list[Correction]]) -> list[Readers]:
    """Return how far each two readers of an audit agree over the cells that both judged."""
    found, names = [], sorted(readers)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            groups = [g for g in group_by_cell([*readers[a], *readers[b]]) if len({c.annotator for c in g}) == 2]
            if groups:
                pairs = [(g[0].to_type, g[-1].to_type) for g in groups]
                types = sorted({t for pair in pairs for t in pair})
                table = np.zeros((len(types), len(types)), np.int64)
                np.add.at(table, tuple(np.array([[types.index(t) for t in pair] for pair in pairs]).T), 1)
                found.append(Readers((a, b), kappa(table), len(pairs)))
    return found
