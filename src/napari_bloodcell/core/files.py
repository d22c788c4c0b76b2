"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import unicodedata
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from napari_bloodcell.core.errors import OutputError

LOCK = ".lock"
"""The file that is locked while a folder is written to. It stays: removing it could let two writers in at once."""
IN_USE = ".in-use"
"""Lock file of a temporary folder; not `LOCK`, which a program writing there may lock itself."""
_TEMPORARY = ".writing-"
"""Prefix of temporary files and folders."""
_HALF_A_CHUNK = re.compile(r".*\.[0-9a-f]{32}\.partial")  # zarr's name for a chunk being written
_POLL_S = 0.005  # between attempts to get a lock
_MADE_S = 60.0  # an older temporary folder without a lock is abandoned, not in the making


def _temporary(folder: Path) -> Path:
    return folder / f"{_TEMPORARY}{uuid.uuid4().hex}"


def _create(path: Path) -> int:
    """Open a new file for writing, with the permissions that every new file of this user gets."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` expanded, unless a file of that very name exists or there is no such user."""
    path = Path(path)
    with suppress(RuntimeError):
        return path if os.path.lexists(path) else path.expanduser()
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; on `OutputError` the old file is still there."""
    temporary = _temporary(path.parent)
    with writing(path):
        try:
            with os.fdopen(_create(temporary), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; `OutputError` if the path is a file or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _temporary(folder)
        os.close(_create(probe))
        probe.unlink(missing_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder} is a file; a folder is needed. Choose another output folder.") from error
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be written to: {error.strerror or error}. Choose another output folder."
        ) from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on a file, created if missing; the lock of a killed process is free.

    Raises `OutputError` if the folder is not writable or, without `wait`, another process or thread holds the lock.
    """
    lock = FileLock(path, blocking=wait, thread_local=False)
    try:
        lock.acquire(poll_interval=_POLL_S)
    except Timeout as error:
        raise OutputError(
            f"Another run is writing to {path.parent}. Wait for it to end, stop it, or choose another output folder."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"{path} cannot be locked: {getattr(error, 'strerror', None) or error}.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make a folder within a folder and remove it at the end; its lock tells `sweep` that it is in use."""
    path = _temporary(folder)
    path.mkdir()
    try:
        with locked(path / IN_USE):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written in a folder tree; temporary folders in use stay.

    The caller must hold the lock that keeps other writers out.
    """
    for parent, folders, files in os.walk(folder):
        for name in [name for name in folders if name.startswith(_TEMPORARY)]:
            folders.remove(name)
            _remove_unused(Path(parent, name))
        for name in files:
            if name.startswith(_TEMPORARY) or _HALF_A_CHUNK.fullmatch(name):
                Path(parent, name).unlink(missing_ok=True)


def sweep_files(folder: Path) -> None:
    """Remove half-written files directly in a folder; the caller must hold the lock of its writers."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.is_file():
            path.unlink(missing_ok=True)


def sweep_folders(folder: Path) -> None:
    """Remove the temporary folders of killed processes directly in a folder; others may write there meanwhile."""
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if path.name.startswith(_TEMPORARY)]:
            if path.is_dir() and ((path / IN_USE).exists() or time.time() - path.stat().st_mtime > _MADE_S):
                _remove_unused(path)


def _remove_unused(folder: Path) -> None:
    """Remove a temporary folder unless a process uses it."""
    with suppress(OutputError):
        if (folder / IN_USE).exists():
            with locked(folder / IN_USE, wait=False):
                pass
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any `OSError` in the block into an `OutputError` that names the path."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


@contextmanager
def staged(folder: Path, *, last: str, stale: Collection[str] = ()) -> Iterator[Path]:
    """Give a folder to write into; at the end its contents replace those of the same names in `folder`.

    `last` is the file that is moved last and marks the others as complete; names in `stale` are removed from `folder`
    if they were not written. On `OutputError` the folder holds what it held before.
    """
    make_folder(folder)
    with writing(folder), temporary_folder(folder) as stage:
        yield stage
        move_in(stage, folder, last=last, stale=stale)


def move_in(stage: Path, folder: Path, *, last: str, stale: Collection[str] = ()) -> None:
    """Move everything from `stage` into `folder`, replacing what has the same names.

    The old `last` is removed first and the new one moved last: if this is killed, a folder with that file never mixes
    old and new. If a move fails with `OSError`, everything is put back.
    """
    found = (item.name for item in stage.iterdir() if item.name not in (LOCK, IN_USE))
    names = sorted(found, key=lambda name: (name == last, name))
    going = [name for name in dict.fromkeys((last, *names, *stale)) if name in names or name in stale]
    aside = _temporary(stage)
    aside.mkdir()
    moves = [(folder / name, aside / name) for name in going if os.path.lexists(folder / name)]
    moves += [(stage / name, folder / name) for name in names]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


LONGEST_BYTES: Final = 100
"""Most bytes of a name in UTF-8: file systems take 255, but a whole path on Windows may have only 260 characters."""

_FORBIDDEN: Final = frozenset('<>:"/\\|?*')
_NO_CHARACTERS: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_DEVICES: Final = frozenset(
    (
        *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
        *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"),
    )
)


def legal_name(text: str, *, instead: str = "unnamed") -> str:
    """Return a text as a file or folder name that every system accepts; `instead` if nothing is left of it.

    It is composed Unicode (NFC), since macOS treats both forms as the same name. Forbidden characters become ``_``;
    dots and blanks at the ends are dropped; Windows device names get a ``_`` in front; a name that is too long ends
    with part of its SHA-256.
    """
    composed = unicodedata.normalize("NFC", text)
    allowed = "".join(
        "_" if c in _FORBIDDEN or unicodedata.category(c) in _NO_CHARACTERS else c for c in composed
    ).strip(". ")
    if allowed.split(".")[0].rstrip(" ").upper() in _DEVICES:
        allowed = f"_{allowed}"
    whole = allowed.encode()
    if len(whole) > LONGEST_BYTES:
        digest = hashlib.sha256(whole).hexdigest()[:8]
        begin = whole[: LONGEST_BYTES - len(digest) - 1].decode(errors="ignore").rstrip(". ")
        allowed = f"{begin}_{digest}"
    return allowed or instead


_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")


def csv_text(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: those get a leading `'`."""
    return f"'{text}" if _FORMULA.match(text) else text


def text_of_csv(cell: str) -> str:
    """Undo `csv_text`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
