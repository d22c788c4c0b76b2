"""Make the reference pictures of kinds that the Review dock shows: ``python -m training.make_references [DATA]``.

One sheet per type, a row per kind in the order of `KINDS`, `COLUMNS` cells each, the cell in the middle. Only of data
whose licence allows to pass pictures on: `wbc/pbc` (PBC, CC BY 4.0) and `chula` (Chula RBC-12, MIT). The cells were
drawn by seed; nobody chose them. A kind without a picture there has an empty row.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from napari_bloodcell.core.cells import KINDS, RBC, WBC

SIDE_PX, COLUMNS = 72, 6
TARGET = Path(__file__).parents[1] / "src" / "napari_bloodcell" / "data"
CHULA = {
    **{0: "normal", 1: "macrocyte", 2: "microcyte", 3: "spherocyte", 4: "target", 5: "stomatocyte", 6: "ovalocyte"},
    **{7: "teardrop", 8: "burr", 9: "schistocyte", 11: "hypochromic", 12: "elliptocyte"},
}
"""Kinds by the numbers of Chula's points."""
CROP_PX = {WBC: 136, RBC: 92}
"""Side of what is shown of the sources."""


def of_pbc(data: Path, kind: str, rng: np.random.Generator) -> list[Image.Image]:
    """Return pictures of one kind of white cells."""
    table = pd.read_csv(data / "wbc" / "labels.csv")
    files = table.loc[(table["source"] == "pbc") & (table["class"] == kind.replace(" ", "_")), "file"].tolist()
    return [
        _square(Image.open(data / "wbc" / files[i]).convert("RGB"), (88, 88), CROP_PX[WBC])
        for i in rng.permutation(len(files))[:COLUMNS]
    ]


def of_chula(data: Path, kind: str, rng: np.random.Generator) -> list[Image.Image]:
    """Return pictures of one kind of red cells, away from the edge of their fields."""
    half, found = CROP_PX[RBC] // 2, []
    for file in sorted((data / "chula" / "points").glob("*.txt")):
        for x, y, number in np.loadtxt(file, int, ndmin=2)[:, :3].tolist():
            if CHULA.get(number) == kind and half <= x < 640 - half and half <= y < 480 - half:
                found.append((file.stem, x, y))
    chosen = [found[i] for i in rng.permutation(len(found))[:COLUMNS]]
    return [
        _square(Image.open(data / "chula" / "images" / f"{stem}.jpg").convert("RGB"), (x, y), CROP_PX[RBC])
        for stem, x, y in chosen
    ]


def _square(image: Image.Image, middle: tuple[int, int], side: int) -> Image.Image:
    x, y = middle
    box = (x - side // 2, y - side // 2, x - side // 2 + side, y - side // 2 + side)
    return image.crop(box).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def main() -> None:
    """Write both sheets."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    for cell_type, pictures_of in ((WBC, of_pbc), (RBC, of_chula)):
        sheet = Image.new("RGB", (COLUMNS * SIDE_PX, len(KINDS[cell_type]) * SIDE_PX), (128, 128, 128))
        for row, kind in enumerate(KINDS[cell_type]):
            for column, picture in enumerate(pictures_of(data, kind, np.random.default_rng(row))):
                sheet.paste(picture, (column * SIDE_PX, row * SIDE_PX))
        path = TARGET / f"kinds_{cell_type}.jpg"
        sheet.save(path, quality=85, optimize=True)
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
