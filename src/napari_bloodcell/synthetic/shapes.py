"""Outlines and optical densities of single cells: biconcave red cells, white cells with nuclei, platelets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.cells import PLATELET, RBC, WBC
from napari_bloodcell.core.geometry import CROSS, box_of_mask, largest_part, slices_of
from napari_bloodcell.synthetic.optics import Stain

Subtype = Literal["erythrocyte", "neutrophil", "lymphocyte", "monocyte", "eosinophil", "platelet"]
TYPE_OF: dict[Subtype, str] = {
    "erythrocyte": RBC,
    "neutrophil": WBC,
    "lymphocyte": WBC,
    "monocyte": WBC,
    "eosinophil": WBC,
    "platelet": PLATELET,
}
DIAMETER_IN_RBC: dict[Subtype, tuple[float, float]] = {
    "erythrocyte": (0.9, 1.1),
    "neutrophil": (1.55, 1.85),
    "lymphocyte": (1.2, 1.5),
    "monocyte": (1.8, 2.1),
    "eosinophil": (1.6, 1.85),
    "platelet": (0.27, 0.5),
}
"""Usual diameters, lowest and highest, as multiples of a red cell's.

Platelets are 2 to 4 µm wide; the boxes of 596 real ones in four laboratories are 0.30 to 0.58 red cells wide (5th and
95th percentile), a rim of glass included.
"""
HALO_PX = 7
"""Pixels around a mask in which its optical density may differ from 0."""


@dataclass(frozen=True, slots=True)
class CellSpec:
    """A cell to draw.

    `y`, `x` is its centre, pixels, and `diameter_px` that of a disc of equal area, before roughness. `elongation` is
    long over short axis, at least 1, and `angle` the direction of the long axis and of the nucleus, radians.
    `roughness` is the relative deviation of the outline from an ellipse, `pallor` the depth of a red cell's pale
    centre, 0 to 1, and `density` a factor of all its optical densities. `seed` is that of its irregularities.
    """

    subtype: Subtype
    y: float
    x: float
    diameter_px: float
    elongation: float = 1.0
    angle: float = 0.0
    roughness: float = 0.02
    pallor: float = 0.3
    density: float = 1.0
    seed: int = 0

    @property
    def cell_type(self) -> str:
        """RBC, WBC or platelet."""
        return TYPE_OF[self.subtype]


@dataclass(frozen=True, slots=True, eq=False)
class PlacedCell:
    """A cell with its whole mask (h, w), even where another covers it, on a plane without edges.

    `origin` is the (y, x) of the mask's first pixel; may be negative.
    """

    spec: CellSpec
    origin: tuple[int, int]
    mask: NDArray[np.bool_]


def place(spec: CellSpec) -> PlacedCell:
    """Return the cell with its outline as a mask: an ellipse with a few random harmonics."""
    rng = np.random.default_rng([spec.seed, 1])
    reach = int(np.ceil(spec.diameter_px / 2 * np.sqrt(spec.elongation) * (1 + 4 * spec.roughness))) + 2
    y0, x0 = int(np.floor(spec.y)) - reach, int(np.floor(spec.x)) - reach
    yy, xx = _local_grid(spec, (y0, x0), (2 * reach + 1, 2 * reach + 1))
    stretch = np.sqrt(spec.elongation)
    theta = np.arctan2(yy * stretch, xx / stretch)
    radius = np.full(theta.shape, spec.diameter_px / 2)
    for order in range(2, 7):
        amplitude = spec.roughness * rng.normal() * 2 / order
        radius *= 1 + amplitude * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    mask = np.hypot(yy * stretch, xx / stretch) < radius
    mask = largest_part(mask, CROSS)
    box = box_of_mask(mask)
    if box is None:
        raise ValueError(f"A cell {spec.diameter_px} px wide has no pixel.")
    return PlacedCell(spec, (y0 + box[0], x0 + box[1]), mask[slices_of(box)].copy())


def optical_density(cell: PlacedCell, stain: Stain) -> NDArray[np.float32]:
    """Return the cell's optical density, (h + 2 HALO_PX, w + 2 HALO_PX, 3) float32, natural logarithm.

    By the law of Beer and Lambert the densities of overlapping cells add.
    """
    mask = np.pad(cell.mask, HALO_PX)
    origin = (cell.origin[0] - HALO_PX, cell.origin[1] - HALO_PX)
    rng = np.random.default_rng([cell.spec.seed, 2])
    if cell.spec.cell_type == RBC:
        density = _red_cell(cell.spec, mask, origin, stain, rng)
    elif cell.spec.cell_type == PLATELET:
        density = _platelet(cell.spec, mask, stain, rng)
    else:
        density = _white_cell(cell.spec, mask, origin, stain, rng)
    return (density * cell.spec.density).astype(np.float32)


def _local_grid(
    spec: CellSpec, origin: tuple[int, int], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coordinates across and along the long axis, pixels from the cell's centre."""
    yy, xx = np.mgrid[origin[0] : origin[0] + shape[0], origin[1] : origin[1] + shape[1]]
    dy, dx = yy + 0.5 - spec.y, xx + 0.5 - spec.x
    cos, sin = np.cos(spec.angle), np.sin(spec.angle)
    return dy * cos - dx * sin, dx * cos + dy * sin


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance from the outline, pixels, positive inside, smoothed to hide the pixel steps."""
    signed = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return np.asarray(ndimage.gaussian_filter(signed, 0.8), np.float64)


def _ramp(depth: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return 0 outside, 1 deeper than `width` pixels, smooth between."""
    return np.asarray(np.clip(depth / width + 0.5, 0, 1), np.float64)


def _texture(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of mean 0 and standard deviation 1 with grains of about `sigma` pixels."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return np.asarray(noise / max(noise.std(), 1e-9), np.float64)


def _red_cell(
    spec: CellSpec, mask: NDArray[np.bool_], origin: tuple[int, int], stain: Stain, rng: np.random.Generator
) -> NDArray[np.float64]:
    depth = _depth(mask)
    radius = spec.diameter_px / 2
    yy, xx = _local_grid(spec, origin, mask.shape)
    cy, cx = rng.normal(0, 0.07 * radius, 2)
    stretch = np.sqrt(spec.elongation)
    rho = np.hypot((yy - cy) * stretch, (xx - cx) / stretch) / radius
    width = rng.uniform(0.38, 0.52)
    dimple = 1 - spec.pallor * np.exp(-((rho / width) ** 3))
    thickness = _ramp(depth - 1, 4) * (1.08 - 0.12 * np.clip(depth / radius, 0, 1)) * dimple
    thickness *= 1 + 0.03 * _texture(mask.shape, 1.2, rng)
    density = thickness[..., None] * np.asarray(stain.haemoglobin)
    # The rim bends light out of the objective, and a bright line (Becke's) lies just outside it.
    scale = spec.diameter_px / 36
    rim = np.exp(-(((depth - 2.0 * scale) / (1.7 * scale)) ** 2)) * rng.uniform(0.7, 1.3)
    halo = np.exp(-(((depth + 3.2 * scale) / (1.6 * scale)) ** 2))
    density += rim[..., None] * np.asarray(stain.rim) - stain.halo * halo[..., None]
    if rng.random() < stain.slit_share:  # stomatocytes and drying artefacts: a dark slit or dot in the middle
        long, short = rng.uniform(0.05, 0.3) * radius, rng.uniform(0.05, 0.09) * radius
        tilt = rng.uniform(0, np.pi)
        along, across = xx * np.cos(tilt) + yy * np.sin(tilt), yy * np.cos(tilt) - xx * np.sin(tilt)
        slit = np.exp(-((along / long) ** 2) - (across / short) ** 2)
        density += slit[..., None] * np.asarray(stain.rim) * 0.8
    return np.asarray(density, np.float64)


def _platelet(spec: CellSpec, mask: NDArray[np.bool_], stain: Stain, rng: np.random.Generator) -> NDArray[np.float64]:
    depth = _depth(mask)
    grains = np.clip(1 + 0.35 * _texture(mask.shape, 0.8, rng), 0.2, 2)
    body = _ramp(depth - 0.5, 2.5) * grains
    core = np.clip(depth / max(spec.diameter_px * 0.35, 1), 0, 1) * grains
    return np.asarray(
        body[..., None] * np.asarray(stain.platelet) + core[..., None] * np.asarray(stain.granulomere), np.float64
    )


def _white_cell(
    spec: CellSpec, mask: NDArray[np.bool_], origin: tuple[int, int], stain: Stain, rng: np.random.Generator
) -> NDArray[np.float64]:
    depth = _depth(mask)
    yy, xx = _local_grid(spec, origin, mask.shape)
    nucleus = _nucleus(spec, yy, xx, rng) & (depth > 1.5)
    grain, contrast = {"neutrophil": (0.9, 0.3), "eosinophil": (1.2, 0.4)}.get(spec.subtype, (2.0, 0.2))
    cytoplasm = _ramp(depth - 0.5, 3.5) * np.clip(1 + contrast * _texture(mask.shape, grain, rng), 0.2, 2.2)
    if spec.subtype == "monocyte":
        vacuoles = _texture(mask.shape, 1.6, rng) > 2.2
        cytoplasm *= 1 - 0.7 * ndimage.gaussian_filter(vacuoles.astype(float), 0.8)
    edge = np.exp(-(((depth - 1) / 1.4) ** 2))
    density = (cytoplasm + 0.35 * edge)[..., None] * np.asarray(stain.cytoplasm[spec.subtype])
    inside = _depth(nucleus)
    chromatin = np.clip(1 + 0.2 * _texture(mask.shape, 1.8, rng) + 0.08 * _texture(mask.shape, 0.8, rng), 0.5, 1.6)
    solid = _ramp(inside, 2.5) * (0.8 + 0.2 * np.minimum(np.maximum(inside, 0) / 4, 1)) * chromatin
    factor = {"lymphocyte": 1.0, "neutrophil": 0.95, "eosinophil": 0.9, "monocyte": 0.72}[spec.subtype]
    return np.asarray(density + factor * solid[..., None] * np.asarray(stain.nucleus), np.float64)


def _nucleus(
    spec: CellSpec, yy: NDArray[np.float64], xx: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.bool_]:
    radius = spec.diameter_px / 2
    wobble = 1 + 0.12 * _texture(yy.shape, 4, rng)
    if spec.subtype == "lymphocyte":
        cy, cx = rng.normal(0, 0.06 * radius, 2)
        return np.asarray(np.hypot((yy - cy) * 1.06, xx - cx) * (1 + 0.3 * (wobble - 1)) < 0.78 * radius, np.bool_)
    if spec.subtype == "monocyte":  # a kidney: an ellipse with a bay
        body = np.hypot(yy / 0.55, xx / 0.72) * wobble < radius
        bay = np.hypot((yy - 0.52 * radius) / 0.36, xx / 0.3) * wobble < radius
        return np.asarray(body & ~bay, np.bool_)
    n_lobes = 2 if spec.subtype == "eosinophil" else int(rng.integers(3, 6))
    return _lobes(n_lobes, radius, yy, xx, wobble, rng)


def _lobes(
    n_lobes: int,
    radius: float,
    yy: NDArray[np.float64],
    xx: NDArray[np.float64],
    wobble: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return lobes along an arc, neighbours joined by a thread of chromatin."""
    span = {2: 2.2, 3: 3.3, 4: 4.2, 5: 4.9}[n_lobes]
    angles = np.linspace(-span / 2, span / 2, n_lobes) + rng.normal(0, 0.09, n_lobes)
    reach = radius * rng.uniform(0.36, 0.5, n_lobes)
    size = radius * (0.42 if n_lobes == 2 else 0.33 - 0.022 * (n_lobes - 3)) * rng.uniform(0.88, 1.15, n_lobes)
    ys, xs = reach * np.sin(angles), reach * np.cos(angles)
    nucleus = np.zeros(yy.shape, bool)
    for y, x, s, a in zip(ys, xs, size, angles, strict=True):
        along, across = (xx - x) * -np.sin(a) + (yy - y) * np.cos(a), (xx - x) * np.cos(a) + (yy - y) * np.sin(a)
        nucleus |= np.hypot(along / 1.12, across / 0.9) * wobble < s
    for i in range(n_lobes - 1):
        for t in np.linspace(0, 1, 12):
            y, x = ys[i] * (1 - t) + ys[i + 1] * t, xs[i] * (1 - t) + xs[i + 1] * t
            nucleus |= np.hypot(yy - y, xx - x) < 0.07 * radius + 0.6
    return nucleus
