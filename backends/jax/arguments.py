"""Arguments as a user gives them, and the operands of the primitives that they become, when a program is traced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from scanlib.call import (
    OFFSETS_DTYPES,
    Call,
    check_offsets,
    check_sequences,
    dtype_code,
    resolve,
)
from scanlib.errors import DTypeError
from scanlib.kinds import is_number
from scanlib.offsets import host_offsets
from scanlib.roles import INITIAL

Array = jax.Array


class Operands(NamedTuple):
    a: Array
    x: Array
    initial: Array | None
    starts: Array | None
    call: Call
    dtype: Any


def plain_numbers(**named: Any) -> Iterator[Any]:
    """Python's ints as floats: they take the dtype of what they meet. NumPy's scalars have one, as JAX takes them."""
    for name, value in named.items():
        if isinstance(value, np.generic):
            dtype_code(value.dtype.name, name)
        yield float(value) if type(value) is int else value


def operands_of(
    a: Array,
    x: Array,
    initial: Array | None,
    axis: int | None,
    reset: Array | None,
    offsets: Array | None,
) -> Operands:
    """Checked, with as many axes as the result or as a state has, each in its own dtype."""
    named = as_arrays(a=a, x=x, **{INITIAL: initial})
    call = resolve(*shapes(*named.values()), axis, *shapes(reset, offsets))
    dtype = common_dtype(named)
    given = numbers_as(dtype, named)
    ndim = len(call.shape)
    state = given[INITIAL]
    return Operands(
        pad(given["a"], ndim),
        pad(given["x"], ndim),
        None if state is None else pad(state, len(call.state_shape)),
        starts_of(reset, offsets, call),
        call,
        dtype,
    )


def starts_of(reset: Any, offsets: Any, call: Call) -> Array | None:
    """The operand that says where sequences start, as primitives have it; only one of the two is given."""
    if reset is not None:
        reset = jnp.asarray(reset)
        dtype_code(reset.dtype.name, "reset")
        return pad(reset, len(call.shape))
    if offsets is None:
        return None
    offsets = jnp.asarray(offsets)
    if jnp.issubdtype(offsets.dtype, jnp.integer) and offsets.dtype.name not in OFFSETS_DTYPES:
        offsets = offsets.astype(jax.dtypes.canonicalize_dtype(np.int64))
    dtype_code(offsets.dtype.name, "offsets")
    return offsets


def checked_offsets(offsets: Any, axis: int | None, *others: Any) -> Any:
    """`offsets` as an array; raises `OffsetsError` where what they hold is at hand and does not fit the others."""
    if offsets is None:
        return None
    offsets = _as_array(offsets)
    a, x = map(np.shape, others)
    call = resolve(a, x, None, axis, None, offsets.shape)
    T: Any = call.shape[call.axis]
    values = _at_hand(offsets)
    if values is not None and not np.issubdtype(values.dtype, np.integer):
        dtype_code(values.dtype.name, "offsets")
    if not isinstance(T, int):
        return offsets
    if values is not None:
        check_offsets(values, T)
    else:
        check_sequences(offsets.shape[0] - 1, T)
    return offsets


def _as_array(offsets: Any) -> Any:
    if isinstance(offsets, jax.Array | jax.ShapeDtypeStruct):
        return offsets
    if isinstance(offsets, list | tuple) and any(isinstance(n, jax.Array) for n in offsets):
        return jnp.asarray(offsets)
    return host_offsets(offsets)


def _at_hand(offsets: Any) -> Any:
    """The values of offsets where they are in the memory of this process, or None."""
    if isinstance(offsets, np.ndarray):
        return offsets
    if not concrete(offsets) or not offsets.is_fully_addressable:
        return None
    return np.asarray(offsets) if all(d.platform == "cpu" for d in offsets.devices()) else None


def as_arrays(**named: Any) -> dict[str, Any]:
    """Numbers as arrays too, which they are already unless jit is switched off."""
    return {name: jnp.asarray(v) if is_number(v) else v for name, v in named.items()}


def common_dtype(named: dict[str, Any]) -> Any:
    given = {name: value for name, value in named.items() if value is not None}
    for name, value in given.items():
        if not _is_number(value):
            dtype_code(value.dtype.name, name)
    try:
        dtype = jnp.result_type(*given.values())
    except (TypeError, ValueError) as error:  # under jax_numpy_dtype_promotion="strict"
        raise DTypeError(f"JAX does not promote these dtypes: {error}") from None
    dtype_code(dtype.name, " and ".join(given))
    return dtype


def numbers_as(dtype: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Numbers in the common dtype; arrays as they are, the kernels convert them."""
    return {
        name: lax.convert_element_type(value, dtype)
        if value is not None and _is_number(value)
        else value
        for name, value in named.items()
    }


def shapes(*values: Any) -> Iterator[Any]:
    return (None if value is None else value.shape for value in values)


def _is_number(value: Array) -> bool:
    """Whether this is a Python number, as JAX traces one: weakly typed, so it takes the dtype of what it meets."""
    return value.ndim == 0 and bool(jax.typeof(value).weak_type) and value.dtype != bool


def pad(value: Array, ndim: int) -> Array:
    missing = ndim - value.ndim
    return lax.expand_dims(value, range(missing)) if missing else value


def unpad(value: Array, like: Array) -> Array:
    missing = value.ndim - like.ndim
    return lax.squeeze(value, range(missing)) if missing else value


def concrete(*values: Any) -> list[Array]:
    """The arrays that have values, and so a device."""
    return [v for v in values if isinstance(v, jax.Array) and not isinstance(v, jax.core.Tracer)]
