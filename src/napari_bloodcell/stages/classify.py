"""Types the cells of a segmented smear (paper §3.4, §3.5, §4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_bloodcell.core.cells import BOX, BUILTIN_TYPES, UNIDENTIFIED, boxes_of, type_lut, type_names
from napari_bloodcell.core.errors import InputError, ModelError
from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.core.threads import Threads, in_threads
from napari_bloodcell.models.load import load_classifier
from napari_bloodcell.stages.calibration import smear_in
from napari_bloodcell.stages.cutouts import GLASS_LEVEL, cut_out

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from napari_bloodcell.core.protocols import Calibration, CellClassifier


BATCH_STEP = 128
"""Batches are multiples of this, so that cells go through the network in the same company however many threads."""
PROPOSAL_DOUBT = 0.03
"""The generator's opinion is taken to be wrong at least this often."""
PROPOSAL_WEIGHT = 0.7
"""Power to which its probabilities are raised: both look at the same pixels, so they are not independent."""
CLASSIFIER_DOUBT = 0.002
"""So is the classifier's."""


class SegmentedSmear(Protocol):
    """What typing needs of a segmentation."""

    @property
    def cells(self) -> NDArray[np.int32]:
        """Label image (Y, X), ids 1..N."""
        ...

    @property
    def table(self) -> pd.DataFrame:
        """Cell table, index = id."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Width of a red cell and colour of the glass."""
        ...


@dataclass(frozen=True, eq=False)
class Classification:
    """The types of the cells.

    Attributes
    ----------
    types : ndarray of uint8, shape (Y, X)
        0 background, else 1 + the position of the cell's type in `names`.
    table : DataFrame
        The cell table with `cell_type`, `probability` and `type_source` filled in.
    names : list of str
        Names of all types: "RBC", "WBC", "platelet", the classifier's and the user's own, "unidentified".
    """

    types: NDArray[np.uint8]
    table: pd.DataFrame
    names: list[str]


def iter_classify(
    image: Any,
    segmentation: SegmentedSmear,
    *,
    params: ClassifyParams = ClassifyParams(),  # noqa: B008 - frozen
    classifier: CellClassifier | None = None,
) -> Generator[Progress, None, Classification]:
    """Type every cell of a segmented smear.

    Parameters
    ----------
    image : ndarray of uint8, shape (Y, X, 3), or anything that can be read as one
        The smear that was segmented.
    segmentation : Segmentation
        Its cells, cell table and calibration. Nothing of it is changed.
    params : ClassifyParams
        Which classifier, from which probability on, in which batches.
    classifier : CellClassifier, optional
        Used instead of the one that `params` names.

    Yields
    ------
    Progress
        After each batch; payload = ids typed, shape (B,).

    Returns
    -------
    Classification
        Typed image, table and names. Cells that a user typed (`type_source` "user") keep type and probability.
        `probability` is that of the most probable class, also where the cell is "unidentified".

    Raises
    ------
    InputError
        If the image is none, or has another size than the segmentation.
    ModelError
        If the classifier is unknown or damaged, or answers in the wrong shape.

    Notes
    -----
    Departure from the paper: the classifier sees whole cells, after those cut by tile borders are joined, and, where
    it names the width of a red cell that it knows (`rbc_diameter_px`), at that scale; where it has a `glass_level`,
    the colour of the glass is taken out. The preset "paper" does neither.
    """
    cells = segmentation.cells
    plane = _plane(image)
    if plane.shape[:2] != cells.shape:
        raise InputError(f"A segmentation of {cells.shape} does not belong to an image of {plane.shape[:2]}.")
    classifier = (
        classifier if classifier is not None else load_classifier(params.model, params.device, params.precision)
    )
    table = yield from iter_type_rows(
        plane, cells, segmentation.table, segmentation.calibration, params=params, classifier=classifier
    )
    names = type_names([*classifier.classes, *(t for t in table["cell_type"].unique() if t)])
    lut = type_lut(table, names, int(cells.max(initial=0)))
    return Classification(types=lut[cells], table=table, names=names)


classify = drained(iter_classify)
"""`iter_classify`, run to its end."""


def iter_type_rows(
    image: Any,
    cells: Any,
    table: pd.DataFrame,
    calibration: Calibration,
    *,
    params: ClassifyParams,
    classifier: CellClassifier,
    part_px: int | None = None,
) -> Generator[Progress, None, pd.DataFrame]:
    """Type the cells of an image of any size.

    Parameters
    ----------
    image : array-like of uint8, shape (Y, X, 3)
        The smear; sliced part by part.
    cells : array-like of int, shape (Y, X)
        Ids.
    table : DataFrame
        Their cell table, index = id. Cells that a user typed stay as they are.
    calibration : Calibration
        What was measured of the smear.
    params : ClassifyParams
        Settings.
    classifier : CellClassifier
        The model.
    part_px : int, optional
        Cells that begin in the same square of this side are looked at together; all of them where it is not given.

    Yields
    ------
    Progress
        After each batch; payload = ids typed.

    Returns
    -------
    DataFrame
        The table with types.
    """
    table = table.copy()
    todo = table[table["type_source"] != "user"]
    probabilities = np.zeros((len(todo), len(classifier.classes)), np.float32)
    done = 0
    yield Progress(0, len(todo), "cells typed")
    for rows, (y0, x0, y1, x1) in _iter_parts(todo, cells.shape, part_px):
        here = todo.iloc[rows]
        if y0 or x0:
            here = here.assign(**dict(zip(BOX, (boxes_of(here) - [y0, x0, y0, x0]).T, strict=True)))
        pixels, labels = np.asarray(image[y0:y1, x0:x1]), np.asarray(cells[y0:y1, x0:x1])
        at = 0
        batches = iter_probabilities(pixels, labels, here, classifier, calibration, params.batch_size, corner=(y0, x0))
        for ids, found in batches:
            probabilities[rows[at : at + len(ids)]] = found
            at += len(ids)
            yield Progress(done + at, len(todo), "cells typed", ids)
        done += at
    decide_types(table, todo.index, probabilities, list(classifier.classes), params=params)
    return table


def _iter_parts(
    table: pd.DataFrame, shape: tuple[int, int], part_px: int | None
) -> Iterator[tuple[NDArray[np.intp], tuple[int, int, int, int]]]:
    """Yield the rows of cells that are looked at together, and the box that holds them."""
    if part_px is None:
        yield np.arange(len(table)), (0, 0, *shape)
        return
    boxes = boxes_of(table)
    home = boxes[:, 0] // part_px * (shape[1] // part_px + 1) + boxes[:, 1] // part_px
    order = np.argsort(home, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        if len(rows):
            (y0, x0), (y1, x1) = boxes[rows, :2].min(0).tolist(), boxes[rows, 2:].max(0).tolist()
            yield rows, (y0, x0, y1, x1)


def cutout_settings(
    classifier: CellClassifier, calibration: Calibration
) -> tuple[float, tuple[float, float, float] | None]:
    """Return (scale, background_rgb) with which cells must be cut for this classifier."""
    width = classifier.rbc_diameter_px
    scale = 1.0 if width is None else width / calibration.rbc_diameter_px
    has_glass_level = getattr(classifier, "glass_level", None) is not None
    return scale, calibration.background_rgb if has_glass_level else None


def decide_types(
    table: pd.DataFrame,
    ids: pd.Index[int],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    *,
    params: ClassifyParams,
) -> None:
    """Fill in types, probabilities and their source for some rows of a whole smear's table.

    Parameters
    ----------
    table : DataFrame
        Changed in place.
    ids : Index
        Its rows that are typed.
    probabilities : ndarray of float32, shape (N, K)
        What the classifier says of them.
    classes : sequence of str
        Its K classes.
    params : ClassifyParams
        Whether the context is weighed in, and what is unidentified.
    """
    classes = list(classes)
    if params.use_context:
        probabilities = _weigh_in_proposals(probabilities, table.loc[ids], classes)
    _fill_types(table, ids, probabilities, classes, params.unidentified_below)


def _plane(image: Any) -> NDArray[np.uint8]:
    """Return the image as (Y, X, 3) uint8, reading it only where it is not one yet."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    from napari_bloodcell.images.open import read_plane

    return read_plane(image).data


def iter_probabilities(
    image: NDArray[np.uint8],
    cells: NDArray[np.integer],
    table: pd.DataFrame,
    classifier: CellClassifier,
    calibration: Calibration,
    batch_size: int,
    *,
    corner: tuple[int, int] = (0, 0),
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield ids (B,) and the classifier's probabilities (B, K) of the cells of a table, in its order.

    Cells are cut out while others are looked at. `corner` is the (y, x) of the image in its smear.
    """
    image = smear_in(image, corner, calibration)
    scale, background = cutout_settings(classifier, calibration)
    level = getattr(classifier, "glass_level", None) or GLASS_LEVEL

    def typed(some: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        cutouts = cut_out(image, cells, some, scale=scale, background_rgb=background, glass_level=level)
        return some.index.to_numpy(np.int64), predict_types(classifier, cutouts, len(classifier.classes))

    threads: Threads = getattr(classifier, "threads", None) or Threads()
    share = -(-len(table) // threads.n // BATCH_STEP) * BATCH_STEP  # for each thread some, where there are few
    step = max(1, min(batch_size, max(share, BATCH_STEP)))
    yield from in_threads(typed, (table.iloc[k : k + step] for k in range(0, len(table), step)), threads)


def predict_types(classifier: CellClassifier, cutouts: NDArray[np.uint8], n_classes: int) -> NDArray[np.float32]:
    """Return the classifier's probabilities, refusing anything that is not (N, K) of finite numbers."""
    probabilities = np.asarray(classifier.predict(cutouts), np.float32)
    if probabilities.shape != (len(cutouts), n_classes) or not np.isfinite(probabilities).all():
        raise ModelError(
            f"The classifier {classifier.name!r} answered {probabilities.shape} for {len(cutouts)} cutouts of "
            f"{n_classes} classes; finite probabilities of shape ({len(cutouts)}, {n_classes}) are needed."
        )
    return probabilities


def _weigh_in_proposals(
    probabilities: NDArray[np.float32], table: pd.DataFrame, classes: list[str]
) -> NDArray[np.float32]:
    """Multiply the classifier's probabilities (N, K) with a power of those of the generator's proposals.

    A proposal that is none of the classifier's classes says nothing, and none speaks against a class of the user's own,
    which the generator cannot tell from the one that it names. Neither opinion is ever certain.
    """
    is_proposable = np.array([name in BUILTIN_TYPES for name in classes])
    if "proposed_type" not in table or not len(table) or is_proposable.sum() < 2:
        return probabilities
    position = table["proposed_type"].map({name: k for k, name in enumerate(classes)})
    certainty = table["proposed_probability"].to_numpy(np.float64)
    known = np.flatnonzero(position.notna().to_numpy() & np.isfinite(certainty))
    if not len(known):
        return probabilities
    sure = certainty[known].clip(PROPOSAL_DOUBT, 1 - PROPOSAL_DOUBT)
    opinion = np.where(is_proposable, ((1 - sure) / (is_proposable.sum() - 1))[:, None], sure[:, None])
    opinion[np.arange(len(known)), position.iloc[known].astype(int)] = sure
    weighed = probabilities.astype(np.float64)
    weighed[known] = weighed[known].clip(CLASSIFIER_DOUBT, 1) * opinion**PROPOSAL_WEIGHT
    weighed[known] /= weighed[known].sum(1, keepdims=True)
    return weighed.astype(np.float32)


def _fill_types(
    table: pd.DataFrame,
    index: pd.Index[int],
    probabilities: NDArray[np.float32],
    classes: list[str],
    unidentified_below: float,
) -> None:
    """Write types, probabilities and their source into the rows of `index`."""
    if not len(index):
        return
    best = probabilities.argmax(axis=1)
    probability = probabilities.max(axis=1).astype(np.float64)
    types = np.array(classes, dtype=object)[best]
    types[probability < unidentified_below] = UNIDENTIFIED
    table.loc[index, "cell_type"] = types
    table.loc[index, "probability"] = probability
    table.loc[index, "type_source"] = "model"
