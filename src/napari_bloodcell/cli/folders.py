"""The images of a batch, and the folder of each result."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from napari_bloodcell.cli.summary import SUMMARY
from napari_bloodcell.core.errors import InputError, SettingsError, escaped
from napari_bloodcell.core.files import expanded, legal_name
from napari_bloodcell.images.files import (
    DICOM,
    IMAGE_SUFFIXES,
    find_images,
    image_name,
    is_image_path,
    is_zarr,
    split_scene,
)
from napari_bloodcell.results.files import CELLS_TIFF, COUNTS, KDE, OVERLAY, RECIPE, SLIDE, TYPES_TIFF
from napari_bloodcell.results.recipes import read_record
from napari_bloodcell.slides.work import source_of_work

OWN_PICTURES = (OVERLAY, KDE, CELLS_TIFF, TYPES_TIFF)
"""Pictures that the program draws beside a result, which are not smears."""
_SEVERAL_DICOM = (
    "It is left out: a folder's several .dcm files may be levels of one slide. Give one file of each slide by its path."
)


def collect(arguments: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Return the images named by files, folders and globs, each once, and why the other arguments name none."""
    images: dict[Path, Path] = {}
    missing: dict[str, str] = {}
    for argument in arguments:
        try:
            found = _images_of(argument)
        except InputError as error:
            missing[argument] = str(error)
        else:
            slides = [image for image in found if image.suffix.lower() == DICOM]
            if len(slides) > 1 and os.path.isdir(argument):
                missing |= dict.fromkeys(map(str, slides), _SEVERAL_DICOM)
                found = [image for image in found if image not in slides]
            for image in found:
                images.setdefault(image.resolve(), image)
    return list(images.values()), missing


def _images_of(argument: str) -> list[Path]:
    """Return the images that an argument names; `InputError` if there is none."""
    path = Path(argument) if os.path.lexists(argument) else expanded(argument)
    if os.path.isdir(path) and not is_zarr(path):
        try:
            found = [image for image in find_images(path) if not _is_own(image)]
        except OSError as error:
            raise InputError(f"The folder {path} cannot be read: {error.strerror or error}.") from error
        if not found:
            raise InputError(
                f"The folder {path} holds no image. Images end with {', '.join(sorted(IMAGE_SUFFIXES))} or are "
                "OME-Zarr folders; folders within it are not searched (a glob such as 'folder/**/*.jpg' does that)."
            )
    elif os.path.lexists(path) or split_scene(path)[1]:
        found = [path]
        if _is_own(path):
            raise InputError(f"{path} was drawn by this program beside a result; give the image itself.")
    else:
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        found = [match for match in matches if is_image_path(match) and not _is_own(match)]
        if not found:
            raise InputError(not_found(argument))
    return found


def not_found(name: str) -> str:
    """Return the message for an argument that names nothing."""
    hint = " It ends as the lines of a Windows list do; take \\r away." if name.endswith("\r") else ""
    return f"There is no image {escaped(name)}.{hint}"


def _is_own(path: Path) -> bool:
    """Return whether a picture lies in a result and is one drawn by the program."""
    return path.name in OWN_PICTURES and any(os.path.isfile(path.parent / name) for name in (RECIPE, COUNTS))


def folder_names(images: Sequence[Path]) -> list[str]:
    """Return a legal, unique name (ignoring case) for each image's result: the image's, with its folder's if needed."""

    def candidates(image: Path) -> tuple[str, str, str]:
        parent = image.resolve().parent.name or "root"
        name, ending = image_name(image), image.suffix.lstrip(".")
        return legal_name(name), legal_name(f"{parent}_{name}"), legal_name(f"{parent}_{name}_{ending}")

    options = [candidates(image) for image in images]
    chosen: dict[int, str] = {}
    used = {SUMMARY.casefold()}
    for rank in range(3):
        left = [i for i in range(len(images)) if i not in chosen]
        wanted = [options[i][rank].casefold() for i in left]
        for i, name in zip(left, wanted, strict=True):
            if wanted.count(name) == 1 and name not in used:
                chosen[i] = options[i][rank]
        used |= {name.casefold() for name in chosen.values()}
    for i in range(len(images)):
        if i not in chosen:
            chosen[i] = _free(options[i][2], lambda name: name.casefold() not in used)
            used.add(chosen[i].casefold())
    return [chosen[i] for i in range(len(images))]


def _free(name: str, is_free: Callable[[str], bool]) -> str:
    """Return the name, or the first of name_2, name_3, … that is free."""
    number, candidate = 1, name
    while not is_free(candidate):
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def folder_for(output: Path, name: str, sha256: str, image: Path, taken: Iterable[str]) -> Path:
    """Return a result's folder: `name`, or with a number if that holds another image's result or work."""

    def is_free(folder: Path) -> bool:
        if (folder / SLIDE).exists():  # a slide's result, which people may have corrected
            return False
        if not (folder / RECIPE).exists():
            return source_of_work(folder) in (None, escaped(image.resolve()))
        try:
            return read_record(folder / RECIPE).image.sha256 == sha256
        except SettingsError:
            return False

    return _free_folder(output, name, taken, is_free)


def folder_for_slide(output: Path, name: str, image: Path, taken: Iterable[str]) -> Path:
    """Return the folder of a slide's result: its own already, as after a stop, or a free one."""

    def is_free(folder: Path) -> bool:
        owner = source_of_work(folder)
        return owner == escaped(image.resolve()) if owner is not None else not (folder / RECIPE).exists()

    return _free_folder(output, name, taken, is_free)


def _free_folder(output: Path, name: str, taken: Iterable[str], is_free: Callable[[Path], bool]) -> Path:
    """Return the first folder of name, name_2, … that is free and not the name of another image's result."""
    others = {other.casefold() for other in taken if other != name}

    def may_take(candidate: str) -> bool:
        folder = output / candidate
        return candidate.casefold() not in others and not folder.is_file() and is_free(folder)

    return output / _free(name, may_take)
