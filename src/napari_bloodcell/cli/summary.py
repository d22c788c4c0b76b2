"""The summary of a batch: a row for each image analysed into this folder, by any run."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from napari_bloodcell.core.cells import BUILTIN_TYPES, RBC, WBC
from napari_bloodcell.core.errors import escaped
from napari_bloodcell.core.files import LOCK, csv_text, locked, text_of_csv, write_bytes

SUMMARY: Final = "summary.csv"
Status = Literal["done", "incomplete", "failed"]
Row = dict[str, str]
_PARASITAEMIA = ("infected", "percent", "low", "high")
_FIRST, _LAST = ("image", "status", "folder"), ("seconds", "warnings", "error")


@dataclass
class Outcome:
    """The outcome of an image, which is "incomplete" if tiles failed.

    `image` is its path as given, as it is printed, `folder` the name of its result's folder, and `numbers` are counts
    by column of the summary. `warnings` speak against the result, `notes` do not. `error`
    says why it is not done.
    """

    image: str
    status: Status
    folder: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Identifies a row."""
        return self.image, self.folder

    def row(self) -> Row:
        """Return the row of the summary."""
        texts = {"image": self.image, "status": self.status, "folder": self.folder}
        texts |= {name: str(number) for name, number in self.numbers.items()}
        texts |= {"seconds": f"{self.seconds:.2f}", "warnings": " ".join(self.warnings), "error": self.error}
        return {csv_text(name): csv_text(text) for name, text in texts.items()}


def numbers_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of the summary from the content of ``counts.json``."""
    low, high = content["rbc_interval_95"] or ("", "")
    return dict(content["counts"]) | {
        f"{RBC}_uncorrected": content["uncorrected"].get(RBC, 0),
        f"{RBC}_low": low,
        f"{RBC}_high": high,
        **{f"{WBC}_{kind}": row["n"] for kind, row in content.get("differential", {}).items()},
        "abnormal": content.get("abnormal", 0),
        **{f"{RBC}_{kind}": row["n"] for kind, row in content.get("morphology", {}).items()},
        **{
            f"parasitaemia_{name}": content["parasitaemia"][name]
            for name in _PARASITAEMIA
            if content.get("parasitaemia")
        },
        **_quality_of(content.get("quality")),
        "failed_tiles": len(content["failed_tiles"]),
    }


def _quality_of(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the columns of the quality: the verdict, the good share of the area, and the counts there."""
    if not told:
        return {}
    counts = {f"{name}_good": n for name, n in told["counts_in_good"].items() if name in BUILTIN_TYPES}
    return {"quality": told["verdict"], "share_good": f"{told['share_good']:.3f}", **counts}


class Summary:
    """``summary.csv`` of an output folder; rows of other runs stay, even of those that write at the same time.

    Earlier rows of `images`, those of this run, are replaced.
    """

    def __init__(self, output: Path, images: Collection[str]) -> None:
        self.path = output / SUMMARY
        with locked(output / LOCK):
            self._mine = {_key(row) for row in _read(self.path) if row["image"] in {csv_text(i) for i in images}}

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Write the rows of this run after those of others; may raise `OutputError`."""
        mine = [outcome.row() for outcome in outcomes]
        self._mine |= {_key(row) for row in mine}
        with locked(self.path.with_name(LOCK)):
            others = [row for row in _read(self.path) if _key(row) not in self._mine]
            write_bytes(self.path, _to_csv([*others, *mine]).encode())


def folders_of(output: Path, images: Sequence[Path]) -> dict[Path, Path]:
    """Return the folder of each image's result, from the summary; images without a result are left out."""
    folders = {row["image"]: row["folder"] for row in _read(output / SUMMARY) if row["folder"]}
    names = {image: csv_text(escaped(image)) for image in images}
    return {image: output / text_of_csv(folders[name]) for image, name in names.items() if name in folders}


def _key(row: Row) -> tuple[str, str]:
    return row["image"], row["folder"]


def _read(path: Path) -> list[Row]:
    """Return the rows of a summary; none if the file is missing or no summary."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{str(k): v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return []
    return [row for row in rows if row.keys() >= set(_FIRST)]


def _to_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV; a type that a result does not have counts 0 there."""
    types = dict.fromkeys(name for row in rows for name in row if name not in (*_FIRST, *_LAST))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_FIRST, *types, *_LAST], restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        missing = {name: "0" for name in types if not row.get(name)} if row["folder"] else {}
        writer.writerow(row | missing)
    return text.getvalue()
