"""The plugin's page in napari's preferences."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from napari_bloodcell.core.cells import TYPE_COLOURS, type_colour
from napari_bloodcell.models.weights import CACHE_VARIABLE, CLASSIFIER_FORMAT, KINDS_FORMAT, format_of

PLUGIN: Final = "napari-bloodcell"
BETWEEN: Final = ";"
"""Between names in a list of them."""
MOST_RECENT: Final = 8
_COLOURS: Final = {name: f"{name.lower()}_colour" for name in TYPE_COLOURS}


def has_plugin_settings() -> bool:
    """Return whether napari has preferences of plugins: from 0.9 on."""
    from napari import settings

    return hasattr(settings, "get_plugin_settings")


def preference(group: str, name: str) -> Any:
    """Return a preference, or None if napari does not know the plugin's page, as in a plain script."""
    try:
        return getattr(getattr(_settings(), group), name)
    except (KeyError, AttributeError):
        return None


def set_preference(group: str, name: str, value: Any) -> None:
    """Set a preference; without effect if napari does not know the plugin's page, as in a plain script."""
    try:
        setattr(getattr(_settings(), group), name, value)
    except (KeyError, AttributeError):
        return


def _settings() -> Any:
    """Return the plugin's page; raises `KeyError` or `AttributeError` if there is none."""
    from napari import settings

    return settings.get_plugin_settings(PLUGIN)


def preferred_settings(stage: str) -> dict[str, Any]:
    """Return the user's preferred settings for a stage, "segment" or "classify"."""
    values = {"device": preference("models", "device"), "model": preference("models", f"{stage}_model")}
    found: dict[str, Any] = {name: value for name, value in values.items() if value}
    kinds = preference("models", "kinds_models")
    if stage == "classify" and kinds is not None:
        found["subtypes"] = _listed(kinds)
    return found


def prefer_model(path: Path, *, of_kinds: bool) -> None:
    """Use a trained model from now on: for types, or, of kinds, after the others."""
    if of_kinds:
        names = [name for name in _listed(preference("models", "kinds_models") or "") if name != str(path)]
        set_preference("models", "kinds_models", BETWEEN.join([*names, str(path)]))
    else:
        set_preference("models", "classify_model", str(path))


def note_trained(path: Path) -> None:
    """Let the docks offer a trained model that was saved."""
    others = [name for name in _listed(preference("models", "recent_models") or "") if name != str(path)]
    set_preference("models", "recent_models", BETWEEN.join([str(path), *others[: MOST_RECENT - 1]]))


def trained_models(*, of_kinds: bool) -> list[Path]:
    """Return the trained models that the docks offer, the latest first: of types, or of kinds."""
    recent = [Path(name) for name in _listed(preference("models", "recent_models") or "")]
    wanted = KINDS_FORMAT if of_kinds else CLASSIFIER_FORMAT
    return [path for path in recent if format_of(path) == wanted]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(BETWEEN) if (name := part.strip()))


def colour_of(name: str, names: Sequence[str]) -> str:
    """Return the colour of a type as "#rrggbb": the user's, else the default."""
    chosen = preference("colours", _COLOURS[name]) if name in _COLOURS else None
    return chosen if chosen and is_colour(chosen) else type_colour(name, names)


def use_preferred_cache() -> None:
    """Download weights into the preferred folder, unless the environment variable names one."""
    folder = preference("models", "cache_folder")
    if folder and not os.environ.get(CACHE_VARIABLE):
        os.environ[CACHE_VARIABLE] = str(folder)


def is_colour(text: str) -> bool:
    """Return whether a text is a colour as "#rrggbb"."""
    return re.fullmatch("#[0-9a-fA-F]{6}", text) is not None


def annotator_name() -> str:
    """Return who corrects: the name in the preferences, else the login."""
    chosen = str(preference("review", "annotator") or "").strip()
    if chosen:
        return chosen
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
