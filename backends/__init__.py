"""Adapters: one module for each array library, imported only when an array of that library arrives.

An adapter is a module with the functions of `Adapter`. It holds what only its library needs (allocation, autodiff,
streams, tracing) and leaves the rest where it is written once: shapes and axes in `scanlib.call`, what runs a call in
`scanlib.plan`, kernels in libscanlib behind `scanlib.native`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from scanlib.plan import Explanation


#: A module with the functions of `scanlib.backends.array_functions`.
Functions = Any


class Adapter(Protocol):
    """What `scanlib.dispatch` expects of each module here.

    The arguments are those of `scanlib.linear_recurrence`, unchecked except that every one that is not None, a Python
    number or a NumPy scalar is an array of this library; at least one of `a` and `x` is an array. An adapter takes
    NumPy scalars as its library does.

    An adapter may also have a function `gated_scan(columns, initial, reset, axis, form, offsets=None)`: it runs a
    `GateForm` of columns in one pass, to (output, final state), or gives None where there is no kernel for these
    arrays. `initial` is the state before, or None for zeros; the boolean `reset`, of the columns' shape without the
    last axis, is True at steps that see nothing of those before, or None; `offsets`, integers, says where sequences
    start that have states of their own, or None.
    """

    functions: Functions

    def linear_recurrence(self, *arguments: Any) -> Any:
        """What the public function does with these arguments, in its order."""
        ...

    def linear_recurrence_vjp(self, *arguments: Any) -> tuple[Any, Any, Any]:
        """The same."""
        ...

    def explain(self, *arguments: Any) -> Explanation:
        """Which path `linear_recurrence` or its gradient would take; copies nothing and raises what it would raise.

        The arguments are those of `scanlib.explain` in its order.
        """
        ...
