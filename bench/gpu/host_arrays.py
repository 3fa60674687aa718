"""NumPy's arrays in place of a GPU's: the CUDA launcher serves them, on a driver that stands in for NVIDIA's.

That of `bench.gpu.rehearsal` launches nothing, that of tests/emulated.py runs the kernels on the CPU.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from scanlib import gpu, kinds
from scanlib.backends.strided_cuda import StridedCuda


class _Namespace:
    """What the adapter uses of an array library."""

    def __init__(self, kind: type, fill: int | None) -> None:
        self.ndarray, self._fill = kind, fill

    def empty(self, shape: Any, dtype: Any) -> Any:
        array = np.empty(shape, dtype)
        if self._fill is not None:
            array.reshape(-1).view(np.uint8)[...] = self._fill
        return array.view(self.ndarray)

    def asarray(self, value: Any) -> Any:
        return np.asarray(value).view(self.ndarray)

    def full(self, shape: Any, value: Any, dtype: Any) -> Any:
        return np.full(shape, value, dtype).view(self.ndarray)


class HostCuda(StridedCuda):
    """The adapter of `kind`, a subclass of NumPy's array; what it allocates is poisoned where a test wants it so.

    Results are filled with bytes of NaN, so that an element which is not written shows, and scratch memory with those
    of numbers, since NaN would be healed: only what a launch zeroes itself may be relied on.
    """

    def __init__(
        self, name: str, kind: type, *, path: str, device: str, stream: int, poisoned: bool
    ) -> None:
        super().__init__(_Namespace(kind, 0xFF if poisoned else None))
        self.name, self.path = name, path
        self._device, self._stream, self._poisoned = device, stream, poisoned

    def serve(self) -> None:
        """From here on, scanlib's public functions serve arrays of this kind."""
        sys.modules[f"scanlib.backends.{self.name}"] = self  # type: ignore[assignment]
        kinds._kinds[self.kind] = self.name

    def address(self, array: Any) -> int:
        return array.ctypes.data if array.size else 0  # as CuPy has it

    def writable(self, array: Any) -> bool:
        return bool(array.flags.writeable)

    def device(self, array: Any) -> str:
        return self._device

    def architectures(self) -> tuple[int, ...]:
        return (90,)  # as both drivers say

    def stream(self) -> int:
        return self._stream

    def scratch(self, size: int) -> tuple[int, Any]:
        memory = np.empty(size + gpu.ALIGNMENT, np.uint8)
        if self._poisoned:
            memory[...] = 0x3F
        address = memory.ctypes.data
        return address + -address % gpu.ALIGNMENT, memory

    def bytes_of(self, array: Any) -> Any:
        shape, strides = (*array.shape, array.itemsize), (*array.strides, 1)
        interface = {"version": 3, "typestr": "|u1", "data": (array.ctypes.data, False)}
        view = SimpleNamespace(
            __array_interface__={**interface, "shape": shape, "strides": strides}
        )
        return self.xp.asarray(view)
