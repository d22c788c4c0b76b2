"""Devices are named clearly, and bf16 is used only where the hardware has it."""

from __future__ import annotations

import pytest
import torch

from napari_bloodcell.core.errors import DeviceError, ModelError
from napari_bloodcell.models import device as device_module
from napari_bloodcell.models.device import autocast, available_devices, fast_bf16, pick_device, pick_precision


@pytest.fixture(autouse=True)
def _forget_the_cpu():
    device_module._cpu_bf16_is_fast.cache_clear()
    yield
    device_module._cpu_bf16_is_fast.cache_clear()


def cpu_with(monkeypatch, *, amx=False, avx512_bf16=False, machine="x86_64", capability="AVX512"):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(device_module.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def test_auto_is_the_cpu_on_a_machine_without_accelerator(monkeypatch):
    monkeypatch.setattr(device_module, "_has_cuda", lambda: False)
    monkeypatch.setattr(device_module, "_has_mps", lambda: False)
    assert pick_device("auto") == torch.device("cpu")


def test_auto_takes_cuda_before_mps_before_the_cpu(monkeypatch):
    monkeypatch.setattr(device_module, "_has_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device_module, "_has_mps", lambda: True)
    assert available_devices() == ["cuda:0", "cuda:1", "mps", "cpu"]
    assert pick_device("auto") == torch.device("cuda:0")
    assert pick_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cpu", "CPU", " cpu ", "cpu:0", torch.device("cpu")])
def test_the_cpu_goes_by_each_of_its_names(name):
    assert pick_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_absent_is_an_error_that_says_what_there_is(monkeypatch, name):
    monkeypatch.setattr(device_module, "available_devices", lambda: ["cpu"])
    with pytest.raises(DeviceError, match=rf"no device '{name}'.*it has: cpu"):
        pick_device(name)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:²", "xpu"])
def test_a_name_that_is_no_device_is_an_error_that_says_what_is_allowed(name):
    with pytest.raises(DeviceError, match='"auto", "cpu", "cuda"'):
        pick_device(name)


def test_a_second_cpu_does_not_exist():
    with pytest.raises(DeviceError, match="no device 'cpu:1'"):
        pick_device("cpu:1")


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "expected"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_bf16_is_fast_exactly_on_cpus_that_multiply_it(monkeypatch, amx, avx512_bf16, expected):
    cpu_with(monkeypatch, amx=amx, avx512_bf16=avx512_bf16)
    assert fast_bf16("cpu") is expected


def test_a_cpu_that_is_told_to_use_less_computes_in_float32(monkeypatch):
    cpu_with(monkeypatch, amx=True, avx512_bf16=True, capability="AVX2")
    assert fast_bf16("cpu") is False


def test_bf16_is_not_assumed_to_be_fast_on_arm(monkeypatch):
    cpu_with(monkeypatch, amx=True, avx512_bf16=True, machine="arm64")
    assert fast_bf16("cpu") is False


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch):
    cpu_with(monkeypatch)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")

    def fails():
        raise RuntimeError("not on this platform")

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", fails)
    assert fast_bf16("cpu") is False


def test_autocast_computes_in_bf16_where_that_is_fast_and_in_float32_elsewhere(monkeypatch):
    a = torch.ones(2, 2)
    cpu_with(monkeypatch, avx512_bf16=True)
    with autocast("cpu"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast("cpu", "float32"):
        assert (a @ a).dtype == torch.float32
    device_module._cpu_bf16_is_fast.cache_clear()
    cpu_with(monkeypatch)
    with autocast("cpu"):
        assert (a @ a).dtype == torch.float32
    with autocast("cpu", "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "is_fast", "expected"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bfloat16", True, "bfloat16"),
    ],
)
def test_auto_is_the_precision_that_is_fast_and_any_other_is_what_was_asked_for(monkeypatch, name, is_fast, expected):
    cpu_with(monkeypatch, avx512_bf16=is_fast)
    assert pick_precision(name, torch.device("cpu")) == (expected, "")


def test_bfloat16_that_is_emulated_is_used_and_said(monkeypatch):
    cpu_with(monkeypatch)
    precision, doubt = pick_precision("bfloat16", torch.device("cpu"))
    assert precision == "bfloat16"
    assert "emulates" in doubt


def test_a_device_without_bfloat16_takes_float32_and_says_so(monkeypatch):
    def fails(*_):
        raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr(torch, "conv2d", fails)
    precision, doubt = pick_precision("bfloat16", torch.device("meta"))
    assert precision == "float32"
    assert "float32 was used" in doubt


def test_a_precision_that_does_not_exist_is_an_error_that_says_what_is_allowed():
    with pytest.raises(ModelError, match='"auto", "float32" or "bfloat16"'):
        pick_precision("float16", torch.device("cpu"))


def test_threads_share_the_cores_and_leave_torch_as_it_was(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    threads = device_module.cpu_threads(torch.device("cpu"))
    assert threads is not None
    assert threads.n == device_module.MOST_THREADS
    threads.prepare()
    assert asked == [2, 8]  # its own, then that of every thread to come


def test_one_core_and_other_devices_need_no_threads(monkeypatch) -> None:
    assert device_module.cpu_threads(torch.device("cuda")) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_module.cpu_threads(torch.device("cpu")) is None


def test_torch_uses_as_many_cores_after_the_threads_as_before() -> None:
    from concurrent.futures import ThreadPoolExecutor

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = device_module.cpu_threads(torch.device("cpu"))
        assert threads is not None
        with ThreadPoolExecutor(threads.n, initializer=threads.prepare) as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
