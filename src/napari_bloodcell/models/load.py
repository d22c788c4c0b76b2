"""Finds, downloads and loads models by name or file; torch is imported with the first."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
from napari_bloodcell.models import weights

if TYPE_CHECKING:
    from napari_bloodcell.models.cnn.classifier import CnnClassifier
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel

M = TypeVar("M")


def load_generator(model: str = "embedded", device: str = "auto", precision: str = "auto") -> MaskGenerator:
    """Return a mask generator; it is reused while among the last two and its file is unchanged."""
    if model in weights.OFFICIAL:
        return _load_generator(model, None, device, precision, 0)
    file = weights.find(weights.GENERATORS[model]).path if model in weights.GENERATORS else expanded(model)
    if not os.path.isfile(file):
        raise ModelError(f"No mask generator {model!r}: give {_either(weights.GENERATORS)}, or the path of a file.")
    return _load_generator(model, file, device, precision, file.stat().st_mtime_ns)


def iter_load_generator(
    model: str, device: str = "auto", precision: str = "auto"
) -> Generator[Progress, None, MaskGenerator]:
    """Load as `load_generator` does, yielding progress in bytes while official weights are downloaded."""
    if model in weights.OFFICIAL:
        yield from weights.iter_download(model)
    return load_generator(model, device, precision)


def load_classifier(model: str | Path = "embedded", device: str = "auto", precision: str = "auto") -> CnnClassifier:
    """Return a classifier: one of `weights.CLASSIFIERS`, or that of a .safetensors file written by training.

    Raises `ModelError` if there is no such model, or the file is no classifier of this program.
    """
    from napari_bloodcell.models.cnn.classifier import CnnClassifier

    if model in weights.CLASSIFIERS:
        file = weights.find(weights.CLASSIFIERS[str(model)]).path
        return CnnClassifier.load(file, name=str(model), device=device, precision=precision)
    if not os.path.isfile(model):
        raise ModelError(f"No classifier {str(model)!r}: give {_either(weights.CLASSIFIERS)}, or the path of a file.")
    return CnnClassifier.load(model, device=device, precision=precision)


def load_models(
    recipe: Recipe, generator: MaskGenerator | None = None, classifier: CellClassifier | None = None
) -> tuple[MaskGenerator, CellClassifier]:
    """Return the models given, or those that the recipe names, in the precision of its settings."""
    segment, typing = recipe.segment, recipe.classify
    if generator is None:
        generator = load_generator(segment.model, segment.device, segment.precision)
    if classifier is None:
        classifier = load_classifier(typing.model, typing.device, typing.precision)
    return _in_precision(generator, segment.precision), _in_precision(classifier, typing.precision)


def _in_precision(model: M, precision: str) -> M:
    """Return a model in a precision, itself if that is open, or it cannot work in another."""
    change: Callable[[str], M] | None = getattr(model, "in_precision", None)
    is_in_it = precision in ("auto", getattr(model, "precision", None))
    return model if is_in_it or change is None else change(precision)


def load_subtypes(model: str, device: str = "auto") -> SubtypeModel:
    """Return a model that tells the kinds of a type apart: one of `weights.SUBTYPES`, or that of a file."""
    file = _subtypes_file(model)
    return _load_subtypes(file, device, file.stat().st_mtime_ns)


def subtype_records(models: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return {"name", "sha256"} of such models by their names, without loading them."""
    files = [_subtypes_file(model) for model in models]
    return {file.stem: {"name": file.stem, "sha256": weights.sha256_of(file)} for file in files}


def _subtypes_file(model: str) -> Path:
    file = weights.find(weights.SUBTYPES[model]).path if model in weights.SUBTYPES else expanded(model)
    if not os.path.isfile(file):
        raise ModelError(f"No model of subtypes {model!r}: give {_either(weights.SUBTYPES)}, or the path of a file.")
    return file


@lru_cache(maxsize=4)
def _load_subtypes(file: Path, device: str, _changed_ns: int) -> SubtypeModel:
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel

    return SubtypeModel.load(file, device=device)


@lru_cache(maxsize=2)
def _load_generator(model: str, file: Path | None, device: str, precision: str, _changed_ns: int) -> MaskGenerator:
    from napari_bloodcell.models.embedded.sam import EmbeddedSam, is_embedded_sam
    from napari_bloodcell.models.official.sam import OfficialSam

    if file is not None and is_embedded_sam(file):
        return EmbeddedSam(file, device, precision)
    return OfficialSam(file or model, device=device, precision=precision)


def _either(names: dict[str, str]) -> str:
    return " or ".join(f'"{name}"' for name in names)
