"""Find, type and count the cells of a smear from a script, and look at them in napari.

python docs/examples/script_viewer.py            # opens a window
python docs/examples/script_viewer.py smear.jpg  # with an image of yours
"""

from __future__ import annotations

import sys

import napari

import napari_bloodcell as nb
from napari_bloodcell.synthetic import load_shipped


def main(path: str | None = None) -> napari.Viewer:
    """Show a smear with its cells and their types, and log what was counted."""
    viewer = napari.Viewer(title="napari-bloodcell")
    image = nb.read_plane(path).data if path else load_shipped()[0][:512, :768]
    smear = viewer.add_image(image, name="smear", rgb=True)

    # The three stages one by one; nb.napari.analyse_layer(smear) does all of them.
    cells = nb.napari.segment_layer(smear)
    nb.napari.classify_layer(cells)
    counting = nb.napari.count_layer(cells)
    viewer.status = f"{counting.counts}, 95 % interval of the red cells: {counting.interval}"

    # The cell table is in the layer's features, and as a DataFrame here.
    table = nb.napari.table_of(cells)
    largest = table.loc[table["area_px"].idxmax()]
    viewer.scene.camera.center = largest["centroid_y"], largest["centroid_x"]

    viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")
    return viewer


if __name__ == "__main__":
    main(*sys.argv[1:2])
    napari.run()
