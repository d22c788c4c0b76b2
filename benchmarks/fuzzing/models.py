"""Checkpoints that are wrong: torn, of another architecture, with code in them, or claiming to be huge."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors

from benchmarks.fuzzing.mutate import pick, spoil, spoil_json
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.load import _load_generator, load_classifier, load_generator
from napari_bloodcell.models.weights import SHIPPED_FOLDER
from tests.fakes import disc_image
from tests.models.sam_examples import tiny_sam

if TYPE_CHECKING:
    from pathlib import Path

Tensors = dict[str, torch.Tensor]


def split_file(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_file(header: object, data: bytes, length: int | None = None) -> bytes:
    """Return a safetensors file of a header and data, as wrong as they may be."""
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def spoil_safetensors(rng: np.random.Generator, content: bytes) -> bytes:
    """Return a safetensors file with a wrong header, wrong offsets, or wrong bytes."""
    what = rng.random()
    if what < 0.3:
        return spoil(rng, content)
    header, data = split_file(content)
    names = [name for name in header if name != "__metadata__"]
    if what < 0.5:
        return join_file(spoil_json(rng, header), data)
    if what < 0.6:
        return join_file(header, data, int(pick(rng, (0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(data)))))
    if what < 0.65:
        return join_file({**header, "pad": {"x" * 1_000_000: "y"}}, data)
    name, other = pick(rng, names), pick(rng, names)
    entry = dict(header[name])
    if what < 0.75:
        entry["data_offsets"] = header[other]["data_offsets"]  # two tensors over the same bytes
    elif what < 0.85:
        entry["shape"] = pick(rng, ([2**40], [-1], [0], [1] * 70, entry["shape"][::-1], [2**32, 2**32], [1.5], "x"))
    elif what < 0.95:
        entry["dtype"] = pick(rng, ("F64", "I8", "BF16", "U64", "BOOL", "X", 3, "F8_E4M3"))
    else:
        numbers = np.frombuffer(data, np.uint8).copy()
        numbers[: 4 * (len(numbers) // 4)].view(np.float32)[::101] = pick(rng, (np.nan, np.inf, 1e38, 0.0))
        return join_file(header, numbers.tobytes())
    return join_file({**header, name: entry}, data)


def use_classifier(rng: np.random.Generator, folder: Path) -> object:
    """Load a damaged classifier, and type two cutouts with it."""
    path = folder / "model.safetensors"
    path.write_bytes(spoil_safetensors(rng, (SHIPPED_FOLDER / "cnn_embedded.safetensors").read_bytes()))
    found = load_classifier(path, "cpu").predict(np.full((2, 128, 128, 3), 90, np.uint8))
    if found.dtype != np.float32 or not np.isfinite(found).all():
        raise AssertionError(f"probabilities {found}")
    return found


# --- SAM -------------------------------------------------------------------------------------------------------------


@cache
def _tiny() -> Tensors:
    return dict(tiny_sam(image_size=64).state_dict())


@cache
def _checkpoints() -> dict[str, bytes]:
    state = _tiny()
    made = {}
    for name, legacy in (("zip.pth", False), ("legacy.pth", True)):
        stream = io.BytesIO()
        torch.save(state, stream, _use_new_zipfile_serialization=not legacy)
        made[name] = stream.getvalue()
    made["tiny.safetensors"] = to_safetensors({k: v.contiguous() for k, v in state.items()})
    return made


@cache
def _embedded() -> bytes:
    """Return the embedded SAM's weights."""
    return (SHIPPED_FOLDER / "sam_embedded.safetensors").read_bytes()


def _other_architecture(rng: np.random.Generator) -> object:
    """Return something that torch saves but that is no SAM, or one with tensors of wrong sizes."""
    state: dict[Any, Any] = dict(_tiny())
    name = pick(rng, list(state))
    value = state[name]
    what = rng.random()
    if what < 0.15:
        return pick(rng, (torch.zeros(3), [torch.zeros(2)], {}, {"model": {}}, 3, None, {"a": 1}, {1: torch.zeros(1)}))
    if what < 0.3:
        del state[name]
    elif what < 0.45:
        shape = tuple(int(n) for n in rng.integers(0, 40, value.ndim))
        state[name] = torch.zeros(shape)
    elif what < 0.55:
        state[name] = torch.zeros(1).expand(10_000_000)
    elif what < 0.65:
        state[name] = value.to(pick(rng, (torch.int8, torch.complex64, torch.bool, torch.float64, torch.bfloat16)))
    elif what < 0.72:
        state[name] = torch.full_like(value, pick(rng, (float("nan"), float("inf"), 3e38)))
    elif what < 0.8:
        state[name] = value.to_sparse()
    elif what < 0.9:
        state["image_encoder.blocks.7.attn.rel_pos_h"] = torch.zeros(3, 3)
    else:
        return {"model": {f"module.{k}": v for k, v in state.items()}}
    return state


def bomb(path: Path, entry: str, size: int) -> None:
    """Write a zip of a few kB that holds a file of `size` zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/version", "3")
        with file.open(f"archive/{entry}", "w", force_zip64=True) as stream:
            for _ in range(size // 2**20):
                stream.write(bytes(2**20))


def use_sam(rng: np.random.Generator, folder: Path) -> object:
    """Load a damaged checkpoint of a SAM, and find cells with it."""
    what = rng.random()
    if what < 0.45:
        name = pick(rng, list(_checkpoints()))
        content = _checkpoints()[name]
        path = folder / pick(rng, (name, name, "x.pt", "x.safetensors", "x.pth", "x"))
        path.write_bytes(spoil_safetensors(rng, content) if name.endswith("safetensors") else spoil(rng, content))
    elif what < 0.7:
        path = folder / "other.pth"
        torch.save(_other_architecture(rng), path, _use_new_zipfile_serialization=rng.random() < 0.7)
    elif what < 0.9:
        path = folder / "embedded.safetensors"
        path.write_bytes(spoil_safetensors(rng, _embedded()))
    else:
        path = folder / "bomb.pth"
        bomb(path, pick(rng, ("data.pkl", "data/0", "data/1")), 2**27)
    _load_generator.cache_clear()
    generator = load_generator(str(path), "cpu")
    image = disc_image([(20, 20), (44, 40)], (64, 64))
    params = SegmentParams(points_per_side=4, predicted_iou_min=0, stability_min=0)
    masks = generator.generate(image, Calibration(24.0, (230.0, 230.0, 230.0), 200.0, "given"), params)
    for mask in masks:
        y0, x0, y1, x1 = mask.bbox
        if mask.mask.shape != (y1 - y0, x1 - x0) or y0 < 0 or x0 < 0 or y1 > 64 or x1 > 64:
            raise AssertionError(f"a mask {mask.mask.shape} in the box {mask.bbox}")
    return masks


# --- code ------------------------------------------------------------------------------------------------------------


class _Payload:
    """Runs code where it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def use_pickle(rng: np.random.Generator, folder: Path) -> object:
    """Load files that would run code if they were unpickled; none of it may run."""
    marker = folder / "it-ran"
    code = f"open({str(marker)!r}, 'w').close()"
    payload = pick(
        rng,
        (
            _Payload(exec, code),
            _Payload(eval, code),
            _Payload(os.system, f"touch {marker}"),
            _Payload(os.mkdir, str(marker)),
            _Payload(torch.load, str(marker)),
            _Payload(tempfile.mkdtemp, "", "", str(folder)),
        ),
    )
    content = pick(rng, (payload, {"model": payload}, {**_tiny(), "image_encoder.x": payload}, [payload]))
    path = folder / pick(rng, ("model.pth", "model.pt", "model.safetensors", "model.ckpt", "model.npz", "model.pkl"))
    how = rng.random()
    if how < 0.3:
        torch.save(content, path)
    elif how < 0.5:
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif how < 0.8:
        protocol = int(rng.integers(0, pickle.HIGHEST_PROTOCOL + 1))
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        with path.open("wb") as stream:
            np.savez(stream, cells=np.array([payload], object), made_with=np.array([payload], object))
    before = set(folder.iterdir())
    try:
        return _try_everywhere(path)
    finally:
        if set(folder.iterdir()) != before:
            raise AssertionError("code in the file was executed")


def _try_everywhere(path: Path) -> object:
    """Give a file to all that reads models or arrays; raise the last error of the program's own, if there is one."""
    from napari_bloodcell.core.errors import BloodCellError
    from napari_bloodcell.images.open import read_plane
    from napari_bloodcell.slides.work import read_arrays

    error: BloodCellError | None = None
    for load in (
        lambda: load_generator(str(path), "cpu"),
        lambda: load_classifier(path, "cpu"),
        lambda: read_plane(path),
    ):
        try:
            load()
        except BloodCellError as found:
            error = found
        else:
            raise AssertionError("a pickle was taken for something else")
    if read_arrays(path, "anything") is not None:
        raise AssertionError("a pickled array was read")
    if error is not None:
        raise error
    return None
