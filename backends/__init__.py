"""Adapters: one module for each array library, imported only when an array of that library arrives.

An adapter is a module with the functions of `Adapter`. It holds what only its library needs (allocation, autodiff,
streams, tracing) and leaves the rest where it is written once: shapes and axes in `scanlib.problem`, kernels in
libscanlib behind `scanlib.native`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from scanlib.dispatch import Explanation


class Adapter(Protocol):
    """What `scanlib.dispatch` expects of each module here.

    The arguments are those of `scanlib.linear_recurrence`, unchecked except that every one that is not None, a Python
    number or a NumPy scalar is an array of this library; at least one of `a` and `x` is an array. An adapter takes
    NumPy scalars as its library does.
    """

    def linear_recurrence(
        self, a: Any, x: Any, h0: Any, axis: int | None, reverse: bool, return_final: bool, out: Any
    ) -> Any: ...

    def linear_recurrence_vjp(
        self, grad_h: Any, a: Any, h: Any, h0: Any, axis: int | None, reverse: bool, grad_final: Any
    ) -> tuple[Any, Any, Any]: ...

    def explain(self, a: Any, x: Any, h0: Any, axis: int | None, reverse: bool) -> Explanation:
        """Which path `linear_recurrence` would take; runs nothing and raises what it would raise."""
        ...
