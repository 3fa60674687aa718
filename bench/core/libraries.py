"""How each array library makes its arrays, adds them, differentiates, and runs the recurrence.

For each kind of work a library gives two functions of the same operands: ours and its own yardstick. Both return
arrays of the library; `finish` waits until they are computed. Only what a check looks at leaves the device.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

import scanlib
from bench.core import shapes
from bench.core.reference import Index, Read, WrongResultError
from bench.core.shapes import Array, Case
from bench.core.timing import Budget, Call, Summary, interleaved

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


@dataclass(frozen=True, slots=True)
class Inputs:
    """The operands of a case as arrays of one library; views of `both` where they are halves of a projection."""

    a: Any
    x: Any
    grad: Any
    both: Any = None


class Library(Protocol):
    """What a benchmark needs of an array library."""

    name: str
    #: Whether what is computed is right, and so to be checked.
    computes: bool

    def inputs(self, case: Case, dtype: str) -> Inputs:
        """Random operands, made on the library's device."""
        ...

    def operands(self, case: Case, inputs: Inputs, work: str) -> tuple[Any, ...]:
        """What a function of `pair` is called with."""
        ...

    def constant(self, case: Case, value: float, dtype: str) -> Any:
        """One coefficient for all steps and sequences."""
        ...

    def gather(self, array: Any, index: Index) -> Array:
        """The values at an index, as float64 of NumPy."""
        ...

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
        """`bench.core.timing.interleaved`, by whatever clock fits the library's device."""
        ...


class NumPy:
    name = "numpy"
    computes = True
    timer = staticmethod(interleaved)

    def __init__(self) -> None:
        self.xp: Any = np

    def inputs(self, case: Case, dtype: str) -> Inputs:
        a, x, grad = self.random(case, dtype)
        if case.layout != "halves":
            return Inputs(a, x, grad)
        return self.halves(case, self.xp.concatenate([a, x], axis=-1), grad)

    def random(self, case: Case, dtype: str) -> tuple[Any, Any, Any]:
        return shapes.random_inputs(case, dtype)

    def halves(self, case: Case, both: Any, grad: Any) -> Inputs:
        channels = case.shape[-1]
        return Inputs(both[..., :channels], both[..., channels:], grad, both)

    def operands(self, case: Case, inputs: Inputs, work: str) -> tuple[Any, ...]:
        if work == "broadcast a":
            return self.channels(case, inputs.a), inputs.x
        return (inputs.a, inputs.x, inputs.grad)[: 3 if work == "forward + backward" else 2]

    def channels(self, case: Case, a: Any) -> Any:
        """One coefficient for each channel, in memory of its own."""
        kept = ((1,) * len(case.shape) + case.channel_shape)[-len(case.shape) :]
        return self.own(a[tuple(slice(n) for n in kept)].reshape(case.channel_shape))

    def own(self, array: Any) -> Any:
        return array.copy()

    def constant(self, case: Case, value: float, dtype: str) -> Any:
        return self.xp.full((1,) * len(case.shape), value, dtype)

    def gather(self, array: Any, index: Index) -> Array:
        return array[index].astype(np.float64)

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


class Torch(NumPy):
    name = "torch"
    device = "cpu"

    def __init__(self) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.xp = self.torch

    def random(self, case: Case, dtype: str) -> tuple[Any, Any, Any]:
        return tuple(self._tensor(array) for array in shapes.random_inputs(case, dtype))  # type: ignore[return-value]

    def _tensor(self, array: Array) -> Any:
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def own(self, array: Any) -> Any:
        return array.clone(memory_format=self.torch.contiguous_format)

    def constant(self, case: Case, value: float, dtype: str) -> Any:
        kind = getattr(self.torch, dtype)
        return self.torch.full((1,) * len(case.shape), value, dtype=kind, device=self.device)

    def gather(self, array: Any, index: Index) -> Array:
        at = tuple(self.torch.from_numpy(part).to(array.device) for part in index)
        return array.detach()[at].to(self.torch.float64).cpu().numpy()

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


class Jax(NumPy):
    """Everything under `jax.jit`. JAX has no views: halves are sliced from the projection inside the function."""

    name = "jax"

    def __init__(self) -> None:
        self.jax: Any = importlib.import_module("jax")
        self.xp = self.jax.numpy

    def random(self, case: Case, dtype: str) -> tuple[Any, Any, Any]:
        if dtype == "float64":
            self.jax.config.update("jax_enable_x64", True)
        return tuple(map(self.xp.asarray, shapes.random_inputs(case, dtype)))  # type: ignore[return-value]

    def halves(self, case: Case, both: Any, grad: Any) -> Inputs:
        return Inputs(None, None, grad, both)

    def operands(self, case: Case, inputs: Inputs, work: str) -> tuple[Any, ...]:
        if inputs.both is None:
            return super().operands(case, inputs, work)
        return (inputs.both, inputs.grad)[: 2 if work == "forward + backward" else 1]

    def gather(self, array: Any, index: Index) -> Array:
        # Sliced inside a compiled function, it would be compiled for every index again.
        return np.asarray(array[tuple(map(self.xp.asarray, index))]).astype(np.float64)

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


def reader(library: Library, case: Case, name: str, array: Any, first: int = 0) -> Read:
    """Reads an array of the case's shape or one that is repeated along some axes; `first` is where its channels begin.

    Of an array whose last axis is longer than the case's, a projection or its gradient, one half is read.
    """
    given = tuple(array.shape)
    own = (1,) * (len(case.shape) - len(given)) + given
    expected = own[:-1] + case.shape[-1:] if own[-1] == 2 * case.shape[-1] else own
    fits = len(own) == len(case.shape) and all(
        n in (1, m) for n, m in zip(expected, case.shape, strict=True)
    )
    if not fits:
        raise WrongResultError(
            f"{name} on {case.name} has shape {given}; expected {case.shape}, or 1 for some of its axes."
        )

    def read(index: Index) -> Array:
        *outer, last = (
            np.zeros_like(at) if n == 1 else at for n, at in zip(own, index, strict=True)
        )
        at = (*outer, last + first)[len(own) - len(given) :]
        values = library.gather(array, at)
        return np.broadcast_to(values, np.broadcast_shapes(*(part.shape for part in index)))

    return read


def recurrence(case: Case) -> Function:
    """`scanlib.linear_recurrence` along the case's axis and direction."""
    return lambda a, x: scanlib.linear_recurrence(a, x, axis=case.axis, reverse=case.reverse)


def bind(library: Library, function: Function, operands: tuple[Any, ...]) -> Callable[[], None]:
    """A call without arguments that computes `function(*operands)` to its end and drops the result."""
    finish = library.finish
    return lambda: finish(function(*operands))
