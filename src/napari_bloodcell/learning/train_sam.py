"""Fine-tunes the embedded SAM on a laboratory's corrected masks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage

from napari_bloodcell.core.errors import OutputError, SettingsError, TrainingError
from napari_bloodcell.core.files import make_folder, write_bytes
from napari_bloodcell.core.params import SegmentParams, TrainSamParams
from napari_bloodcell.core.progress import Steps, drained
from napari_bloodcell.core.protocols import Calibration, MaskGenerator, Progress
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.learning.dataset import PICTURE_SUFFIXES
from napari_bloodcell.models.load import load_generator
from napari_bloodcell.results.files import RECIPE, ZARR
from napari_bloodcell.results.recipes import explain
from napari_bloodcell.results.store import read_result
from napari_bloodcell.stages.calibration import background_colour, mean_brightness
from napari_bloodcell.stages.segment import calibrate
from napari_bloodcell.synthetic import STAINS, draw_smear

if TYPE_CHECKING:
    from napari_bloodcell.models.embedded.tuning import MaskedField

LABEL_ENDINGS = ("_cells", "_labels", "_masks", "_seg")
"""Suffixes that a label image's name adds to that of its image."""
REHEARSED_PX, REHEARSED_RBC_PX = 448, 28.0
"""Side of the drawn smears, and width of their red cells."""


@dataclass(frozen=True, slots=True)
class SamTraining:
    """Outcome of fine-tuning a SAM."""

    path: Path
    """The weights: `SegmentParams(model=path)` takes them."""
    iou_before: float
    """Mean IoU of the masks with those of the cells that were kept from training."""
    iou_after: float
    n_train: int
    """Cells trained on."""
    n_val: int
    """Cells kept from training."""
    steps: int
    """Steps done."""


def iter_train_sam(
    folder: str | Path,
    output: str | Path,
    *,
    start: str | Path = "embedded",
    params: TrainSamParams = TrainSamParams(),  # noqa: B008 - frozen
    should_stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Generator[Progress, None, SamTraining]:
    """Fine-tune the embedded SAM's decoder on corrected masks, and write the weights.

    Parameters
    ----------
    folder : path
        Results of the program with their image (OME-Zarr), in it or in folders in it; or pictures with a label image
        each, named as the picture with one of `LABEL_ENDINGS` added: ``a.png`` and ``a_cells.tif``.
    output : path
        The weights to write (.safetensors).
    start : str or path
        "embedded", or weights that were fine-tuned before.
    params : TrainSamParams
        Settings.
    should_stop : callable
        Called after every step; if it returns True, the best weights so far are written.
    **settings
        Settings that override those of `params`, such as ``steps=50``.

    Yields
    ------
    Progress
        After each step; payload = (loss, IoU on the kept cells).

    Raises
    ------
    TrainingError
        If there are no masks, too few, or masks that do not fit their image; or the loss diverges.
    ModelError
        If `start` is not of the embedded SAM's kind.
    SettingsError
        If a setting is unknown, or a value is not allowed.
    OutputError
        If the weights cannot be written.

    Notes
    -----
    The encoder, which finds the cells, is unchanged; SAM's prompt encoder and mask decoder learn their outlines. A
    fifth of the cells is kept from training; the weights returned are those that do best on it, at worst the old ones.
    """
    output = Path(output)
    if output.suffix != ".safetensors" or output.is_dir():
        raise OutputError(f"The weights must be a file that ends with .safetensors; {output} was given.")
    try:
        params = TrainSamParams.model_validate({**params.model_dump(), **settings})
    except ValidationError as error:
        raise SettingsError(f"The settings cannot be used: {explain(error, TrainSamParams)}.") from error
    from napari_bloodcell.models.embedded import tuning as sam_tuning

    yield Progress(0, params.steps, "steps")
    generator = sam_tuning.load_start(load_generator(str(start), params.device))
    fields = read_masked_fields(folder, generator)
    tuning = Steps(
        sam_tuning.tune_decoder(
            generator, fields, rehearsal=_rehearsal(params.seed), params=params, should_stop=should_stop
        )
    )
    for done, loss, iou in tuning:
        yield Progress(done, params.steps, "steps", (loss, iou))
    tuned = tuning.result
    make_folder(output.parent)
    write_bytes(output, tuned.content)
    return SamTraining(output, tuned.iou_before, tuned.iou_after, tuned.n_train, tuned.n_val, tuned.steps)


train_sam = drained(iter_train_sam)
"""`iter_train_sam`, run to its end."""


def read_masked_fields(folder: str | Path, generator: MaskGenerator) -> list[MaskedField]:
    """Return the images of a folder that have masks, sorted by name; `TrainingError` if there are none.

    Their scale is measured as `segment` does, not from the masks: it is the scale at which the model will work.
    """
    from napari_bloodcell.models.embedded.tuning import MaskedField

    folder = Path(folder)
    if not folder.is_dir():
        raise TrainingError(f"There is no folder {folder}. Give one with results, or with images and label images.")
    fields = []
    for result in sorted({p.parent for p in (folder / RECIPE, *folder.glob(f"*/{RECIPE}")) if p.is_file()}):
        if (result / ZARR).is_dir():
            stored = read_result(result)
            image = read_plane(str(result / ZARR)).data
            fields.append(MaskedField(result.name, image, np.asarray(stored.cells), stored.calibration))
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    for picture in pictures:
        labels = [p for p in pictures if p.stem in {picture.stem + ending for ending in LABEL_ENDINGS}]
        if labels:
            image, cells = read_plane(str(picture)).data, _read_labels(labels[0])
            if not cells.any():
                raise TrainingError(f"{labels[0]} holds no cell. Leave images without masks out of the folder.")
            calibration = calibrate(image, params=SegmentParams(), generator=generator)
            fields.append(MaskedField(picture.stem, image, cells, calibration))
    if not fields:
        raise TrainingError(
            f"{folder} holds no masks: neither results of the program with their image (OME-Zarr), nor images with "
            f"label images beside them (name{LABEL_ENDINGS[0]}.tif)."
        )
    return fields


def _rehearsal(seed: int) -> list[tuple[NDArray[np.uint8], Calibration]]:
    """Return drawn smears of several stains, on which masks should stay as they were."""
    smears = []
    for k, stain in enumerate(STAINS.values()):
        smear = draw_smear((REHEARSED_PX, REHEARSED_PX), seed=seed + k, rbc_diameter_px=REHEARSED_RBC_PX, stain=stain)
        red, green, blue = (float(v) for v in background_colour(smear.image))
        calibration = Calibration(REHEARSED_RBC_PX, (red, green, blue), mean_brightness(smear.image), "given")
        smears.append((smear.image, calibration))
    return smears


def _read_labels(path: Path) -> NDArray[np.int32]:
    """Return a label image (Y, X) in which touching cells have different numbers."""
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        labels: NDArray[Any] = np.asarray(tifffile.imread(path))
    else:
        from PIL import Image

        with Image.open(path) as picture:
            labels = np.asarray(picture)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise TrainingError(f"{path} is {labels.dtype} {labels.shape}; a label image has whole numbers (Y, X).")
    if labels.max(initial=0) <= 1 or set(np.unique(labels).tolist()) <= {0, 255}:
        return np.asarray(ndimage.label(labels)[0], np.int32)
    return labels.astype(np.int32)
