"""`python -m napari_bloodcell` does what the command `napari-bloodcell` does."""

from napari_bloodcell.cli import main

main()
