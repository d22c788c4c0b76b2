"""``napari-bloodcell export``: results in the files of other programs."""

# No postponed annotations: cyclopts evaluates them.
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import say
from napari_bloodcell.cli.main import DONE
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import make_folder, staged, writing
from napari_bloodcell.results.exchange import sheets
from napari_bloodcell.results.exchange.coco import write_coco
from napari_bloodcell.results.exchange.geojson import to_geojson
from napari_bloodcell.results.exchange.rois import write_rois
from napari_bloodcell.results.exchange.yolo import write_yolo
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result

_ONE = (".geojson", ".zip", ".csv")
_SEVERAL = (".json", ".xlsx", "a folder")


def export(
    *results: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    fiji: Annotated[bool, Parameter(negative=())] = False,
    bom: Annotated[bool, Parameter(negative=())] = False,
    rle: Annotated[bool, Parameter(negative=())] = False,
    boxes: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Write results as files of other programs.

    Parameters
    ----------
    results
        Folders of results.
    output
        The file to write; its ending says what: .geojson (QuPath), .zip (ROIs of ImageJ), .csv, of one
        result; .xlsx (Excel), .json (COCO), or a folder (YOLO) of one or more.
    fiji
        A .csv with the columns of Fiji's results table.
    bom
        A .csv with the byte order mark by which Excel knows UTF-8.
    rle
        A .json with run lengths for all cells, not for those with holes only.
    boxes
        YOLO labels with boxes instead of outlines.
    """
    if not results:
        raise InputError("Give at least one folder of a result to export.")
    ending = output.suffix.lower()
    if ending not in (*_ONE, ".json", ".xlsx", ""):
        raise InputError(f"{output} ends with {ending}; allowed are {', '.join((*_ONE, *_SEVERAL))}.")
    if ending in _ONE and len(results) > 1:
        raise InputError(f"{len(results)} results were given; a {ending} file holds one. Call export for each.")
    read = [read_result(folder) for folder in results]
    found = {f"{one.image_name}.jpg" if ending == ".json" else one.image_name: one for one in read}
    if len(found) < len(results):
        raise InputError("Several results are of images of the same name. Export them one by one.")
    make_folder(output.parent)
    if ending == "":
        write_yolo(output, found, boxes=boxes)
    elif ending == ".xlsx":
        sheets.write_xlsx(output, sheets.tables_of(found.items()))
    else:
        with staged(output.parent, last=output.name) as stage:
            _write(stage / output.name, found, fiji=fiji, bom=bom, rle=rle)
    say(f"Written: {output.resolve()}", "written", file=str(output.resolve()))
    return DONE


def _write(path: Path, results: dict[str, Result], *, fiji: bool, bom: bool, rle: bool) -> None:
    (result, *_), ending = results.values(), path.suffix.lower()
    if ending == ".json":
        write_coco(path, results, rle=rle)
    elif ending == ".zip":
        write_rois(path, result.cells, result.table, result.names)
    elif ending == ".csv":
        sheets.write_table(path, result, fiji=fiji, bom=bom)
    else:
        with writing(path), path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(to_geojson(result.cells, result.table, result.names, image_id=result.image_sha256))
