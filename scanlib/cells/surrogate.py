"""Linear surrogates, and the layer they make of any transition (Martin and Cundy 2018, section 3.2).

A transition s_t = f(s_{t-1}, x_t) is serial because f is not linear in s. Replace the state inside f by a surrogate
that is linear in its own past, s_t = f(s~_{t-1}, x_t), and all steps can be had at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape, call_of
from scanlib.cells.base import Cell, Params, State, Surrogate
from scanlib.cells.functions import at, delay, forget, namespace, narrow, part, within, zeros
from scanlib.cells.gates import Gated, Update, states, written_out
from scanlib.cells.initial import linear
from scanlib.cells.starts import Starts

Array = Any
PREFIX = "surrogate_"


@dataclass(frozen=True)
class Recurrent(Surrogate):
    """The state of a linear recurrent cell, one step before.

    Attributes
    ----------
    cell
        A cell of one plain recurrence, without a surrogate of its own. Its `weight` is called `surrogate_weight`, and
        so on.
    delayed
        Whether step t sees the state after step t - 1, as the paper's equations have it, or after step t.
    """

    cell: Cell
    delayed: bool = True
    state: ClassVar[tuple[str, ...]] = ("surrogate",)

    def size(self, input_size: int, hidden_size: int) -> int:
        return hidden_size

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        inner = self.cell.shapes(input_size, hidden_size)
        return {PREFIX + name: shape for name, shape in inner.items()}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        inner = self.cell.init(rng, input_size, hidden_size)
        return {PREFIX + name: value for name, value in inner.items()}

    def over(
        self, params: Params, x: Array, state: State | None, starts: Starts
    ) -> tuple[Array, State]:
        first = None if state is None else state[0]
        update = self._transition(params, x, starts.reset)
        h, final = states(update, first, starts, self.delayed)
        return narrow(h, x), (final,)

    def step(
        self, params: Params, x: Array, state: State | None, reset: Array | None
    ) -> tuple[Array, State]:
        a, h, _ = written_out(self._transition(params, x, reset))
        before = namespace(h).zeros_like(h) if state is None else forget(state[0], reset)
        h = a * before + h
        return narrow(before if self.delayed else h, x), (h,)

    def initial(self, x: Array, input_size: int, hidden_size: int) -> State:
        return self.cell.initial_memory(x, input_size, hidden_size)

    def _transition(self, params: Params, x: Array, reset: Array | None) -> Update | Gated:
        inner = {k.removeprefix(PREFIX): v for k, v in params.items() if k.startswith(PREFIX)}
        update = self.cell.update(inner, None, x, reset)
        assert isinstance(
            update, (Update, Gated)
        )  # not Update | Gated: torch 2.6 does not compile that
        return update


@dataclass(frozen=True)
class Window(Surrogate):
    """The last `length` inputs side by side, the oldest first: surrogate of a QRNN, with one of strongly-typed RNNs.

    Whatever linear map the surrogate is to be of them is the transition's first matrix.
    """

    length: int
    state: ClassVar[tuple[str, ...]] = ("inputs",)

    def size(self, input_size: int, hidden_size: int) -> int:
        return self.length * input_size

    def over(
        self, params: Params, x: Array, state: State | None, starts: Starts
    ) -> tuple[Array, State]:
        xp, axis = namespace(x), starts.axis
        steps, m = x.shape[axis], x.shape[-1]
        first = self._zeros(x, starts) if state is None else state[0]
        if steps == 0:
            return xp.concat([x] * self.length, axis=-1), (first,)
        before = [first[..., i * m : (i + 1) * m] for i in range(self.length)]
        if starts.offsets is not None:
            return self._over_packed(x, before, starts)
        padded = xp.concat([*(xp.expand_dims(v, axis=axis) for v in before), x], axis=axis)
        taps = [part(padded, axis, i, i + steps) for i in range(self.length)]
        if starts.reset is not None:
            taps = _cut(taps, starts.reset, axis)
        s = taps[0] if self.length == 1 else xp.concat(taps, axis=-1)
        return s, (self._next(at(s, axis, -1), at(x, axis, -1)),)

    def _over_packed(self, x: Array, before: list[Array], starts: Starts) -> tuple[Array, State]:
        """The same of sequences one after the other; `before` are the inputs before each, (..., N, ..., m)."""
        xp, axis, ends = namespace(x), starts.axis, starts.ends()
        lengths, steps = ends - starts.begins(), x.shape[axis]
        taps, lagged = [], x
        for i in reversed(range(self.length)):  # the input length - i steps ago
            lagged = delay(lagged, None, axis)
            tap = lagged
            for step in range(self.length - i):
                here = starts.along(starts.step == step, x.ndim)
                tap = xp.where(here, starts.spread(before[i + step]), tap)
            taps.append(tap)
        left = []
        for i in range(self.length):
            place = ends - (self.length - i)
            last = xp.take(x, within(place, steps - 1), axis=axis)
            for count in range(self.length - i):  # steps of a sequence shorter than the window
                short = starts.along(lengths == count, x.ndim)
                last = xp.where(short, before[i + count], last)
            left.append(last)
        return xp.concat(taps[::-1], axis=-1), (xp.concat(left, axis=-1),)

    def step(
        self, params: Params, x: Array, state: State | None, reset: Array | None
    ) -> tuple[Array, State]:
        s = forget(self._zeros(x) if state is None else state[0], reset)
        return s, (self._next(s, x),)

    def initial(self, x: Array, input_size: int, hidden_size: int) -> State:
        return (self._zeros(x),)

    def _zeros(self, x: Array, starts: Starts | None = None) -> Array:
        shape = tuple(x.shape[:-1])
        if starts is not None:
            shape = call_of(shape, starts.axis, starts.states()).state_shape
        return zeros((*shape, self.length * x.shape[-1]), x)

    def _next(self, s: Array, x: Array) -> Array:
        if self.length == 1:
            return x
        return namespace(x).concat([s[..., x.shape[-1] :], x], axis=-1)


def _cut(taps: list[Array], reset: Array, axis: int) -> list[Array]:
    """Taps without what lies before the start of a segment: lag d is cut where one of the last d steps is a start."""
    crossed, cut = reset, [forget(taps[-1], reset)]
    for tap in reversed(taps[:-1]):
        reset = delay(reset, None, axis)
        crossed = crossed | reset
        cut.append(forget(tap, crossed))
    return cut[::-1]


Transition = Callable[[Params, Array, Array], "Update | Gated | Array"]


@dataclass(frozen=True)
class LinearSurrogate(Cell):
    """The parallel layer of any transition f(params, s, x), with any surrogate for s.

    Attributes
    ----------
    transition : function (params, s, x) -> array, Update or Gated
        s has shape (..., size of the surrogate), x (..., m). It must treat every step alike. An array is the output;
        an `Update` or `Gated` adds a memory that stays exactly recurrent, as the c of an LSTM does.
    surrogate : Surrogate
    parameters : function (input_size, hidden_size, size of the surrogate) -> {name: shape}
        The transition's parameters. Matrices are initialised uniformly up to 1 / sqrt(rows), vectors with zeros.
    sizes_from : function (params) -> (input_size, hidden_size)
    remembers : bool
        Whether `transition` returns an `Update` or `Gated`.

    Examples
    --------
    A plain tanh network whose previous state is replaced by a GILR's:

    >>> import numpy as np
    >>> from scanlib import cells
    >>> def transition(params, s, x):
    ...     return np.tanh(s @ params["U"] + x @ params["V"])
    >>> cell = cells.LinearSurrogate(
    ...     transition,
    ...     surrogate=cells.Recurrent(cells.GILR()),
    ...     parameters=lambda m, n, k: {"U": (k, n), "V": (m, n)},
    ...     sizes_from=lambda params: params["V"].shape,
    ... )
    >>> params = cell.init(np.random.default_rng(0), 3, 8)
    >>> output, state = cell(params, np.ones((2, 100, 3)))
    >>> output.shape, cell.state
    ((2, 100, 8), ('surrogate',))
    """

    transition: Transition
    surrogate: Surrogate
    parameters: Callable[[int, int, int], dict[str, Shape]]
    sizes_from: Callable[[Params], tuple[int, int]]
    remembers: bool = False
    name: ClassVar[str] = "linear_surrogate"

    def stand_in(self) -> Surrogate:
        return self.surrogate

    @property
    def memory(self) -> tuple[str, ...]:
        return ("h",) if self.remembers else ()

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        inner = self.surrogate.shapes(input_size, hidden_size)
        size = self.surrogate.size(input_size, hidden_size)
        return {**inner, **self.parameters(input_size, hidden_size, size)}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        params = self.surrogate.init(rng, input_size, hidden_size)
        for name, shape in self.shapes(input_size, hidden_size).items():
            if name not in params:
                wide = len(shape) > 1
                params[name] = linear(rng, *shape) if wide else np.zeros(shape)
        return params

    def sizes(self, params: Params) -> tuple[int, int]:
        m, n = self.sizes_from(params)
        return m, n

    def update(
        self, params: Params, s: Array | None, x: Array, reset: Array | None
    ) -> Update | Gated | Array:
        return self.transition(params, s, x)
