"""Recipe files: the settings of a result and all that is needed to get the same numbers again."""

from __future__ import annotations

import difflib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from napari_bloodcell.core.errors import SettingsError, reason_of
from napari_bloodcell.core.params import Params, Recipe
from napari_bloodcell.core.protocols import Calibration

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PACKAGES: tuple[str, ...] = (
    *("napari-bloodcell", "numpy", "scipy", "scikit-image", "pandas", "torch", "segment-anything", "safetensors"),
    *("pillow", "tifffile", "zarr"),
)
"""Packages whose versions a recipe records."""

M = TypeVar("M", bound=BaseModel)
_MAX_BYTES = 1_000_000
_KIND: Literal["napari-bloodcell recipe"] = "napari-bloodcell recipe"


class ModelRecord(Params):
    """The model used for a stage."""

    name: str
    """Its name."""
    sha256: str
    """Hash of its weights."""


class ImageRecord(Params):
    """The image that was analysed."""

    name: str
    """Its name, without a folder."""
    sha256: str
    """Hash of its shape and its pixels as (Y, X, 3) uint8."""
    height: int = Field(ge=1)
    """Pixels."""
    width: int = Field(ge=1)
    """Pixels."""
    pixel_size_um: float | None = None
    """Micrometres per pixel, if the image gives it."""


class RecipeRecord(Params):
    """The content of ``recipe.json``."""

    kind: Literal["napari-bloodcell recipe"] = _KIND
    """Distinguishes this file from others."""
    version: Literal[1] = 1
    """Version of this format."""
    recipe: Recipe
    """Settings of every stage."""
    models: dict[str, ModelRecord]
    """By stage."""
    image: ImageRecord
    """What was analysed."""
    calibration: Calibration
    """Measurements of the whole image."""
    device: str
    """Device it ran on."""
    packages: dict[str, str]
    """Package versions."""
    python: str
    """Python's version."""
    platform: str
    """Operating system and processor."""


def versions() -> dict[str, str]:
    """Return the versions of installed packages that affect the numbers."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Read them once: metadata are files."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def portable(recipe: Recipe) -> Recipe:
    """Return a recipe whose model files have no folders."""

    def short(model: str) -> str:
        return PureWindowsPath(model).name if _is_file(model) else model

    return recipe.model_copy(
        update={
            "segment": recipe.segment.model_copy(update={"model": short(recipe.segment.model)}),
            "classify": recipe.classify.model_copy(update={"model": short(recipe.classify.model)}),
        }
    )


def make_record(
    recipe: Recipe,
    *,
    models: Mapping[str, Mapping[str, str]],
    image: ImageRecord,
    calibration: Calibration,
    device: str,
) -> RecipeRecord:
    """Return the record of a result made here and now."""
    return RecipeRecord(
        recipe=portable(recipe),
        models={stage: ModelRecord(**dict(model)) for stage, model in models.items()},
        image=image,
        calibration=calibration,
        device=device,
        packages=versions(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
    )


def to_json(record: BaseModel) -> str:
    """Return a record as text; equal records give equal bytes."""
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_recipe(path: str | Path, *, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    """Read the settings of a recipe file, written by the program or by hand.

    Parameters
    ----------
    path : path
        A JSON file, as `recipe.json` of a result, or ``{"segment": {…}, "classify": {…}, "count": {…}, "seed": 0}``
        with anything left out.
    overrides : mapping of stage to mapping of setting to value, optional
        Settings that replace those of the file.

    Returns
    -------
    Recipe
        Models that are files are looked for beside the recipe; their paths are absolute here.

    Raises
    ------
    SettingsError
        If the file is missing, no JSON, of a newer format, has an unknown or invalid setting, names a model file that
        is not there, or one outside the recipe's folder.
    """
    path = Path(path)
    content = _load(path)
    if "recipe" in content or "kind" in content:
        _validated(RecipeRecord, content, path)
        content = content["recipe"]
    settings: dict[str, Any] = {stage: dict(v) if isinstance(v, dict) else v for stage, v in content.items()}
    for stage in ("segment", "classify"):
        values = settings.get(stage)
        is_overridden = "model" in (overrides or {}).get(stage, {})
        if isinstance(values, dict) and isinstance(values.get("model"), str) and not is_overridden:
            values["model"] = _model_beside(path, stage, values["model"])
    for stage, values in (overrides or {}).items():
        settings[stage] = {**settings.get(stage, {}), **values}
    return _validated(Recipe, settings, path)


def read_record(path: str | Path) -> RecipeRecord:
    """Read a `recipe.json` with everything it records; `SettingsError` if it is missing or not one."""
    return _validated(RecipeRecord, _load(Path(path)), Path(path))


def explain(error: ValidationError, model: type[BaseModel], *, as_flags: bool = False) -> str:
    """Return what is wrong with settings, one clause per setting, without pydantic's wording.

    `as_flags` names settings as on the command line: ``--tile-size``.
    """
    return "; ".join(_explain_one(detail, model, as_flags=as_flags) for detail in error.errors(include_url=False))


def _explain_one(detail: ErrorDetails, model: type[BaseModel], *, as_flags: bool) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "the settings"
    if as_flags:
        where = "--" + where.replace("_", "-")
    if detail["type"] == "extra_forbidden":
        allowed = _fields_at(model, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(sorted(allowed))}"
        return f"{where} is not a setting ({hint})"
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    given = "" if detail["type"] == "missing" else f" ({detail['input']!r} was given)"
    return f"{where}: {message}{given}"


def _fields_at(model: type[BaseModel], loc: Iterable[int | str]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _validated(model: type[M], content: Mapping[str, Any], path: Path) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"The recipe {path} cannot be used: {explain(error, model)}.") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SettingsError(f"{path} is too large to be a recipe ({path.stat().st_size:,} bytes).")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"There is no recipe {path}.") from error
    except OSError as error:
        raise SettingsError(f"The recipe {path} cannot be opened: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"The recipe {path} is not JSON: {reason_of(error)}.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"The recipe {path} must be a JSON object with the settings of the stages.")
    return content


def _is_file(model: str) -> bool:
    """Return whether a model's name is a path rather than a known name."""
    return re.fullmatch(r"[A-Za-z0-9_-]+", model) is None


def _model_beside(path: Path, stage: str, model: str) -> str:
    """Return the absolute path of a model file named by a recipe; known names stay as they are."""
    if not _is_file(model):
        return model
    advice = f"Put the file beside the recipe and name it so, or give the model on its own (--{stage}-model)."
    windows = PureWindowsPath(model)
    folder = path.parent.resolve()
    try:
        target = (folder / model).resolve()
    except (OSError, ValueError):  # not a possible file name
        target = folder
    if windows.drive or windows.root or ".." in windows.parts or folder not in target.parents:
        raise SettingsError(
            f"The recipe {path} names the {stage} model {model!r}, which is not in the recipe's folder. {advice}"
        )
    if not os.path.isfile(target):  # False for a name that is too long, where Path.is_file raises
        raise SettingsError(f"The recipe {path} names the {stage} model {model!r}, but there is no {target}. {advice}")
    return str(target)
