"""Files of models: their names, where they lie, and how they are downloaded.

Files that do not come with the program are downloaded once into a folder of the user's choice
(`NAPARI_BLOODCELL_CACHE`, else the platform's cache folder). A download is resumed where it stopped and checked against
its SHA-256 before it gets its name; two processes that want the same file fetch it once. This module does not import
torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from filelock import FileLock, Timeout

from napari_bloodcell.core.errors import READ_ERRORS, DownloadError, ModelError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.progress import drain
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.models.download import TransferError, iter_receive

CACHE_VARIABLE: Final = "NAPARI_BLOODCELL_CACHE"
"""Environment variable for the folder of downloaded weights."""

SHIPPED_FOLDER: Final = Path(__file__).resolve().parent.parent / "weights"
"""The program's own weights, with `SHA256SUMS` in the format of the `sha256sum` command."""

_CHUNK = 1 << 20
_LONGEST_HEADER = 1 << 20
_BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that comes with the program (`url` None) or is downloaded."""

    name: str
    """Name for users."""
    file_name: str
    """Its path within the folder of such files."""
    sha256: str
    """Hexadecimal."""
    size_bytes: int
    licence: str
    """SPDX identifier."""
    url: str | None
    description: str
    """One line for lists."""

    @property
    def path(self) -> Path:
        """Where the file lies, or would lie."""
        return (SHIPPED_FOLDER if self.url is None else where()) / self.file_name

    @property
    def is_present(self) -> bool:
        """Whether the file is there; `verify` checks its content."""
        return self.path.is_file()


OFFICIAL: Final[dict[str, ModelFile]] = {
    name: ModelFile(name, file_name, sha256, size, "Apache-2.0", _BASE_URL + file_name, description)
    for name, file_name, sha256, size, description in (
        (
            "vit_b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
            "Segment Anything (Meta AI, 2023), ViT-B, 94 M parameters",
        ),
        (
            "vit_l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
            "Segment Anything (Meta AI, 2023), ViT-L, 312 M parameters",
        ),
        (
            "vit_h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
            "Segment Anything (Meta AI, 2023), ViT-H, 641 M parameters; the paper's",
        ),
    )
}
"""The official SAM checkpoints, by name."""
SAMPLE: Final = ModelFile(
    "bccd",
    "samples/BloodImage_00000.jpg",
    "e1dcc488889acba247a895df7be839e514850030217b4025048619f664fd4cb3",
    16_000,  # approximately; the server gives the exact size
    "MIT",
    "https://raw.githubusercontent.com/Shenggan/BCCD_Dataset/master/BCCD/JPEGImages/BloodImage_00000.jpg",
    "A field of the BCCD data set, 640×480 px",
)
"""The real field among napari's sample data."""
GENERATORS: Final[dict[str, str]] = {"embedded": "sam_embedded"} | {name: name for name in OFFICIAL}
"""File names of mask generators by their name in the settings."""
CLASSIFIERS: Final[dict[str, str]] = {"embedded": "cnn_embedded", "paper": "cnn_paper"}
"""The same for classifiers."""
SUBTYPES: Final[dict[str, str]] = {name: name for name in ("differential", "parasites")}
"""Models that tell the kinds of a type apart, likewise."""


CLASSIFIER_FORMAT: Final = "napari-bloodcell-cnn/1"
KINDS_FORMAT: Final = "napari-bloodcell subtypes 1"


def format_of(path: Path) -> str:
    """Return what a safetensors file says that it holds; "" if it says nothing, or cannot be read."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER)))
        return str(header["__metadata__"]["format"])
    except READ_ERRORS:
        return ""


def where() -> Path:
    """Return the folder of downloaded weights: `NAPARI_BLOODCELL_CACHE`, else the platform's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        return expanded(chosen).absolute()
    return platformdirs.user_cache_path("napari-bloodcell", appauthor=False)


def list_models() -> list[ModelFile]:
    """Return the known weights: the program's own first, then SAM's official checkpoints."""
    return [*_shipped(), *OFFICIAL.values()]


def find(name: str) -> ModelFile:
    """Return the file of this name; `ModelError` if there is none."""
    files = {file.name: file for file in [*list_models(), SAMPLE]}
    if name not in files:
        raise ModelError(f"Unknown model {name!r}; known are: {', '.join(files)}. A file is given by its path.")
    return files[name]


def needs_download(name: str) -> bool:
    """Return whether a mask generator's weights must be downloaded first."""
    return name in OFFICIAL and not OFFICIAL[name].is_present


def verify(name: str) -> Path:
    """Return the path of a file after checking its SHA-256; `ModelError` if it is missing or another."""
    model = find(name)
    if not model.is_present:
        raise ModelError(f"{name} is not on this machine: there is no {model.path}. {_by_hand(model)}")
    found = sha256_of(model.path)
    if found != model.sha256:
        expected = model.sha256 or f"unknown: it is not in {SHIPPED_FOLDER / 'SHA256SUMS'}"
        todo = "Reinstall the program." if model.url is None else f"Delete it. {_by_hand(model)}"
        raise ModelError(f"{model.path} is damaged or not {name}: its SHA-256 is {found}, expected {expected}. {todo}")
    return model.path


def download(name: str, progress: Callable[[Progress], object] | None = None) -> Path:
    """Fetch a file unless it is there already, and return its path; see `iter_download`."""
    return drain(iter_download(name), progress)


def iter_download(name: str) -> Generator[Progress, None, Path]:
    """Fetch a file unless it is there already, check it, and return its path; yields progress in bytes.

    If it is closed or fails, the bytes received are kept beside the file, as ``<file>.part``, and the next call
    resumes. Raises `ModelError` if the name is unknown, and `DownloadError` without network or space, if the server
    refuses, or if the checksum differs.
    """
    model = find(name)
    if model.url is None:
        return verify(name)
    path = model.path
    lock = yield from _iter_lock(model)
    try:
        if path.is_file() and (yield from _iter_sha256(path)) == model.sha256:
            return path
        part = path.with_name(path.name + ".part")
        left_over = part.exists()
        found = yield from _iter_fetch_and_hash(model, part)
        if found != model.sha256 and left_over:  # the left-over part may have been damaged: start again from zero
            part.unlink()
            found = yield from _iter_fetch_and_hash(model, part)
        if found != model.sha256:
            part.unlink()
            raise DownloadError(
                f"What came from {model.url} is not {name}: its SHA-256 is {found}, expected {model.sha256}. "
                f"It was deleted. {_by_hand(model)}"
            )
        _install(model, part)
        return path
    finally:
        lock.release()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    return drain(_iter_sha256(path))


def _by_hand(model: ModelFile) -> str:
    """Return how to get the file without this program."""
    if model.url is None:
        return "It comes with the program: reinstall it."
    return (
        f"Run `napari-bloodcell models download {model.name}`, or fetch {model.url} by other means and put it, named "
        f"{model.path.name}, into {model.path.parent} (the environment variable {CACHE_VARIABLE} sets another folder)."
    )


def _shipped() -> list[ModelFile]:
    """Return the weights that come with the program."""
    sums: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (SHIPPED_FOLDER / "SHA256SUMS").read_text("utf-8").splitlines():
            digest, _, file_name = line.partition(" ")
            sums[file_name.strip().removeprefix("*")] = digest.lower()
    return [
        ModelFile(
            name=path.stem,
            file_name=path.name,
            sha256=sums.get(path.name, ""),
            size_bytes=path.stat().st_size,
            licence="BSD-3-Clause",
            url=None,
            description="Trained by this project, comes with it",
        )
        for path in sorted(SHIPPED_FOLDER.glob("*.safetensors"))
    ]


def _iter_sha256(path: Path) -> Generator[Progress, None, str]:
    total, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(8 * _CHUNK):
            digest.update(chunk)
            done += len(chunk)
            yield Progress(done, total, f"checking {path.name}")
    return digest.hexdigest()


def _iter_lock(model: ModelFile) -> Generator[Progress, None, FileLock]:
    """Wait until no other process fetches this file; the system frees the lock of a process that dies."""
    path = model.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
        while True:
            try:
                lock.acquire(timeout=0.2)
            except Timeout:
                yield Progress(0, model.size_bytes, f"waiting for another process that downloads {model.file_name}")
            else:
                return lock
    except OSError as error:
        raise DownloadError(
            f"{model.name} needs the folder {path.parent}, which cannot be written to ({error}). "
            f"Set another one in the environment variable {CACHE_VARIABLE}."
        ) from error


def _install(model: ModelFile, part: Path) -> None:
    """Give the checked file its name, in one step."""
    try:
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, model.path)
    except OSError as error:
        raise DownloadError(f"{part} is whole but could not be renamed to {model.path}: {error}") from error


def _iter_fetch_and_hash(model: ModelFile, part: Path) -> Generator[Progress, None, str]:
    what = f"downloading {model.file_name}"
    try:
        yield from iter_receive(str(model.url), part, size_bytes=model.size_bytes, what=what)
    except TransferError as error:
        raise DownloadError(
            f"{model.name} could not be downloaded: {error}. Check the network and try again: it goes on where it "
            f"stopped. {_by_hand(model)}"
        ) from error
    return (yield from _iter_sha256(part))
