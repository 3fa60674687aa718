"""libscanlib on arrays that are sharded over devices: each shard runs on its own, time stays whole.

XLA knows nothing about a foreign call and would gather its operands on every device. `jax.custom_partitioning` tells it
that all axes but time are independent, and adds up the parts of `grad_a` where the axes it is summed over are sharded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import ArrayMapping, SdyShardingRule, custom_partitioning
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from scanlib.backends.jax import internals as internals
from scanlib.backends.jax import views
from scanlib.backends.jax.arithmetic import accumulator, cast
from scanlib.backends.jax.primitives import Array, backward_p, scan_p, tangent_p

_GATHERED = "operands sharded outside of jax.shard_map are gathered on every device; put the call into jax.shard_map"
_untold = internals.tell_devices((scan_p, tangent_p, backward_p))
UNAVAILABLE = (
    f"{internals.this_jax()} does not tell primitives their devices ({_untold}), so {_GATHERED}"
    if _untold
    else ""
)
#: A partitioned call is a function in this process, which no exported program can take along.
EXPORTED = f"a program for export cannot be partitioned, so {_GATHERED}"


def lower(
    call: Callable[..., list[Array]], ctx: Any, operands: Sequence[Any], params: dict[str, Any]
) -> Any:
    """Lower `call` in `ctx`: on views for one device and in a shard_map, partitioned for several devices."""
    if not internals.on_several_devices(ctx):
        return views.lower(call, ctx, operands, params)
    if reason := UNAVAILABLE or (EXPORTED if internals.exporting(ctx) else ""):
        internals.warn_once(f"scanlib's results are right, but {reason}")
    elif internals.has_mesh(ctx):
        call = functools.partial(_partitioned, call)
    return mlir.lower_fun(call, multiple_results=True)(ctx, *operands, **params)


def gathered_because() -> str:
    """Why operands that are sharded here would be gathered on every device; empty if they are not."""
    if internals.leaves_axes_to_xla():
        # Partitioning a foreign call there ends in a failed check of XLA, which aborts the process.
        return (
            "this jax.shard_map leaves mesh axes to XLA, which gathers operands that are sharded over them; name all "
            "axes of the mesh in its axis_names"
        )
    return UNAVAILABLE


def _partitioned(call: Callable[..., list[Array]], *operands: Array, **params: Any) -> list[Array]:
    axis = params["axis"]
    run = functools.partial(call, **params)
    results = jax.eval_shape(run, *operands)
    backward = "summed" in params
    layout = _Layout(axis, results[1 if backward else 0].shape)

    def partition(mesh: Any, given: Sequence[Any], wanted: Sequence[Any]) -> Any:
        spec = layout.spec([*wanted, *given])
        axes = [name for d in params.get("summed", ()) for name in _names(spec[d])]

        def lower(*local: Array) -> list[Array]:
            # A shard is an array of one device, whatever mesh the caller has set: on one with explicit axes JAX would
            # put a sharding into the sum of two numbers that psum is compiled from, which XLA refuses.
            with jax.sharding.use_abstract_mesh(internals.NO_MESH):
                if not axes:
                    return run(*local)
                grad_a, *rest = run(*local, a_dtype=accumulator(local[0].dtype))
                return [cast(lax.psum(grad_a, tuple(axes)), local[0].dtype), *rest]

        place = functools.partial(layout.sharding, mesh, spec)
        return mesh, lower, list(map(place, wanted)), tuple(map(place, given))

    def infer(mesh: Any, given: Sequence[Any], wanted: Sequence[Any]) -> Any:
        place = functools.partial(layout.sharding, mesh, layout.spec(given))
        return list(map(place, wanted))

    wrapped = custom_partitioning(lambda *args: run(*args))
    wrapped.def_partition(
        partition, infer_sharding_from_operands=infer, sharding_rule=layout.rule(operands, results)
    )
    return wrapped(*operands)


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


class _Layout:
    """Which axes of a call's operands and results are the same axis of the recurrence."""

    def __init__(self, axis: int, shape: tuple[int, ...]) -> None:
        self.axis = axis
        self.shape = shape

    def _axes(self, value: Any) -> list[int | None]:
        """The recurrence's axis for each of a value's.

        None where the value is repeated along it, for that of offsets, and for that of sequences in packed states,
        which is taken for time if it is as long: each device has all of them.
        """
        if jnp.issubdtype(value.dtype, jnp.integer):  # offsets
            return [None]
        axes = list(range(len(self.shape)))
        if len(value.shape) < len(self.shape):  # a state
            axes.remove(self.axis)
        return [d if n == self.shape[d] else None for d, n in zip(axes, value.shape, strict=True)]

    def rule(self, operands: Sequence[Any], results: Sequence[Any]) -> SdyShardingRule:
        """Equal names for equal axes, a name of its own for each other one, time replicated."""
        repeated = iter(range(64 * 64))

        def mapping(value: Any) -> ArrayMapping:
            return ArrayMapping(
                *(f"r{next(repeated)}" if d is None else f"d{d}" for d in self._axes(value))
            )

        return SdyShardingRule(
            tuple(map(mapping, operands)),
            tuple(map(mapping, results)),
            need_replication_factors=(f"d{self.axis}",),
        )

    def spec(self, values: Sequence[Any]) -> list[Any]:
        """How each axis is sharded: as the first of `values` has it, where it divides evenly and is not time."""
        spec: list[Any] = [None] * len(self.shape)
        used: set[str] = set()
        for value in values:
            mesh, given = value.sharding.mesh, value.sharding.spec
            for d, entry in zip(self._axes(value), given, strict=False):
                names = _names(entry)
                if d is None or d == self.axis or spec[d] is not None or used.intersection(names):
                    continue
                if names and self.shape[d] % math.prod(mesh.shape[name] for name in names) == 0:
                    spec[d] = entry
                    used.update(names)
        return spec

    def sharding(self, mesh: Any, spec: Sequence[Any], value: Any) -> NamedSharding:
        return NamedSharding(
            mesh, PartitionSpec(*(None if d is None else spec[d] for d in self._axes(value)))
        )
