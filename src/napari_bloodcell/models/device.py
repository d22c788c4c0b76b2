"""The device a model runs on, and its precision."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import Thread
from typing import Any, Final, Literal, get_args

import torch

from napari_bloodcell.core.errors import DeviceError, ModelError
from napari_bloodcell.core.params import Precision
from napari_bloodcell.core.threads import Threads

PRECISIONS: Final = get_args(Precision)
MOST_THREADS = 4
"""Each thread needs memory for the image it works on."""
_PRECISIONS_ALLOWED = '"auto", "float32" or "bfloat16"'
_ALLOWED = '"auto", "cpu", "cuda", "cuda:<number>" or "mps"'


def _has_cuda() -> bool:
    return torch.cuda.is_available()


def _has_mps() -> bool:
    backend: Any = getattr(torch.backends, "mps", None)
    return bool(backend is not None and backend.is_available())


def available_devices() -> list[str]:
    """Return the names of the devices of this machine, the fastest first; "cpu" is always the last."""
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if _has_cuda() else []
    return [*names, *(["mps"] if _has_mps() else []), "cpu"]


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return a device by name.

    Names are "auto" (the first CUDA device, else Apple's MPS, else the CPU), "cpu", "cuda", "cuda:1" and "mps". Raises
    `DeviceError` if the name is unknown or this machine has no such device.
    """
    text = str(name).strip().lower()
    available = available_devices()
    if text == "auto":
        return torch.device(available[0])
    kind, _, number = text.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in text and not (number.isascii() and number.isdigit())):
        raise DeviceError(f"Unknown device {str(name)!r}; give {_ALLOWED}. This machine has: {', '.join(available)}.")
    wanted = f"cuda:{int(number or 0)}" if kind == "cuda" else kind
    if wanted not in available or (kind != "cuda" and int(number or 0) != 0):
        hint = "" if kind != "cuda" or _built_with_cuda() else " The torch that is installed was built without CUDA."
        has = ", ".join(available)
        raise DeviceError(f'This machine has no device {text!r}; it has: {has}. "auto" takes the first.{hint}')
    return torch.device(wanted)


def _built_with_cuda() -> bool:
    return torch.version.cuda is not None or torch.version.hip is not None


@cache
def _cpu_bf16_is_fast() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; torch asks the CPU itself, on every platform.

    Elsewhere bf16 is emulated by conversion to float32, and slower. ARM stays at float32: not every build of torch
    there has bf16 kernels, and nothing tells which.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not _has_onednn():
        return False  # without oneDNN torch has no bf16 kernels worth using
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False  # the processor has less, or ATEN_CPU_CAPABILITY asks for less
    return any(_ask_cpu(name) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))


def _has_onednn() -> bool:
    backend: Any = torch.backends.mkldnn
    return bool(backend.is_available())


def _ask_cpu(name: str) -> bool:
    """Call one of torch's private tests of the CPU; False if this torch does not have it."""
    test = getattr(torch.cpu, name, None)
    if test is None:
        return False
    try:
        return bool(test())
    except (RuntimeError, NotImplementedError, AttributeError):
        return False


def fast_bf16(device: str | torch.device = "cpu") -> bool:
    """Return whether bfloat16 is faster than float32 on this device, by detection.

    True on CPUs with AMX or AVX512-BF16 and on CUDA devices with bfloat16 tensor cores (compute capability 8.0 and
    later); False elsewhere, where it is emulated.
    """
    chosen = device if isinstance(device, torch.device) else pick_device(device)
    if chosen.type == "cuda":
        return torch.cuda.get_device_capability(chosen) >= (8, 0) and bool(torch.cuda.is_bf16_supported())
    return chosen.type == "cpu" and _cpu_bf16_is_fast()


def cpu_threads(device: torch.device, *, one_core_each: bool = False) -> Threads | None:
    """Return threads that share this process's cores, for work that is more than torch, or None.

    Torch's own threads help only during torch's work, these throughout. None on other devices than the CPU, and if
    torch may use one core only, as in one of several processes. With `one_core_each` torch uses a single core in each
    thread: sums over a matrix's inner side round differently if several cores share them, so work that must not depend
    on the machine uses this.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores < 2:
        return None
    n = min(cores, MOST_THREADS)

    def prepare() -> None:
        torch.get_num_threads()  # makes torch set this thread's number now, not later
        torch.set_num_threads(1 if one_core_each else cores // n)
        # That applies to this thread and to later ones; a separate thread undoes the latter.
        undo = Thread(target=torch.set_num_threads, args=(cores,))
        undo.start()
        undo.join()

    return Threads(n, prepare)


def pick_precision(name: str, device: torch.device) -> tuple[Literal["float32", "bfloat16"], str]:
    """Return the precision in which a model works on a device, and what speaks against it, "" if nothing does.

    `name` is "auto" (bfloat16 where it is fast), "float32" or "bfloat16"; `ModelError` for any other. Instead of
    bfloat16 it is float32 only where a device has none at all.
    """
    if name not in PRECISIONS:
        raise ModelError(f"Unknown precision {name!r}; give {_PRECISIONS_ALLOWED}.")
    if name == "auto":
        return ("bfloat16" if fast_bf16(device) else "float32"), ""
    if name == "float32" or fast_bf16(device):
        return ("float32" if name == "float32" else "bfloat16"), ""
    if not _has_bf16(device):
        return "float32", (
            f"bfloat16 was asked for, which the device {device} does not have: float32 was used. About one cell in a "
            "thousand may differ."
        )
    return "bfloat16", f"bfloat16 was asked for, which the device {device} emulates: it took longer than float32 would."


@cache
def _has_bf16(device: torch.device) -> bool:
    """Try it: which versions of macOS and of torch have it on MPS is written nowhere that can be asked."""
    if device.type == "cpu":
        return True
    try:
        one = torch.ones((1, 1, 3, 3), dtype=torch.bfloat16, device=device)
        return bool(torch.conv2d(one, one).item() == 9)
    except (RuntimeError, TypeError, NotImplementedError):
        return False


def autocast(device: str | torch.device, precision: str = "auto") -> AbstractContextManager[Any]:
    """Return a context in which networks compute in a precision; "auto" is bfloat16 if that is fast."""
    chosen = pick_device(device)
    if pick_precision(precision, chosen)[0] == "float32":
        return nullcontext()
    return torch.autocast(chosen.type, dtype=torch.bfloat16)
