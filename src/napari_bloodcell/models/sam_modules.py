"""The network halves of `segment_anything`, without torchvision.

The package's `__init__` imports torchvision for its predictor and its automatic generator, which are not used here; the
torchvision of the package index does not load beside a CPU-only torch. `modeling` and `build_sam` need torch alone and
import each other relatively, so they are imported under an alias: a package module of our own with the same search
path, whose `__init__` is never run.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import Any

from napari_bloodcell.core.errors import ModelError

_ALIAS = "_napari_bloodcell_segment_anything"
_INSTALL = 'install it with: python -m pip install "segment-anything>=1.0"'


class SegmentAnythingMissingError(ModelError, ImportError):
    """`segment_anything` is not installed, or another package has that name."""


def _search_path() -> list[str]:
    """Return the folders of the installed package, without importing it."""
    try:
        spec = find_spec("segment_anything")
    except (ImportError, ValueError):  # ValueError: something put a module without a spec into sys.modules
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SegmentAnythingMissingError(f"The package segment_anything is not installed; {_INSTALL}")
    return list(spec.submodule_search_locations)


def _load(name: str) -> Any:
    """Import a submodule of `segment_anything` under the alias."""
    if _ALIAS not in sys.modules:
        spec = ModuleSpec(_ALIAS, loader=None, is_package=True)
        spec.submodule_search_locations = _search_path()
        sys.modules[_ALIAS] = module_from_spec(spec)
    try:
        return importlib.import_module(f"{_ALIAS}.{name}")
    except (ImportError, AttributeError) as error:
        where = ", ".join(sys.modules.pop(_ALIAS).__path__)  # so that a later import searches again
        raise SegmentAnythingMissingError(
            f"The package segment_anything in {where} has no usable part {name!r} ({error}); {_INSTALL}"
        ) from error


modeling: Any = _load("modeling")
build_sam: Any = _load("build_sam")

ImageEncoderViT: Any = modeling.ImageEncoderViT
MaskDecoder: Any = modeling.MaskDecoder
PromptEncoder: Any = modeling.PromptEncoder
Sam: Any = modeling.Sam
TwoWayTransformer: Any = modeling.TwoWayTransformer
MLP: Any = modeling.mask_decoder.MLP
MLPBlock: Any = modeling.common.MLPBlock
LayerNorm2d: Any = modeling.common.LayerNorm2d
