"""``napari-bloodcell classify``: cells that another program found are typed and counted."""

# No postponed annotations: cyclopts evaluates them.
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import Json, ProgressLine, Quiet, say, use_json, warn
from napari_bloodcell.cli.main import DONE
from napari_bloodcell.cli.settings import ClassifyFlags, CountFlags, recipe_from
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.images.open import read_plane
from napari_bloodcell.pipeline import iter_analyse
from napari_bloodcell.results.pictures import pictures_of_smear
from napari_bloodcell.results.store import LabelFormat, write_result


def classify(
    image: Path,
    cells: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    label_format: Annotated[LabelFormat, Parameter(name="--format")] = "ome-zarr",
    geojson: bool = False,
    recipe: Path | None = None,
    pixel_size_um: float | None = None,
    device: str | None = None,
    quiet: Quiet = False,
    as_json: Json = False,
    settings: ClassifyFlags = None,
    count: CountFlags = None,
) -> int:
    """Type and count the cells of a label image of Cellpose, StarDist, Fiji or any other program.

    Parameters
    ----------
    image
        The smear.
    cells
        The label image: TIFF, PNG or .npy, 0 for the background and a number for each cell. The numbers stay.
    output
        Folder of the result, as analyse writes it; napari opens it for review.
    label_format
        Label images as one OME-Zarr, or as cells.tif and types.tif.
    geojson
        Write cells.geojson for QuPath.
    recipe
        Settings from a file. Flags win over it.
    pixel_size_um
        Micrometres per pixel, if the image does not say.
    device
        Device of the classifier: "auto", "cpu", "cuda", "cuda:1", "mps".
    """
    use_json(as_json)
    segment = None if pixel_size_um is None else SegmentParams(pixel_size_um=pixel_size_um)
    chosen = recipe_from(
        recipe, None, segment=segment, classify=settings, count=count, device=device, precision=None, seed=None
    )
    bar = ProgressLine(f"Typing {cells}", is_quiet=quiet)
    plane = read_plane(image)
    result = drain(iter_analyse(plane, recipe=chosen, cells=cells), bar)
    bar.clear()
    pictures = pictures_of_smear(result, plane)
    write_result(result, output, image=plane, label_format=label_format, geojson=geojson, pictures=pictures)
    for sentence in result.warnings:
        warn(f"{image}: {sentence}", image=str(image), text=sentence)
    numbers = ", ".join(f"{n:,} {name}" for name, n in result.counts.items())
    say(f"{output}: {numbers}.", "done", folder=str(output), counts=result.counts)
    return DONE
