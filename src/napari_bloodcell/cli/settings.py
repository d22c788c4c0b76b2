"""The settings of every stage as flags, made from the models in `core.params`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, default_name_transform
from pydantic import ValidationError

from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.core.params import (
    ClassifyParams,
    CountParams,
    Precision,
    Recipe,
    SegmentParams,
    TrainParams,
    TrainSamParams,
)
from napari_bloodcell.results.recipes import explain, read_recipe

if TYPE_CHECKING:
    from pydantic import BaseModel

_STAGES: dict[str, type[BaseModel]] = {"segment": SegmentParams, "classify": ClassifyParams, "count": CountParams}
_TIMES = Counter(name for stage in _STAGES.values() for name in stage.model_fields)


def flag_of(stage: str) -> Callable[[str], str]:
    """Return the function that names a setting's flag: ``--segment-model`` if several stages have a model."""

    def transform(name: str) -> str:
        flag = default_name_transform(name)
        return f"{stage}-{flag}" if _TIMES[name] > 1 else flag

    return transform


def _flags(stage: str, group: str) -> Parameter:
    return Parameter(name="*", name_transform=flag_of(stage), group=group, negative_none="no-")


SegmentFlags = Annotated[SegmentParams | None, _flags("segment", "Segmentation")]
ClassifyFlags = Annotated[ClassifyParams | None, _flags("classify", "Classification")]
CountFlags = Annotated[CountParams | None, _flags("count", "Counting")]
RecipeFile = Annotated[
    Path | None,
    Parameter(help="Settings from a file: recipe.json of an earlier result, or the bare settings. Flags win over it."),
]
Preset = Annotated[
    Literal["default", "paper"] | None,
    Parameter(help='Named settings: "paper" are those of Rao et al. 2024.'),
]
Overlay = Annotated[
    bool,
    Parameter(help="Write overlay.png: the image with the outlines of the typed cells."),
]
Kde = Annotated[
    bool,
    Parameter(help="Write kde.png: the areas of the red cells with peaks and thresholds."),
]
Geojson = Annotated[
    bool,
    Parameter(help="Write cells.geojson for QuPath."),
]
Device = Annotated[
    str | None,
    Parameter(help='Device of both models: "auto", "cpu", "cuda", "cuda:1", "mps".'),
]
InPrecision = Annotated[
    Precision | None,
    Parameter(help='Precision of both models: "auto", "float32", "bfloat16".'),
]
"""Flags that the commands that analyse have in common."""
TrainFlags = Annotated[TrainParams | None, Parameter(name="*", group="Training", negative_none="no-")]
TrainSamFlags = Annotated[TrainSamParams | None, Parameter(name="*", group="Training", negative_none="no-")]


def recipe_from(
    file: Path | None,
    preset: str | None,
    *,
    segment: SegmentParams | None,
    classify: ClassifyParams | None,
    count: CountParams | None,
    device: str | None,
    precision: str | None,
    seed: int | None,
) -> Recipe:
    """Return the settings of a recipe file or a preset, overridden by flags.

    Raises `SettingsError` if both a file and a preset are given, or the settings cannot be used together.
    """
    if file is not None and preset is not None:
        raise SettingsError("Give either --recipe or --preset, not both: a recipe has all settings of its own.")
    given: dict[str, dict[str, Any]] = {}
    for stage, flags in (("segment", segment), ("classify", classify), ("count", count)):
        given[stage] = {name: getattr(flags, name) for name in flags.model_fields_set} if flags is not None else {}
    for stage in ("segment", "classify"):
        for name, value in (("device", device), ("precision", precision)):
            if value is not None:
                given[stage].setdefault(name, value)
    if file is not None:
        recipe = read_recipe(file, overrides=given)
        return recipe if seed is None else recipe.model_copy(update={"seed": seed})
    settings = (Recipe.paper() if preset == "paper" else Recipe()).model_dump()
    for stage, values in given.items():
        settings[stage] |= values
    if seed is not None:
        settings["seed"] = seed
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(f"The settings cannot be used: {explain(error, Recipe)}.") from error
