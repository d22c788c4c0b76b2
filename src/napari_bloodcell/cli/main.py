"""The command ``napari-bloodcell``; each of its commands is loaded when it is run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import napari_bloodcell
from napari_bloodcell.cli import console
from napari_bloodcell.core.errors import BloodCellError, DownloadError, InputError

DONE, SOME_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all done; some images (or a download) failed; wrong use, nothing was done; stopped by the user."""

app = App(
    name="napari-bloodcell",
    help="Segment, type and count the blood cells of smears.",
    help_format="plaintext",
    help_epilogue="Exit codes: 0 all done; 1 some images failed or, with --strict, have warnings, or a download "
    "failed; 2 wrong use, nothing was done; 130 interrupted, what was written is complete.",
    version=lambda: napari_bloodcell.__version__,
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)
_COMMANDS = "napari_bloodcell.cli"
app.command(f"{_COMMANDS}.analyse:analyse", name="analyse", help="Count the cells of images, folders or globs.")
app.command(f"{_COMMANDS}.specimens.compare:compare", name="compare", help="Compare counts by hand with results.")
app.command(f"{_COMMANDS}.specimens.pool:pool_results", name="pool", help="Pool the results of a smear's fields.")
app.command(f"{_COMMANDS}.watch:watch", name="watch", help="Analyse pictures as a microscope saves them.")
app.command(f"{_COMMANDS}.demo:demo", name="demo", help="Analyse the smear that comes with the program.")
app.command(f"{_COMMANDS}.train:train", name="train", help="Train a classifier on a folder of cutouts.")
app.command(f"{_COMMANDS}.train_sam:train_sam", name="train-sam", help="Fine-tune the embedded SAM on masks.")
app.command(f"{_COMMANDS}.exchange.importing:import_file", name="import", help="Take over changes made elsewhere.")
app.command(f"{_COMMANDS}.exchange.exporting:export", name="export", help="Write results for other programs.")
app.command(f"{_COMMANDS}.exchange.classify:classify", name="classify", help="Type the cells of a label image.")
app.command(
    f"{_COMMANDS}.exchange.annotations:training_set", name="training-set", help="Learn from COCO or YOLO annotations."
)
app.command(f"{_COMMANDS}.completion:completion", name="completion", help="Let a shell complete commands and flags.")
models = App(name="models", help="List, download and check the weights of models.")
models.command(f"{_COMMANDS}.models:list_all", name="list", help="List the models and whether they are here.")
models.command(f"{_COMMANDS}.models:download", name="download", help="Fetch and check the weights of models.")
models.command(f"{_COMMANDS}.models:where", name="where", help="Print the folder of downloaded weights.")
models.command(f"{_COMMANDS}.models:verify", name="verify", help="Compare weights with their SHA-256.")
app.command(models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 some images failed, 2 wrong use, 130 interrupted.

    `arguments` are those after the program's name; by default those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    console.use_json("--json" in words)
    for stream in (sys.stdout, sys.stderr):  # a terminal without µ must not stop a batch
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    console.log_faults()
    try:
        _refuse_empty(words)
        code = app(words)
    except CycloptsError as error:
        return _fail(f"{_usage_error(error)} See napari-bloodcell --help.", WRONG_USE)
    except DownloadError as error:
        return _fail(str(error), SOME_FAILED)
    except BloodCellError as error:
        return _fail(str(error), WRONG_USE)
    except KeyboardInterrupt:
        return _fail("Interrupted. What was written so far is complete.", INTERRUPTED)
    except (BrokenPipeError, SystemExit):  # --help into `| head`: rich exits
        console.close_output()
        return DONE
    except Exception as error:  # noqa: BLE001 - a user gets a line and where to send it, not a traceback
        return _fail(console.describe_fault(error), SOME_FAILED)
    return code if isinstance(code, int) else DONE


def _refuse_empty(words: Sequence[str]) -> None:
    """Refuse an empty argument, such as a script's unset variable: it would be the working directory."""
    for word in words:
        if not word.strip() or (word.startswith("--") and word.endswith("=")):
            raise InputError(f"The argument {word!r} is empty. Give a name, or leave it out.")


def _fail(message: str, code: int) -> int:
    console.warn(f"napari-bloodcell: error: {message}", "error", text=message, code=code)
    return code


def _usage_error(error: CycloptsError) -> str:
    """Return what is wrong with the command line in one line."""
    from pydantic import BaseModel, ValidationError

    cause = error.__cause__ or error.__context__
    if isinstance(cause, ValidationError):
        from napari_bloodcell.results.recipes import explain

        return f"{explain(cause, BaseModel, as_flags=True)}."
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
