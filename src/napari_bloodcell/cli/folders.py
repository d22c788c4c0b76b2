"""Which images a batch has, and where the result of each goes."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from napari_bloodcell.core.errors import InputError, SettingsError, escaped
from napari_bloodcell.core.files import legal_name
from napari_bloodcell.images.files import IMAGE_SUFFIXES, find_images, image_name, is_image_path, is_zarr
from napari_bloodcell.results.files import RECIPE
from napari_bloodcell.results.recipes import read_record
from napari_bloodcell.slides.work import source_of_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SUMMARY = "summary.csv"


def collect(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Return the images that files, folders and globs name, each once, and the arguments that name nothing.

    Raises
    ------
    InputError
        If a folder holds no image.
    """
    images: dict[Path, Path] = {}
    missing: list[str] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if os.path.isdir(path) and not is_zarr(path):
            found = _images_of(path)
        elif os.path.exists(path):
            found = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            found = [match for match in matches if is_image_path(match)]
        if not found:
            missing.append(argument)
        for image in found:
            images.setdefault(image.resolve(), image)
    return list(images.values()), missing


def _images_of(folder: Path) -> list[Path]:
    try:
        found = find_images(folder)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error
    if not found:
        raise InputError(
            f"The folder {folder} holds no image. Images end with {', '.join(sorted(IMAGE_SUFFIXES))} or are OME-Zarr "
            "folders; folders within it are not searched (a glob such as 'folder/**/*.jpg' does that)."
        )
    return found


def not_found(name: str) -> str:
    """Return the message for an argument that names nothing."""
    hint = " It ends as the lines of a Windows list do; take \\r away." if name.endswith("\r") else ""
    return f"There is no image {escaped(name)}.{hint}"


def folder_names(images: Sequence[Path]) -> list[str]:
    """Return a legal name for the result of each image, none twice up to case: the image's, its folder's if needed."""

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


def folder_for(output: Path, name: str, sha256: str, taken: Iterable[str]) -> Path:
    """Return the folder of a result: `name`, or one with a number where that holds the result of another image."""
    others = {other.casefold() for other in taken if other != name}

    def is_free(candidate: str) -> bool:
        if candidate.casefold() in others:
            return False
        if not (output / candidate / RECIPE).exists():
            return not (output / candidate).is_file()
        try:
            return read_record(output / candidate / RECIPE).image.sha256 == sha256
        except SettingsError:
            return False

    return output / _free(name, is_free)


def folder_for_slide(output: Path, name: str, image: Path, taken: Iterable[str]) -> Path:
    """Return the folder of a slide's result: one that is its own already, as after a stop, or a free one."""
    others = {other.casefold() for other in taken if other != name}

    def is_free(candidate: str) -> bool:
        folder = output / candidate
        if candidate.casefold() in others or folder.is_file():
            return False
        owner = source_of_work(folder)
        return owner == str(image.resolve()) if owner is not None else not (folder / RECIPE).exists()

    return output / _free(name, is_free)
