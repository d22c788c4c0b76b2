"""The plugin's page in napari's preferences."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Sequence
from typing import Any, Final

from napari_bloodcell.core.cells import TYPE_COLOURS, type_colour
from napari_bloodcell.models.weights import CACHE_VARIABLE

PLUGIN: Final = "napari-bloodcell"
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
    return {name: value for name, value in values.items() if value}


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
