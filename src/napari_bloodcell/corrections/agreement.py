"""Merges the journals of several people, and shows where they differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.statistics import kappa
from napari_bloodcell.corrections.correction import Correction, group_by_cell, standing


@runtime_checkable
class Readable(Protocol):
    """A source of corrections, such as a `Journal`."""

    def read(self) -> list[Correction]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Dispute:
    """A cell on which people differ, with the last correction by each."""

    corrections: tuple[Correction, ...]

    @property
    def types(self) -> dict[str, str]:
        """Type, or type and kind, by annotator."""
        return {c.annotator: c.said for c in self.corrections}


@dataclass(frozen=True, slots=True)
class Merged:
    """Several journals as one.

    `agreed` is the last correction of each cell that one person corrected, or several alike. `kappas` maps each pair of
    people to Cohen's kappa over the cells that both looked at, `n_shared` to the number of those.
    """

    agreed: list[Correction]
    disputes: list[Dispute]
    kappas: dict[tuple[str, str], float]
    n_shared: dict[tuple[str, str], int]


def merge(journals: Iterable[Readable | Iterable[Correction]]) -> Merged:
    """Merge journals or corrections of one or more people, of any images.

    A correction that is in several journals counts once. People are told apart by `annotator`.
    """
    every: dict[str, Correction] = {}
    for journal in journals:
        for correction in journal.read() if isinstance(journal, Readable) else journal:
            every.setdefault(correction.key, correction)
    agreed: list[Correction] = []
    disputes: list[Dispute] = []
    judged: list[dict[str, str]] = []
    for group in group_by_cell(standing(sorted(every.values(), key=lambda c: c.when))):
        last = {c.annotator: c for c in group}
        said = {who: c.said for who, c in last.items() if c.said}
        judged.append(said)
        if len(set(said.values())) <= 1:
            agreed.append(group[-1])
        else:
            disputes.append(Dispute(tuple(last[who] for who in sorted(last))))
    people = sorted({who for types in judged for who in types})
    pairs = {(a, b): [(t[a], t[b]) for t in judged if a in t and b in t] for a, b in itertools.combinations(people, 2)}
    kappas = {pair: cohens_kappa(*zip(*both, strict=True)) for pair, both in pairs.items() if both}
    return Merged(agreed, disputes, kappas, {pair: len(both) for pair, both in pairs.items() if both})


def cohens_kappa(a: Sequence[str] | Mapping[Any, str], b: Sequence[str] | Mapping[Any, str]) -> float:
    """Return Cohen's kappa, −1 to 1: how far two people agree beyond chance; NaN if there is no cell.

    `a` and `b` are types of the same cells in the same order, or by cell: those that both have count. Raises
    `InputError` if the sequences differ in length.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        a, b = [a[cell] for cell in a if cell in b], [b[cell] for cell in a if cell in b]
    if len(a) != len(b):
        raise InputError(f"Kappa compares types of the same cells: {len(a)} and {len(b)} were given.")
    if not len(a):
        return float("nan")
    grades = {name: i for i, name in enumerate(sorted({*a, *b}))}
    confusion = np.zeros((len(grades), len(grades)))
    np.add.at(confusion, ([grades[name] for name in a], [grades[name] for name in b]), 1)
    return kappa(confusion).value
