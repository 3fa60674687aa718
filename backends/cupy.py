"""CuPy: arrays in a GPU's memory, no autodiff, mutable outputs; on the current stream of the arrays' device."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import cupy

from scanlib import gpu
from scanlib.backends.strided import Strided
from scanlib.backends.strided_cuda import StridedCuda
from scanlib.call import check_one_device
from scanlib.errors import DeviceError
from scanlib.plan import Explanation

if cupy.cuda.runtime.is_hip:
    raise DeviceError(
        "This CuPy is built for ROCm, and scanlib's kernels are for CUDA. Move the arrays to the CPU with cupy.asnumpy."
    )


#: Scratch memory of captured calls, kept for as long as the process lives.
_captured: list[Any] = []


class CuPy(StridedCuda):
    name = "cupy"

    def address(self, array: Any) -> int:
        return array.data.ptr

    def device(self, array: Any) -> str:
        return str(array.device)

    def architectures(self) -> tuple[int, ...]:
        return _architectures(cupy.cuda.runtime.getDevice())

    def stream(self) -> int:
        return cupy.cuda.get_current_stream().ptr

    def scratch(self, size: int) -> tuple[int, Any]:
        # A block of CuPy's pool goes back to it for later work on the same stream, so it may be given up at once. But
        # what a stream captures runs whenever its graph is launched, and nobody tells which launch is the last.
        memory = cupy.cuda.alloc(size)
        if cupy.cuda.get_current_stream().is_capturing():
            _captured.append(memory)
        return memory.ptr, memory

    def bytes_of(self, array: Any) -> Any:
        shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
        return cupy.ndarray(shape, cupy.uint8, array.data, strides)

    def linear_recurrence(self, *arguments: Any) -> Any:
        with _device_of(Strided.linear_recurrence, arguments):
            return super().linear_recurrence(*arguments)

    def linear_recurrence_vjp(self, *arguments: Any) -> tuple[Any, Any, Any]:
        with _device_of(Strided.linear_recurrence_vjp, arguments):
            return super().linear_recurrence_vjp(*arguments)

    def gated_scan(self, *arguments: Any) -> tuple[Any, Any] | None:
        with _device_of(Strided.gated_scan, arguments):
            return super().gated_scan(*arguments)

    def explain(self, *arguments: Any) -> Explanation:
        with _device_of(Strided.explain, arguments):
            return super().explain(*arguments)


@functools.cache
def _architectures(device: int) -> tuple[int, ...]:
    return (int(cupy.cuda.Device(device).compute_capability),)


def _device_of(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """A context in which the one device of a method's arrays is current."""
    devices = [v.device for v in arguments if isinstance(v, cupy.ndarray)]
    if any(device.id != devices[0].id for device in devices):
        # Only here, because to look at a signature takes longer than a small recurrence.
        names = list(inspect.signature(method).parameters)[1:]
        named = zip(names, arguments, strict=True)
        places = {k: f"GPU {v.device.id}" for k, v in named if isinstance(v, cupy.ndarray)}
        check_one_device(places, "arrays", "Copy them inside `with cupy.cuda.Device(i):`.")
    return devices[0]


assert gpu.ALIGNMENT <= 512, "blocks of CuPy's pool are aligned to 512 bytes"

_adapter = CuPy(cupy)
functions = _adapter.functions
linear_recurrence = _adapter.linear_recurrence
linear_recurrence_vjp = _adapter.linear_recurrence_vjp
gated_scan = _adapter.gated_scan
explain = _adapter.explain
