"""Verdicts on the tiles of a smear, each with its reason in words and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import RBC, centroids_of
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.stages.calibration import RBC_DIAMETER_UM
from napari_bloodcell.stages.quality.measures import COARSE, FINE, Grid, Sums, tiles_at

GOOD, EMPTY = "good", "empty"
VERDICTS: Final = (GOOD, "thick", "thin", "blurred", "stacked", "odd stain", "dirty", EMPTY)
"""All verdicts."""
COLUMNS: Final = ("y0", "x0", "y1", "x1", "verdict", "reason", "confidence")
"""Columns of `Quality.tiles`."""
EDGE_OF_SIGMA: Final = 2.563
"""Width of a blurred edge from 10 to 90 % of its height, standard deviations of the blur."""
AS_PUT_IN: Final = 1.6
"""Factor by which the estimate of an edge's width comes short: rims and pallors are no single steps. With it blurred
copies of sharp fields of nine sets have the blur that was put in."""
SAMPLING_PX: Final = 0.5
"""Blur that pixels themselves bring, standard deviation, working pixels."""
WHOLE: Final = 0.3
"""Red cells smaller than this share of a typical one say nothing."""
HELD: Final = 0.3
"""A cell of whose outline more than this share lies on other cells is one of a stack or a crowd."""
SURE: Final = 0.25
"""Distance from a limit, in natural logarithms, at which a verdict is about as sure as it gets."""

LIMITS: Final[dict[str, float]] = {
    EMPTY: 0.02,
    "blurred": 1.2,
    "odd stain": 0.27,
    "thick": 0.78,
    "stacked": 0.45,
    "dirty": 0.025,
    "thin": 0.18,
}
"""Limit of each fault, in the order in which the first that is reached decides where several are as bad."""
LOW: Final = (EMPTY, "thin")
"""Faults of too little, not of too much."""
_WORDS: Final[dict[str, str]] = {
    EMPTY: "empty: cells cover {0:.1%} of the place, nothing can be counted below {1:.0%}",
    "blurred": "out of focus: the edge of a red cell is {0:.1f} µm wide, counts are unreliable above {1:.1f}",
    "odd stain": "odd stain: a red cell has an optical density of {0:.2f} in red light, the models know up to {1:.2f}",
    "thick": "too thick: cells cover {0:.0%} of the place, single ones cannot be told apart above {1:.0%}",
    "stacked": "stacked: {0:.0%} of the red cells lie on or close against others, counts are unreliable above {1:.0%}",
    "dirty": "dirty: stain beside the cells covers {0:.1%} of the place, above {1:.1%} it is taken for cells",
    "thin": "thin: cells cover {0:.0%} of the place, too few for its size below {1:.0%}",
}


@dataclass(frozen=True, eq=False)
class Quality:
    """How good the places of a smear are for counting.

    Attributes
    ----------
    verdict : str
        Of the whole: "good" if at least half of the tiles that are not empty are good, else the commonest other.
    reasons : tuple of str
        A sentence for each verdict but "good" that a tile has, the commonest first.
    tiles : DataFrame
        One row per tile of about ten red cells a side: its box `y0`, `x0`, `y1`, `x1` (half-open, pixels), `verdict`
        (one of `VERDICTS`), `reason` (in words, with the number and the limit; "" where it is good) and `confidence`
        (0.5: on the limit, to 1).
    measures : DataFrame
        What each tile was judged by: a column for each fault, in the unit of its limit; NaN where no red cell lies.
    """

    verdict: str
    reasons: tuple[str, ...]
    tiles: pd.DataFrame
    measures: pd.DataFrame

    @classmethod
    def of(cls, tiles: pd.DataFrame, measures: pd.DataFrame) -> Self:
        """Return the quality of a smear with these tiles."""
        return cls(*_in_all(tiles), tiles, measures)

    @property
    def is_good(self) -> NDArray[np.bool_]:
        """Which tiles are good, (N,)."""
        return np.asarray(self.tiles["verdict"].to_numpy(str) == GOOD, np.bool_)

    @property
    def share_good(self) -> float:
        """Share of the area that is good."""
        return float(self._areas[self.is_good].sum() / self._areas.sum())

    @property
    def _areas(self) -> NDArray[np.float64]:
        box = self.tiles[["y0", "x0", "y1", "x1"]].to_numpy(np.float64)
        return np.asarray((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))

    def tiles_of(self, centroids: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
        """Return the row of the tile that each place (N, 2), (y, x) in pixels, lies in."""
        rows, columns = (np.unique(self.tiles[name].to_numpy()) for name in ("y0", "x0"))
        return tiles_at(rows[1:], columns[1:], *centroids.T)

    def contains(
        self, centroids: NDArray[np.floating[Any]], planes: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.bool_]:
        """Return which places (N, 2), (y, x) in pixels, lie in a good tile."""
        return self.is_good[self.tiles_of(centroids)]

    def area_px(self, plane: int | None = None, *, within: tuple[float, float, float, float] | None = None) -> float:
        """Return the area of the good tiles, pixels², in a rectangle (low y, low x, high y, high x)."""
        box = self.tiles.loc[self.is_good, ["y0", "x0", "y1", "x1"]].to_numpy(np.float64)
        if within is not None:
            box[:, :2], box[:, 2:] = np.maximum(box[:, :2], within[:2]), np.minimum(box[:, 2:], within[2:])
        return float(np.maximum(box[:, 2:] - box[:, :2], 0).prod(1).sum())


def judge(sums: Sums, table: pd.DataFrame, grid: Grid, calibration: Calibration) -> Quality:
    """Return the quality of a smear from its sums and its table of typed cells."""
    found = _measures(sums, table, grid, calibration)
    excess = pd.DataFrame(
        {
            name: np.log(limit / found[name]) if name in LOW else np.log(found[name] / limit)
            for name, limit in LIMITS.items()
        }
    ).fillna(-np.inf)
    is_empty = excess[EMPTY].to_numpy() > 0
    excess.loc[is_empty, [name for name in LIMITS if name != EMPTY]] = -np.inf
    worst = excess.to_numpy().argmax(1)
    depth = excess.to_numpy()[np.arange(len(excess)), worst]
    is_bad = depth > 0
    names = np.array(list(LIMITS))[worst]
    tiles = pd.DataFrame(grid.boxes, columns=["y0", "x0", "y1", "x1"])
    tiles["verdict"] = np.where(is_bad, names, GOOD)
    tiles["reason"] = [
        _WORDS[name].format(found[name].iloc[row], LIMITS[name]) if bad else ""
        for row, (name, bad) in enumerate(zip(names, is_bad, strict=True))
    ]
    tiles["confidence"] = np.round(1 - 0.5 * np.exp(-np.abs(depth) / SURE), 3)
    return Quality.of(tiles, found)


def _measures(sums: Sums, table: pd.DataFrame, grid: Grid, calibration: Calibration) -> pd.DataFrame:
    pixels, cells, stray = np.maximum(sums.tiles, [1, 0, 0]).T
    found = pd.DataFrame(index=range(len(pixels)), columns=list(LIMITS), dtype=float)
    covered = np.maximum(cells / pixels, 1e-6)
    found[EMPTY] = found["thin"] = found["thick"] = covered
    found["dirty"] = np.maximum(stray / pixels, 1e-6)
    typical = np.pi / 4 * grid.rbc_diameter_px**2
    red = table[(table["cell_type"] == RBC) & (table["area_px"] > WHOLE * typical)]
    own = sums.cells.reindex(red.index, fill_value=0)
    places = centroids_of(red)
    tile = grid.tiles_at(places[:, 0], places[:, 1])
    edge, held = _edge_um(own, grid), own["contact"] / own["outline"].clip(lower=1) > HELD
    found["blurred"] = edge.groupby(tile).median().clip(lower=1e-6).reindex(found.index)
    found["stacked"] = held.groupby(tile).mean().clip(lower=1e-6).reindex(found.index)
    if calibration.red_rgb is not None and len(red):
        lit = calibration.red_rgb[0] / max(calibration.background_rgb[0], 1.0)
        found["odd stain"] = float(-np.log10(np.clip(lit, 0.01, 0.999)))
    return found


def _edge_um(cells: pd.DataFrame, grid: Grid) -> pd.Series[float]:
    """Return how wide the edge of each cell is, µm, after Zhuo & Sim (Pattern Recognition 44, 1852, 2011).

    Along a step blurred by s, the sum of squared slopes is as 1 / s. Of two further blurs of known width the quotient
    therefore tells s, whatever the contrast.
    """
    ratio = (cells["fine"].clip(lower=1) / cells["coarse"].clip(lower=1)).to_numpy() ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        square = np.where(ratio > 1, (COARSE**2 - ratio * FINE**2) / (ratio - 1), 1.0)
    square = np.clip(square - (SAMPLING_PX / grid.working_px) ** 2, 0, 1)
    return pd.Series(AS_PUT_IN * EDGE_OF_SIGMA * RBC_DIAMETER_UM * np.sqrt(square), cells.index)


def _in_all(tiles: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    """Return verdict and reasons of the whole."""
    n = tiles["verdict"].value_counts()
    others = [str(name) for name in n.index if name != GOOD]
    n_seen = len(tiles) - int(n.get(EMPTY, 0))
    reasons = []
    for name in others:
        those = tiles[tiles["verdict"] == name]
        example = str(those["reason"].iloc[int(those["confidence"].to_numpy().argmax())])
        reasons.append(f"{n[name]} of {len(tiles)} tiles: {example}." if len(tiles) > 1 else f"{example}.")
    if not n_seen:
        return EMPTY, tuple(reasons)
    is_good = 2 * int(n.get(GOOD, 0)) >= n_seen
    return (GOOD if is_good else next(name for name in others if name != EMPTY)), tuple(reasons)
