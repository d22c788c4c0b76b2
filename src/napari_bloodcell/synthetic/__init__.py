"""Synthetic smears of known truth: for the demo, tests, and training where real overlaps are rare.

Cells are drawn as optical densities, which add where cells overlap (Beer–Lambert), then seen through a microscope with
uneven light, limited focus and a noisy camera. Nothing is taken from a real image.
"""

from napari_bloodcell.synthetic.drawing import SyntheticSmear, draw_cells, draw_smear
from napari_bloodcell.synthetic.optics import GIEMSA, STAINS, TINTED, WRIGHT, Optics, Stain
from napari_bloodcell.synthetic.shapes import CellSpec, PlacedCell, Subtype, optical_density, place
from napari_bloodcell.synthetic.shipped import Truth, draw_shipped, load_shipped, shipped_path

__all__ = [
    "GIEMSA", "STAINS", "TINTED", "WRIGHT", "CellSpec", "Optics", "PlacedCell", "Stain", "Subtype", "SyntheticSmear",
    "Truth", "draw_cells", "draw_shipped", "draw_smear", "load_shipped", "optical_density", "place", "shipped_path",
]  # fmt: skip
