"""What a cell is: a surrogate for its previous state, a transition, and one linear recurrence.

    s_{t-1}  <-  surrogate of the state before, known for all t at once        (optional)
    a, b     <-  transition(s_{t-1}, x_t), element by element
    h_t       =  a_t h_{t-1} + b_t                                              scanlib.linear_recurrence
    output_t <-  read(h_t)

The transition is written once and serves a whole sequence as well as one step, because it treats every step alike.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scanlib.call import Shape, time_axis
from scanlib.cells.functions import forget, namespace, narrow, wide, zeros
from scanlib.cells.gates import Gated, Update, outputs, written_out
from scanlib.cells.starts import Starts, offsets_of, starts_of
from scanlib.errors import ArrayKindError, DTypeError, ScanlibError, ShapeError
from scanlib.kinds import kind_of

DTYPES = ("float16", "bfloat16", "float32", "float64")

Array = Any
Params = Mapping[str, Array]
State = tuple[Array, ...]


class CellError(ScanlibError, ValueError):
    """Options or sizes for which there is no such cell."""


def check_choice(cell: str, option: str, value: object, choices: Iterable[object]) -> None:
    """Raise `CellError` unless `value` is one of the choices an option has."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise CellError(f"{option}={value!r} is no option of a {cell} cell; choose one of {known}.")


class Surrogate(ABC):
    """Stands for the state before each step, and is known for all steps at once.

    What it carries between two chunks is the surrogate of the next chunk's first step, or begins with it.
    """

    #: Names of the arrays in its state.
    state: ClassVar[tuple[str, ...]]

    @abstractmethod
    def size(self, input_size: int, hidden_size: int) -> int:
        """How many features it has."""

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        """Its own parameters; none by default."""
        return {}

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        return {}

    @abstractmethod
    def over(
        self, params: Params, x: Array, state: State | None, starts: Starts
    ) -> tuple[Array, State]:
        """The surrogate before every step of x, and the state after the last one, or of each sequence of offsets."""

    @abstractmethod
    def step(
        self, params: Params, x: Array, state: State | None, reset: Array | None
    ) -> tuple[Array, State]:
        """The same for one step, without the time axis."""

    @abstractmethod
    def initial(self, x: Array, input_size: int, hidden_size: int) -> State:
        """The state before anything, for steps like x."""


@dataclass(frozen=True)
class Cell(ABC):
    """A recurrent layer as pure functions of parameters, inputs and state.

    Its options are the fields of a frozen, hashable dataclass, so a cell may be a static argument of `jax.jit`.
    Parameters are a flat dict, the state a flat tuple of arrays named by `state`; both are arrays of one library, any.
    A subclass says `shapes`, `init`, `sizes` and `update`, perhaps `output_size` and `stand_in`.
    """

    #: The cell's key in `CELLS`.
    name: ClassVar[str]

    # ---- what a cell says of itself

    @abstractmethod
    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        """Names and shapes of the parameters."""

    @abstractmethod
    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        """Fresh parameters in float64, as the cell's authors initialise them."""

    @abstractmethod
    def sizes(self, params: Params) -> tuple[int, int]:
        """(input_size, hidden_size) from the shapes of parameters."""

    def output_size(self, input_size: int, hidden_size: int) -> int:
        """Features of the output."""
        return hidden_size

    def stand_in(self) -> Surrogate | None:
        """What stands for the previous state inside `update`; None where that reads the input alone."""
        return None

    @property
    def memory(self) -> tuple[str, ...]:
        """Names of the arrays of its own recurrence in the state."""
        return ("h",)

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the arrays in the state: the surrogate's first."""
        surrogate = self.stand_in()
        return (*(surrogate.state if surrogate else ()), *self.memory)

    @abstractmethod
    def update(
        self, params: Params, s: Array | None, x: Array, reset: Array | None
    ) -> Update | Gated | Array:
        """The transition f(s_{t-1}, x_t), for one step or for many side by side.

        Parameters
        ----------
        params : parameters
        s : array, shape (..., surrogate's size) or None
            The surrogate of the state before each step.
        x : array, shape (..., m)
        reset : boolean array, shape (...) or None
            Where a sequence starts inside the steps. The recurrence forgets there by itself; a cell needs this only to
            do more.

        Returns
        -------
        Update, Gated or array
            `Gated` where decay and input are sigmoid gates and a candidate, which then run in one pass with the
            recurrence. An array is the output itself, of a cell without memory of its own.
        """

    # ---- what one does with it

    def __call__(
        self,
        params: Params,
        x: Array,
        state: State | None = None,
        *,
        axis: int = -2,
        reset: Array | None = None,
        offsets: Any = None,
    ) -> tuple[Array, State]:
        """Run over a whole sequence at once.

        Parameters
        ----------
        params : dict of arrays
            Shapes as `shapes` says, in the library of x.
        x : array, shape (..., T, ..., m)
            Features last, time at `axis`, any other axes.
        state : tuple of arrays, optional
            What an earlier call, or `step`, returned. The zero state if not given.
        axis : int
            The axis of time.
        reset : boolean array, broadcastable to x without its last axis, optional
            True where a sequence starts: nothing from before that step is seen from there on, not even a NaN.
        offsets : integers, shape (N + 1,), optional
            Sequences of different lengths one after the other along `axis`, as `scanlib.linear_recurrence` has them: of
            x's library, a NumPy array or a list. Arrays of the state then have N in the place of T.

        Returns
        -------
        output : array, shape (..., T, ..., output_size)
        state : tuple of arrays
            Without an axis of time, or with one of sequences in its place; sums in float32 or wider, inputs as they
            came.

        Raises
        ------
        ShapeError, AxisError (ValueError)
        DTypeError, ArrayKindError, AxisTypeError (TypeError)
        """
        reset = self._check(params, x, state, reset)
        axis = time_axis(axis, tuple(x.shape), "x")
        starts = starts_of(x, axis, reset, offsets_of(x, axis, reset, offsets))
        own, memory = self._split(params, state, starts.lead(x))
        surrogate, s, left = self.stand_in(), None, ()
        if surrogate is not None:
            s, left = surrogate.over(params, x, own, starts)
        update = self.update(params, s, x, starts.reset)
        if not self.memory:
            return narrow(update, x), left
        output, final = self.scan(update, memory, starts)
        return narrow(output, x), (*left, *final)

    def step(
        self, params: Params, x: Array, state: State | None = None, *, reset: Array | None = None
    ) -> tuple[Array, State]:
        """Run one step: x of shape (..., m), without the axis of time. Else as `__call__`, with which it agrees."""
        reset = self._check(params, x, state, reset)
        own, memory = self._split(params, state, x.shape[:-1])
        surrogate, s, left = self.stand_in(), None, ()
        if surrogate is not None:
            s, left = surrogate.step(params, x, own, reset)
        update = self.update(params, s, x, reset)
        if not self.memory:
            return narrow(update, x), left
        output, final = self.scan_step(update, memory, reset)
        return narrow(output, x), (*left, *final)

    def initial_state(self, params: Params, x: Array) -> State:
        """The zero state as arrays, for steps x of shape (..., m): where None does not do, as in `jax.lax.scan`."""
        self._check(params, x, None, None)
        sizes, surrogate = self.sizes(params), self.stand_in()
        left = () if surrogate is None else surrogate.initial(x, *sizes)
        return (*left, *(self.initial_memory(x, *sizes) if self.memory else ()))

    # ---- the recurrence itself; a cell with another kind of memory has its own three

    def scan(self, update: Any, memory: State | None, starts: Starts) -> tuple[Array, State]:
        """Output and memory after all steps."""
        output, final = outputs(update, None if memory is None else memory[0], starts)
        return output, (final,)

    def scan_step(
        self, update: Any, memory: State | None, reset: Array | None
    ) -> tuple[Array, State]:
        """Output and memory after one step."""
        decay, h, read = written_out(update)
        if memory is not None:
            h = h + decay * forget(memory[0], reset)
        return read(h), (h,)

    def initial_memory(self, x: Array, input_size: int, hidden_size: int) -> State:
        return (zeros((*x.shape[:-1], hidden_size), wide(x[..., :0])),)

    # ---- checks

    def _split(
        self, params: Params, state: State | None, lead: Shape
    ) -> tuple[State | None, State | None]:
        """The surrogate's part of a state, and the memory; `lead` is their shape without the features.

        Memory may be repeated along axes; whether it fits, the recurrence says.
        """
        if state is None:
            return None, None
        surrogate = self.stand_in()
        if surrogate is None:
            return (), state
        wanted = (*lead, surrogate.size(*self.sizes(params)))
        for name, array in zip(surrogate.state, state, strict=False):
            given = tuple(array.shape)
            # Compared one by one: torch.compile does not find a symbol in a tuple.
            if len(given) != len(wanted) or any(map(operator.ne, given, wanted)):
                raise ShapeError(
                    f"{name} of the state has shape {given}, but before these steps it has {wanted}: x's without the "
                    "axis of time, or with that of sequences in its place, and the features that stand for the past."
                )
        left = len(surrogate.state)
        return state[:left], state[left:]

    def _check(
        self, params: Params, x: Array, state: State | None, reset: Array | None
    ) -> Array | None:
        """Raise unless the arguments fit each other; `reset` in the shape of the steps."""
        kind = kind_of(x, "x")
        if str(x.dtype).rpartition(".")[2] not in DTYPES:
            raise DTypeError(f"x has dtype {x.dtype}, but a cell takes {', '.join(DTYPES)}.")
        m, _ = _sizes(self, params, kind)
        shape = tuple(x.shape)
        if not shape or shape[-1] != m:
            raise ShapeError(
                f"x has shape {shape}, but the parameters of this {self.name} cell are for {m} features, "
                f"which x must have on its last axis."
            )
        if state is not None and len(state) != len(self.state):
            raise ShapeError(
                f"state has {len(state)} arrays, but that of a {self.name} cell has {len(self.state)}: "
                f"{', '.join(self.state)}. Pass on what the cell returned, or None."
            )
        check_library(kind, "state", *(state or ()))
        check_library(kind, "reset", *(() if reset is None else (reset,)))
        if reset is not None:
            xp, given = namespace(reset), tuple(reset.shape)
            steps = shape[max(len(shape) - 1 - len(given), 0) : -1]
            # Compared one by one: torch.compile does not find a symbol in a tuple.
            if len(given) >= len(shape) or any(
                length != 1 and length != other for length, other in zip(given, steps, strict=True)
            ):
                raise ShapeError(
                    f"reset has shape {given}; it must be x's without the features, {shape[:-1]}, or broadcast to it."
                )
            reset = xp.astype(reset, xp.bool, copy=False)
            if given != shape[:-1]:
                reset = xp.broadcast_to(reset, shape[:-1])
        return reset


def _sizes(cell: Cell, params: Params, kind: str) -> tuple[int, int]:
    """`cell.sizes`, after a look at every name, shape and library; `kind` is the inputs'."""
    try:
        m, n = cell.sizes(params)
    except KeyError as error:
        given = ", ".join(params) or "none"
        raise ShapeError(
            f"The parameters of a {cell.name} cell lack {error}; given: {given}."
        ) from None
    except (ValueError, IndexError):
        given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in params.items())
        raise ShapeError(
            f"The shapes of these parameters are not those of a {cell.name} cell: {given}. See `shapes`."
        ) from None
    for name, shape in cell.shapes(m, n).items():
        value = params.get(name)
        if value is None or tuple(value.shape) != shape:
            what = "is missing" if value is None else f"has shape {tuple(value.shape)}"
            raise ShapeError(
                f"Parameter {name} of this {cell.name} cell {what}; for {m} inputs and {n} hidden units it must "
                f"have shape {shape}."
            )
        check_library(kind, f"parameter {name}", value)
    return m, n


def check_library(kind: str, name: str, *arrays: Array) -> None:
    """Raise `ArrayKindError` unless these go with inputs of the library `kind`: are of it, or NumPy's beside JAX's."""
    for array in arrays:
        if kind_of(array, name) not in (kind, "numpy" if kind == "jax" else kind):
            raise ArrayKindError(
                f"The inputs are of {kind} and {name} of {kind_of(array)}. Convert everything to {kind} first: `init` "
                "gives NumPy arrays."
            )
