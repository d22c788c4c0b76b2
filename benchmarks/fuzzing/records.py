"""Tables, journals and recipes that are wrong: torn text, foreign fields, impossible values, other encodings."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzzing.images import check_result
from benchmarks.fuzzing.mutate import WEIRD, pick, spoil, spoil_json, spoil_text
from napari_bloodcell.core.errors import InputWarning
from napari_bloodcell.core.params import Recipe, SegmentParams
from napari_bloodcell.corrections.journal import Correction, Journal, place, standing
from napari_bloodcell.learning.training_list import TypedCell
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.pipeline import analyse
from napari_bloodcell.results.recipes import read_recipe
from napari_bloodcell.results.store import open_slide_result, read_result, write_result
from napari_bloodcell.results.table import read_parquet
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

if TYPE_CHECKING:
    from napari_bloodcell.results.result import Result

PATHS = (
    *(
        "../model.safetensors",
        "/etc/passwd",
        "C:\\model.safetensors",
        "..\\..\\x.pth",
        "a/../../b.pth",
        "\\\\host\\x.pth",
    ),
    *("sub/model.safetensors", "./model.safetensors", "model.safetensors", "~/x.pth", "link/secret.pth", "\0.pth", ""),
    *("file:///etc/passwd", "https://example.com/x.pth", "con.pth", "a" * 5000 + ".pth", ".", "..", "/", "vit_z"),
)
IMAGE = "ab" * 32


@cache
def small_result() -> tuple[Any, Result]:
    """Return a small image and its result, made once."""
    image = disc_image([(20, 20), (20, 60), (60, 20), (60, 60), (60, 75)], (90, 100), radius=10)
    recipe = Recipe(segment=SegmentParams(rbc_diameter_px=24.0))
    result = analyse(image, recipe=recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    check_result(result)
    return image, result


def write_small_result(folder: Path, **options: Any) -> Path:
    """Write the small result into a folder."""
    image, result = small_result()
    return write_result(result, folder, image=image, **options)


# --- recipes ---------------------------------------------------------------------------------------------------------


def use_recipe(rng: np.random.Generator, folder: Path) -> object:
    """Read a recipe; a model file that it names must lie in its folder."""
    home = folder / "home"
    (home / "sub").mkdir(parents=True)
    for path in (home / "model.safetensors", home / "sub" / "model.safetensors", folder / "model.safetensors"):
        path.write_bytes(b"x")
    (home / "link").symlink_to(folder)
    (folder / "secret.pth").write_bytes(b"x")
    content: Any
    if rng.random() < 0.5:
        content = Recipe().model_dump(mode="json")
    else:
        content = json.loads((write_small_result(folder / "result") / "recipe.json").read_text("utf-8"))
    if rng.random() < 0.4:
        settings = content.get("recipe", content)
        settings[pick(rng, ("segment", "classify"))]["model"] = pick(rng, PATHS)
    else:
        content = spoil_json(rng, content)
    path = home / "recipe.json"
    path.write_bytes(spoil_text(rng, json.dumps(content)))
    recipe = read_recipe(path)
    for model in (recipe.segment.model, recipe.classify.model):
        is_name = re.fullmatch(r"[A-Za-z0-9_-]+", model) is not None
        if not is_name and home.resolve() not in Path(model).resolve().parents:
            raise AssertionError(f"the model {model!r} lies outside of the recipe's folder")
    return recipe


# --- journals --------------------------------------------------------------------------------------------------------


def _corrections(rng: np.random.Generator, cells: np.ndarray[Any, Any]) -> list[Correction]:
    made = []
    for cell in range(1, int(cells.max()) + 1):
        y, x = np.nonzero(cells == cell)
        box = (int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1)
        to_type = pick(rng, ("RBC", "WBC", "platelet", "µ"))
        made.append(
            Correction.of_cell(cells, cell, box, from_type="RBC", to_type=to_type, annotator="a", image_sha256=IMAGE)
        )
    return made


def use_journal(rng: np.random.Generator, folder: Path) -> object:
    """Read a damaged journal, place what it holds, and add to it; what was whole is still there, with the new one."""
    cells = small_result()[1].cells
    made = _corrections(rng, cells)
    lines, whole = [], []
    for correction in [*made, made[0].undo()]:
        text = correction.to_json()
        if rng.random() < 0.5:
            spoiled = spoil_text(rng, json.dumps(spoil_json(rng, json.loads(text)), ensure_ascii=rng.random() < 0.5))
            lines.append(spoiled.replace(b"\n", b" "))
        else:
            whole.append(correction.key)
            lines.append(text.encode())
    path = folder / "journal.jsonl"
    torn = b'{"cell": 3, "bbox": [1,' if rng.random() < 0.3 else b""
    path.write_bytes(b"\n".join(lines) + b"\n" + torn)
    journal = Journal(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        found = journal.read()
        if missing := set(whole) - {c.key for c in found}:
            raise AssertionError(f"{len(missing)} whole lines are lost")
        standing(found)
        place(found, cells)
        for correction in found:
            if correction.mask.shape != (
                correction.bbox[2] - correction.bbox[0],
                correction.bbox[3] - correction.bbox[1],
            ):
                raise AssertionError("a mask that does not fill its box")
            correction.to_json().encode()
        journal.append(made[1].undo())
        again = journal.read()
    if len(again) != len(found) + 1:
        raise AssertionError(f"{len(again)} corrections after one was added to {len(found)}")
    return found


# --- tables ----------------------------------------------------------------------------------------------------------


def spoil_table(rng: np.random.Generator, text: str) -> bytes:
    """Return a CSV with cells, columns or rows that are wrong."""
    rows = list(csv.reader(io.StringIO(text)))
    for _ in range(int(rng.integers(1, 4))):
        row = pick(rng, rows)
        what = rng.random()
        if what < 0.5 and row:
            weird = pick(rng, (*WEIRD[:17], *PATHS, "True", "99999999999999999999", "1e400", '"', "a" * 200_000, "1,2"))
            row[int(rng.integers(len(row)))] = str(weird)
        elif what < 0.6:
            del rows[int(rng.integers(len(rows)))]
        elif what < 0.7 and row:
            del row[int(rng.integers(len(row)))]
        elif what < 0.8:
            row.append("more")
        elif what < 0.9:
            rows.append(list(row))
        elif rows and rows[0]:
            column = int(rng.integers(len(rows[0])))
            rows = [r[:column] + r[column + 1 :] for r in rows]
        rows = rows or [[]]
    out = io.StringIO()
    quoting = pick(rng, (csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(out, delimiter=pick(rng, (",", ",", ",", ";")), quoting=quoting, lineterminator="\n").writerows(rows)
    return spoil_text(rng, out.getvalue())


def use_result_table(rng: np.random.Generator, folder: Path) -> object:
    """Read a result of which a table, the counts or the record are damaged."""
    write_small_result(folder, label_format="tiff")
    name = pick(rng, ("cells.csv", "cells.csv", "counts.json", "recipe.json", "slide.json", "cells.tif", "types.tif"))
    path = folder / name
    if name == "slide.json":
        about = {"plan": {}, "image_sha256": IMAGE, "failed_tiles": []}
        path.write_bytes(spoil_text(rng, json.dumps(spoil_json(rng, about))))
        return open_slide_result(folder)
    if name.endswith(".tif"):
        path.write_bytes(spoil(rng, path.read_bytes()))
    elif name == "cells.csv":
        path.write_bytes(spoil_table(rng, path.read_text("utf-8")))
    else:
        path.write_bytes(spoil_text(rng, json.dumps(spoil_json(rng, json.loads(path.read_text("utf-8"))))))
    return read_result(folder)


@cache
def _typed_cells() -> list[TypedCell]:
    made = []
    for i in range(12):
        cutout = np.zeros((128, 128, 3), np.uint8)
        cutout[50:80, 50 : 70 + i] = 90 + i
        made.append(TypedCell(cutout, ("RBC", "WBC")[i % 2], "a", f"image{i}", IMAGE, str(i), (1, 2, 30, 40), 36.0))
    return made


def use_training_list(rng: np.random.Generator, folder: Path) -> object:
    """Open a training set whose list or pictures are damaged, and take it apart."""
    home = folder / "set"
    TrainingSet(home).add(_typed_cells())
    path = home / "cutouts.csv"
    if rng.random() < 0.75:
        path.write_bytes(spoil_table(rng, path.read_text("utf-8")))
    else:
        picture = pick(rng, sorted(home.glob("*/*.png")))
        picture.write_bytes(spoil(rng, picture.read_bytes()))
    training_set = TrainingSet(home)
    training_set.counts()
    for file in training_set.table["file"]:
        if home.resolve() not in (home / file).resolve().parents:
            raise AssertionError(f"{file!r} lies outside of the training set")
    training_set.parts(rbc_diameter_px=pick(rng, (None, 36.0)))
    training_set.add(_typed_cells()[:3])
    training_set.export(folder / "export")
    return training_set


@cache
def _parquet() -> bytes:
    import tempfile

    from napari_bloodcell.slides.run import iter_analyse_slide

    with tempfile.TemporaryDirectory() as name:
        work = iter_analyse_slide(
            small_result()[0],
            name,
            recipe=small_result()[1].recipe,
            generator=ThresholdGenerator(),
            classifier=BrightnessClassifier(),
        )
        for _ in work:
            pass
        return (Path(name) / "cells.parquet").read_bytes()


def use_parquet(rng: np.random.Generator, folder: Path) -> object:
    """Read a damaged Parquet table."""
    path = folder / "cells.parquet"
    path.write_bytes(spoil(rng, _parquet()))
    return read_parquet(path)
