"""Colours of stains and glass, and the step from optical density to camera pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Stain:
    """Optical densities (natural logarithm; red, green, blue) of a stain, and the colour of the glass.

    `glass` is 0 to 255. `haemoglobin`, `nucleus`, `platelet` and `granulomere` are densities of a typical cell where it
    is thickest, `cytoplasm` those of each kind of white cell. Refraction adds `rim` at the rim of a red cell, and
    `halo` is the density that the bright line around it takes away. `pallor` is the lowest and highest depth of red
    cells' pale centre, `slit_share` the share of red cells with a dark slit or dot in the middle.
    """

    glass: Colour
    haemoglobin: Colour
    nucleus: Colour
    platelet: Colour
    granulomere: Colour
    cytoplasm: Mapping[str, Colour] = field(hash=False)
    rim: Colour
    halo: float
    pallor: tuple[float, float]
    slit_share: float


GIEMSA = Stain(
    glass=(223.0, 227.0, 234.0),
    haemoglobin=(0.27, 0.62, 0.31),
    nucleus=(0.85, 1.72, 0.42),
    platelet=(0.1, 0.28, 0.0),
    granulomere=(0.16, 0.42, 0.03),
    cytoplasm={
        "neutrophil": (0.1, 0.22, 0.04),
        "lymphocyte": (0.24, 0.13, 0.02),
        "monocyte": (0.24, 0.27, 0.1),
        "eosinophil": (0.12, 0.42, 0.33),
    },
    rim=(0.62, 0.38, 0.36),
    halo=0.025,
    pallor=(0.02, 0.45),
    slit_share=0.12,
)
"""Giemsa on clear glass, cells flat and with dark rims."""
WRIGHT = Stain(
    glass=(238.0, 226.0, 205.0),
    haemoglobin=(0.2, 0.46, 0.36),
    nucleus=(1.1, 1.75, 0.62),
    platelet=(0.2, 0.4, 0.1),
    granulomere=(0.3, 0.5, 0.12),
    cytoplasm={
        "neutrophil": (0.1, 0.26, 0.16),
        "lymphocyte": (0.34, 0.26, 0.06),
        "monocyte": (0.28, 0.32, 0.18),
        "eosinophil": (0.13, 0.52, 0.5),
    },
    rim=(0.16, 0.2, 0.14),
    halo=0.01,
    pallor=(0.25, 0.85),
    slit_share=0.02,
)
"""Wright's stain in warm light, red cells with a wide pallor."""
TINTED = Stain(
    glass=(176.0, 186.0, 178.0),
    haemoglobin=(0.2, 0.62, 0.48),
    nucleus=(0.95, 1.25, 0.12),
    platelet=(0.14, 0.22, 0.0),
    granulomere=(0.24, 0.3, 0.02),
    cytoplasm={
        "neutrophil": (0.05, 0.18, 0.02),
        "lymphocyte": (0.22, 0.2, 0.0),
        "monocyte": (0.2, 0.26, 0.04),
        "eosinophil": (0.08, 0.36, 0.28),
    },
    rim=(0.2, 0.22, 0.2),
    halo=0.02,
    pallor=(0.15, 0.7),
    slit_share=0.05,
)
"""Tinted glass in dim light; the cytoplasm of white cells hardly differs from the background."""
STAINS: dict[str, Stain] = {"giemsa": GIEMSA, "wright": WRIGHT, "tinted": TINTED}


@dataclass(frozen=True, slots=True)
class Optics:
    """The effects of microscope and camera.

    `vignetting` is the share of light lost in the corners, `gradient` the relative difference of light between two
    opposite sides. `blur_px` and `defocus_px` are standard deviations, pixels, where the smear is in focus and farthest
    out of it; red is blurred a little more than blue. `noise` is the camera's standard deviation on empty glass, grey
    levels.
    """

    vignetting: float = 0.1
    gradient: float = 0.06
    blur_px: float = 0.85
    defocus_px: float = 1.8
    noise: float = 2.2


def expose(density: NDArray[np.float32], stain: Stain, optics: Optics, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the picture, (Y, X, 3) uint8, of a smear's optical density, (Y, X, 3) float32."""
    height, width = density.shape[:2]
    focus = smooth_field((height, width), 0.3 * min(height, width), rng)[..., None] ** 2
    glass = np.asarray(stain.glass, np.float32) * _illumination((height, width), optics, rng)
    light = np.empty_like(density)
    for channel, spread in enumerate((1.6, 1.0, 0.95)):  # a lens sharp in green is less so in red
        passed = np.exp(-density[..., channel])
        sharp = ndimage.gaussian_filter(passed, optics.blur_px * spread)
        soft = ndimage.gaussian_filter(passed, optics.defocus_px * spread)
        light[..., channel] = sharp + (soft - sharp) * focus[..., 0]
    light *= glass
    noise = ndimage.gaussian_filter(rng.normal(size=density.shape).astype(np.float32), (0.7, 0.7, 0.3))
    noise *= optics.noise / max(float(noise.std()), 1e-9)
    light += noise * np.sqrt(np.maximum(light, 1) / 225)
    return np.asarray(np.clip(np.rint(_soften_colour(light)), 0, 255), np.uint8)


def smooth_field(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a random field (Y, X) float32 from 0 to 1 that changes over about `sigma` pixels."""
    step = max(1, int(sigma / 4))  # drawn coarsely: a wide Gaussian over every pixel is slow
    coarse = rng.normal(size=(shape[0] // step + 3, shape[1] // step + 3)).astype(np.float32)
    coarse = ndimage.gaussian_filter(coarse, sigma / step, mode="reflect")
    coarse -= coarse.min()
    coarse /= max(float(coarse.max()), 1e-9)
    fine = ndimage.zoom(coarse, step, order=1) if step > 1 else coarse
    return np.asarray(fine[: shape[0], : shape[1]], np.float32)


def _illumination(shape: tuple[int, int], optics: Optics, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the relative brightness (Y, X, 3) of the empty field."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    slope = optics.gradient / 2 * (y * np.sin(angle) + x * np.cos(angle))
    cy, cx = rng.uniform(-0.2, 0.2, 2)
    corner = optics.vignetting / 2 * ((y - cy) ** 2 + (x - cx) ** 2)
    tints = 1 + np.asarray([0.15, 0.0, -0.1], np.float32)  # the corners lose red first
    return np.asarray((1 + slope)[..., None] - corner[..., None] * tints, np.float32)


def _soften_colour(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur colour but not brightness, as cameras and JPEG do."""
    brightness = light @ np.asarray([0.299, 0.587, 0.114], np.float32)
    colour = light - brightness[..., None]
    return np.asarray(brightness[..., None] + ndimage.gaussian_filter(colour, (1.0, 1.0, 0)), np.float32)
