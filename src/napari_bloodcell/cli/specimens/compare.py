"""``napari-bloodcell compare``: counts by hand against results."""

# No postponed annotations: cyclopts evaluates them.
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import Json, say, use_json, warn
from napari_bloodcell.cli.main import DONE
from napari_bloodcell.core.errors import SettingsError


def compare(
    by_hand: Path,
    *results: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    positive: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    as_json: Json = False,
) -> int:
    """Compare counts by hand with results.

    Parameters
    ----------
    by_hand
        CSV file with a row for each image: image (its name, or that of its result's folder), and a column for each
        measure, named as in counts.json, such as RBC or neutrophil_percent. Rows with the same specimen are repeated
        smears. Or annotated images: a COCO file (.json), or the folder of a YOLO data set.
    results
        Folders of results, or folders of such folders.
    output
        Folder for comparison.html, comparison.json and comparison.csv.
    positive
        From which value on a measure means that something is there, such as blast_percent=1; by default above 0.
        May be given several times.
    """
    from napari_bloodcell.results.specimens import compare as comparing
    from napari_bloodcell.results.specimens.pages import interval

    use_json(as_json)
    comparison = comparing.compare(by_hand, results, positive=dict(map(_limit, positive)))
    page = comparison.write(output)
    for warning in comparison.warnings:
        warn(warning)
    for name, measure in comparison.measures.items():
        if measure.bland_altman is not None and measure.concordance is not None:
            figures = f"bias {interval(measure.bland_altman.bias)}, concordance {interval(measure.concordance)}"
        else:
            agreement = measure.weighted_kappa or measure.kappa
            figures = "" if agreement is None else f"kappa {interval(agreement)}"
        say(f"{name}: {measure.n} pairs, {figures}", "measure", name=name, n=measure.n, figures=figures)
    say(f"Written to {page}", "done", page=str(page))
    return DONE


def _limit(text: str) -> tuple[str, float]:
    """Return measure and value of "measure=value"."""
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise SettingsError(f"--positive is {text!r}; a measure and a value are expected, as in WBC=1.") from None
