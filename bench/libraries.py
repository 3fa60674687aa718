"""How each array library makes its arrays, adds them, differentiates, and runs the recurrence.

For each kind of work a library gives two functions of the same operands: ours and its own yardstick. Both return
arrays of the library; `finish` waits until they are computed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

import scanlib
from bench.shapes import Array, Case
from bench.timing import Budget, Call, Summary, interleaved

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Work:
    """One thing that is timed: what the yardstick computes, and the words an element that either must move."""

    yardstick: str
    words: int


WORK = {
    "forward": Work("a + x", 3),
    "forward + backward": Work("forward + backward of a * x", 8),
    "broadcast a": Work("x + c", 2),
}


class Library(Protocol):
    """What a benchmark needs of an array library."""

    name: str

    def operands(self, case: Case, *arrays: Array) -> tuple[Any, ...]:
        """The library's arrays: views stay views where it has them."""
        ...

    def to_numpy(self, array: Any) -> Array: ...

    def finish(self, result: Any) -> None:
        """Wait until `result` is computed."""
        ...

    def pair(self, case: Case, work: str) -> tuple[Function, Function]:
        """`(ours, yardstick)`: functions of (a, x), of (a, x, grad_h) for forward + backward."""
        ...

    def wrap(self, function: Function, work: str) -> Function:
        """A peer's function of (a, x) as it is timed: compiled or differentiated as ours is."""
        ...

    def timer(
        self, calls: Mapping[str, Call], budget: Budget, inner: int = 1
    ) -> dict[str, Summary]:
        """`bench.timing.interleaved`, by whatever clock fits the library's device."""
        ...


class NumPy:
    name = "numpy"
    timer = staticmethod(interleaved)

    def operands(self, case: Case, *arrays: Array) -> tuple[Any, ...]:
        return arrays

    def to_numpy(self, array: Any) -> Array:
        return np.asarray(array)

    def finish(self, result: Any) -> None:
        pass

    def pair(self, case: Case, work: str) -> tuple[Function, Function]:
        ours = recurrence(case)
        if work != "forward + backward":
            return ours, lambda a, x: a + x

        def both(a: Any, x: Any, grad: Any) -> Any:
            h = ours(a, x)
            return h, *scanlib.linear_recurrence_vjp(
                grad, a, h, axis=case.axis, reverse=case.reverse
            )[:2]

        return both, lambda a, x, grad: (a * x, grad * x, grad * a)

    def wrap(self, function: Function, work: str) -> Function:
        return function


class Torch:
    name = "torch"
    timer = staticmethod(interleaved)

    def __init__(self) -> None:
        self.torch: Any = importlib.import_module("torch")

    def operands(self, case: Case, *arrays: Array) -> tuple[Any, ...]:
        return tuple(self._tensor(array) for array in arrays)

    def _tensor(self, array: Array) -> Any:
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def to_numpy(self, array: Any) -> Array:
        kind = self.torch.float32 if array.dtype == self.torch.bfloat16 else array.dtype
        return array.detach().to(kind).numpy()

    def finish(self, result: Any) -> None:
        pass

    def pair(self, case: Case, work: str) -> tuple[Function, Function]:
        ours = recurrence(case)
        if work != "forward + backward":
            return ours, lambda a, x: a + x
        return self._with_gradient(ours), self._with_gradient(lambda a, x: a * x)

    def wrap(self, function: Function, work: str) -> Function:
        return self._with_gradient(function) if work == "forward + backward" else function

    def _with_gradient(self, function: Function) -> Function:
        def both(a: Any, x: Any, grad: Any) -> Any:
            a, x = a.detach().requires_grad_(), x.detach().requires_grad_()
            h = function(a, x)
            return h, *self.torch.autograd.grad(h, (a, x), grad)

        return both


class Jax:
    """Everything under `jax.jit`. JAX has no views: halves are sliced from the projection inside the function."""

    name = "jax"
    timer = staticmethod(interleaved)

    def __init__(self) -> None:
        self.jax: Any = importlib.import_module("jax")

    def operands(self, case: Case, *arrays: Array) -> tuple[Any, ...]:
        if case.layout == "halves" and len(arrays) >= 2:
            arrays = (np.asarray(arrays[0].base), *arrays[2:])
        if arrays[0].dtype == np.float64:
            self.jax.config.update("jax_enable_x64", True)
        return tuple(self.jax.numpy.asarray(array) for array in arrays)

    def to_numpy(self, array: Any) -> Array:
        return np.asarray(array)

    def finish(self, result: Any) -> None:
        self.jax.block_until_ready(result)

    def pair(self, case: Case, work: str) -> tuple[Function, Function]:
        ours = self._view(case, recurrence(case))
        if work != "forward + backward":
            return self.jax.jit(ours), self.jax.jit(self._view(case, lambda a, x: a + x))
        return self._with_gradient(ours), self._with_gradient(self._view(case, lambda a, x: a * x))

    def wrap(self, function: Function, work: str) -> Function:
        return (
            self._with_gradient(function)
            if work == "forward + backward"
            else self.jax.jit(function)
        )

    def _view(self, case: Case, function: Function) -> Function:
        if case.layout != "halves":
            return function
        channels = case.shape[-1]
        return lambda both: function(both[..., :channels], both[..., channels:])

    def _with_gradient(self, function: Function) -> Function:
        def both(*operands_and_grad: Any) -> Any:
            *operands, grad = operands_and_grad
            h, pullback = self.jax.vjp(function, *operands)
            return h, *pullback(grad)

        return self.jax.jit(both)


LIBRARIES: dict[str, type] = {"numpy": NumPy, "torch": Torch, "jax": Jax}


def load(name: str) -> Library:
    """The library of that name; ImportError where it is not installed."""
    return LIBRARIES[name]()


def recurrence(case: Case) -> Function:
    """`scanlib.linear_recurrence` along the case's axis and direction."""
    return lambda a, x: scanlib.linear_recurrence(a, x, axis=case.axis, reverse=case.reverse)


def bind(library: Library, function: Function, operands: tuple[Any, ...]) -> Callable[[], None]:
    """A call without arguments that computes `function(*operands)` to its end and drops the result."""
    finish = library.finish
    return lambda: finish(function(*operands))
