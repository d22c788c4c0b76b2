"""Segment, type and count the blood cells of a smear.

>>> import napari_bloodcell as nb
>>> result = nb.analyse("smear.jpg")  # doctest: +SKIP
>>> result.counts  # doctest: +SKIP
{'RBC': 412, 'WBC': 3, 'platelet': 17}

Names are loaded when they are first used: importing the package loads neither torch nor Qt nor napari.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_bloodcell import napari_api as napari  # noqa: F401 - `napari` is an attribute, not a public name
    from napari_bloodcell.classify import Classification, classify, iter_classify
    from napari_bloodcell.counting import Counting, count, iter_count
    from napari_bloodcell.errors import (
        BloodCellError,
        DeviceError,
        DownloadError,
        InputError,
        InputWarning,
        ModelError,
        OutputError,
        SettingsError,
        TrainingError,
    )
    from napari_bloodcell.grid_search import GridSearch, grid_search, iter_grid_search
    from napari_bloodcell.journal import Correction, Journal
    from napari_bloodcell.params import ClassifyParams, CountParams, Recipe, SegmentParams, TrainParams
    from napari_bloodcell.pipeline import SmearResult, analyse, iter_analyse
    from napari_bloodcell.progress import drain
    from napari_bloodcell.protocols import Calibration, CellClassifier, CellMask, MaskGenerator, Progress
    from napari_bloodcell.recipes import read_recipe
    from napari_bloodcell.segment import Segmentation, iter_segment, segment
    from napari_bloodcell.slides.formats import open_slide
    from napari_bloodcell.slides.image import SlideImage
    from napari_bloodcell.slides.result import SlideResult, open_slide_result
    from napari_bloodcell.smear import Plane, read_plane
    from napari_bloodcell.store import StoredResult, read_result, write_result
    from napari_bloodcell.train import Training, iter_train, train
    from napari_bloodcell.train_sam import SamTraining, iter_train_sam, train_sam
    from napari_bloodcell.training_set import TrainingSet

    __version__: str

__all__ = [
    "BloodCellError",
    "Calibration",
    "CellClassifier",
    "CellMask",
    "Classification",
    "ClassifyParams",
    "Correction",
    "CountParams",
    "Counting",
    "DeviceError",
    "DownloadError",
    "GridSearch",
    "InputError",
    "InputWarning",
    "Journal",
    "MaskGenerator",
    "ModelError",
    "OutputError",
    "Plane",
    "Progress",
    "Recipe",
    "SamTraining",
    "SegmentParams",
    "Segmentation",
    "SettingsError",
    "SlideImage",
    "SlideResult",
    "SmearResult",
    "StoredResult",
    "TrainParams",
    "Training",
    "TrainingError",
    "TrainingSet",
    "__version__",
    "analyse",
    "classify",
    "count",
    "drain",
    "grid_search",
    "iter_analyse",
    "iter_classify",
    "iter_count",
    "iter_grid_search",
    "iter_segment",
    "iter_train",
    "iter_train_sam",
    "open_slide",
    "open_slide_result",
    "read_plane",
    "read_recipe",
    "read_result",
    "segment",
    "train",
    "train_sam",
    "write_result",
]

_NAMES: dict[str, tuple[str, ...]] = {
    "classify": ("Classification", "classify", "iter_classify"),
    "counting": ("Counting", "count", "iter_count"),
    "errors": (
        *("BloodCellError", "DeviceError", "DownloadError", "InputError", "InputWarning", "ModelError"),
        *("OutputError", "SettingsError", "TrainingError"),
    ),
    "grid_search": ("GridSearch", "grid_search", "iter_grid_search"),
    "journal": ("Correction", "Journal"),
    "params": ("ClassifyParams", "CountParams", "Recipe", "SegmentParams", "TrainParams"),
    "pipeline": ("SmearResult", "analyse", "iter_analyse"),
    "progress": ("drain",),
    "protocols": ("Calibration", "CellClassifier", "CellMask", "MaskGenerator", "Progress"),
    "recipes": ("read_recipe",),
    "segment": ("Segmentation", "iter_segment", "segment"),
    "slides.formats": ("open_slide",),
    "slides.image": ("SlideImage",),
    "slides.result": ("SlideResult", "open_slide_result"),
    "smear": ("Plane", "read_plane"),
    "store": ("StoredResult", "read_result", "write_result"),
    "train": ("Training", "iter_train", "train"),
    "train_sam": ("SamTraining", "iter_train_sam", "train_sam"),
    "training_set": ("TrainingSet",),
}
_HOME: dict[str, str] = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name == "napari":  # the docks' work on layers; napari itself is imported when a function is called
        return importlib.import_module(f"{__name__}.napari_api")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not import_module(): where a function is called as its module, the attribute is the function's.
    module = f"{__name__}.{_HOME[name]}"
    importlib.import_module(module)
    value: object = getattr(sys.modules[module], name)
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


class _Package(ModuleType):
    """A module whose functions keep their names: importing the submodule ``segment`` must not hide `segment`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
