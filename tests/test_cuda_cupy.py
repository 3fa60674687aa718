"""What the adapter of CuPy asks of it and hands to the CUDA launcher, as far as that can be shown without it."""

from __future__ import annotations

import gc
import importlib.util
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from fake_driver import STREAM, Fake, asked_before_the_driver
from native_calls import ROLES, dense_problem

import scanlib
from scanlib import dispatch, gpu, kinds


class _Device:
    """cupy.cuda.Device: a number, and a context in which it is current."""

    entered: ClassVar[list[int]] = []

    def __init__(self, number: int) -> None:
        self.id = number
        self.compute_capability = "120" if number % 2 else "90"

    def __enter__(self) -> None:
        self.entered.append(self.id)

    def __exit__(self, *_: object) -> None:
        self.entered.append(-1)


class _Array(np.ndarray[Any, Any]):
    """An array that says it is CuPy's, on device 0 or another."""

    number = 0
    device = property(lambda self: _Device(self.number))
    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))  # type: ignore[assignment]


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The adapter, imported over a stand-in; puts everything back."""
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("CuPy itself is here")
    blocks: list[tuple[int, weakref.ref[Any]]] = []

    def alloc(size: int) -> Any:
        memory = np.full(size + 512, 255, np.uint8)
        address = memory.ctypes.data + -memory.ctypes.data % 512
        blocks.append((address, weakref.ref(memory)))
        return SimpleNamespace(ptr=address, size=size, memory=memory)

    # Of two kinds of GPU: those with an odd number are sm_120.
    runtime = SimpleNamespace(is_hip=False, getDevice=lambda: max(_Device.entered[-1], 0))
    stream = SimpleNamespace(ptr=STREAM, capturing=False, is_capturing=lambda: stream.capturing)
    module: Any = ModuleType("cupy")
    module.ndarray = _Array
    module.empty = lambda shape, dtype: np.empty(shape, dtype).view(_Array)
    module.asarray = lambda value: value
    module.full = lambda shape, value, dtype: np.full(shape, value, dtype).view(_Array)
    module.cuda = SimpleNamespace(
        runtime=runtime,
        alloc=alloc,
        get_current_stream=lambda: stream,
        blocks=blocks,
        Device=_Device,
    )
    _Device.entered.clear()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(kinds._kinds, _Array, "cupy")
    yield module
    sys.modules.pop("scanlib.backends.cupy", None)
    for types in [types for types in dispatch._adapters if _Array in types]:
        del dispatch._adapters[types]


def test_cupy_takes_the_current_stream_and_its_pool(cupy: Any, driver: Fake) -> None:
    a = cupy.full((1 << 17,), 0.5, np.float32)
    h, final = scanlib.linear_recurrence(a, a, return_final=True)
    assert (type(h), type(final)) == (_Array, _Array)
    ((address, _),) = cupy.cuda.blocks
    work = [line for line in driver.lines() if line.startswith(("cuLaunch", "cuMemset"))]
    assert all(f"stream {STREAM}" in line for line in work)
    assert any(line.startswith(f"cuMemsetD8Async {address} ") for line in work)
    assert _Device.entered == [0, -1]


def test_cupy_keeps_the_scratch_memory_of_captured_calls(cupy: Any, driver: Fake) -> None:
    """A graph's launches write it, so no other array may ever be given it; an ordinary call gives it back."""
    a, stream = cupy.full((1 << 17,), 0.5, np.float32), cupy.cuda.get_current_stream()
    for stream.capturing in (False, True, True, False):
        scanlib.linear_recurrence(a, a)
        scanlib.linear_recurrence_vjp(a, a, a)
    gc.collect()
    kept = [memory() is not None for _, memory in cupy.cuda.blocks]
    assert kept == [False] * 2 + [True] * 4 + [False] * 2
    assert (
        len({address for (address, _), alive in zip(cupy.cuda.blocks, kept, strict=True) if alive})
        == 4
    )


def test_cupy_works_on_the_arrays_device(cupy: Any, driver: Fake) -> None:
    a, b = (cupy.full((8, 4), 0.5, np.float32) for _ in range(2))
    a.number = b.number = 3
    scanlib.linear_recurrence(a, b, axis=0)
    scanlib.linear_recurrence_vjp(a, b, b, axis=0)
    assert scanlib.explain(0.5, b, axis=0).path == "libscanlib (cuda)"
    assert _Device.entered == [3, -1] * 3
    b.number = 1
    with pytest.raises(scanlib.DeviceError, match="must be on one device, but a is on GPU 3"):
        scanlib.linear_recurrence(a, b, axis=0)


def test_cupy_compiles_when_a_plan_is_made(cupy: Any, driver: Fake) -> None:
    """As torch does: for the architecture of the current device, and nothing to explain a call."""
    found = asked_before_the_driver(driver)
    a = cupy.full((1 << 17,), 0.5, np.float32)
    for backward in (False, True):
        assert "look-back" in scanlib.explain(a, a, backward=backward).kernel
    assert driver.compiled == []
    for a.number, architecture in ((0, 90), (1, 120), (2, 90)):
        for roles, pass_ in (
            (ROLES["forward"], lambda: scanlib.linear_recurrence(a, a)),
            (ROLES["backward"], lambda: scanlib.linear_recurrence_vjp(a, a, a)),
        ):
            found.clear()
            driver.forget()
            pass_()
            needed = gpu.programs(dense_problem(a.shape, 0, roles))
            assert found == [(text, architecture) for text in needed if a.number < 2]
            count = len(driver.compiled)
            pass_()
            assert len(driver.compiled) == count


def test_cupy_for_rocm_is_refused(cupy: Any) -> None:
    cupy.cuda.runtime.is_hip = True
    a = cupy.full((8,), 0.5, np.float32)
    with pytest.raises(scanlib.DeviceError, match="built for ROCm"):
        scanlib.linear_recurrence(a, a)
