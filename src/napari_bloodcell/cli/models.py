"""``napari-bloodcell models``: the weights that the program knows."""

# No postponed annotations: cyclopts evaluates them.
from napari_bloodcell.cli.console import Json, ProgressLine, Quiet, say, use_json, warn
from napari_bloodcell.cli.main import DONE, SOME_FAILED
from napari_bloodcell.core.errors import InputError, ModelError
from napari_bloodcell.models import weights


def list_all() -> int:
    """List the models, their size and licence, and whether they are on this machine."""
    known = weights.list_models()
    width = max((len(model.name) for model in known), default=0)
    for model in known:
        here = "here" if model.is_present else "not here"
        size = f"{model.size_bytes / 1e6:,.0f} MB"
        say(f"{model.name:<{width}}  {here:<8}  {size:>8}  {model.licence:<12}  {model.description}")
    return DONE


def where() -> int:
    """Print the folder of downloaded weights."""
    say(str(weights.where()))
    return DONE


def download(*names: str, quiet: Quiet = False, as_json: Json = False) -> int:
    """Fetch the weights of models and check them.

    Parameters
    ----------
    names
        "vit_b", "vit_l", "vit_h".
    """
    use_json(as_json)
    if not names:
        raise InputError(f"Name at least one model to download: {', '.join(weights.OFFICIAL)}.")
    for name in names:
        weights.find(name)  # reject a wrong name before hours of downloading
    for name in names:
        bar = ProgressLine(f"Fetching {name}", is_quiet=quiet)
        path = weights.download(name, bar)
        bar.clear()
        say(str(path))
    return DONE


def verify(*names: str) -> int:
    """Compare weights with their SHA-256.

    Parameters
    ----------
    names
        Models; by default all that are on this machine.
    """
    chosen = names or tuple(model.name for model in weights.list_models() if model.is_present)
    for name in names:
        weights.find(name)
    failed = False
    for name in chosen:
        try:
            say(f"{name}: right ({weights.verify(name)})")
        except ModelError as error:
            failed = True
            warn(f"{name}: wrong: {error}")
    return SOME_FAILED if failed else DONE
