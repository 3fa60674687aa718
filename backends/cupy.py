"""CuPy: arrays in a GPU's memory, no autodiff, mutable outputs; on the current stream of the arrays' device."""

from __future__ import annotations

from typing import Any

import cupy

from scanlib import gpu
from scanlib.backends._strided_cuda import StridedCuda
from scanlib.dispatch import Explanation
from scanlib.errors import DeviceError

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

    def stream(self) -> int:
        return cupy.cuda.get_current_stream().ptr

    def scratch(self, size: int) -> tuple[int, Any]:
        # A block of CuPy's pool goes back to it for later work on the same stream, so it may be given up at once. But
        # what a stream captures runs whenever its graph is launched, and nobody tells which launch is the last.
        memory = cupy.cuda.alloc(size)
        if cupy.cuda.get_current_stream().is_capturing():
            _captured.append(memory)
        return memory.ptr, memory

    def linear_recurrence(
        self, a: Any, x: Any, h0: Any, axis: Any, reverse: bool, return_final: bool, out: Any
    ) -> Any:
        with _device_of(a=a, x=x, h0=h0, out=out):
            return super().linear_recurrence(a, x, h0, axis, reverse, return_final, out)

    def linear_recurrence_vjp(
        self, grad_h: Any, a: Any, h: Any, h0: Any, axis: Any, reverse: bool, grad_final: Any
    ) -> tuple[Any, Any, Any]:
        with _device_of(grad_h=grad_h, a=a, h=h, h0=h0, grad_final=grad_final):
            return super().linear_recurrence_vjp(grad_h, a, h, h0, axis, reverse, grad_final)

    def explain(self, a: Any, x: Any, h0: Any, axis: Any, reverse: bool) -> Explanation:
        with _device_of(a=a, x=x, h0=h0):
            return super().explain(a, x, h0, axis, reverse)


def _device_of(**given: Any) -> Any:
    """A context in which the arrays' one device is current."""
    devices = {name: v.device for name, v in given.items() if isinstance(v, cupy.ndarray)}
    if len({device.id for device in devices.values()}) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise DeviceError(
            f"All arrays must be on one device, but {places}. Copy them inside `with cupy.cuda.Device(i):`."
        )
    return next(iter(devices.values()))


assert gpu.ALIGNMENT <= 512, "blocks of CuPy's pool are aligned to 512 bytes"

_adapter = CuPy(cupy)
linear_recurrence = _adapter.linear_recurrence
linear_recurrence_vjp = _adapter.linear_recurrence_vjp
explain = _adapter.explain
