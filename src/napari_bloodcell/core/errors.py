"""The program's exceptions: every message says what was given, what is allowed and what to do."""

from __future__ import annotations

import inspect
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

READ_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    *(RuntimeError, MemoryError, SyntaxError, ImportError, struct.error, zlib.error),
)
"""What libraries raise on a damaged file, or one that claims to be larger than memory. The program's own errors are
subclasses of some of these: catch them first."""
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
MOST_CHARACTERS = 500
"""Longest reason quoted from another library."""


def printable(text: str) -> str:
    r"""Return a text that can be printed and written anywhere.

    Bytes of a name that is not UTF-8 (``caf\xe9.png``), and terminal control characters, become escapes.
    """
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _UNPRINTABLE else _escape(c) for c in text)


def escaped(path: object) -> str:
    """Return a path or name on one line, safe to print and write."""
    return printable(str(path)).replace("\n", "\\n").replace("\t", "\\t")


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # Python's surrogate for a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def in_one_line(error: BaseException) -> str:
    """Return the type and message of an error on one line; torch's messages span many."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line, without a final full stop, cut off where data made it long."""
    words = " ".join(str(error).split()).rstrip(".")
    return words if len(words) <= MOST_CHARACTERS else f"{words[:MOST_CHARACTERS]}…"


class BloodCellError(Exception):
    """Base of all errors that the program raises on purpose; their messages can always be printed."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(BloodCellError, ValueError):
    """An image, a table or another input cannot be used."""


class SettingsError(BloodCellError, ValueError):
    """A setting, or a recipe file, is not valid."""


class ModelError(BloodCellError):
    """A model is unknown, damaged, or not a model of this program."""


class DownloadError(ModelError):
    """A model's weights could not be fetched, or have the wrong checksum."""


class DeviceError(BloodCellError, ValueError):
    """The device asked for does not exist on this machine."""


class TrainingError(BloodCellError, ValueError):
    """A classifier cannot be trained on these data."""


class OutputError(BloodCellError, OSError):
    """A result could not be written."""


class InputWarning(UserWarning):
    """An input was usable only after a change: the message says what was done to it."""


class ResultWarning(UserWarning):
    """A result should not be trusted as it is: the message says why and what to do."""


@dataclass(frozen=True)
class Heard:
    """Messages about an input: `doubts` make its result doubtful, `notes` only report a change."""

    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Heard) -> None:
        """Add the messages that are new."""
        for mine, more in ((self.doubts, other.doubts), (self.notes, other.notes)):
            mine += [message for message in more if message not in mine]


_heard: ContextVar[Heard | None] = ContextVar("_heard", default=None)


def warn_of_input(message: str, *, is_doubt: bool = True) -> None:
    """Warn that an input was usable only after a change; `heard_of_input` collects the warning.

    Without `is_doubt` it is a note, which does not make the result doubtful.
    """
    heard, message = _heard.get(), printable(message)
    if heard is not None:
        heard.add(Heard([message], []) if is_doubt else Heard([], [message]))
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(f"{__package__.partition('.')[0]}."):
        level, frame = level + 1, frame.f_back  # the warning should name the caller's line, not one of ours
    warnings.warn(message, InputWarning, stacklevel=level)


@contextmanager
def heard_of_input() -> Iterator[Heard]:
    """Collect the messages of `warn_of_input` in this thread; doubts become the `warnings` of the image read."""
    heard = Heard()
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
        if (around := _heard.get()) is not None:
            around.add(heard)
