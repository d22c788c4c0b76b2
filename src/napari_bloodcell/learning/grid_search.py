"""Tries training settings one by one (paper, Table 1); can be stopped and resumed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_bloodcell.core.errors import ModelError, TrainingError, reason_of
from napari_bloodcell.core.files import make_folder, write_bytes
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.progress import Steps, drained
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.learning.reports import Training, TrainingReport
from napari_bloodcell.learning.train import Data, iter_train, never, parts_of
from napari_bloodcell.models.load import load_classifier

TABLE_1: dict[str, tuple[Any, ...]] = {
    "batch_size": (2, 4, 8),
    "epochs": (10, 20, 30),
    "dropout": (0.1, 0.2, 0.5),
    "learning_rate": (1e-5, 1e-4, 1e-3, 0.01),
}
"""Table 1 of the paper: 108 settings."""
TRIES, BEST = "tries.jsonl", "best.safetensors"
"""Files in the folder of a search: a line per finished try, and the best classifier so far."""


@dataclass(frozen=True, eq=False)
class GridSearch:
    """Result of a grid search.

    Attributes
    ----------
    tries : list of dict
        Settings, `val_loss` and `val_accuracy` of each finished try, in the order of the grid.
    best : Training
        The one of the least validation loss.
    is_complete : bool
        Every combination was tried.
    """

    tries: list[dict[str, Any]]
    best: Training
    is_complete: bool = True


def iter_grid_search(
    dataset_or_folder: Data,
    *,
    params: TrainParams = TrainParams(),  # noqa: B008 - frozen
    grid: Mapping[str, Sequence[Any]] = TABLE_1,
    folder: str | Path | None = None,
    should_stop: Callable[[], bool] = never,
) -> Generator[Progress, None, GridSearch]:
    """Train with every combination of settings and keep the one of the least validation loss (paper, Table 1).

    Parameters
    ----------
    dataset_or_folder : TrainingSet, LabelledCutouts, Parts or path
        As for `train`; split once, by the seed of `params`.
    params : TrainParams
        Settings that the grid does not name.
    grid : mapping of str to sequence
        Values by name of setting.
    folder : path, optional
        Folder of finished tries and the best classifier. A search that finds tries there, of the same data and
        settings, is resumed.
    should_stop : callable, optional
        Called after every step; if it returns True, the finished tries are returned.

    Yields
    ------
    Progress
        After each step; payload = the last finished try, or None.

    Raises
    ------
    TrainingError
        As `train`, or if the grid is empty or names an unknown setting, there is no validation part, or the folder
        holds a search of other data or settings.
    """
    unknown = set(grid) - set(TrainParams.model_fields)
    if unknown or not grid or not all(grid.values()):
        raise TrainingError(
            f"The grid names {sorted(grid)}; each must be a setting of training with at least one value."
        )
    parts = parts_of(dataset_or_folder, params)
    if not len(parts.val):
        raise TrainingError("A grid search compares losses on the validation part, and there is none.")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    search_hash = "".join(part.content_hash()[:16] for _, part in parts.items())
    log = _Log(None if folder is None else Path(folder), {"data": search_hash, "settings": _fixed(params, grid)})
    best = log.best()
    for combination in combinations:
        if not log.has(combination):
            chosen = TrainParams.model_validate({**params.model_dump(), **combination})
            epochs = Steps(iter_train(parts, params=chosen, should_stop=should_stop))
            for _ in epochs:
                yield Progress(len(log.tries), len(combinations), "settings tried")
            training = epochs.result
            if training.report.is_stopped:
                return GridSearch(log.in_order(combinations), best or training, is_complete=False)
            if best is None or training.report.parts["val"].loss < best.report.parts["val"].loss:
                best = training
                log.keep_best(training)
            log.note(combination, training)
        yield Progress(len(log.tries), len(combinations), "settings tried", log.try_of(combination))
    if best is None:
        raise TrainingError(f"The search in {folder} is complete, but its best classifier {BEST} is gone.")
    return GridSearch(log.in_order(combinations), best)


grid_search = drained(iter_grid_search)
"""`iter_grid_search`, run to its end."""


class _Log:
    """The finished tries of a search, in memory and, with a folder, on disk."""

    def __init__(self, folder: Path | None, search: dict[str, Any]) -> None:
        self.folder = folder
        self.search = json.loads(json.dumps(search))
        self.tries: dict[str, dict[str, Any]] = {}
        if folder is not None and (folder / TRIES).is_file():
            self._read(folder / TRIES)
        elif folder is not None:
            make_folder(folder)
            write_bytes(folder / TRIES, json.dumps(self.search).encode() + b"\n")

    def has(self, combination: dict[str, Any]) -> bool:
        return _key(combination) in self.tries

    def try_of(self, combination: dict[str, Any]) -> dict[str, Any]:
        return self.tries[_key(combination)]

    def in_order(self, combinations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.try_of(c) for c in combinations if self.has(c)]

    def note(self, combination: dict[str, Any], training: Training) -> None:
        """Record a finished try."""
        val = training.report.parts["val"]
        self.tries[_key(combination)] = {**combination, "val_loss": val.loss, "val_accuracy": val.accuracy}
        if self.folder is not None:
            lines = [self.search, *self.tries.values()]
            write_bytes(self.folder / TRIES, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def keep_best(self, training: Training) -> None:
        if self.folder is not None:
            training.classifier.save(self.folder / BEST)

    def best(self) -> Training | None:
        """Return the best training of an earlier run, from its file."""
        if self.folder is None or not self.tries:
            return None
        try:
            classifier = load_classifier(self.folder / BEST)
            training = Training(classifier, TrainingReport.from_dict(classifier.info.report))
        except (ModelError, ValueError) as error:
            raise TrainingError(
                f"The search in {self.folder} cannot be resumed: {error} Begin in a new folder."
            ) from error
        least = min(done["val_loss"] for done in self.tries.values())
        found = training.report.parts["val"].loss
        if found > least + 1e-9:  # the program ended before the better one was saved
            raise TrainingError(
                f"The best classifier in {self.folder} is not that of its tries. Begin in a new folder."
            )
        return training

    def _read(self, path: Path) -> None:
        try:
            search, *tries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if search != self.search:
                raise TrainingError(
                    f"{path} is a search of other cells or other settings. Choose another folder, or delete it."
                )
            for done in tries:
                settings = {k: v for k, v in done.items() if k not in ("val_loss", "val_accuracy")}
                self.tries[_key(settings)] = {**settings, **{k: float(done[k]) for k in ("val_loss", "val_accuracy")}}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            if isinstance(error, TrainingError):
                raise
            raise TrainingError(f"{path} is no log of a grid search: {reason_of(error)}.") from error


def _key(combination: dict[str, Any]) -> str:
    return json.dumps(combination, sort_keys=True)


def _fixed(params: TrainParams, grid: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the settings that the grid does not vary and that change the result."""
    return {k: v for k, v in params.model_dump(mode="json").items() if k not in grid and k != "device"}
