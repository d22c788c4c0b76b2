"""``napari-bloodcell train-sam``: the embedded SAM fine-tuned on a laboratory's corrected masks."""

# No postponed annotations: cyclopts evaluates them.
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import Json, ProgressLine, Quiet, say, stop_on_interrupt, use_json
from napari_bloodcell.cli.main import DONE
from napari_bloodcell.cli.settings import TrainSamFlags
from napari_bloodcell.core.params import TrainSamParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.learning.train_sam import iter_train_sam


def train_sam(
    folder: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    start: Annotated[str, Parameter(name="--from")] = "embedded",
    quiet: Quiet = False,
    as_json: Json = False,
    settings: TrainSamFlags = None,
) -> int:
    """Fine-tune the embedded SAM on corrected masks.

    Parameters
    ----------
    folder
        Results of the program with their image (OME-Zarr), or images with label images (a.png and a_cells.tif).
    output
        The weights to write (.safetensors), for --segment-model. Ctrl-C keeps the best so far.
    start
        "embedded", or weights that were fine-tuned before.
    """
    use_json(as_json)
    bar = ProgressLine(f"Fine-tuning on {folder}", is_quiet=quiet)
    with stop_on_interrupt() as should_stop:
        params = settings or TrainSamParams()
        work = iter_train_sam(folder, output, start=start, params=params, should_stop=should_stop)
        training = drain(work, bar)
    bar.clear()
    say(f"Trained on {training.n_train} cells in {training.steps} steps.")
    say(
        f"Mean IoU on {training.n_val} cells that were kept from it: "
        f"{training.iou_before:.4f} before, {training.iou_after:.4f} after."
    )
    say(f"Model: {training.path.resolve()}")
    return DONE
