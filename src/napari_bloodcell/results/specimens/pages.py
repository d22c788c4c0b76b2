"""Pages that need nothing but themselves: one HTML file, its pictures in it, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg

from napari_bloodcell.core.errors import InputError, reason_of
from napari_bloodcell.core.statistics import Estimate

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment
    from matplotlib.figure import Figure

UNKNOWN = "–"
"""What stands for a number that is not defined."""


def render(template: str | Path, **values: Any) -> str:
    """Return a page made from a template of the program (its name), or a laboratory's own (its path).

    What is filled in is escaped, and a template can read the values but call nothing else.

    Raises
    ------
    InputError
        If the template cannot be read, is not valid, or uses a value that there is not.
    """
    import jinja2

    pages = _environment()
    try:
        if isinstance(template, Path):
            page = pages.from_string(template.read_text(encoding="utf-8"))
        else:
            page = pages.get_template(template)
        return page.render(**values)
    except (OSError, UnicodeDecodeError, jinja2.TemplateError) as error:
        line = getattr(error, "lineno", None)
        where = f"{template}, line {line}," if line else f"{template}"
        raise InputError(f"The template {where} cannot be used: {reason_of(error)}.") from error


def _environment() -> SandboxedEnvironment:
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    pages = SandboxedEnvironment(
        loader=jinja2.PackageLoader("napari_bloodcell.results.specimens"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": number, "interval": interval, "percent": percent}
    return pages


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for people: whole from 100, else with these digits; "–" where it is not defined."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if float(value).is_integer() or abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        places = digits - 1 - math.floor(math.log10(abs(value)))
        text = f"{value:.{min(places, digits + 2)}f}"
    return "0" if text == "-0" else text.replace("-", "−")


def interval(estimate: Estimate, digits: int = 3) -> str:
    """Return a figure with its interval in brackets."""
    value = number(estimate.value, digits)
    if not (math.isfinite(estimate.low) or math.isfinite(estimate.high)):
        return value
    return f"{value} ({number(estimate.low, digits)} to {number(estimate.high, digits)})"


def percent(estimate: Estimate) -> str:
    """Return a share, 0 to 1, in percent with its interval in brackets."""
    hundred = estimate.times(100)
    if not math.isfinite(hundred.value):
        return UNKNOWN
    return f"{hundred.value:.1f} % ({hundred.low:.1f}–{hundred.high:.1f} %)"


def png(figure: Figure) -> str:
    """Return a figure as the address of a PNG that is in the page itself."""
    canvas: Any = FigureCanvasAgg(figure)
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return data_address(file.getvalue(), "image/png")


def data_address(content: bytes, kind: str) -> str:
    """Return an address that holds a file's content."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
