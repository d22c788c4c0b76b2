"""Shows a slide's cells while they are found on disk, and afterwards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final, cast

from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from napari_bloodcell.core.cells import type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.images.open import open_image
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.images import image_source, pixel_size_um
from napari_bloodcell.napari.layers.look import placement_of, type_colormap
from napari_bloodcell.napari.layers.private import read_again
from napari_bloodcell.napari.pyramids import read_slide_result
from napari_bloodcell.napari.session.opening import open_cells, show_put_back
from napari_bloodcell.results.files import ZARR
from napari_bloodcell.results.ome_zarr import open_levels
from napari_bloodcell.results.result import Result

REFRESH_EVERY_S: Final = 0.3
"""New blocks on disk are drawn at most this often."""
IN_PROGRESS: Final = "in progress"
"""Kind of the layers that show a running analysis."""


class SlideView:
    """Shows what a run writes into its folder `output`. GUI thread only."""

    def __init__(self, viewer: ViewerModel, image_layer: Image, output: Path) -> None:
        self._viewer, self._image_layer, self._output = viewer, image_layer, output
        self._live: list[Labels] = []
        self._drawn_at = 0.0
        self._remove_stale()

    def show(self, step: Progress) -> None:
        """Draw new cells, a few times a second at most."""
        if not isinstance(step.payload, tuple) or self._image_layer not in self._viewer.layers:
            return
        if not self._live:
            self._live = [self._add("types", type_colormap(type_names())), self._add("cells", None)]
        if time.monotonic() - self._drawn_at >= REFRESH_EVERY_S:
            self.pause()
            self._drawn_at = time.monotonic()

    def pause(self) -> None:
        """Draw what is on disk, and keep it on screen until the run is resumed."""
        for layer in self._live:
            if layer in self._viewer.layers:
                read_again(layer)

    def finish(self, result: Result) -> Labels:
        """Replace the live layers by the final cells, and return their layer."""
        self.close()
        data, about, _ = read_slide_result(cast("Path", result.folder))[-1]
        about = {**about, **placement_of(self._image_layer), "name": f"{self._image_layer.name} cells"}
        cells = Labels(data, **about)
        self._viewer.add_layer(cells)
        layers.adopt(cells, self._image_layer)
        open_cells(self._viewer, cells).put_back_soon(show_put_back)  # hashing a slide reads many places
        return cells

    def close(self) -> None:
        """Remove the live layers."""
        for layer in self._live:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._live = []

    def _remove_stale(self) -> None:
        """Remove layers of an earlier run on this image, and cells whose folder is written to."""
        viewer, image_id, folder = self._viewer, str(self._image_layer.unique_id), str(self._output.resolve())
        stale: list[Layer] = []
        for layer in viewer.layers:
            info = links.info_of(layer)
            if info.get("kind") == IN_PROGRESS and info.get("image_id") == image_id:
                stale.append(layer)
            elif links.is_cells(layer) and info.get("folder") == folder:
                cells_id = str(layer.unique_id)
                stale += [one for one in viewer.layers if links.info_of(one).get("cells_id") == cells_id]
                stale.append(layer)
        for layer in stale:
            viewer.layers.remove(layer)

    def _add(self, kind: str, colormap: Any) -> Labels:
        data = open_levels(self._output / ZARR, f"labels/{kind}", "r")
        layer = Labels(
            _levels(data),
            multiscale=len(data) > 1,
            name=f"{self._image_layer.name} {kind} (in progress)",
            metadata={links.KEY: {"kind": IN_PROGRESS, "image_id": str(self._image_layer.unique_id)}},
            opacity=0.45 if kind == "types" else 0.6,
            **({} if colormap is None else {"colormap": colormap}),
            **placement_of(self._image_layer),
        )
        layer.contour = 0 if kind == "types" else 1
        self._viewer.add_layer(layer)
        return layer


def slide_of(layer: Image) -> SlideImage:
    """Return the image of a layer as a slide: from its file if that has the same shape, else from its arrays.

    Raises `InputError` if the layer is a stack.
    """
    source = image_source(layer)
    if source.stack_shape:
        raise InputError(f"{layer.name!r} is a stack of {source.stack_shape}; a slide is one plane.")
    size = pixel_size_um(layer)
    path = layer.source.path
    if path is not None and Path(path).exists():
        slide = open_image(path)
        if slide.shape == source.shape:
            return SlideImage(slide.levels, size or slide.pixel_size_um, layer.name, slide.source)
    data = list(layer.data) if layer.multiscale else layer.data
    slide = open_image(data)
    return SlideImage(slide.levels, size, layer.name, slide.source)


def _levels(data: list[Any]) -> Any:
    return data if len(data) > 1 else data[0]
