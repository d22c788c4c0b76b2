"""Segment, type and count the blood cells of a smear.

>>> import napari_bloodcell as nb
>>> result = nb.analyse("smear.jpg")  # doctest: +SKIP
>>> result.counts  # doctest: +SKIP
{'RBC': 412, 'WBC': 3, 'platelet': 17}

Names are loaded when they are first used: importing the package loads neither torch nor Qt nor napari.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_bloodcell import napari  # noqa: F401 - an attribute, not a name of `import *`
    from napari_bloodcell.core.errors import (
        BloodCellError,
        DeviceError,
        DownloadError,
        InputError,
        InputWarning,
        ModelError,
        OutputError,
        ResultWarning,
        SettingsError,
        TrainingError,
    )
    from napari_bloodcell.core.params import (
        ClassifyParams,
        CountParams,
        Recipe,
        SegmentParams,
        TrainParams,
        TrainSamParams,
    )
    from napari_bloodcell.core.progress import drain
    from napari_bloodcell.core.protocols import Calibration, CellClassifier, CellMask, MaskGenerator, Progress
    from napari_bloodcell.corrections.correction import Correction
    from napari_bloodcell.corrections.journal import Journal
    from napari_bloodcell.images.image import SlideImage
    from napari_bloodcell.images.open import open_image, open_slide, read_plane
    from napari_bloodcell.images.plane import Plane
    from napari_bloodcell.learning.grid_search import GridSearch, grid_search, iter_grid_search
    from napari_bloodcell.learning.reports import Training
    from napari_bloodcell.learning.train import iter_train, train
    from napari_bloodcell.learning.train_sam import SamTraining, iter_train_sam, train_sam
    from napari_bloodcell.learning.training_set import TrainingSet
    from napari_bloodcell.pipeline import analyse, assess, iter_analyse
    from napari_bloodcell.results.recipes import read_recipe
    from napari_bloodcell.results.result import Result, SlideResult, SmearResult, StoredResult
    from napari_bloodcell.results.specimens.compare import Comparison, compare
    from napari_bloodcell.results.specimens.specimen import Specimen, pool
    from napari_bloodcell.results.store import open_slide_result, read_result, write_result
    from napari_bloodcell.stages.classify import Classification, classify, iter_classify
    from napari_bloodcell.stages.counting import Counting, count, iter_count
    from napari_bloodcell.stages.quality.verdicts import Quality
    from napari_bloodcell.stages.segment import Segmentation, iter_segment, segment

    __version__: str

__all__ = [
    "BloodCellError", "Calibration", "CellClassifier", "CellMask", "Classification", "ClassifyParams", "Comparison",
    "Correction", "CountParams", "Counting", "DeviceError", "DownloadError", "GridSearch", "InputError", "InputWarning",
    "Journal", "MaskGenerator", "ModelError", "OutputError", "Plane", "Progress", "Quality", "Recipe", "Result",
    "ResultWarning", "SamTraining", "SegmentParams", "Segmentation", "SettingsError", "SlideImage", "SlideResult",
    "SmearResult", "Specimen", "StoredResult", "TrainParams", "TrainSamParams", "Training", "TrainingError",
    "TrainingSet", "__version__", "analyse", "assess", "classify", "compare", "count", "drain", "grid_search",
    "iter_analyse", "iter_classify", "iter_count", "iter_grid_search", "iter_segment", "iter_train", "iter_train_sam",
    "open_image", "open_slide", "open_slide_result", "pool", "read_plane", "read_recipe", "read_result", "segment",
    "train", "train_sam", "write_result",
]  # fmt: skip

_NAMES: dict[str, tuple[str, ...]] = {
    "core.errors": (
        *("BloodCellError", "DeviceError", "DownloadError", "InputError", "InputWarning", "ModelError"),
        *("OutputError", "ResultWarning", "SettingsError", "TrainingError"),
    ),
    "core.params": ("ClassifyParams", "CountParams", "Recipe", "SegmentParams", "TrainParams", "TrainSamParams"),
    "core.progress": ("drain",),
    "core.protocols": ("Calibration", "CellClassifier", "CellMask", "MaskGenerator", "Progress"),
    "corrections.correction": ("Correction",),
    "corrections.journal": ("Journal",),
    "images.image": ("SlideImage",),
    "images.open": ("open_image", "open_slide", "read_plane"),
    "images.plane": ("Plane",),
    "learning.grid_search": ("GridSearch", "grid_search", "iter_grid_search"),
    "learning.reports": ("Training",),
    "learning.train": ("iter_train", "train"),
    "learning.train_sam": ("SamTraining", "iter_train_sam", "train_sam"),
    "learning.training_set": ("TrainingSet",),
    "pipeline": ("analyse", "assess", "iter_analyse"),
    "results.recipes": ("read_recipe",),
    "results.result": ("Result", "SlideResult", "SmearResult", "StoredResult"),
    "results.specimens.compare": ("Comparison", "compare"),
    "results.specimens.specimen": ("Specimen", "pool"),
    "results.store": ("open_slide_result", "read_result", "write_result"),
    "stages.classify": ("Classification", "classify", "iter_classify"),
    "stages.counting": ("Counting", "count", "iter_count"),
    "stages.quality.verdicts": ("Quality",),
    "stages.segment": ("Segmentation", "iter_segment", "segment"),
}
_HOME: dict[str, str] = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name == "napari":  # the docks' work on layers; napari itself is imported when a function is called
        return importlib.import_module(f"{__name__}.napari")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "napari"})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("napari-bloodcell")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
