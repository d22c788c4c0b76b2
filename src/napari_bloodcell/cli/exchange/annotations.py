"""``napari-bloodcell training-set``: annotations of other programs as a training set."""

# No postponed annotations: cyclopts evaluates them.
import getpass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import Json, Quiet, say, use_json, warn
from napari_bloodcell.cli.main import DONE
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.images.files import image_name
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.results.exchange.annotated import iter_annotated


def training_set(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    images: Path | None = None,
    annotator: str | None = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Add the annotated cells of a COCO file or a YOLO data set to a training set.

    Parameters
    ----------
    source
        A COCO file (.json), or the folder of a YOLO data set.
    output
        Folder of the training set; made if it is missing. Cells that it has are not added again.
    images
        Folder of a COCO file's images; by default that of the file.
    annotator
        Who annotated; by default the name of the account.
    """
    use_json(as_json)
    found = TrainingSet(output)
    for one in iter_annotated(source, images):
        types = {int(i): str(name) for i, name in zip(one.table.index, one.table["cell_type"], strict=True)}
        if not types:
            warn(f"{one.path}: no annotated cell.", image=str(one.path))
            continue
        added = found.add_segmentation(
            one.plane.data,
            one,
            types,
            annotator=annotator or getpass.getuser(),
            name=image_name(one.path),
            image_sha256=image_hash(one.plane.data),
        )
        if not quiet:
            say(f"{one.path}: {added.new:,} new, {added.duplicates:,} known.", image=str(one.path), new=added.new)
    total = found.counts().sum(axis=1).to_dict()
    say(f"{output}: {', '.join(f'{n:,} {name}' for name, n in total.items())}.", folder=str(output), cells=total)
    return DONE
