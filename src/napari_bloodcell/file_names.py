"""Names of files and folders that Linux, macOS and Windows all take."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Final

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
