"""Pictures that are no plain field of a smear: frames around one, uneven light, and other things than blood."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]


def _distance(shape: tuple[int, ...], middle: Sequence[float] = (0.5, 0.5)) -> NDArray[np.float64]:
    """Distance from a place, by default the middle; 1 at half of the height and of the width."""
    (height, width), (y, x) = shape[:2], np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot((y - height * middle[0]) / (height / 2), (x - width * middle[1]) / (width / 2)))


def round_field(
    smear: Picture,
    colour: tuple[float, float, float] | NDArray[np.float64] = (3, 3, 3),
    *,
    noise: float = 1.5,
    sharpness: float = 60,
    fields: tuple[tuple[float, float, float], ...] = ((0.5, 0.5, 0.97),),
) -> Picture:
    """What an eyepiece shows: soft-edged discs on black, or another colour, with a camera's noise.

    `colour` may differ from pixel to pixel. `fields` are (y, x) of each disc and its width, in shares of the picture's
    height, width, and both.
    """
    distance = np.min([(_distance(smear.shape, middle) - width) for *middle, width in fields], axis=0)
    inside = np.clip(-distance * sharpness, 0, 1)[..., None]
    around = np.random.default_rng(1).normal(0, noise, smear.shape) + colour
    return np.clip(smear * inside + around * (1 - inside), 0, 255).astype(np.uint8)


def mosaic_on_black(smear: Picture, level: int = 0) -> Picture:
    """Fields side by side on black, or a grey, two of nine missing."""
    height, width = smear.shape[:2]
    canvas = np.full((height + 120, width + 160, 3), level, np.uint8)
    canvas[60 : 60 + height, 80 : 80 + width] = smear
    canvas[60 : 60 + height // 3, 80 : 80 + width // 3] = level
    canvas[60 + 2 * height // 3 : 60 + height, 80 + 2 * width // 3 : 80 + width] = level
    return canvas


def viewer_window(smear: Picture, colour: tuple[int, int, int] = (38, 41, 48)) -> Picture:
    """A screenshot: a title bar, and beside the picture a panel with buttons and letters."""
    height, width = smear.shape[:2]
    window = np.full((height + 160, width + 300, 3), colour, np.uint8)
    window[:44], window[-30:] = (90, 95, 105), (20, 20, 22)
    window[80 : 80 + height, 40 : 40 + width] = smear
    for y in range(90, height + 40, 45):
        window[y : y + 22, width + 90 : width + 240] = (120, 125, 140)
        for x in range(width + 100, width + 220, 14):
            window[y + 6 : y + 16, x : x + 6] = (235, 235, 240) if colour[0] < 128 else (30, 30, 30)
    return window


def textured_rim(smear: Picture, level: float = 60, scatter: float = 35, width: float = 1) -> Picture:
    """A round field in something with a grain of so many pixels, such as paper or wood."""
    grain = ndimage.gaussian_filter(np.random.default_rng(8).normal(0, 1, smear.shape[:2]), width)
    inside = np.clip((0.97 - _distance(smear.shape)) * 60, 0, 1)[..., None]
    around = level + scatter * (grain / grain.std())[..., None]
    return np.clip(smear * inside + around * (1 - inside), 0, 255).astype(np.uint8)


def mosaic_with_gaps(smear: Picture, gap: int = 4, level: int = 255, n: int = 3) -> Picture:
    """A smear cut into n × n fields, so many pixels between them."""
    height, width = smear.shape[:2]
    canvas = np.full((height + gap * (n - 1), width + gap * (n - 1), 3), level, np.uint8)
    rows, columns = (np.linspace(0, side, n + 1).astype(int) for side in (height, width))
    for i, (y0, y1) in enumerate(pairwise(rows.tolist())):
        for j, (x0, x1) in enumerate(pairwise(columns.tolist())):
            canvas[y0 + gap * i : y1 + gap * i, x0 + gap * j : x1 + gap * j] = smear[y0:y1, x0:x1]
    return canvas


def page_of_fields(smear: Picture, level: int = 255) -> Picture:
    """Four fields of different sizes on a page, with odd gaps."""
    height, width = smear.shape[:2]
    page = np.full((height * 6 // 5, width * 13 // 10, 3), level, np.uint8)
    upper = [smear[: height // 2 - 7, : width // 2 - 11], smear[: height // 2 - 7, width // 2 : width * 5 // 6]]
    lower = [smear[height // 2 :, : width // 3], smear[height // 2 :, width // 3 + 9 :]]
    for y, x, gap, fields in ((10, 14, 23, upper), (20 + height // 2, 31, 37, lower)):
        for field in fields:
            page[y : y + field.shape[0], x : x + field.shape[1]] = field
            x += field.shape[1] + gap
    return page


def eyepiece_grid(smear: Picture, angle: float = 0, width: float = 3, light: float = 0.25) -> Picture:
    """Lines of a graticule across the field, turned by an angle in degrees, which let so much light through."""
    y, x = np.mgrid[: smear.shape[0], : smear.shape[1]]
    step, turn = max(smear.shape[:2]) // 7, np.deg2rad(angle)
    across, along = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    is_line = ((across - step // 2) % step < width) | ((along - step // 2) % step < width)
    return np.where(is_line[..., None], smear * light, smear).astype(np.uint8)


def light_from_one_side(smear: Picture, least: float = 0.35) -> Picture:
    """The left side gets a share of the light only."""
    light = least + (1 - least) * np.arange(smear.shape[1]) / smear.shape[1]
    return np.rint(smear * light[None, :, None]).astype(np.uint8)


def vignetted(smear: Picture, loss: float = 0.33) -> Picture:
    """The middle of each side loses a share of its light, the corners twice that."""
    return np.rint(smear * (1 - loss * _distance(smear.shape) ** 2).clip(0.1)[..., None]).astype(np.uint8)


def noise(shape: tuple[int, int] = (420, 560)) -> Picture:
    """What a sensor gives without a lens."""
    return np.clip(np.random.default_rng(2).normal(128, 30, (*shape, 3)), 0, 255).astype(np.uint8)


def _glass(shape: tuple[int, int], colour: tuple[float, float, float] = (225, 222, 220)) -> NDArray[np.float64]:
    return np.array(colour) + np.random.default_rng(3).normal(0, 2.5, (*shape, 3))


def _put(
    image: NDArray[np.float64],
    place: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    colour: tuple[float, float, float],
    alpha: float,
) -> None:
    """Lay an ellipse over an image."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] - np.array(place)[:, None, None]
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    depth = 1 - np.hypot(along / radii[0], across / radii[1])
    cover = alpha * np.clip(depth * min(radii) + 0.5, 0, 1)[..., None]
    image[:] = image * (1 - cover) + np.array(colour) * cover


def _scattered(
    shape: tuple[int, int], n: int, draw: Callable[[np.random.Generator, tuple[float, float]], None]
) -> None:
    rng = np.random.default_rng(4)
    for _ in range(n):
        draw(rng, (rng.uniform(0, shape[0]), rng.uniform(0, shape[1])))


def dust(shape: tuple[int, int] = (420, 560), *, n: int = 40, width: float = 3, scatter: float = 0.6) -> Picture:
    """Grey specks on empty glass, of a radius in pixels whose logarithm scatters by so much."""
    image = _glass(shape)
    _scattered(
        shape,
        n,
        lambda rng, place: _put(
            image,
            place,
            (width * np.exp(rng.normal(0, scatter)), 0.8 * width * np.exp(rng.normal(0, scatter))),
            rng.uniform(0, 3),
            (70, 65, 60),
            0.8,
        ),
    )
    return np.clip(image, 0, 255).astype(np.uint8)


def hemocytometer(
    shape: tuple[int, int] = (500, 600), step: int = 66, glass: float = 210, lines: float = 0.7
) -> Picture:
    """The squares of a counting chamber; its lines have so much of the glass's light."""
    image = _glass(shape, (glass, glass + 2, glass - 2))
    for at in range(8, max(shape), step):
        image[at : at + 3] *= lines
        image[:, at : at + 3] *= lines
    return np.clip(ndimage.gaussian_filter(image, (0.8, 0.8, 0)), 0, 255).astype(np.uint8)


def bird_blood(shape: tuple[int, int] = (420, 560), n: int = 90) -> Picture:
    """Oval red cells, each with a nucleus."""
    image = _glass(shape)

    def draw(rng: np.random.Generator, place: tuple[float, float]) -> None:
        angle = rng.uniform(0, 3)
        _put(image, place, (27, 18), angle, (205, 140, 150), 0.75)
        _put(image, place, (11, 7.5), angle, (90, 50, 110), 0.85)

    _scattered(shape, n, draw)
    return np.clip(image, 0, 255).astype(np.uint8)


def nucleated(smear: Picture, boxes: NDArray[np.integer]) -> Picture:
    """A smear with a nucleus in each cell of boxes (N, 4), (y0, x0, y1, x1): what a bird's would look like there."""
    image, rng = smear.astype(float), np.random.default_rng(6)
    for y0, x0, y1, x1 in boxes.tolist():
        radius, cell = 0.22 * np.sqrt((y1 - y0) * (x1 - x0)), (slice(max(y0, 0), y1), slice(max(x0, 0), x1))
        place = ((y0 + y1) / 2 - cell[0].start, (x0 + x1) / 2 - cell[1].start)
        _put(image[cell], place, (1.2 * radius, 0.85 * radius), rng.uniform(0, 3), (100, 60, 125), 0.85)
    return np.clip(image, 0, 255).astype(np.uint8)


def dark_field(smear: Picture) -> Picture:
    """Outlines that shine on black."""
    edges = ndimage.gaussian_gradient_magnitude(smear.mean(-1), 1.5)
    return np.repeat(np.clip(8 * edges, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def fluorescence(shape: tuple[int, int] = (420, 560), blur: float = 0.0, base: float = 0.0) -> Picture:
    """Bright green blobs in the dark; with `blur` and a darkness of `base` as of a thick specimen."""
    image = np.abs(np.random.default_rng(5).normal(6, 3, (*shape, 1))) * np.ones(3)
    _scattered(shape, 60, lambda rng, place: _put(image, place, (20, 17), rng.uniform(0, 3), (10, 220, 15), 0.9))
    return np.clip(ndimage.gaussian_filter(image, (blur, blur, 0)) + base, 0, 255).astype(np.uint8)
