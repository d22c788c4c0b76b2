"""Small slides as the makers of scanners lay them out, so that OpenSlide takes them for theirs."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SIDE = 256
"""Side of the tiles of SVS and MRXS, pixels."""


def pyramid(image: NDArray[np.uint8], n_levels: int) -> list[NDArray[np.uint8]]:
    """An image (Y, X, 3) and its halves."""
    return [image] + [_shrunk(image, 2**k) for k in range(1, n_levels)]


def write_svs(path: Path, levels: Sequence[NDArray[np.uint8]], um: float) -> None:
    """Aperio: tiled levels, a thumbnail in strips after the first, the scale in the description."""
    height, width = levels[0].shape[:2]
    about = f"Aperio Image Library v12.0.15\r\n{width}x{height} [0,0 {width}x{height}] ({SIDE}x{SIDE}) JPEG/RGB Q=95"
    jpeg = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 95}, "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for k, level in enumerate(levels):
            tiff.write(level, tile=(SIDE, SIDE), description=f"{about}|AppMag = 40|MPP = {um}", **jpeg)
            if k == 0:
                tiff.write(_shrunk(level, 8), rowsperstrip=16, description=about, **jpeg)


def write_ndpi(path: Path, levels: Sequence[NDArray[np.uint8]], um: float) -> None:
    """Hamamatsu: a TIFF with 8-byte offsets between its directories, each level one JPEG with restart markers."""
    file = bytearray(b"II*\0" + bytes(8))
    link = 4  # where the offset of the next directory goes
    for level in levels:
        height, width = level.shape[:2]
        if width % 16:
            raise ValueError("The rows of an NDPI are whole blocks of 16 pixels.")
        shrink = levels[0].shape[1] / width
        jpeg = _as_jpeg(level, restart_marker_rows=1)
        resolution = _put(file, struct.pack("<2I", round(1e7 / um / shrink), 1000))
        (lens,) = struct.unpack("<I", struct.pack("<f", 20 / shrink))
        short, long, rational, real = 3, 4, 5, 11
        entries = [
            (256, long, 1, width),
            (257, long, 1, height),
            (258, short, 3, _put(file, struct.pack("<3H", 8, 8, 8))),
            (259, short, 1, 7),  # JPEG
            (262, short, 1, 6),  # YCbCr
            (271, 2, 10, _put(file, b"Hamamatsu\0")),
            (273, long, 1, _put(file, jpeg)),
            (277, short, 1, 3),
            (278, long, 1, height),
            (279, long, 1, len(jpeg)),
            (282, rational, 1, resolution),
            (283, rational, 1, resolution),
            (296, short, 1, 3),  # per centimetre
            (65420, long, 1, 1),  # this is an NDPI
            (65421, real, 1, lens),  # the lens; below 0 for pictures of the whole slide
            (65424, 9, 1, 0),  # the focal plane
        ]
        place = _put(file, struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries))
        struct.pack_into("<Q", file, link, place)
        link = len(file)
        file += bytes(8 + 4 * len(entries))  # no next one yet; the high halves of the entries' offsets
    path.write_bytes(file)


def write_mrxs(path: Path, image: NDArray[np.uint8], um: float) -> None:
    """3DHISTECH: a folder beside the file with settings, an index, and JPEG tiles of two levels."""
    ident = "0123456789ABCDEF0123456789ABCDEF"
    head = b"01.02" + ident.encode()
    folder = path.with_suffix("")
    folder.mkdir()
    levels = pyramid(image, 2)
    n_rows, n_columns = image.shape[0] // SIDE, image.shape[1] // SIDE
    if (n_rows * SIDE, n_columns * SIDE) != image.shape[:2] or n_rows % 2 or n_columns % 2:
        raise ValueError("The sides of the image must hold an even number of tiles.")
    data, index = bytearray(head), bytearray(head + bytes(8))
    struct.pack_into("<2i", index, len(head), len(index), len(index) + 8)  # the two lists: of levels, of other things
    table = _put(index, bytes(8), even=False)
    _put(index, bytes(4), even=False)
    for k, level in enumerate(levels):
        records = []
        for row in range(0, n_rows, 2**k):
            for column in range(0, n_columns, 2**k):
                y, x = row * SIDE >> k, column * SIDE >> k
                jpeg = _as_jpeg(level[y : y + SIDE, x : x + SIDE])
                records.append((row * n_columns + column, _put(data, jpeg, even=False), len(jpeg), 0))
        struct.pack_into("<i", index, table + 4 * k, len(index))
        page = [0, len(index) + 8, len(records), 0, *(number for record in records for number in record)]
        index += struct.pack(f"<{len(page)}i", *page)
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(index)
    sections = [
        f"[LEVEL_{k}]\nOVERLAP_X = 0\nOVERLAP_Y = 0\nMICROMETER_PER_PIXEL_X = {um * 2**k}\n"
        f"MICROMETER_PER_PIXEL_Y = {um * 2**k}\nIMAGE_FORMAT = JPEG\nIMAGE_FILL_COLOR_BGR = 16777215\n"
        f"DIGITIZER_WIDTH = {SIDE}\nDIGITIZER_HEIGHT = {SIDE}\nIMAGE_CONCAT_FACTOR = {k}\n"
        for k in range(len(levels))
    ]
    (folder / "Slidedat.ini").write_text(
        f"[GENERAL]\nSLIDE_VERSION = 01.02\nSLIDE_ID = {ident}\nIMAGENUMBER_X = {n_columns}\n"
        f"IMAGENUMBER_Y = {n_rows}\nOBJECTIVE_MAGNIFICATION = 20\nCameraImageDivisionsPerSide = 1\n"
        "[HIERARCHICAL]\nHIER_COUNT = 1\nNONHIER_COUNT = 0\nINDEXFILE = Index.dat\nHIER_0_NAME = Slide zoom level\n"
        "HIER_0_COUNT = 2\nHIER_0_VAL_0_SECTION = LEVEL_0\nHIER_0_VAL_1_SECTION = LEVEL_1\n"
        f"[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0000.dat\n{''.join(sections)}",
        encoding="utf-8",
    )
    path.write_bytes(_as_jpeg(_shrunk(image, 8)))  # a MRXS is the picture that a file browser shows


def _as_jpeg(image: NDArray[np.uint8], **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0, **options)
    return stream.getvalue()


def _shrunk(image: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).reduce(times))


def _put(file: bytearray, content: bytes, *, even: bool = True) -> int:
    """Append to a file in memory and return where it lies; TIFF wants what directories point to at even places."""
    if even:
        file += bytes(len(file) % 2)
    place = len(file)
    file += content
    return place
