"""What this adapter asks of JAX beyond its documented interface: all of it, so that a new JAX is met in one file.

Known to hold for the versions in `KNOWN`. The rest of the adapter uses `jax.interpreters`, `jax.ffi` and
`jax.experimental.custom_partitioning` as JAX's own guides for new primitives do. Where something is not found the
recurrence still runs, at a price: `probe` tries it once, and `warn_once` and `scanlib.explain` tell.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.interpreters import mlir
from jax.interpreters.mlir import ir

#: the oldest and the newest JAX that the tests have passed with
KNOWN = ("0.9.1", "0.12.0")

#: no mesh at all, for `jax.sharding.use_abstract_mesh`
NO_MESH = jax.sharding.AbstractMesh((), ())


@functools.cache
def warn_once(message: str) -> None:
    warnings.warn(
        f"{message}. scanlib.explain(a, x, ...) tells the path of a call.",
        RuntimeWarning,
        stacklevel=2,
    )


def this_jax() -> str:
    return f"JAX {jax.__version__} (scanlib is tested with {KNOWN[0]} to {KNOWN[1]})"


# ---- tracing


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled where it is called on its own, and traced into the program around it where there is one.

    A program of its own inside of another is lowered by itself, where operands have no origin to look at.
    """
    # What `inline=True` was for until 0.11; from 0.12 on it means after the lowering.
    policy = getattr(jax, "Inline", None)
    return jax.jit(function, inline=True if policy is None else policy.JAX_EARLY)


# ---- types


def types_have_varying_axes() -> bool:
    return bool({"manual_axis_type", "vma"} & set(dir(jax.typeof(0.0))))


def varying_axes(operand: Any) -> frozenset[str]:
    """The manual axes of a `shard_map` over which a value differs from device to device."""
    kind = jax.typeof(operand)
    manual = getattr(kind, "manual_axis_type", None)  # jax 0.10; before it was `vma`
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def make_vary(operand: Any, axes: tuple[str, ...]) -> Any:
    if hasattr(lax, "pcast"):
        return lax.pcast(operand, axes, to="varying")
    return getattr(lax, "pvary")(operand, axes)  # noqa: B009 - unknown to type checkers now


def spec_of(value: Any) -> Sequence[Any]:
    """The mesh axes of each axis of a type or an array; empty where it has none."""
    return getattr(getattr(value, "sharding", None), "spec", ())


def leaves_axes_to_xla() -> bool:
    """Whether this is traced in a `shard_map` over only some axes of its mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    manual = set(getattr(mesh, "manual_axes", ()))
    return bool(manual) and manual != set(mesh.axis_names)


# ---- lowering: what the context of a rule tells


def platforms(ctx: Any) -> Sequence[str]:
    """What a program is lowered for: several platforms in an export, the host's in what is computed there."""
    if getattr(ctx.jaxpr_eqn_ctx, "compute_type", None) == "device_host":
        return ("cpu",)
    return ctx.platforms or ctx.module_context.platforms


def tells_compute_type(ctx: Any) -> bool:
    return hasattr(ctx.jaxpr_eqn_ctx, "compute_type")


def exporting(ctx: Any) -> bool:
    parameters = getattr(ctx.module_context, "lowering_parameters", None)
    return bool(getattr(parameters, "for_export", False))


_SEVERAL = getattr(mlir, "ShardingContext", None)


def on_several_devices(ctx: Any) -> bool:
    """Whether XLA is to partition this program, outside of `shard_map`."""
    context = ctx.module_context.axis_context
    return _SEVERAL is not None and isinstance(context, _SEVERAL) and context.num_devices > 1


def has_mesh(ctx: Any) -> bool:
    """Whether this program's devices form a mesh, of which `tell_devices` has JAX inform."""
    return ctx.module_context.axis_context.abstract_mesh is not None


def tell_devices(primitives: Sequence[Any]) -> str:
    """Have JAX name the devices when these primitives are lowered, as partitioning needs; why not, where it cannot."""
    try:
        from jax._src.dispatch import prim_requires_devices_during_lowering as informed

        informed.update(primitives)
    except (ImportError, AttributeError) as error:
        return str(error)
    return "" if _SEVERAL is not None else "there is no ShardingContext"


# ---- lowered values


def operation(value: Any) -> Any:
    """What computes an MLIR value; None for an argument."""
    return None if isinstance(value.owner, ir.Block) else value.owner.operation


def integers(operation: Any, name: str) -> tuple[int, ...]:
    return tuple(int(n) for n in operation.attributes[name])
