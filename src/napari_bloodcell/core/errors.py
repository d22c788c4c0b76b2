"""What can go wrong, as types: every message says what was given, what is allowed and what to do."""

from __future__ import annotations

import struct
import zlib

READ_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    *(RuntimeError, MemoryError, SyntaxError, ImportError, struct.error, zlib.error),
)
"""What libraries raise when they read a damaged file, or one that claims to be larger than memory. Errors of this
program are among them by inheritance: let those pass first."""
MOST_CHARACTERS = 500
"""Of the reason that another library gives."""


def in_one_line(error: BaseException) -> str:
    """Return the type and the words of an error; those of torch go over many lines."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def reason_of(error: BaseException) -> str:
    """Return the words of an error in one line, without the last full stop, cut off where data made them long."""
    words = " ".join(str(error).split()).rstrip(".")
    return words if len(words) <= MOST_CHARACTERS else f"{words[:MOST_CHARACTERS]}…"


class BloodCellError(Exception):
    """Base of all errors that the program raises on purpose."""


class InputError(BloodCellError, ValueError):
    """An image, a table or another input cannot be used."""


class SettingsError(BloodCellError, ValueError):
    """A setting, or a recipe file, is not valid."""


class ModelError(BloodCellError):
    """A model is unknown, damaged, or not a model of this program."""


class DownloadError(ModelError):
    """A model's weights could not be fetched, or what came is not what was expected."""


class DeviceError(BloodCellError, ValueError):
    """The device asked for does not exist on this machine."""


class TrainingError(BloodCellError, ValueError):
    """A classifier cannot be trained on what was given."""


class OutputError(BloodCellError, OSError):
    """A result could not be written."""


class InputWarning(UserWarning):
    """An input was usable, but not as it was: the message says what was done to it."""
