"""The plan of a run on a slide, fixed before it starts: tiles, blocks, settings, and hashes that mark its work."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from napari_bloodcell.core.geometry import Box, grown
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.protocols import Calibration, CellClassifier, MaskGenerator, ModelInfo
from napari_bloodcell.models.load import subtype_records
from napari_bloodcell.stages.tiles import BLOCK_PX, Tile

FORMAT = 2
"""Raised when unfinished work of an older version can no longer be used."""


@dataclass(frozen=True)
class Plan:
    """Everything that determines a run.

    `shape` is (Y, X) of the slide, `overlap` the number of pixels read around a tile (0: cells cut by a tile border are
    joined), `block_px` the side of a block, pixels. `models` maps stage to {"name", "sha256"}. `image_digest` is the
    slide's fingerprint, `pixel_size_um` that of the image. `device` is that of the process that began the run.
    `tiles_across` tiles of the settings, in each direction, are one tile of the run.
    """

    shape: tuple[int, int]
    overlap: int
    calibration: Calibration
    recipe: Recipe
    classes: tuple[str, ...]
    models: dict[str, dict[str, str]]
    image_digest: str
    name: str = "image"
    source: str | None = None
    pixel_size_um: float | None = None
    copies_image: bool = True
    block_px: int = BLOCK_PX
    device: str = "auto"
    tiles_across: int = 1

    @property
    def pixel_size_used_um(self) -> float | None:
        """Micrometres per pixel: those of the settings, else of the image."""
        return self.recipe.segment.pixel_size_um or self.pixel_size_um

    # --- hashes ---

    @property
    def tile_hash(self) -> str:
        """Hash of everything that decides which masks are found in a tile."""
        settings = self.recipe.segment.model_dump(mode="json", exclude={"device", "model"})
        what = [
            FORMAT,
            self.shape,
            self.overlap,
            self.tile_px,
            asdict(self.calibration),
            settings,
            self.models["segment"]["sha256"],
        ]
        return _hash([*what, self.image_digest])

    @property
    def block_hash(self) -> str:
        """Hash of everything that decides the cells of a block, except the context of their types."""
        model = [self.models["classify"]["sha256"], self.recipe.classify.precision]
        return _hash([self.tile_hash, *model, list(self.classes), self.block_px])

    # --- tiles ---

    @property
    def tile_px(self) -> int:
        """Side of a tile, pixels."""
        return self.recipe.segment.tile_size * self.tiles_across

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return _steps(self.shape, self.tile_px)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.grid[0] * self.grid[1]

    def tile(self, number: int) -> Tile:
        """Return a tile by its number, counted row by row from 0."""
        row, column = divmod(number, self.grid[1])
        core = _cell_of_grid(self.shape, self.tile_px, row, column)
        return Tile(row, column, core, grown(core, self.overlap, self.shape))

    def tiles_reading(self, box: Box) -> list[int]:
        """Return the rising numbers of the tiles that read any of a box: all masks there are theirs."""
        return _numbers(grown(box, self.overlap, self.shape), self.tile_px, self.grid[1])

    @property
    def keys_per_tile(self) -> int:
        """Most masks of a tile: mask i of tile t has the key t · keys_per_tile + i + 1."""
        return (2**31 - 2) // self.n_tiles

    # --- blocks ---

    @property
    def block_grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return _steps(self.shape, self.block_px)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self.block_grid[0] * self.block_grid[1]

    def block(self, number: int) -> Box:
        """Return the box of a block by its number, counted row by row from 0."""
        return _cell_of_grid(self.shape, self.block_px, *divmod(number, self.block_grid[1]))

    # --- on disk ---

    def to_json(self) -> str:
        """Return the plan as text."""
        content = {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "format": FORMAT}
        content |= {"calibration": asdict(self.calibration), "recipe": self.recipe.model_dump(mode="json")}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan written by `to_json`; one of `READ_ERRORS` if it is none."""
        content: dict[str, Any] = json.loads(text)
        if content.pop("format") != FORMAT:
            raise ValueError("it is of another version")
        plan: Plan = TypeAdapter(cls).validate_python(content)
        width = plan.calibration.rbc_diameter_px
        if min(plan.shape) < 1 or plan.overlap < 0 or plan.block_px < 1 or not 0 < width < math.inf:
            raise ValueError("its sizes are impossible")
        return plan


def models_of(
    generator: MaskGenerator | ModelInfo, classifier: CellClassifier, subtypes: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
    """Return name and hash of the weights by stage; models of subtypes by their names."""
    return {
        "segment": {"name": generator.name, "sha256": generator.sha256},
        "classify": {"name": classifier.name, "sha256": classifier.sha256},
        **subtype_records(subtypes),
    }


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _steps(shape: tuple[int, int], side: int) -> tuple[int, int]:
    return -(-shape[0] // side), -(-shape[1] // side)


def _cell_of_grid(shape: tuple[int, int], side: int, row: int, column: int) -> Box:
    y, x = row * side, column * side
    return y, x, min(y + side, shape[0]), min(x + side, shape[1])


def _numbers(box: Box, side: int, n_columns: int) -> list[int]:
    y0, x0, y1, x1 = box
    if y1 <= y0 or x1 <= x0:
        return []
    rows, columns = range(y0 // side, (y1 - 1) // side + 1), range(x0 // side, (x1 - 1) // side + 1)
    return [row * n_columns + column for row in rows for column in columns]
