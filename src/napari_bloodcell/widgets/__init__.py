"""The docks of the napari plugin, the only code of the program that knows Qt. Importing this loads neither."""
