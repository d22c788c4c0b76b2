"""Makes the moving picture of README: wrong types are corrected by a key, and the numbers follow.

Needs a display, real or virtual:

xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_moving_picture.py

The smear is drawn, so which types are wrong is known.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from make_screenshots import IMAGES, PLUGIN, Studio, register_plugin, wait
from PIL import Image
from training_scenes import use_own_folders

import napari_bloodcell
from napari_bloodcell.core.cells import BUILTIN_TYPES
from napari_bloodcell.napari.layers.links import is_cells
from napari_bloodcell.synthetic import draw_smear

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH_PX = 960
MOST_CORRECTIONS = 4


def wrong_cells(cells: Any, table: Any, types: Any) -> Iterator[tuple[int, str]]:
    """Yield cells whose type is not that of most of their pixels, and what it is."""
    for cell in table.index:
        inside = types[cells == cell]
        value = int(np.bincount(inside[inside > 0], minlength=1).argmax()) if (inside > 0).any() else 0
        if value and BUILTIN_TYPES[value - 1] != table.loc[cell, "cell_type"]:
            yield int(cell), BUILTIN_TYPES[value - 1]


def main(path: Path = IMAGES / "correct_and_recount.webp") -> None:
    """Analyse a smear in a window, correct what is wrong, and write what was seen."""
    use_own_folders()
    register_plugin()
    studio = Studio(path.parent)
    viewer = studio.viewer
    viewer.window._qt_window.resize(1280, 800)
    frames: list[tuple[Image.Image, int]] = []

    def shoot(milliseconds: int) -> None:
        wait(1)
        shot = Image.fromarray(np.asarray(viewer.screenshot(canvas_only=False, flash=False))[..., :3])
        frames.append((shot.resize((WIDTH_PX, shot.height * WIDTH_PX // shot.width), Image.LANCZOS), milliseconds))

    smear = draw_smear((620, 760), seed=21, n_rbc=110, n_wbc=9, n_platelets=14)
    viewer.add_image(smear.image, name="smear", rgb=True)
    dock = studio.open("Analyse")
    shoot(1500)
    dock.run.click()
    wait(1200, lambda: "RBC" in dock.summary.text())
    shoot(2000)
    review = studio.open("Review")
    _, count = viewer.window.add_plugin_dock_widget(PLUGIN, "Count")
    wait(60, lambda: count.counted is not None)
    layer = next(layer for layer in viewer.layers if is_cells(layer))
    viewer.layers.selection.active = layer
    shoot(2500)
    table = napari_bloodcell.napari.table_of(layer)
    wrong = list(wrong_cells(np.asarray(layer.data), table, smear.types))[:MOST_CORRECTIONS]
    print("wrong:", wrong)
    zoom = viewer.scene.camera.zoom
    for cell, name in wrong:
        viewer.scene.camera.zoom = 2 * zoom
        review.go_to(cell)
        shoot(1200)
        before = count.counted
        review.type_cells([cell], name)
        wait(20, lambda before=before: count.counted is not before)  # type: ignore[misc]
        shoot(1200)
    viewer.reset_view()
    shoot(3000)
    first, *others = [frame for frame, _ in frames]
    durations = [duration for _, duration in frames]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, quality=70, method=6)
    studio.close_docks()
    viewer.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
