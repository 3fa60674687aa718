"""Other ways to run the same recurrence on a CPU, each where it can.

A peer belongs to the library whose arrays it takes, and is timed in turn with ours on the same arrays. Its `reason`
says why it sits a case out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from bench.core.shapes import Array, Case

Function = Callable[[Any, Any], Any]


class Peer(Protocol):
    """What a benchmark needs of a peer. The constructor raises ImportError where it is not installed."""

    name: str
    library: str  # whose arrays it takes
    constant: bool  # whether it needs one coefficient for all steps
    gradients: bool  # whether its library differentiates through it

    def reason(self, case: Case) -> str:
        """Why it cannot run `case`; empty where it can."""
        ...

    def function(self, case: Case) -> Function:
        """A function of (a, x)."""
        ...


class LaxScan:
    name, library, constant, gradients = "jax.lax.scan", "jax", False, True

    def __init__(self) -> None:
        self.jax = importlib.import_module("jax")

    def reason(self, case: Case) -> str:
        return ""

    def function(self, case: Case) -> Function:
        jnp, scan = self.jax.numpy, self.jax.lax.scan

        def step(h: Any, ax: Any) -> Any:
            h = ax[0] * h + ax[1]
            return h, h

        def run(a: Any, x: Any) -> Any:
            a, x = jnp.moveaxis(a, case.axis, 0), jnp.moveaxis(x, case.axis, 0)
            _, h = scan(step, jnp.zeros(x.shape[1:], x.dtype), (a, x), reverse=case.reverse)
            return jnp.moveaxis(h, 0, case.axis)

        return run


class LaxAssociativeScan:
    name, library, constant, gradients = "jax.lax.associative_scan", "jax", False, True

    def __init__(self) -> None:
        self.jax = importlib.import_module("jax")

    def reason(self, case: Case) -> str:
        return ""

    def function(self, case: Case) -> Function:
        scan = self.jax.lax.associative_scan
        return lambda a, x: scan(combine, (a, x), reverse=case.reverse, axis=case.axis)[1]


class TorchAssociativeScan:
    name, library, constant, gradients = "torch associative_scan", "torch", False, True

    def __init__(self) -> None:
        module = importlib.import_module("torch._higher_order_ops.associative_scan")
        self.scan = module.associative_scan

    def reason(self, case: Case) -> str:
        return ""

    def function(self, case: Case) -> Function:
        return lambda a, x: self.scan(
            combine, (a, x), dim=case.axis, reverse=case.reverse, combine_mode="generic"
        )[1]


class TorchLpc:
    name, library, constant, gradients = "torchlpc", "torch", False, True

    def __init__(self) -> None:
        self.lpc = importlib.import_module("torchlpc").sample_wise_lpc

    def reason(self, case: Case) -> str:
        if case.reverse:
            return "runs forward only"
        if case.axis != len(case.shape) - 1:
            return "takes (batch, time) only"
        return ""

    def function(self, case: Case) -> Function:
        T = case.shape[-1]
        # its coefficients are those of a filter's denominator, so of the other sign
        return lambda a, x: self.lpc(x.view(-1, T), -a.view(-1, T, 1)).view(case.shape)


class Lfilter:
    name, library, constant, gradients = "scipy.signal.lfilter", "numpy", True, False

    def __init__(self) -> None:
        self.lfilter = importlib.import_module("scipy.signal").lfilter

    def reason(self, case: Case) -> str:
        return "runs forward only" if case.reverse else ""

    def function(self, case: Case) -> Function:
        def run(a: Any, x: Array) -> Array:
            numerator, denominator = x.dtype.type([1]), x.dtype.type([1, -a.item()])
            return self.lfilter(numerator, denominator, x, axis=case.axis)

        return run


class Numba:
    name, library, constant, gradients = "numba loop", "numpy", False, False

    def __init__(self) -> None:
        self.loops = importlib.import_module("bench.cpu.numba_loops")

    def reason(self, case: Case) -> str:
        return "written forward only" if case.reverse else ""

    def function(self, case: Case) -> Function:
        function: Function = self.loops.choose(case)
        return function


PEERS: tuple[type, ...] = (
    LaxScan,
    LaxAssociativeScan,
    TorchAssociativeScan,
    TorchLpc,
    Lfilter,
    Numba,
)


def combine(before: tuple[Any, Any], after: tuple[Any, Any]) -> tuple[Any, Any]:
    """Two steps of the recurrence as one: the operator every associative scan is given."""
    return after[0] * before[0], after[0] * before[1] + after[1]
