"""``napari-bloodcell demo``: the smear that comes with the program, found against true counts."""

# No postponed annotations: cyclopts evaluates them.
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli import batch
from napari_bloodcell.cli.console import Json, ProgressLine, Quiet, say, use_json, warn
from napari_bloodcell.cli.main import DONE, SOME_FAILED
from napari_bloodcell.core.files import make_folder
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.results.files import KDE, OVERLAY
from napari_bloodcell.results.store import LabelFormat
from napari_bloodcell.synthetic import load_shipped


def demo(
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("demo-results"),
    label_format: Annotated[LabelFormat, Parameter(name="--format")] = "ome-zarr",
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Analyse the synthetic smear that comes with the program and print found against true counts.

    Parameters
    ----------
    output
        Folder for the result.
    label_format
        Label images as one OME-Zarr, or as cells.tif and types.tif.
    """
    use_json(as_json)
    make_folder(output)
    recipe = Recipe()
    image, truth = load_shipped()
    bar = ProgressLine(f"The synthetic smear, {image.shape[1]} × {image.shape[0]} pixels", is_quiet=quiet)
    result = batch.analyse_into(
        output / "smear",
        Plane(image, name="smear"),
        recipe=recipe,
        models=batch.load_models(recipe, quiet=quiet),
        options=batch.Options(output, label_format, geojson=True),
        on_progress=bar,
    )
    bar.clear()
    say(f"{'':<12}{'true':>8}{'found':>8}")
    for name in {**truth["counts"], **result.counts}:
        say(f"{name:<12}{truth['counts'].get(name, 0):>8}{result.counts.get(name, 0):>8}")
    say(f"RBC before the correction for overlap: {result.counting.uncorrected['RBC']}")
    if result.counting.interval is not None:
        say("95 % interval of the number of RBC: {} to {}".format(*result.counting.interval))
    say("Pictures:")
    for picture in (OVERLAY, KDE):
        say(f"  {(output / 'smear' / picture).resolve()}")
    say(f"Everything else: {(output / 'smear').resolve()}")
    for sentence in result.warnings:
        warn(f"Warning: {sentence}")
    for tile in result.failed_tiles:
        warn(f"The tile {tile.name} failed and holds no cells: {tile.error}")
    return SOME_FAILED if result.failed_tiles else DONE
