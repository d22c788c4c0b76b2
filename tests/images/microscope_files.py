"""Small files as microscopes write them: CZI by Zeiss's own library, ND2 and LIF byte by byte."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def write_czi(
    path: Path,
    tiles: Sequence[tuple[NDArray[Any], tuple[int, int], dict[str, int], int]],
    *,
    um: float = 0.0,
    channels: Mapping[int, str] | None = None,
) -> Path:
    """Write tiles (RGB or grey pixels, corner (x, y), plane such as {"Z": 1}, scene)."""
    from pylibCZIrw import czi

    with czi.create_czi(str(path)) as file:
        for pixels, corner, plane, scene in tiles:
            stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels[..., None]
            file.write(np.ascontiguousarray(stored), corner, plane=plane, scene=scene)
        file.write_metadata(channel_names=dict(channels or {}), scale_x=um * 1e-6, scale_y=um * 1e-6)
    return path


def write_nd2(
    path: Path, frames: NDArray[Any], *, loop: str = "", um: float = 0.0, modality: str = "brightfield"
) -> Path:
    """Write frames (n, Y, X, 3) in colour, or (n, Y, X, c) grey, along depth ("z") or positions ("p")."""
    n, height, width, n_components = frames.shape
    bits = 8 * frames.dtype.itemsize
    is_rgb = n_components == 3
    n_channels = 1 if is_rgb else n_components
    attributes = {
        "uiWidth": width,
        "uiHeight": height,
        "uiWidthBytes": width * n_components * bits // 8,
        "uiComp": n_components,
        "uiBpcInMemory": bits,
        "uiBpcSignificant": bits,
        "uiSequenceCount": n,
        "eCompression": 2,
    }
    mask = {"brightfield": 2, "fluorescence": 1}[modality]
    planes = {
        f"a{i}": {
            "sDescription": f"channel {i}",
            "uiCompCount": 3 if is_rgb else 1,
            "uiModalityMask": mask,
            "pFluorescentProbe": {"m_uiColor": 0},
        }
        for i in range(n_channels)
    }
    metadata = {
        "bCalibrated": um > 0,
        "dCalibration": um or -1.0,
        "sPicturePlanes": {"uiCount": n_channels, "uiCompCount": n_components, "sPlaneNew": planes},
    }
    chunks = {
        b"ImageAttributes!": _variant({"SLxImageAttributes": attributes}),
        b"ImageMetadataSeq|0!": _variant({"SLxPictureMetadata": metadata}),
    }
    if loop == "z":
        depth = {"uiCount": n, "dZLow": 0.0, "dZHigh": float(n - 1), "dZStep": 1.0, "iType": 0}
        chunks[b"ImageMetadata!"] = _variant({"SLxExperiment": {"eType": 4, "uLoopPars": depth}})
    elif loop == "p":
        points = {f"i{i:010}": {"dPosX": float(i), "dPosY": 0.0, "dPosZ": 0.0} for i in range(n)}
        places = {"uiCount": n, "bUseZ": False, "Points": points}
        chunks[b"ImageMetadata!"] = _variant({"SLxExperiment": {"eType": 2, "uLoopPars": places}})
    for i, frame in enumerate(frames):
        stored = frame[..., ::-1] if is_rgb else frame
        chunks[b"ImageDataSeq|%d!" % i] = bytes(8) + np.ascontiguousarray(stored).tobytes()
    signature = b"ND2 FILE SIGNATURE CHUNK NAME01!"
    content = struct.pack("<IIQ32s64s", 0x0ABECEDA, 32, 64, signature, b"Ver2.0")
    content = content.ljust(4096, b"\0")
    listed = b""
    for name, data in chunks.items():
        # as the real ones: pixels begin 4096 bytes after the beginning of their chunk, behind the time of the frame
        reserve = 4072 if name.startswith(b"ImageDataSeq") else len(name)
        listed += name + struct.pack("<QQ", len(content), len(data))
        content += struct.pack("<IIQ", 0x0ABECEDA, reserve, len(data)) + name.ljust(reserve, b"\0") + data
    end = b"ND2 CHUNK MAP SIGNATURE 0000001!"
    start = len(content)
    name = b"ND2 FILEMAP SIGNATURE NAME 0001!"
    listed += end + struct.pack("<Q", start)
    content += struct.pack("<IIQ", 0x0ABECEDA, len(name), len(listed)) + name + listed
    path.write_bytes(content)
    return path


def _variant(content: Mapping[str, Any]) -> bytes:
    """Return NIS-Elements' XML of nested values."""

    def node(name: str, value: object) -> str:
        if isinstance(value, dict):
            return f'<{name} runtype="CLxListVariant">{"".join(node(*one) for one in value.items())}</{name}>'
        kind = {bool: "bool", int: "lx_uint32", float: "double", str: "CLxStringW"}[type(value)]
        return f'<{name} runtype="{kind}" value={quoteattr(str(value))}/>'

    inner = "".join(node(*one) for one in content.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><variant version="1.0">{inner}</variant>'.encode()


def write_lif(
    path: Path, images: Mapping[str, tuple[NDArray[Any], str]], *, um: float = 0.2, lut: str = "Gray"
) -> Path:
    """Write images by name as (pixels, axes), slowest axis first: "yxs" is colour, stored blue first, others grey."""
    elements, blocks = "", b""
    for number, (name, (pixels, axes)) in enumerate(images.items()):
        is_rgb, itemsize = axes.endswith("s"), pixels.dtype.itemsize
        stored = np.ascontiguousarray(pixels[..., ::-1] if is_rgb else pixels)
        steps = dict(zip(axes, stored.strides, strict=True))
        sizes = dict(zip(axes, stored.shape, strict=True))
        described = [
            f'<ChannelDescription DataType="0" ChannelTag="{tag}" Resolution="{8 * itemsize}" '
            'NameOfMeasuredQuantity="" Min="0" Max="255" Unit="" '
            f'LUTName="{colour}" IsLUTInverted="0" BytesInc="{step}" BitInc="0"/>'
            for tag, colour, step in (
                [(3, "Blue", 0), (2, "Green", itemsize), (1, "Red", 2 * itemsize)]
                if is_rgb
                else [(0, lut, c * steps.get("c", 0)) for c in range(sizes.get("c", 1))]
            )
        ]
        ids = {"x": 1, "y": 2, "z": 3, "t": 4, "m": 10}
        dimensions = [
            f'<DimensionDescription DimID="{ids[axis]}" NumberOfElements="{sizes[axis]}" Origin="0" '
            f'Length="{(sizes[axis] - 1) * um * 1e-6!r}" Unit="m" BytesInc="{steps[axis]}" BitInc="0"/>'
            for axis in reversed(axes)
            if axis not in "sc"
        ]
        elements += (
            f'<Element Name={quoteattr(name)} UniqueID="{number}"><Data><Image><ImageDescription>'
            f"<Channels>{''.join(described)}</Channels><Dimensions>{''.join(dimensions)}</Dimensions>"
            f'</ImageDescription></Image></Data><Memory Size="{stored.nbytes}" MemoryBlockID="MemBlock_{number}"/>'
            "</Element>"
        )
        block = f"MemBlock_{number}".encode("utf-16-le")
        head = struct.pack("<IIBQBI", 0x70, 0, 0x2A, stored.nbytes, 0x2A, len(block) // 2)
        blocks += head + block + stored.tobytes()
    header = (
        f'<LMSDataContainerHeader Version="2"><Element Name="{path.name}"><Children>{elements}</Children></Element>'
        "</LMSDataContainerHeader>"
    ).encode("utf-16-le")
    begin = struct.pack("<IIBI", 0x70, 5 + len(header), 0x2A, len(header) // 2)
    path.write_bytes(begin + header + blocks)
    return path
