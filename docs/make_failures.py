"""Makes the pictures of known failures for the model cards: the field beside what is found in it.

python docs/make_failures.py ../shared/data [folder]

Only from TXL-PBC (Gan & Li 2024) and Chula RBC-12 (Naruenatthanaset et al. 2021), whose licence (MIT) allows to show
crops; they are named below each picture. Outlines: what the program finds, in the colours of the types. Dashed: labels.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from skimage.segmentation import find_boundaries

import napari_bloodcell as nb
from napari_bloodcell.core.cells import TYPE_COLOURS, type_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IMAGES = Path(__file__).parent / "images" / "failures"
SIDE_PX = 300
"""Side of each half of a picture."""
ERRATA = Path(__file__).parents[1] / "benchmarks" / "label_errata.csv"
LABEL_COLOURS = (TYPE_COLOURS["WBC"], TYPE_COLOURS["RBC"], TYPE_COLOURS["platelet"])


@dataclass(frozen=True)
class Scene:
    """Part of a field in which something goes wrong."""

    name: str
    field: str
    """Path below the data folder, or the beginning of its name."""
    centre: tuple[int, int]
    """(y, x), pixels."""
    side: int
    """Pixels of the field that are shown, in each direction."""


_TXL, _CHULA = "txl_pbc/images/val/", "chula/images/"
SCENES = (
    Scene("overlapping_cells", _TXL + "025a6ebb", (180, 320), 170),
    Scene("stack", _TXL + "16333d4e", (340, 200), 190),
    Scene("beside_white_cell", _TXL + "307459c8", (78, 60), 170),
    Scene("teardrops", _CHULA + "553.jpg", (420, 146), 200),
    Scene("crenated", _CHULA + "153.jpg", (190, 128), 160),
    Scene("ghost", _TXL + "027b917d", (170, 110), 220),
    Scene("slice_of_white_cell", _TXL + "20b95c52", (326, 60), 130),
    Scene("debris_as_platelet", _TXL + "8eb4116f", (212, 400), 200),
    Scene("clump_as_platelet", _TXL + "2b174855", (387, 548), 200),
)


def picture_of(scene: Scene, data: Path) -> Image.Image:
    """Return the part of a field as it is, and beside it what is found there with the labels."""
    path = next(data.glob(f"{scene.field}*"))
    field = np.asarray(Image.open(path).convert("RGB"))
    result = nb.analyse(field)
    shown = field.copy()
    colours = _palette(result.names)
    edges = find_boundaries(result.cells, mode="inner")
    shown[edges] = colours[result.types[edges]]
    corner = _corner(scene.centre, scene.side, field.shape)
    plain, found = (_crop(pixels, corner, scene.side) for pixels in (field, shown))
    _draw_labels(found, path, corner, scene.side, field.shape[:2])
    out = Image.new("RGB", (2 * SIDE_PX + 6, SIDE_PX), "white")
    out.paste(plain, (0, 0))
    out.paste(found, (SIDE_PX + 6, 0))
    return out


def picture_of_wrong_labels(data: Path, side: int = 220) -> Image.Image:
    """Return the parts of fields whose label is wrong side by side, with all labels."""
    with ERRATA.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    out = Image.new("RGB", (len(rows) * (SIDE_PX + 6) - 6, SIDE_PX), "white")
    for number, row in enumerate(rows):
        path = next(data.glob(f"{_TXL}{row['field']}*"))
        field = np.asarray(Image.open(path).convert("RGB"))
        middle = [(int(row[f"{axis}0"]) + int(row[f"{axis}1"])) / 2 for axis in "yx"]
        corner = _corner(middle, side, field.shape)
        part = _crop(field, corner, side)
        _draw_labels(part, path, corner, side, field.shape[:2])
        out.paste(part, (number * (SIDE_PX + 6), 0))
    return out


def _corner(centre: Sequence[float], side: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return where a part of a field begins, (y, x), within the field."""
    return tuple(
        int(np.clip(middle - side / 2, 0, max(0, n - side))) for middle, n in zip(centre, shape[:2], strict=True)
    )


def _crop(pixels: NDArray[np.uint8], corner: tuple[int, ...], side: int) -> Image.Image:
    part = pixels[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    return Image.fromarray(part).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def _draw_labels(picture: Image.Image, path: Path, corner: tuple[int, ...], side: int, shape: tuple[int, ...]) -> None:
    """Draw the boxes of TXL-PBC dashed, in the colours of their types."""
    file = Path(str(path.parent).replace("images", "labels")) / f"{path.stem}.txt"
    if not file.is_file():
        return
    draw, factor = ImageDraw.Draw(picture), SIDE_PX / side
    for line in file.read_text(encoding="utf-8").splitlines():
        code, x, y, width, height = (float(v) for v in line.split())
        left, right = ((x + s * width / 2) * shape[1] - corner[1] for s in (-1, 1))
        top, bottom = ((y + s * height / 2) * shape[0] - corner[0] for s in (-1, 1))
        box = [v * factor for v in (left, top, right, bottom)]
        _dashes(draw, box, LABEL_COLOURS[int(code)])


def _dashes(draw: ImageDraw.ImageDraw, box: list[float], colour: str, step: int = 8) -> None:
    x0, y0, x1, y1 = box
    for a0, b0, a1, b1 in ((x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1)):
        length = max(abs(a1 - a0), abs(b1 - b0), 1)
        for start in np.arange(0, length, step):
            at, to = start / length, min(start + step / 2, length) / length
            draw.line(
                [(a0 + at * (a1 - a0), b0 + at * (b1 - b0)), (a0 + to * (a1 - a0), b0 + to * (b1 - b0))], colour, 2
            )


def _palette(names: list[str]) -> NDArray[np.uint8]:
    grey = TYPE_COLOURS["unidentified"]
    colours = [grey, *(TYPE_COLOURS.get(name, grey) for name in names or type_names())]
    return np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], np.uint8)


def main(data: Path, folder: Path = IMAGES) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {scene.name: picture_of(scene, data) for scene in SCENES}
    pictures["wrong_labels"] = picture_of_wrong_labels(data)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
