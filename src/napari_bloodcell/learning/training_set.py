"""The training set: a folder of pictures of cells and one list, grown from many images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import UNIDENTIFIED, box_of
from napari_bloodcell.core.errors import InputError, OutputError, TrainingError
from napari_bloodcell.core.files import LOCK, expanded, locked, make_folder, write_bytes
from napari_bloodcell.learning.dataset import PARTS, LabelledCutouts, Parts, class_folders, class_order, read_picture
from napari_bloodcell.learning.training_list import (
    COLUMNS,
    LIST,
    KnownCells,
    Row,
    TypedCell,
    assign_parts,
    cell_of,
    picture_of,
    read_list,
    row_of,
    rows_of,
    typed,
)
from napari_bloodcell.results.table import guard_formulas
from napari_bloodcell.stages.classify import SegmentedSmear
from napari_bloodcell.stages.cutouts import CUTOUT_SIZE, GLASS_LEVEL, RGB, centre_cutout, cut_out


@dataclass(frozen=True, slots=True)
class Added:
    """Number of cells that were new, known with the same type, or known with another type, which is replaced."""

    new: int
    duplicates: int
    relabelled: int


class TrainingSet:
    """A folder of typed cells: ``<class>/*.png`` and the list `LIST`.

    Pictures are cells on black at their image's own scale and colours, so that they serve every classifier; `parts`
    brings them to one scale. A cell is there once: pictures of the same pixels, and boxes of one image that are mostly
    the same, are one cell. The part of a cell is settled when it is added and never changes after. Cells that a person
    called "unidentified" are kept, but are no examples: nothing is to be learned from them.

    Parameters
    ----------
    folder : path
        Made by the first `add`.
    shares : tuple of float
        Of training, validation and test part.

    Raises
    ------
    TrainingError
        If the folder's list is damaged.
    """

    def __init__(self, folder: str | Path, *, shares: tuple[float, float, float] = (0.75, 0.15, 0.10)) -> None:
        self.folder = expanded(folder)
        self.shares = shares
        self.table = read_list(self.folder / LIST, self.shares)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that can be learned, RBC, WBC and platelet first."""
        return tuple(sorted(set(self.table["class"]) - {UNIDENTIFIED}, key=class_order))

    def counts(self) -> pd.DataFrame:
        """Return the number of cells by class (rows) and part (columns)."""
        numbers = pd.crosstab(self.table["class"], self.table["split"])
        return numbers.reindex(index=list(self.classes), columns=list(PARTS), fill_value=0)

    def add(self, cells: Iterable[TypedCell]) -> Added:
        """Add cells; duplicates are refused, and the last type of a cell counts.

        Raises
        ------
        TrainingError
            If a cell has no type or no pixels, or the list is damaged.
        OutputError
            If the folder cannot be written to; its content is then unchanged.
        """
        make_folder(self.folder)
        with locked(self.folder / LOCK):
            self.table = read_list(self.folder / LIST, self.shares)  # another program may have added cells
            table, added, pictures, stale = self._with(list(cells))
            for name, content in pictures.items():
                make_folder((self.folder / name).parent)
                write_bytes(self.folder / name, content)
            write_bytes(self.folder / LIST, guard_formulas(table).to_csv(index=False, lineterminator="\n").encode())
            for name in stale - set(table["file"]):
                (self.folder / name).unlink(missing_ok=True)
        self.table = table
        return added

    def add_segmentation(
        self,
        image: NDArray[np.uint8],
        segmentation: SegmentedSmear,
        types: Mapping[int, str] | None = None,
        *,
        annotator: str,
        name: str,
        image_sha256: str,
    ) -> Added:
        """Add typed cells of a smear.

        Parameters
        ----------
        image : ndarray of uint8, shape (Y, X, 3)
            The smear.
        segmentation : Segmentation
            Its cells, table and calibration.
        types : mapping of int to str, optional
            Type of each cell id. By default the cells that a user typed.
        annotator : str
            Who typed them.
        name, image_sha256 : str
            Name of the smear, and `journal.image_hash` of it.

        Raises
        ------
        TrainingError
            If no cell is typed.
        InputError
            If an id is not in the segmentation.
        """
        table = segmentation.table
        if types is None:
            mine = table[(table["type_source"] == "user") & (table["cell_type"] != "")]
            types = dict(zip(mine.index.tolist(), mine["cell_type"].astype(str), strict=True))
        if not types:
            raise TrainingError("No cell is typed; type some cells, or give `types` as {id: name}.")
        missing = [i for i in types if i not in table.index]
        if missing:
            raise InputError(f"There is no cell {missing[0]} in the segmentation.")
        calibration = segmentation.calibration
        cells = []
        for cell, cell_type in types.items():
            y0, x0, y1, x1 = box_of(table, cell)
            side = max(CUTOUT_SIZE, y1 - y0, x1 - x0)
            cells.append(
                TypedCell(
                    cut_out(image, segmentation.cells, table.loc[[cell]], size=side)[0],
                    cell_type,
                    annotator,
                    image=name,
                    image_sha256=image_sha256,
                    cell=str(cell),
                    bbox=(y0, x0, y1, x1),
                    rbc_diameter_px=calibration.rbc_diameter_px,
                    glass_rgb=calibration.background_rgb,
                    red_rgb=calibration.red_rgb,
                )
            )
        return self.add(cells)

    def add_folder(
        self,
        folder: str | Path,
        *,
        annotator: str = "",
        rbc_diameter_px: float | None = None,
        glass_rgb: tuple[float, float, float] | None = None,
        with_augmented: bool = False,
    ) -> Added:
        """Add another training set, or pictures in the paper's layout.

        Parameters
        ----------
        folder : path
            Another training set, whose cells keep their parts; or ``train``, ``val`` and ``test``, each with a folder
            of pictures per class, which keep theirs too; or folders of pictures per class, which are split here.
        annotator : str
            Who typed the pictures of the paper's layout.
        rbc_diameter_px, glass_rgb : optional
            Width of a red cell, pixels, and colour of the glass in those pictures, if known: without them the cells can
            only train a classifier that takes cells at any scale (the paper's).
        with_augmented : bool
            Also add pictures named ``aug-*``: the paper's authors made them from others.

        Raises
        ------
        TrainingError
            If there are no such pictures, or one cannot be read.
        """
        folder = Path(folder)
        if (folder / LIST).is_file():
            return self.add(list(TrainingSet(folder).cells()))
        return self.add(
            TypedCell(
                cutout,
                cell_type,
                annotator,
                image=name,
                rbc_diameter_px=rbc_diameter_px,
                glass_rgb=glass_rgb,
                split=part,
            )
            for cutout, cell_type, name, part in _paper_layout(folder, with_augmented)
        )

    def export(self, folder: str | Path) -> Path:
        """Write the paper's layout, ``train/RBC/*.png`` and so on, with the list, into a new folder, and return that.

        Raises
        ------
        OutputError
            If the folder is not empty or cannot be written to.
        """
        folder = Path(folder)
        make_folder(folder)
        if any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty. Choose a new folder for the export.")
        table = self.table.copy()
        table["file"] = [f"{part}/{file}" for part, file in zip(table["split"], table["file"], strict=True)]
        for source, target in zip(self.table["file"], table["file"], strict=True):
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / target, (self.folder / source).read_bytes())
        write_bytes(folder / LIST, guard_formulas(table).to_csv(index=False, lineterminator="\n").encode())
        return folder

    def cells(self) -> Iterator[TypedCell]:
        """Yield every cell with its part, in the order of the list."""
        for row in rows_of(self.table):
            yield cell_of(row, self.folder)

    def parts(
        self,
        *,
        rbc_diameter_px: float | None = None,
        glass_level: float | None = None,
        red_level: RGB | None = None,
        size: int = CUTOUT_SIZE,
        in_any_stain: bool = False,
    ) -> Parts:
        """Return the three parts as cutouts, all at one scale.

        Parameters
        ----------
        rbc_diameter_px : float, optional
            Width to which a red cell is resampled; None: cells as they are (the paper's classifier).
        glass_level : float, optional
            Level to which the glass is brought; None: colours as they are.
        red_level : tuple of 3 floats, optional
            Colour to which the typical red cell of each image is brought, if its own is known.
        size : int
            Side of a cutout, pixels.
        in_any_stain : bool
            Bring red cells of ordinary stains to `red_level`, too.

        Raises
        ------
        TrainingError
            If a picture is missing, or its scale or glass is needed and not known.
        """
        table = self.table[self.table["class"] != UNIDENTIFIED]
        wanted = {"rbc_diameter_px": rbc_diameter_px, "glass_r": glass_level}
        for column in [c for c, value in wanted.items() if value is not None]:
            unknown = table.loc[table[column].isna(), "file"]
            if len(unknown):
                raise TrainingError(
                    f"The scale and glass of {len(unknown)} cells of {self.folder} are not known ({unknown.iloc[0]}, "
                    "…), and this classifier needs them. Give rbc_diameter_px and glass_rgb when they are imported, "
                    "or train from scratch."
                )
        cutouts = np.zeros((len(table), size, size, 3), np.uint8)
        for out, row in zip(cutouts, rows_of(table), strict=True):
            cell = cell_of(row, self.folder)
            out[:] = centre_cutout(
                cell.cutout,
                size,
                scale=1.0 if rbc_diameter_px is None else rbc_diameter_px / (cell.rbc_diameter_px or 1.0),
                background_rgb=None if glass_level is None else cell.glass_rgb,
                glass_level=glass_level or GLASS_LEVEL,
                red_rgb=cell.red_rgb,
                red_level=red_level,
                in_any_stain=in_any_stain,
            )
        classes = self.classes
        labels = np.array([classes.index(c) for c in table["class"]], np.int64)
        names = tuple(table["file"])
        whole = LabelledCutouts(cutouts, labels, classes, rbc_diameter_px, glass_level, names, red_level, size)
        split = table["split"].to_numpy()
        train, val, test = (whole.take(np.flatnonzero(split == part)) for part in PARTS)
        return Parts(train, val, test)

    def _with(self, cells: list[TypedCell]) -> tuple[pd.DataFrame, Added, dict[str, bytes], set[str]]:
        """Return the list with these cells, how many were added, pictures to write, and pictures to remove."""
        rows = rows_of(self.table)
        known = KnownCells(rows)
        fresh: list[Row] = []
        pictures: dict[str, bytes] = {}
        stale: set[str] = set()
        duplicates = relabelled = 0
        for cell in cells:
            row = row_of(cell)
            same = known.find(row)
            if same is None:
                known.add(row)
                fresh.append(row)
                pictures[row["file"]] = picture_of(cell.cutout)
            elif same["class"] == row["class"]:
                duplicates += 1
            else:
                relabelled += 1
                stale.add(same["file"])
                pictures.pop(same["file"], None)
                kept = {k: same[k] for k in ("split", "split_by")}
                same.update(row | kept)
                pictures[row["file"]] = picture_of(cell.cutout)
        for row, (part, by) in zip(fresh, assign_parts(rows, fresh, self.shares), strict=True):
            row["split"], row["split_by"] = part, by
        table = typed(pd.DataFrame([*rows, *fresh], columns=list(COLUMNS)))
        return table, Added(len(fresh), duplicates, relabelled), pictures, stale


def _paper_layout(folder: Path, with_augmented: bool) -> Iterator[tuple[NDArray[np.uint8], str, str, str]]:
    """Yield (cutout, class, name, part) from a folder of the paper's layout; the part is "" if there are none."""
    has_parts = (folder / "train").is_dir()
    for part in [p for p in PARTS if (folder / p).is_dir()] if has_parts else [""]:
        for name, files in class_folders(folder / part, with_augmented=with_augmented).items():
            for file in files:
                yield read_picture(file), name, file.stem, part
