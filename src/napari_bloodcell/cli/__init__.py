"""The commands of ``napari-bloodcell``, each loaded when it is run."""
