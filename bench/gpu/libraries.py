"""The array libraries on a GPU, for the same comparisons as on a CPU: operands are made there and stay there."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from bench.core import libraries
from bench.core.libraries import Library
from bench.core.reference import Index
from bench.core.shapes import Array, Case, np_dtype
from bench.core.timing import Budget, Call, Summary
from bench.gpu import rehearsal
from bench.gpu.timing import CuPyEvents, TorchEvents, by_clock, by_events

SEED = 0


class Direct(Library, Protocol):
    """What calls through libscanlib's C interface need beside: memory, its addresses, and the stream."""

    def array(self, values: Array) -> Any: ...

    def to_numpy(self, array: Any) -> Array: ...

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any: ...

    def address(self, array: Any) -> int: ...

    def stream(self) -> int: ...

    def wait(self) -> None:
        """Until the GPU has done all it was given."""
        ...

    def same(self, first: Any, second: Any) -> bool:
        """Whether two arrays are equal bit for bit; of numbers none of which is NaN."""
        ...

    def apart(self, first: Any, second: Any) -> float:
        """The largest difference as a share of the largest value."""
        ...


class CuPy(libraries.NumPy):
    name = "cupy"

    def __init__(self) -> None:
        self.cupy: Any = importlib.import_module("cupy")
        self.xp = self.cupy

    @functools.cached_property
    def events(self) -> CuPyEvents:
        return CuPyEvents()

    def random(self, case: Case, dtype: str) -> tuple[Any, Any, Any]:
        kind = np.float64 if dtype == "float64" else np.float32
        random = self.cupy.random.RandomState(SEED)
        a = random.random_sample(case.shape, kind) * kind(0.5) + kind(0.5)
        x, grad = (random.standard_normal(case.shape, kind) for _ in range(2))
        return tuple(v.astype(np_dtype(dtype), copy=False) for v in (a, x, grad))  # type: ignore[return-value]

    def gather(self, array: Any, index: Index) -> Array:
        return self.cupy.asnumpy(array[tuple(map(self.cupy.asarray, index))]).astype(np.float64)

    def timer(  # type: ignore[override]
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        return by_events(self.events, calls, budget, inner)

    def array(self, values: Array) -> Any:
        return self.cupy.asarray(values)

    def to_numpy(self, array: Any) -> Array:
        return self.cupy.asnumpy(array)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.cupy.empty(shape, np_dtype(dtype))

    def address(self, array: Any) -> int:
        return array.data.ptr

    def stream(self) -> int:
        return self.cupy.cuda.get_current_stream().ptr

    def wait(self) -> None:
        self.cupy.cuda.Device().synchronize()

    def same(self, first: Any, second: Any) -> bool:
        return bool((first == second).all())

    def apart(self, first: Any, second: Any) -> float:
        first, second = (v.astype(self.cupy.float32) for v in (first, second))
        return float(abs(first - second).max() / abs(second).max())


class TorchCuda(libraries.Torch):
    name = "torch"
    device = "cuda"

    @functools.cached_property
    def events(self) -> TorchEvents:
        return TorchEvents()

    def random(self, case: Case, dtype: str) -> tuple[Any, Any, Any]:
        torch = self.torch
        kind = torch.float64 if dtype == "float64" else torch.float32
        options = {"device": self.device, "dtype": kind}
        options["generator"] = torch.Generator(self.device).manual_seed(SEED)
        a = torch.rand(case.shape, **options).mul_(0.5).add_(0.5)
        x, grad = (torch.randn(case.shape, **options) for _ in range(2))
        return tuple(v.to(getattr(torch, dtype)) for v in (a, x, grad))  # type: ignore[return-value]

    def timer(  # type: ignore[override]
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        return by_events(self.events, calls, budget, inner)

    def array(self, values: Array) -> Any:
        return self._tensor(values).to(self.device)

    def to_numpy(self, array: Any) -> Array:
        return array.detach().cpu().numpy()

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=self.device)

    def address(self, array: Any) -> int:
        return array.data_ptr()

    def stream(self) -> int:
        return self.torch.cuda.current_stream().cuda_stream

    def wait(self) -> None:
        self.torch.cuda.synchronize()

    def same(self, first: Any, second: Any) -> bool:
        return self.torch.equal(first, second)

    def apart(self, first: Any, second: Any) -> float:
        first, second = first.float(), second.float()
        return float((first - second).abs().max() / second.abs().max())


class JaxCuda(libraries.Jax):
    name = "jax"

    def __init__(self) -> None:
        super().__init__()
        self._last: Any = None
        self.jax.config.update("jax_default_device", self.jax.devices("cuda")[0])

    def random(self, case: Case, dtype: str) -> tuple[Any, Any, Any]:
        jax = self.jax
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        kind = np.float64 if dtype == "float64" else np.float32
        keys = jax.random.split(jax.random.key(SEED), 3)
        a = jax.random.uniform(keys[0], case.shape, kind, 0.5, 1)
        x, grad = (jax.random.normal(key, case.shape, kind) for key in keys[1:])
        return tuple(v.astype(np_dtype(dtype)) for v in (a, x, grad))  # type: ignore[return-value]

    def finish(self, result: Any) -> None:
        """Nothing is waited for before the timer does: the GPU runs calls in their order."""
        self._last = result

    def timer(  # type: ignore[override]
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        return by_clock(lambda: self.jax.block_until_ready(self._last), calls, budget, inner)


GPU_LIBRARIES: dict[str, type] = {"torch": TorchCuda, "cupy": CuPy, "jax": JaxCuda}


@functools.cache
def missing(name: str) -> str:
    """Why a library cannot be measured here; empty if it can."""
    if rehearsal.active():
        return ""
    try:
        if name == "torch":
            found = importlib.import_module("torch").cuda.is_available()
        elif name == "cupy":
            found = importlib.import_module("cupy").cuda.runtime.getDeviceCount() > 0
        else:
            found = bool(importlib.import_module("jax").devices("cuda"))
    except Exception as error:  # each has its own
        return f"{name}: {' '.join(str(error).split())[:160]}"
    return "" if found else f"{name}: no GPU"


@functools.cache
def load(name: str) -> Any:
    return rehearsal.Library(name) if rehearsal.active() else GPU_LIBRARIES[name]()


def first(*names: str) -> Any:
    """The first of these libraries that has a GPU; MissingError where none has."""
    reasons = [missing(name) for name in names]
    for name, reason in zip(names, reasons, strict=True):
        if not reason:
            return load(name)
    raise MissingError("; ".join(reasons))


class MissingError(Exception):
    """No library has a GPU here, and why."""
