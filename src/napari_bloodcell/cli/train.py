"""``napari-bloodcell train``: a classifier from a folder of cutouts, with its report."""

# No postponed annotations: cyclopts evaluates them.
import json
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from napari_bloodcell.cli.console import Json, ProgressLine, Quiet, say, stop_on_interrupt, use_json
from napari_bloodcell.cli.main import DONE
from napari_bloodcell.cli.settings import TrainFlags
from napari_bloodcell.core.cells import PLATELET, RBC, WBC
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.files import make_folder, write_bytes
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.learning.grid_search import iter_grid_search
from napari_bloodcell.learning.reports import Epoch, PartFigures, Training
from napari_bloodcell.learning.train import iter_train

TYPES: Final = {"wbc": WBC, "rbc": RBC, "platelet": PLATELET}
"""Whose kinds can be learned."""


def train(
    folder: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    start: Annotated[str | None, Parameter(name="--from")] = None,
    of: Literal["wbc", "rbc", "platelet"] | None = None,
    grid_search: Annotated[bool, Parameter(negative=())] = False,
    paper: Annotated[bool, Parameter(negative=())] = False,
    quick: Annotated[bool, Parameter(negative=())] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    settings: TrainFlags = None,
) -> int:
    """Train a classifier on cutouts.

    Parameters
    ----------
    folder
        A training set; or one folder of pictures per class, or such folders in "train" and "val" (and "test").
    output
        The model to write (.safetensors); its report goes beside it (.report.json). Ctrl-C keeps the best so far.
    start
        Weights to fine-tune: "embedded", "paper" or a file. By default training begins from scratch; of kinds, from the
        program's own model.
    of
        Learn the kinds of white cells, red cells or platelets that people told, instead of types. The model can then be
        named among the --classify-subtypes of an analysis.
    grid_search
        Try every combination of the paper's Table 1 and keep the best. Tries are kept beside the model (.grid), and a
        search that was stopped is resumed.
    paper
        As in the paper: cutouts are neither turned nor moved in each pass, and fine-tuning changes every layer. The
        settings of its Table 2 are the defaults anyway.
    quick
        Larger steps in larger batches and early stopping, unless set otherwise: several times faster from scratch.
    """
    use_json(as_json)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.")
    if output.suffix != ".safetensors" or output.is_dir():
        raise OutputError(f"The model must be a file that ends with .safetensors; {output} was given.")
    if of is not None and (grid_search or paper or quick):
        raise InputError("Kinds are always learned from a model before: leave out --grid-search, --paper and --quick.")
    if grid_search and start is not None:
        raise InputError("A grid search trains from scratch: give either --grid-search or --from.")
    make_folder(output.parent)
    params = settings or TrainParams()
    if paper and quick:
        raise InputError("Give either --paper or --quick.")
    if paper or quick:
        preset = TrainParams.paper if paper else TrainParams.quick
        params = preset(**params.model_dump(include=params.model_fields_set))
    bar = ProgressLine(f"Training on {folder}", is_quiet=quiet)

    def show(step: Progress) -> None:
        bar(step)
        if isinstance(step.payload, Epoch) and not quiet:
            bar.clear()
            epoch = step.payload
            say(
                f"epoch {epoch.number:>3}  loss {epoch.train_loss:.4f}  accuracy {epoch.train_accuracy:.4f}  "
                f"validation {epoch.val_loss:.4f}  {epoch.val_accuracy:.4f}"
            )

    with stop_on_interrupt() as should_stop:
        if grid_search:
            kept = output.with_suffix(".grid")
            search = drain(iter_grid_search(folder, params=params, folder=kept, should_stop=should_stop), show)
            training, tries = search.best, search.tries
        else:
            training = drain(
                iter_train(folder, params=params, start=start, of=TYPES[of] if of else "", should_stop=should_stop),
                show,
            )
            tries = []
    bar.clear()
    _write(training, tries, output)
    return DONE


def _write(training: Training, tries: list[dict[str, object]], output: Path) -> None:
    report = training.report
    training.classifier.save(output)
    content = report.to_dict() | ({"grid_search": tries} if tries else {})
    path = output.with_suffix(".report.json")
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    for part, figures in report.parts.items():
        for line in _lines(part, figures, report.classes):
            say(line)
        change = report.change(part)
        if change is not None:
            say(f"  accuracy of the model before: {report.before[part].accuracy:.4f} ({change:+.4f})")
    say(f"Model: {output.resolve()}")
    say(f"Report: {path.resolve()}")


def _lines(part: str, figures: PartFigures, classes: list[str]) -> list[str]:
    """Return the figures of a part as text: loss, accuracy, and per class precision, recall, F1 and its confusions."""
    width = max(9, *(len(name) for name in classes))
    low, high = figures.accuracy_interval
    lines = [
        "",
        f"{part}: {figures.n} cells, loss {figures.loss:.4f}, "
        f"accuracy {figures.accuracy:.4f} ({low:.4f} to {high:.4f})",
        f"  {'':<{width}} precision   recall       F1  typed as " + " ".join(f"{name:>{width}}" for name in classes),
    ]
    for name, row in zip(classes, figures.confusion, strict=True):
        one = figures.per_class[name]
        typed = " ".join(f"{n:>{width}}" for n in row)
        lines.append(f"  {name:<{width}} {one.precision:>9.4f} {one.recall:>8.4f} {one.f1:>8.4f}           {typed}")
    return lines
