"""JAX's own ways of `scanlib.backends.array_functions`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from scanlib.backends import array_functions
from scanlib.backends.array_functions import (  # noqa: F401
    at,
    convex,
    device_of,
    identity,
    part,
    parts,
)

Array = Any

sigmoid = jax.nn.sigmoid
softplus = jax.nn.softplus
elu = jax.nn.elu
tanh = jnp.tanh
stop_gradient = lax.stop_gradient
complex_of = lax.complex


def namespace(array: Array) -> Any:
    return jnp


def positive(v: Array) -> Array:
    return jnp.where(v >= 0, v + 0.5, jax.nn.sigmoid(v))


def silu(v: Array) -> Array:
    return v * jax.nn.sigmoid(v)


def sqrt_capped(v: Array) -> Array:
    steep = v <= 2.5e-7
    root = jnp.sqrt(jnp.where(steep, jnp.ones_like(v), v))
    line = jnp.sqrt(lax.stop_gradient(v)) + 1000 * (v - lax.stop_gradient(v))
    return jnp.where(steep, line, root)


def project(x: Array, weight: Array, bias: Array | None = None) -> Array:
    # Not by way of matrices: the recurrence sees which product a slice is one of (`views`).
    y = x @ weight
    return y if bias is None else y + bias


project_pair = functools.partial(array_functions.project_pair, project=project)
project_to_complex = functools.partial(
    array_functions.project_to_complex, project=project, complex_of=complex_of
)
project_to_real = functools.partial(array_functions.project_to_real, project=project)


def running_maximum(v: Array, axis: int, start: Array | None = None) -> Array:
    v = lax.stop_gradient(v)
    if start is None and v.shape[axis]:
        return lax.cummax(v, axis)
    return array_functions.running_maximum(v, axis, start)
