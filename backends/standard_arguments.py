"""From the arguments of a call to arrays of one array-API namespace: for `scanlib.backends.standard`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from scanlib.call import (
    DTYPES,
    Call,
    Shape,
    axis_index,
    check_offsets,
    check_one_device,
    dtype_code,
    resolve,
)
from scanlib.errors import ArrayKindError, DTypeError, OffsetsError, ShapeError
from scanlib.kinds import is_scalar, python_number
from scanlib.offsets import host_offsets
from scanlib.roles import INITIAL, STATES

SIXTEEN_BITS = ("float16", "bfloat16")


class Arguments(NamedTuple):
    """The arrays of one call with what they have in common."""

    xp: Any
    device: Any
    result: Any  # the dtype of the result
    compute: Any  # the dtype of the arithmetic
    wide: Any  # the dtype that gradients are summed in
    arrays: dict[str, Any]

    def part(self, axis: int, start: int, stop: int, number: int) -> Arguments:
        """Of a sequence alone: steps `start` to `stop` of `axis`, counted from the end, and state `number`."""
        parts = {name: _part(name, v, axis, start, stop, number) for name, v in self.arrays.items()}
        return self._replace(arrays=parts)


def _part(name: str, array: Any, axis: int, start: int, stop: int, number: int) -> Any:
    if array is None or array.ndim < -axis or (array.shape[axis] == 1 and name not in STATES):
        return array
    at: Any = slice(start, stop)
    if name in STATES:
        at = 0 if array.shape[axis] == 1 else number
    return array[(..., at, *(slice(None),) * (-axis - 1))]


def gather(**arguments: Any) -> Arguments:
    """Check that the arguments belong together and make arrays of the numbers among them."""
    arguments = {name: python_number(value) for name, value in arguments.items()}
    given = {
        name: value
        for name, value in arguments.items()
        if value is not None and not is_scalar(value)
    }
    xp = namespace_of(given)
    arrays = {name: _array(xp, name, value) for name, value in given.items()}
    devices = {name: array_api_compat.device(array) for name, array in arrays.items()}
    device = next(iter(devices.values()))
    check_one_device(devices, "arrays", "Move them to one with to_device.")
    result = _promote(xp, arrays, [value for value in arguments.values() if is_scalar(value)])
    compute = xp.float32 if dtype_name(xp, result) in SIXTEEN_BITS else result
    for name, value in arguments.items():
        if name not in arrays:
            arrays[name] = None if value is None else xp.asarray(value, dtype=result, device=device)
    return Arguments(xp, device, result, compute, _widest(xp, device, compute), arrays)


def _widest(xp: Any, device: Any, compute: Any) -> Any:
    """float64 or complex128, as `compute` is real or complex; `compute` where the device is not known to have it."""
    name = "complex128" if xp.isdtype(compute, "complex floating") else "float64"
    try:
        return xp.__array_namespace_info__().dtypes(device=device).get(name, compute)
    except Exception:  # whichever a library raises that does not tell
        return compute


def namespace_of(arrays: dict[str, Any]) -> Any:
    try:
        return array_api_compat.array_namespace(*arrays.values())
    except Exception as error:
        types = ", ".join(f"{name} is a {type_name(value)}" for name, value in arrays.items())
        raise ArrayKindError(
            f"No single array-API namespace serves the arguments ({types}): {error}"
        ) from error


def _array(xp: Any, name: str, value: Any) -> Any:
    """`value` as its namespace sees it, with a known shape and a dtype scanlib computes in."""
    try:
        array = xp.asarray(value)
        shape, dtype = array.shape, array.dtype
    except Exception as error:
        raise ArrayKindError(
            f"{name}, a {type_name(value)}, is not what its own namespace {xp.__name__} takes for an array: {error}"
        ) from error
    dtype_code(dtype_name(xp, dtype), name)
    if not isinstance(shape, tuple) or not all(isinstance(length, int) for length in shape):
        raise ShapeError(
            f"{name} has shape {shape}, but scanlib has to know every length. Compute {name} first."
        )
    claimed = getattr(value, "shape", None)
    if claimed != shape:
        raise ShapeError(
            f"{name} says it has shape {claimed}, but its data has shape {shape}. Pass a plain array."
        )
    return array


def with_reset(given: Arguments, reset: Any) -> Arguments:
    """With where sequences start, or None, as an operand."""
    if reset is not None:
        reset = given.xp.asarray(reset)
        if not given.xp.isdtype(reset.dtype, "bool"):
            dtype_code(str(reset.dtype), "reset")
        check_one_device(
            {"x": given.device, "reset": array_api_compat.device(reset)}, "arrays", "Move reset."
        )
    return given._replace(arrays=given.arrays | {"reset": reset})


def offsets_of(given: Arguments, offsets: Any) -> Any:
    """Offsets as an array of integers, of the arguments' library or NumPy; None stays None."""
    own = array_api_compat.is_array_api_obj(offsets) and not isinstance(offsets, np.ndarray)
    if offsets is None or not own or array_api_compat.array_namespace(offsets) != given.xp:
        return None if offsets is None else host_offsets(offsets)
    if not given.xp.isdtype(offsets.dtype, "integral"):
        dtype_code(dtype_name(given.xp, offsets.dtype), "offsets")
    return offsets


def numbers_of(offsets: Any, steps: int) -> tuple[int, ...]:
    """Offsets as numbers, for which their values are asked for; raises where they are not those of `steps` steps."""
    try:
        found = tuple(int(offsets[i]) for i in range(offsets.shape[0]))
    except Exception as error:
        raise OffsetsError(
            f"The values of offsets, a {type_name(offsets)}, are needed and cannot be had: {error}"
        ) from error
    check_offsets(np.asarray(found), steps)
    return found


def resolve_forward(given: Arguments, axis: Any, offsets: Any = None) -> Call:
    a, x, initial, reset = (shape_of(given.arrays[name]) for name in ("a", "x", INITIAL, "reset"))
    return resolve(a, x, initial, axis_index(axis), reset, shape_of(offsets))


def shape_of(array: Any) -> Shape | None:
    return None if array is None else tuple(array.shape)


@functools.cache
def _dtypes(xp: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((name, getattr(xp, name)) for name in DTYPES if hasattr(xp, name))


def dtype_name(xp: Any, dtype: Any) -> str:
    return next((name for name, known in _dtypes(xp) if known == dtype), str(dtype))


def _promote(xp: Any, arrays: dict[str, Any], scalars: list[Any]) -> Any:
    """The dtype of the result: the namespace's for its arrays, made complex by a complex Python number."""
    try:
        dtype = xp.result_type(*arrays.values())
    except Exception as error:
        dtypes = ", ".join(f"{name} has dtype {array.dtype}" for name, array in arrays.items())
        raise DTypeError(
            f"{xp.__name__} promotes these dtypes to none: {dtypes}. Convert them to one."
        ) from error
    if any(isinstance(value, complex) for value in scalars) and xp.isdtype(dtype, "real floating"):
        return xp.complex128 if dtype == xp.float64 else xp.complex64
    return dtype


def type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
