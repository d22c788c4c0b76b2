"""The report of a specimen that a person signs: one page that needs nothing but itself."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import napari_bloodcell
from napari_bloodcell.core.cells import TYPE_COLOURS, UNIDENTIFIED, WBC, boxes_of, with_later
from napari_bloodcell.core.files import write_bytes
from napari_bloodcell.core.statistics import Estimate
from napari_bloodcell.corrections.audit import agreement_of, audits_of, result_of
from napari_bloodcell.corrections.correction import Correction, standing
from napari_bloodcell.corrections.journal import Journal
from napari_bloodcell.results.files import ZARR
from napari_bloodcell.results.ome_zarr import open_levels
from napari_bloodcell.results.recipes import portable
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.specimens.pages import data_address, png, render
from napari_bloodcell.results.specimens.specimen import Specimen
from napari_bloodcell.results.store import record_of
from napari_bloodcell.stages.counting import ERYTHROBLAST
from napari_bloodcell.stages.quality.verdicts import GOOD

PER_CLASS: Final = 20
"""Cells that are shown of each class, the least certain first."""
ABNORMAL: Final = (ERYTHROBLAST, "immature granulocyte", "blast", "promyelocyte", "myelocyte", "metamyelocyte")
"""Kinds of white cells of which every cell is shown."""
MARKED: Final = "marked as abnormal"
"""Group of the cells that a person marked, of whatever class; every one is shown."""
MOST_PICTURES: Final = 600
"""Most pictures of a report: about 1.5 MB."""
PICTURE_PX: Final = 72
CAPTION_PX: Final = 15
_MARGIN: Final = 0.25  # around a cell's box, relative to it
_SHORT_SHA: Final = 12


def report(
    specimen: Specimen,
    *,
    about: Mapping[str, str] | None = None,
    journal: Journal | None = None,
    images: Mapping[str, Any] | None = None,
    template: str | Path | None = None,
) -> str:
    """Return the report of a specimen as one page of HTML, the same text for the same numbers.

    Parameters
    ----------
    specimen : Specimen
        What is reported; a single field is a specimen of one.
    about : mapping of str to str, optional
        What the user entered, such as {"Patient": "…"}. Nothing is guessed.
    journal : Journal, optional
        Corrections and audits: who reviewed how many cells and when, and how far readers agree.
    images : mapping of str to array, optional
        Pixels (Y, X, 3) by name of the field, for results that are not on disk; those on disk have them in their
        OME-Zarr.
    template : path, optional
        A Jinja2 template in place of the program's ``report.html``; it may extend that.

    Raises
    ------
    InputError
        If the template cannot be used.
    """
    said = [] if journal is None else [c for r in specimen.results for c in journal.read(r.image_sha256 or "-")]
    pictures, n_left_out = _pictures_of(specimen, images or {})
    return render(
        "report.html" if template is None else Path(template),
        version=napari_bloodcell.__version__,
        name=specimen.name,
        about=dict(about or {}),
        warnings=specimen.warnings,
        n_fields=specimen.n_fields,
        area_mm2=specimen.area_mm2,
        ruler=specimen.ruler,
        edges=sorted({result.counting.edges for result in specimen.results}),
        counts=_counts_of(specimen),
        ratios={
            "red cells for one white cell": specimen.rbc_per_wbc,
            "platelets for 1,000 red cells": specimen.platelets_per_1000_rbc,
            "erythroblasts for 100 white cells": specimen.nrbc_per_100_wbc,
        },
        n_in_differential=specimen.n_in_differential,
        differential=_rows(specimen.differential, "percent"),
        morphology=_rows(specimen.morphology, "percent"),
        parasitaemia=specimen.parasitaemia,
        n_sizes=int(specimen.diameters_um.size),
        sizes=_sizes_of(specimen),
        quality=_quality_of(specimen),
        fields=specimen.fields.reset_index().to_dict("records"),
        types=list(specimen.counts),
        pictures=pictures,
        n_left_out=n_left_out,
        n_cells=sum(len(result.table) for result in specimen.results),
        n_by_hand=int(specimen.fields["n_corrected"].sum()),
        reviews=_reviews_of(said),
        audits=_audits_of(said),
        models=_models_of(specimen),
        **_settings_of(specimen),
    )


def write_report(specimen: Specimen, path: str | Path, **options: Any) -> Path:
    """Write the report of a specimen into a file, whole or not at all; options are those of `report`."""
    path = Path(path)
    write_bytes(path, report(specimen, **options).encode())
    return path


def _counts_of(specimen: Specimen) -> list[dict[str, Any]]:
    """Return a row a type: its cells with their interval, and per mm²."""
    rows, densities = [], specimen.densities.to_dict("index")
    for name, n in specimen.counts.items():
        low, high = specimen.intervals.get(name, (None, None))
        density = densities[name]
        per_mm2 = Estimate(*(float(density[column]) for column in ("per_mm2", "low", "high")))
        uncorrected = specimen.uncorrected.get(name, n)
        rows.append(
            {"type": name, "n": n, "low": low, "high": high, "uncorrected": uncorrected, "per_mm2": per_mm2}
            | {"counted": specimen.counted.get(name, 0)}
        )
    return rows


def _rows(table: pd.DataFrame, column: str) -> list[dict[str, Any]]:
    """Return the rows of a table of shares: name, number, share with its interval, and grade if there is one."""
    return [
        {
            "name": name,
            "n": int(row["n"]),
            "share": Estimate(float(row[column]), float(row["low"]), float(row["high"])),
            "grade": row.get("grade", ""),
        }
        for name, row in table.iterrows()
    ]


def _sizes_of(specimen: Specimen) -> str:
    """Return the histogram of the red cells' widths as a picture; "" if there are none."""
    widths = specimen.diameters_um
    if not widths.size:
        return ""
    figure = Figure(figsize=(6.4, 2.3), dpi=120, layout="constrained", facecolor="white")
    ax = figure.add_subplot()
    table = specimen.sizes
    starts, ends = table.index.to_numpy(np.float64), table["to_um"].to_numpy(np.float64)
    ax.bar(starts, table["n"], ends - starts, align="edge", color=TYPE_COLOURS["RBC"], alpha=0.6, linewidth=0)
    ax.axvline(float(np.median(widths)), color="#1c1f24", linewidth=1, linestyle=(0, (4, 3)))
    shown = np.flatnonzero(table["n"].to_numpy())
    ax.set(
        xlim=(starts[shown[0]] - 0.5, ends[shown[-1]] + 0.5), xlabel="width of a single red cell (µm)", ylabel="cells"
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    return png(figure)


def _quality_of(specimen: Specimen) -> list[tuple[str, str]]:
    fields = specimen.fields
    scale, smear = fields["scale_confidence"].min(), fields["smear_confidence"].min()
    judged = fields[fields["quality"] != ""]
    area = judged["height"] * judged["width"]
    places = (
        []
        if judged.empty
        else [
            ("fields that are good to count", f"{int((judged['quality'] == GOOD).sum())} of {len(judged)}"),
            ("good share of their area", f"{(judged['share_good'] * area).sum() / area.sum():.0%}"),
            (
                "cells in good places",
                ", ".join(f"{name} {judged[f'{name}_good'].sum():,.0f}" for name in specimen.counts),
            ),
        ]
    )
    return [
        *places,
        ("fields with warnings", f"{int((fields['warnings'] != '').sum())} of {specimen.n_fields}"),
        ("tiles that failed", f"{int(fields['n_failed_tiles'].sum())}"),
        ("least confidence in the scale", f"{scale:.2f}"),
        ("least confidence that it is a smear", f"{smear:.2f}"),
        ("width of a red cell", f"{fields['rbc_diameter_px'].min():.1f} to {fields['rbc_diameter_px'].max():.1f} px"),
    ]


# --- pictures of cells -----------------------------------------------------------------------------------------------


def _pictures_of(specimen: Specimen, images: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return classes with the pictures of their cells, and how many abnormal ones are not shown."""
    tables = []
    for number, result in enumerate(specimen.results):
        told = ["cell_type", "subtype", "probability", "type_source", "abnormal"]
        table = with_later(result.table)[told].copy()
        box = boxes_of(result.table)
        table["y0"], table["x0"], table["y1"], table["x1"] = box.T
        table["field"], table["id"] = number, result.table.index
        tables.append(table)
    cells = pd.concat(tables, ignore_index=True)
    kind = np.where((cells["cell_type"] == WBC) & (cells["subtype"] != ""), cells["subtype"], cells["cell_type"])
    cells["class"] = pd.Series(kind, cells.index, dtype=object).replace("", UNIDENTIFIED)
    cells["caption"] = np.where(
        cells["type_source"] == "user", "by hand", [f"{100 * p:.0f} %" for p in cells["probability"]]
    )
    marked = cells[cells["abnormal"]]
    if len(marked):
        cells.loc[marked.index, "caption"], cells.loc[marked.index, "class"] = marked["class"], MARKED
    order = [MARKED, *specimen.counts, *specimen.kinds]
    chosen, left_out, n_free = [], 0, MOST_PICTURES
    for name in sorted(set(cells["class"]), key=lambda n: (order.index(n) if n in order else len(order), n)):
        of_class = cells[cells["class"] == name].sort_values(["probability", "field", "id"], kind="stable")
        is_abnormal = str(name).lower() in (MARKED, *ABNORMAL)
        some = of_class.head(max(n_free, PER_CLASS) if is_abnormal else PER_CLASS)
        left_out += len(of_class) - len(some) if is_abnormal else 0
        n_free -= len(some)
        chosen.append((str(name), len(of_class), is_abnormal, some))
    cut = _cut(specimen, pd.concat([some for *_, some in chosen]) if chosen else cells, images)
    classes = []
    for name, n, is_abnormal, some in chosen:
        shown = [
            {"picture": cut[i], "field": specimen.field_names[row.field], "id": row.id}
            for i, row in zip(some.index, some.itertuples(), strict=True)
            if i in cut
        ]
        classes.append({"name": name, "n": n, "all": is_abnormal, "cells": shown})
    return classes, left_out


def _cut(specimen: Specimen, cells: pd.DataFrame, images: Mapping[str, Any]) -> dict[int, str]:
    """Return the pictures of cells by row, as addresses; each field is opened once, and read around its cells only."""
    cut: dict[int, str] = {}
    for number, some in cells.groupby("field", sort=True):
        result, name = specimen.results[int(str(number))], specimen.field_names[int(str(number))]
        pixels = _pixels_of(result, images.get(name))
        if pixels is None:
            continue
        for row in some.itertuples():
            box = (row.y0, row.x0, row.y1, row.x1)
            cut[int(str(row.Index))] = _picture(pixels, result.cells.shape[-2:], box, str(row.caption))
    return cut


def _pixels_of(result: Result, image: Any) -> Any:
    """Return something with pixels (Y, X, 3) that can be sliced; None if they are not known."""
    if image is not None:
        return lambda window: np.asarray(image[window])
    if result.folder is None or not (result.folder / ZARR).is_dir():
        return None
    try:
        level = open_levels(result.folder / ZARR, "", "r")[0]
    except (KeyError, OSError, ValueError):  # written without a copy of the image
        return None
    return lambda window: np.moveaxis(np.asarray(level[(slice(0, 3), *window)]), 0, -1)


def _picture(pixels: Any, shape: tuple[int, ...], box: tuple[Any, ...], caption: str) -> str:
    """Return a square picture around a cell as the address of a JPEG.

    The caption is in the picture: a page cannot break between them.
    """
    y0, x0, y1, x1 = (int(v) for v in box)
    half = max(1, round((0.5 + _MARGIN) * max(y1 - y0, x1 - x0)))
    y, x = (y0 + y1) // 2, (x0 + x1) // 2
    top, left, bottom, right = max(y - half, 0), max(x - half, 0), min(y + half, shape[0]), min(x + half, shape[1])
    square = np.full((2 * half, 2 * half, 3), 255, np.uint8)
    found: NDArray[np.uint8] = pixels((slice(top, bottom), slice(left, right)))
    square[top - y + half : bottom - y + half, left - x + half : right - x + half] = found
    card = Image.new("RGB", (PICTURE_PX, PICTURE_PX + CAPTION_PX), "white")
    card.paste(Image.fromarray(square).resize((PICTURE_PX, PICTURE_PX), Image.Resampling.LANCZOS))
    at = (PICTURE_PX / 2, PICTURE_PX + CAPTION_PX / 2)
    ImageDraw.Draw(card).text(at, caption, fill="#3a3f47", anchor="mm", font=ImageFont.load_default(11))
    file = io.BytesIO()
    card.save(file, "JPEG", quality=80)
    return data_address(file.getvalue(), "image/jpeg")


# --- who and with what -----------------------------------------------------------------------------------------------


def _reviews_of(said: Sequence[Correction]) -> list[dict[str, Any]]:
    """Return a row a person: cells reviewed, and the first and last day."""
    people: dict[str, list[Correction]] = {}
    for one in standing(said):
        people.setdefault(one.annotator, []).append(one)
    return [
        {
            "who": who,
            "n": len(mine),
            "changed": sum(c.from_type != c.to_type for c in mine),
            "first": min(c.when for c in mine)[:10],
            "last": max(c.when for c in mine)[:10],
        }
        for who, mine in sorted(people.items())
    ]


def _audits_of(said: Sequence[Correction]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "readers": [(who, str(result_of(judged))) for who, judged in sorted(readers.items())],
            "agreement": [str(pair) for pair in agreement_of(readers)],
        }
        for name, readers in sorted(audits_of(said).items())
    ]


def _models_of(specimen: Specimen) -> list[dict[str, Any]]:
    """Return each model that was used, and of how many fields."""
    used = Counter(
        (stage, model["name"], model["sha256"]) for result in specimen.results for stage, model in result.models.items()
    )
    return [{"stage": s, "name": n, "sha256": h, "n_fields": used[s, n, h]} for s, n, h in sorted(used)]


def _settings_of(specimen: Specimen) -> dict[str, Any]:
    """Return recipes with their hashes, and versions, each with the number of its fields."""
    recipes: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    for result in specimen.results:
        record = result.record or record_of(result)
        recipes[portable(result.recipe).model_dump_json(indent=1)] += 1
        versions[", ".join(f"{name} {version}" for name, version in sorted(record.packages.items()))] += 1
    return {
        "recipes": [
            {"sha256": hashlib.sha256(text.encode()).hexdigest(), "n_fields": n, "stages": json.loads(text)}
            for text, n in sorted(recipes.items())
        ],
        "packages": sorted(versions.items()),
    }
