"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from napari_bloodcell.core.errors import OutputError

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


LONGEST_BYTES: Final = 100
"""Most bytes of a name in UTF-8: a file system takes 255, but a path on Windows only 260 characters in all."""

_FORBIDDEN: Final = frozenset('<>:"/\\|?*')
_NO_CHARACTERS: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_DEVICES: Final = frozenset(
    (
        *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
        *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"),
    )
)


def legal_name(text: str, *, instead: str = "unnamed") -> str:
    """Return a text as the name of one file or folder, the text itself where every system takes it.

    Parameters
    ----------
    text : str
        Such as the name of an image, a layer or a class; may hold anything.
    instead : str
        The name where nothing of the text is left.

    Returns
    -------
    str
        In composed Unicode (NFC), as macOS takes both forms for the same name; at most `LONGEST_BYTES` long. What
        systems forbid became ``_``; dots and blanks at the ends are gone; a name that Windows keeps for a device got a
        ``_`` before it; a name that was too long ends with a part of its SHA-256.
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
