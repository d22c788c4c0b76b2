"""``napari-bloodcell import``: what was changed in another program, back into a result."""

# No postponed annotations: cyclopts evaluates them.
import getpass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import Json, ProgressLine, Quiet, say, use_json
from napari_bloodcell.cli.main import DONE
from napari_bloodcell.core.progress import drain
from napari_bloodcell.corrections.journal import Journal
from napari_bloodcell.slides.imported import iter_import_cells


def import_file(
    result: Path,
    file: Path,
    /,
    *,
    annotator: str | None = None,
    journal: Path | None = None,
    delete_missing: Annotated[bool | None, Parameter(negative="--keep-missing")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Take over into a result what was changed in QuPath or ImageJ.

    Parameters
    ----------
    result
        Folder of the result whose cells.geojson, or exported ROIs, were opened there.
    file
        The objects exported from there: GeoJSON (also compressed), or ROIs of ImageJ (RoiSet.zip, .roi).
    annotator
        Who did it; by default the name of the account.
    journal
        File (.jsonl) or folder of the corrections; by default the user's, as in napari.
    delete_missing
        Cells that the file lacks were deleted, or stay. Left out: deleted, unless more than half are missing.
    """
    use_json(as_json)
    bar = ProgressLine(f"Reading {file}", is_quiet=quiet)
    work = iter_import_cells(
        result,
        file,
        annotator=annotator or getpass.getuser(),
        journal=None if journal is None else Journal(journal),
        delete_missing=delete_missing,
    )
    found = drain(work, bar)
    bar.clear()
    numbers = {
        "unchanged": found.n_same,
        "retyped": found.n_retyped,
        "edited": found.n_edited,
        "drawn": found.n_drawn,
        "deleted": found.n_deleted,
        "left_out": found.n_left_out,
        "regions": len(found.regions),
    }
    text = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in numbers.items() if n or name == "unchanged")
    say(f"{result}: {text}.", "imported", result=str(result), **numbers)
    say(f"Counts: {', '.join(f'{n:,} {name}' for name, n in found.result.counts.items())}.", counts=found.result.counts)
    return DONE
