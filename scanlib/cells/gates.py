"""Gated recurrences: what most cells have in common, said once, and run in one pass where there is a kernel for it.

    f = sigmoid(column),  i = sigmoid(column) or 1 - f,  z = activation(column),  o = sigmoid(column) or 1

    h_t = f_t h_{t-1} + i_t z_t,   y_t = o_t h_t

The columns are the product of one matrix multiplication. Written out with a library's own functions, the gates alone
move several times what the recurrence does; libscanlib takes columns in and puts states and outputs out
(`scanlib_gated_problem_init`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from scanlib.cells.functions import identity
from scanlib.cells.starts import Starts
from scanlib.dispatch import adapter_of, functions_for
from scanlib.gates import AFTER, BEFORE, GATED, form_of, opened
from scanlib.recurrence import linear_recurrence

Array = Any


class Update(NamedTuple):
    """What a transition gives for one step or for all: h_t = decay h_{t-1} + input, and how to read h.

    Attributes
    ----------
    decay : array, broadcastable to the shape of `input`
        A constant decay, without axes for batch and time, is not repeated in memory.
    input : array, shape (..., T, ..., n) or (..., n)
    read : function of an array of the shape of `input`
        From the states to the output.
    """

    decay: Array
    input: Array
    read: Callable[[Array], Array]


@dataclass(frozen=True)
class Gates:
    """What the columns of a gated recurrence are.

    Attributes
    ----------
    order : tuple of str
        The blocks of n columns: "decay" (f) and "candidate" (z), and if wanted "input" (i) and "output" (o). The
        candidate is the first or the last.
    activation : str
        The candidate's: a key of `functions.ACTIVATIONS`.
    complement : bool
        Whether f is the complement of what its column says, to full precision: for cells whose gate renews.
    """

    order: tuple[str, ...]
    activation: str = "tanh"
    complement: bool = False


class Gated(NamedTuple):
    """A transition as the columns of its gates, in the place of an `Update`.

    Attributes
    ----------
    columns : array, shape (..., T, ..., k n) or (..., k n)
        Before any activation, for the k blocks of `gates`.
    gates : Gates
    read : function of an array (..., T, ..., n) or (..., n)
        From y_t of the gates, the state where they have no output gate, to the output.
    """

    columns: Array
    gates: Gates
    read: Callable[[Array], Array] = identity

    def update(self) -> Update:
        """The same written out."""
        order, activation, complement = (
            self.gates.order,
            self.gates.activation,
            self.gates.complement,
        )
        functions = functions_for(self.columns)
        f, entering, o = opened(self.columns, order, activation, complement, functions)
        return Update(f, entering, self.read if o is None else (lambda h: self.read(o * h)))


def written_out(transition: Update | Gated) -> Update:
    """Any transition as an `Update`."""
    return transition.update() if isinstance(transition, Gated) else transition


def outputs(transition: Update | Gated, first: Array | None, starts: Starts) -> tuple[Array, Array]:
    """The output after every step, and the state after the last, from the state `first` (None: zeros)."""
    return _run(transition, first, starts, GATED)


def states(
    transition: Update | Gated, first: Array | None, starts: Starts, before: bool
) -> tuple[Array, Array]:
    """The state after, or `before`, every step, whatever is read from it; and the state after the last."""
    return _run(transition, first, starts, BEFORE if before else AFTER)


def _run(
    transition: Update | Gated, first: Array | None, starts: Starts, reading: int
) -> tuple[Array, Array]:
    if isinstance(transition, Gated):
        fused = _run_fused(transition, first, starts, reading)
        if fused is not None:
            return fused
    decay, entering, read = written_out(transition)
    h, final = linear_recurrence(
        decay, entering, first, axis=starts.axis, return_final=True, **starts.arguments()
    )
    if reading == BEFORE:
        return starts.delay(h, first), final
    return read(h) if reading == GATED else h, final


def _run_fused(
    transition: Gated, first: Array | None, starts: Starts, reading: int
) -> tuple[Array, Array] | None:
    """The same in one pass, where there is a kernel for it."""
    columns, gates, read = transition
    scan = getattr(adapter_of(columns), "gated_scan", None)
    size = columns.shape[-1]
    form = form_of(size, gates.order, gates.activation, gates.complement, reading)
    if scan is None or form is None:
        return None
    found = scan(columns, first, starts.reset, starts.axis, form, starts.offsets)
    if found is None:
        return None
    y, final = found
    return read(y) if reading == GATED else y, final
