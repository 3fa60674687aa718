"""Whether this JAX is as `internals` expects it: tried once, on a program of one operand that is never run."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from scanlib.backends.jax import internals as internals
from scanlib.backends.jax import views


@functools.cache
def lost() -> tuple[str, ...]:
    """What a program compiled by this JAX goes without, and why; empty where all is as expected."""
    seen: dict[str, Any] = {}

    def rule(ctx: Any, operand: Any) -> list[Any]:
        seen["compute type"] = internals.tells_compute_type(ctx)
        base, view = views.look_through(operand)
        seen["view"] = view, internals.operation(base) is None
        return [operand]

    probe = Primitive("scanlib_probe")
    probe.def_abstract_eval(lambda operand: operand)
    mlir.register_lowering(probe, rule, cacheable=False)
    run = internals.inlined(probe.bind)
    try:
        # Whatever the caller has set: this is no part of what is being compiled.
        with jax.sharding.use_abstract_mesh(internals.NO_MESH), jax.disable_jit(False):
            program = jax.jit(lambda p: run(_rearranged(p)))
            program.trace(jax.ShapeDtypeStruct((4, 6), "float32")).lower(
                lowering_platforms=("cpu",)
            )
    except Exception as error:  # whatever has changed, the recurrence itself may run still
        seen["error"] = f" ({type(error).__name__}: {error})"
    return tuple(_reasons(seen))


def _rearranged(p: jax.Array) -> jax.Array:
    """Every operation that `views` sees through."""
    value = lax.rev(p[1:, ::2].T, (0,))
    return lax.broadcast_in_dim(value, (2, 3, 3), (1, 2)).reshape(2, 3, 1, 3)


def _reasons(seen: dict[str, Any]) -> list[str]:
    here, error = internals.this_jax(), seen.get("error", "")
    reasons = []
    if seen.get("view") != (views.View((2, 3, 1, 3), 10, (0, -2, 0, 6)), True):
        reasons.append(
            f"slices, transposes, flips and broadcasts are copied before the recurrence reads them: {here} does not "
            f"show what an operand is taken of{error}"
        )
    if not seen.get("compute type"):
        reasons.append(
            f"a call inside of compute_on('device_host') is compiled for the device: {here} does not tell where an "
            f"operation is computed{error}"
        )
    if not internals.types_have_varying_axes():
        reasons.append(
            f"inside of jax.shard_map operands that vary over different mesh axes may be refused: {here} does not "
            "tell over which axes a value varies; make them vary alike with jax.lax.pcast"
        )
    return reasons
