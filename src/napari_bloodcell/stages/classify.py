"""Types the cells of a segmented smear (paper §3.4, §3.5, §4.2)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import (
    BOX,
    BUILTIN_TYPES,
    NO_KIND,
    UNIDENTIFIED,
    boxes_of,
    type_lut,
    type_names,
    with_later,
)
from napari_bloodcell.core.errors import InputError, ModelError
from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import Calibration, CellClassifier, Progress
from napari_bloodcell.core.threads import Threads, in_threads
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.models.load import load_classifier, load_subtypes
from napari_bloodcell.stages.calibration import smear_in
from napari_bloodcell.stages.cutouts import cut_out, cut_windows, unlike_training
from napari_bloodcell.stages.parts import iter_parts
from napari_bloodcell.stages.segment import segmentation_of

BATCH_STEP = 128
"""Batch sizes are multiples of this: float rounding depends on a cell's batch mates, so results must not depend on the
thread count."""
PROPOSAL_DOUBT = 0.03
"""Lower bound of the probability that the generator's proposed type is wrong."""
PROPOSAL_WEIGHT = 0.7
"""Power applied to the generator's probabilities: both models see the same pixels, so they are not independent."""
WINDOWS_AT_ONCE = 64
"""Cells whose kinds are told in one step."""
CLASSIFIER_DOUBT = 0.002
"""Lower bound of the classifier's probabilities."""


@runtime_checkable
class SegmentedSmear(Protocol):
    """The parts of a segmentation that typing needs."""

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
    segmentation: SegmentedSmear | object,
    *,
    params: ClassifyParams = ClassifyParams(),  # noqa: B008 - frozen
    classifier: CellClassifier | None = None,
) -> Generator[Progress, None, Classification]:
    """Type every cell of a segmented smear.

    Parameters
    ----------
    image : ndarray of uint8, shape (Y, X, 3), or anything that can be read as one
        The smear that was segmented.
    segmentation : Segmentation, or path or array-like of int, shape (Y, X)
        Its cells, cell table and calibration; or the label image of any other program, whose ids stay
        (`segment.segmentation_of`). Nothing of it is changed.
    params : ClassifyParams
        Which classifier, from which probability on, in which batches.
    classifier : CellClassifier, optional
        Used instead of the one named by `params`.

    Yields
    ------
    Progress
        After each batch; payload = ids typed, shape (B,).

    Returns
    -------
    Classification
        Typed image, table and names. Cells that a user typed (`type_source` "user") keep type and probability.
        `probability` is that of the most probable class, even if the cell is "unidentified".

    Raises
    ------
    InputError
        If the image is none, or has another size than the segmentation.
    ModelError
        If the classifier is unknown or damaged, or answers in the wrong shape.

    Notes
    -----
    Departure from the paper: the classifier sees whole cells, after those cut by tile borders are joined, and at its
    own scale if it has an `rbc_diameter_px`. With a `glass_level` the colour of the glass is removed, and with a
    `red_level` that of an unusual stain: its typical red cell gets that colour. The preset "paper" does
    neither.
    """
    smear = read_plane(image)
    plane = smear.data
    if not isinstance(segmentation, SegmentedSmear):
        segmentation = segmentation_of(segmentation, smear)
    cells = segmentation.cells
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
    """Type the cells of an image of any size and return the table with types; cells that a user typed stay.

    `image` (Y, X, 3) uint8 and `cells` (Y, X) int are sliced part by part: cells that begin in the same square of
    `part_px` pixels together, or all if None. Yields progress after each batch; payload = ids typed.
    """
    table = table.copy()
    todo = table[table["type_source"] != "user"]
    probabilities = np.zeros((len(todo), len(classifier.classes)), np.float32)
    done = 0
    yield Progress(0, len(todo), "cells typed")
    for rows, (y0, x0, y1, x1) in iter_parts(todo, cells.shape, part_px):
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
    return (yield from iter_refine(image, table, calibration, params=params))


def iter_refine(
    image: Any, table: pd.DataFrame, calibration: Calibration, *, params: ClassifyParams
) -> Generator[Progress, None, pd.DataFrame]:
    """Tell the kinds of the typed cells of an image of any size, and return the table with subtypes.

    `image` (Y, X, 3) uint8 is sliced around the cells of the types that the models of the settings refine. A kind less
    probable than `unidentified_below` is "unidentified". Kinds that a person told stay. A model is not asked about a
    smear whose colours or sizes lie outside of what it was trained on (`kinds_not_told`). Yields progress before each
    batch.
    """
    table = with_later(table)
    open_ = (table["subtype_source"] != "user").to_numpy(bool)
    for column, value in NO_KIND.items():
        table.loc[open_, column] = value
    for name in params.subtypes if table["cell_type"].astype(bool).any() else ():
        model = load_subtypes(name, params.device)
        if unlike_training(model.info.seen, calibration):
            continue
        ids = table.index[open_ & (table["cell_type"] == model.info.refines).to_numpy(bool)]
        for start in range(0, len(ids), WINDOWS_AT_ONCE):
            some = ids[start : start + WINDOWS_AT_ONCE]
            yield Progress(start, len(ids), f"kinds of {model.info.refines}")
            probabilities = model.predict(cut_windows(image, table.loc[some], calibration, **model.view))
            best = probabilities.max(1).astype(np.float64)
            kinds = np.array(model.kinds, object)[probabilities.argmax(1)]
            kinds[(best < params.unidentified_below) & (kinds != "")] = UNIDENTIFIED
            told = some[kinds != ""]
            table.loc[told, "subtype"], table.loc[told, "subtype_probability"] = kinds[kinds != ""], best[kinds != ""]
    return table


def kinds_not_told(params: ClassifyParams, calibration: Calibration, table: pd.DataFrame) -> tuple[str, ...]:
    """Return which models of kinds were not asked about the typed cells of a smear, in sentences for people."""
    if not table["cell_type"].astype(bool).any():
        return ()
    found = ((name, load_subtypes(name, params.device)) for name in params.subtypes)
    outside = [(name, unlike_training(model.info.seen, calibration)) for name, model in found]
    return tuple(
        f'Not graded by "{name}": unlike the training data ({", ".join(what)}).' for name, what in outside if what
    )


def cutout_settings(classifier: CellClassifier, calibration: Calibration) -> dict[str, Any]:
    """Return the arguments of `cut_out` that show a classifier the cells of a smear as it knows them."""
    width, level = classifier.rbc_diameter_px, getattr(classifier, "glass_level", None)
    scale = 1.0 if width is None else width / calibration.rbc_diameter_px
    if level is None:
        return {"scale": scale}
    glass = {"background_rgb": calibration.background_rgb, "glass_level": level}
    return {
        "scale": scale,
        **glass,
        "red_rgb": calibration.red_rgb,
        "red_level": getattr(classifier, "red_level", None),
    }


def decide_types(
    table: pd.DataFrame,
    ids: pd.Index[int],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    *,
    params: ClassifyParams,
) -> None:
    """Fill in types, probabilities (N, K) and their source for the rows `ids` of a whole smear's table, in place."""
    classes = list(classes)
    if params.use_context:
        probabilities = _weigh_in_proposals(probabilities, table.loc[ids], classes)
    _fill_types(table, ids, probabilities, classes, params.unidentified_below)


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
    """Yield ids (B,) and the classifier's probabilities (B, K) for the cells of a table, in its order.

    Cells are cut out while others are classified. `corner` is the (y, x) of the image in its smear.
    """
    image = smear_in(image, corner, calibration)
    settings = cutout_settings(classifier, calibration)

    def typed(some: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        cutouts = cut_out(image, cells, some, **settings)
        return some.index.to_numpy(np.int64), predict_types(classifier, cutouts, len(classifier.classes))

    threads: Threads = getattr(classifier, "threads", None) or Threads()
    share = -(-len(table) // threads.n // BATCH_STEP) * BATCH_STEP  # a share for every thread if there are few
    step = max(1, min(batch_size, max(share, BATCH_STEP)))
    yield from in_threads(typed, (table.iloc[k : k + step] for k in range(0, len(table), step)), threads)


def predict_types(classifier: CellClassifier, cutouts: NDArray[np.uint8], n_classes: int) -> NDArray[np.float32]:
    """Return the classifier's probabilities; `ModelError` unless they are (N, K) finite numbers."""
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
    """Multiply the classifier's probabilities (N, K) by a power of those of the generator's proposals.

    A proposal outside the classifier's classes is ignored, and none counts against a user's own class, which the
    generator cannot tell from the built-in one it names. Neither opinion is ever certain.
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
