"""The array libraries on a GPU, for the same comparisons as on a CPU."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench import libraries
from bench.gpu_timing import CuPyEvents, TorchEvents, by_clock, by_events
from bench.libraries import Library
from bench.shapes import Array, Case
from bench.timing import Budget, Call, Summary


class CuPy(libraries.NumPy):
    name = "cupy"

    def __init__(self) -> None:
        self.cupy: Any = importlib.import_module("cupy")
        self._events: CuPyEvents | None = None

    def operands(self, case: Case, *arrays: Array) -> tuple[Any, ...]:
        if case.layout == "halves":
            both = self.cupy.asarray(np.asarray(arrays[0].base))
            channels = case.shape[-1]
            rest = tuple(self.cupy.asarray(array) for array in arrays[2:])
            return both[..., :channels], both[..., channels:], *rest
        return tuple(self.cupy.asarray(array) for array in arrays)

    def to_numpy(self, array: Any) -> Array:
        return self.cupy.asnumpy(array)

    def timer(  # type: ignore[override]
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        self._events = self._events or CuPyEvents()
        return by_events(self._events, calls, budget, inner)


class TorchCuda(libraries.Torch):
    name = "torch"

    def __init__(self) -> None:
        super().__init__()
        self._events: TorchEvents | None = None

    def operands(self, case: Case, *arrays: Array) -> tuple[Any, ...]:
        if case.layout == "halves":
            both = self._tensor(np.asarray(arrays[0].base)).cuda()
            channels = case.shape[-1]
            rest = tuple(self._tensor(array).cuda() for array in arrays[2:])
            return both[..., :channels], both[..., channels:], *rest
        return tuple(self._tensor(array).cuda() for array in arrays)

    def to_numpy(self, array: Any) -> Array:
        return super().to_numpy(array.detach().cpu())

    def timer(  # type: ignore[override]
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        self._events = self._events or TorchEvents()
        return by_events(self._events, calls, budget, inner)


class JaxCuda(libraries.Jax):
    name = "jax"

    def __init__(self) -> None:
        super().__init__()
        self._last: Any = None

    def operands(self, case: Case, *arrays: Array) -> tuple[Any, ...]:
        device = self.jax.devices("cuda")[0]
        return tuple(
            self.jax.device_put(array, device) for array in super().operands(case, *arrays)
        )

    def finish(self, result: Any) -> None:
        """Nothing is waited for before the timer does: the GPU runs calls in their order."""
        self._last = result

    def timer(  # type: ignore[override]
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        return by_clock(lambda: self.jax.block_until_ready(self._last), calls, budget, inner)


GPU_LIBRARIES: dict[str, type] = {"torch": TorchCuda, "cupy": CuPy, "jax": JaxCuda}


def missing(name: str) -> str:
    """Why a library cannot be measured here; empty if it can."""
    try:
        if name == "torch":
            found = importlib.import_module("torch").cuda.is_available()
        elif name == "cupy":
            found = importlib.import_module("cupy").cuda.runtime.getDeviceCount() > 0
        else:
            found = bool(importlib.import_module("jax").devices("cuda"))
    except Exception as error:  # each has its own
        return f"{name}: {str(error).splitlines()[0]}"
    return "" if found else f"{name}: no GPU"


def load(name: str) -> Library:
    return GPU_LIBRARIES[name]()
