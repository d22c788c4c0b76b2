"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from napari_bloodcell.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_TEMPORARY = ".writing-"
"""How the names of files and folders begin that do not have their own yet."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under another name in its folder, then give it its own.

    Raises
    ------
    OutputError
        If that is not possible; what was there before is still there.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def make_folder(folder: Path) -> None:
    """Make a folder in which files can be written, with those above it.

    Raises
    ------
    OutputError
        If it is a file, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, dir=folder):
            pass
    except FileExistsError as error:
        raise OutputError(f"{folder} is a file; a folder is needed. Choose another output folder.") from error
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be written to: {error.strerror or error}. Choose another output folder."
        ) from error


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left half written in a folder and in those within it."""
    for parent, folders, files in os.walk(folder):
        for name in [name for name in folders if name.startswith(_TEMPORARY)]:
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
            folders.remove(name)
        for name in files:
            if name.startswith(_TEMPORARY):
                Path(parent, name).unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the path where what is done in the block cannot be written there.

    Raises
    ------
    OutputError
        In place of any `OSError`.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


@contextmanager
def staged(folder: Path, *, last: str, stale: Collection[str] = ()) -> Iterator[Path]:
    """Give a folder to write into; what it holds at the end replaces what `folder` holds under the same names.

    Parameters
    ----------
    folder : path
        Where the files go; made if it is missing.
    last : str
        Name of the file that is put down last, as the mark that the others are complete.
    stale : collection of str
        Names that are removed from `folder` in the end if they were not written.

    Raises
    ------
    OutputError
        If a file cannot be written; then nothing in `folder` was changed, unless the replacing itself failed.
    """
    make_folder(folder)
    stage = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder))
    try:
        yield stage
        names = sorted((item.name for item in stage.iterdir()), key=lambda name: (name == last, name))
        for name in names:
            _put(stage / name, folder / name, stage)
        for name in stale:
            if name not in names:
                _remove(folder / name)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"Results cannot be written to {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _put(source: Path, target: Path, stage: Path) -> None:
    """Move `source` to `target`; a folder there is set aside first, and put back if the move fails."""
    if not (target.is_dir() and not target.is_symlink()):
        os.replace(source, target)
        return
    aside = stage / f".old-{target.name}"
    os.replace(target, aside)
    try:
        os.replace(source, target)
    except OSError:
        os.replace(aside, target)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
