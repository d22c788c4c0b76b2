"""What speaks against pooling fields: sentences for people, with the fields' names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.errors import escaped
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.corrections.journal import Journal
from napari_bloodcell.results.recipes import portable
from napari_bloodcell.results.result import Result
from napari_bloodcell.stages.calibration import LEAST_CONFIDENCE

SAME_WIDTH = 1.25
"""Fields whose red cells differ by more than this factor from the others' have another magnification."""
SAME_STAIN_DEGREES = 10.0
"""Largest angle between the absorbances of typical red cells of one stain."""
_INDIFFERENT = ("device", "precision", "batch_size", "points_per_batch", "pixel_size_um", "rbc_diameter_px")
"""Settings that may differ between fields of one specimen."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names in one phrase, the first few of many."""
    some = ", ".join(map(escaped, names[:most]))
    return some if len(names) <= most else f"{some} and {len(names) - most} more"


def doubts_about_fields(fields: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Return what speaks against pooling these fields, [] if nothing does."""
    said = []
    if len(fields) == 1:
        said.append("It has one field only, so how fields differ is not part of its intervals. Add fields.")
    odd = _odd_widths([result.calibration for result in fields])
    if odd.any():
        widths = ", ".join(
            f"{escaped(names[i])} ({fields[i].calibration.rbc_diameter_px:.0f} px)"
            for i in np.flatnonzero(odd)[:5].tolist()
        )
        typical = np.median([result.calibration.rbc_diameter_px for result in fields])
        said.append(
            f"Fields of another magnification: a red cell is {typical:.0f} px wide in most, but not in {widths}. Pool "
            "them on their own, unless their areas are right."
        )
    odd = _odd_stains([result.calibration for result in fields])
    if odd.any():
        some = listed([names[i] for i in np.flatnonzero(odd).tolist()])
        said.append(f"Fields of another stain or light: {some}. Are they of this specimen?")
    said += _differing(fields, names)
    failed = [name for name, result in zip(names, fields, strict=True) if result.failed_tiles]
    if failed:
        said.append(f"Parts of {listed(failed)} failed and hold no cells. Analyse {listed(failed)} again.")
    for name, result in zip(names, fields, strict=True):
        said += [f"{escaped(name)}: {sentence}" for sentence in result.warnings]
    return said


def doubts_about_journal(journal: Journal, images: Sequence[str]) -> list[str]:
    """Return which corrections belong to images that are not among these."""
    others = {correction.image_sha256 for correction in journal.read()} - set(images)
    if not others:
        return []
    some = listed([f"{sha256[:12]}…" for sha256 in sorted(others)])
    return [f"The journal {escaped(journal.path)} has corrections of pictures that are no field here: {some}."]


def _differing(fields: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Return which fields were made with other settings, models or versions than the first."""
    kinds: dict[str, list[Any]] = {
        "version of the program": [_version_of(result) for result in fields],
        "models": [{stage: model["sha256"][:12] for stage, model in result.models.items()} for result in fields],
        "settings": [_settings_of(result) for result in fields],
    }
    said = []
    for what, values in kinds.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for value, name in zip(values, names, strict=True):
            if value:
                groups[str(value)].append(name)
        if len(groups) < 2:
            continue
        *_, common = sorted(groups, key=lambda value: len(groups[value]))
        others = [name for value, some in groups.items() if value != common for name in some]
        detail = ""
        if what == "settings":
            usual = next(value for value in values if str(value) == common)
            keys = sorted({k for v in values if v for k in v if v[k] != usual.get(k)})
            detail = f" ({', '.join(keys)})"
        elif what == "version of the program":
            detail = f" ({', '.join(sorted(groups))})"
        said.append(
            f"The {what} differ{'s' if what.startswith('version') else ''} between fields{detail}: "
            f"{listed(others)} against the rest. Analyse them again with one recipe."
        )
    return said


def _version_of(result: Result) -> str:
    return "" if result.record is None else result.record.packages.get("napari-bloodcell", "")


def _settings_of(result: Result) -> dict[str, Any]:
    """Return the settings that must be the same, by name."""
    content = portable(result.recipe).model_dump(mode="json")
    return {
        f"{stage}.{name}": value
        for stage, values in content.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if name not in _INDIFFERENT
    }


def _odd_widths(found: Sequence[Calibration]) -> NDArray[np.bool_]:
    """Return which fields' red cells are much wider or narrower than those of most, (N,); unsure ones are not."""
    widths = np.array([one.rbc_diameter_px for one in found])
    sure = np.array([one.source != "default" and one.scale_confidence >= LEAST_CONFIDENCE for one in found])
    if not sure.any():
        return np.zeros(len(found), bool)
    ratio = widths / np.median(widths[sure])
    return np.asarray(sure & (np.maximum(ratio, 1 / ratio) > SAME_WIDTH), np.bool_)


def _odd_stains(found: Sequence[Calibration]) -> NDArray[np.bool_]:
    """Return which fields' typical red cell absorbs other colours than those of most, (N,)."""
    odd = np.zeros(len(found), bool)
    known = [i for i, one in enumerate(found) if one.red_rgb is not None]
    if len(known) < 2:
        return odd
    absorbed = np.array([_absorbance(found[i]) for i in known])
    usual = np.median(absorbed, axis=0)
    cosine = absorbed @ usual / np.maximum(np.linalg.norm(usual), 1e-9)
    odd[known] = np.degrees(np.arccos(np.clip(cosine, -1, 1))) > SAME_STAIN_DEGREES
    return odd


def _absorbance(one: Calibration) -> NDArray[np.float64]:
    """Return the direction, (3,), of the absorbance of a typical red cell."""
    red, glass = (np.maximum(np.array(rgb, np.float64), 1.0) for rgb in (one.red_rgb, one.background_rgb))
    absorbed = np.maximum(np.log(glass / red), 0.0) + 1e-3
    return np.asarray(absorbed / np.linalg.norm(absorbed), np.float64)
