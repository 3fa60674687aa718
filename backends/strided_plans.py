"""Plans for arrays with shapes, strides and dtypes as NumPy has them: what is worked out once for arrays alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from scanlib import gpu
from scanlib.call import Call, Shape, dtype_code, resolve
from scanlib.errors import DTypeError
from scanlib.plan import Layout, Output, Plan, dense, make
from scanlib.roles import GRADIENTS, INITIAL, STARTS

#: shape, strides in bytes and dtype: all a plan depends on
Signature = tuple[Shape, Shape, np.dtype[Any]]


class Access(NamedTuple):
    """How libscanlib reaches a library's arrays.

    Attributes
    ----------
    holder_offset
        Where not 0, libscanlib is given the addresses of array objects and reads the data pointer at this offset.
    whole_elements
        Whether addresses and strides have to be multiples of the element's size.
    """

    holder_offset: int = 0
    whole_elements: bool = False


class Place(NamedTuple):
    """What a plan on a GPU depends on beside the signatures of its operands.

    Attributes
    ----------
    unaligned
        Roles of operands whose addresses are no multiples of their element's size.
    target
        The GPU.
    """

    unaligned: tuple[str, ...] = ()
    target: gpu.Target = gpu.CPU


def forward_plan(
    access: Access,
    a_shape: Shape,
    a_strides: Shape,
    a_dtype: np.dtype[Any],
    x_shape: Shape,
    x_strides: Shape,
    x_dtype: np.dtype[Any],
    initial: Signature | None,
    axis: int | None,
    reverse: bool,
    return_final: bool,
    out: Signature | None,
    place: Place | None,
    reset: Signature | None = None,
    offsets: Signature | None = None,
) -> Plan:
    """The plan of a call on arrays with these signatures; `place` is None for those in the CPU's memory."""
    given = {"a": (a_shape, a_strides, a_dtype), "x": (x_shape, x_strides, x_dtype)}
    if initial is not None:
        given[INITIAL] = initial
    both = zip(STARTS, (reset, offsets), strict=True)
    starts = {role: signature for role, signature in both if signature is not None}
    shapes = (None if signature is None else signature[0] for signature in (reset, offsets))
    call = resolve(a_shape, x_shape, None if initial is None else initial[0], axis, *shapes)
    dtype = result_dtype({role: signature[2] for role, signature in given.items()})
    like = given["x" if x_shape == call.shape else "a"]
    outputs = {"h": Output(call.shape, dtype, memory_order(call.shape, like))}
    if return_final:
        outputs["final"] = Output(call.state_shape, dtype)
    if out is not None:
        given["h"] = out
    return _plan(call, given | starts, outputs, access, place, reverse=reverse)


def backward_plan(
    access: Access,
    call: Call,
    reverse: bool,
    signatures: tuple[tuple[str, Signature], ...],
    place: Place | None,
) -> Plan:
    """The plan of a gradient from operands by role with these signatures; `place` as in `forward_plan`."""
    given = dict(signatures)
    outputs = {}
    for of, gradient in (("a", "a"), ("x", "grad_h"), (INITIAL, INITIAL)):
        if gradient not in given:
            continue
        shape, _, dtype = given[gradient]
        if of == INITIAL and shape != call.state_shape:  # the terms of a sum
            shape, dtype = call.state_shape, _term(dtype)
        outputs[GRADIENTS[of]] = Output(shape, native_order(dtype))
    return _plan(call, given, outputs, access, place, reverse=reverse, conjugate=True)


def _plan(
    call: Call,
    given: Mapping[str, Signature],
    outputs: Mapping[str, Output],
    access: Access,
    place: Place | None,
    **options: Any,
) -> Plan:
    unaligned, target = place or Place()
    for role in STARTS:
        if role in given:
            dtype_code(given[role][2].name, role)
    copies = []
    layouts: dict[str, Layout] = {}
    for role, (shape, strides, dtype) in given.items():
        if reason := _unreadable(strides, dtype, access, role in unaligned):
            copies.append((role, reason))
            layouts[role] = dense(shape, dtype.name, role=role)
        else:
            layouts[role] = Layout(shape, strides, dtype.name)
    for role, output in outputs.items():
        if role not in layouts or any(role == copied for copied, _ in copies):
            layouts[role] = dense(output.shape, output.dtype.name, output.order)
    options |= {"holder_offset": access.holder_offset, "target": target}
    return make(call, layouts, outputs, tuple(copies), **options)


def _unreadable(strides: Shape, dtype: np.dtype[Any], access: Access, unaligned: bool) -> str:
    """Why libscanlib cannot read this memory as it lies; empty if it can."""
    if not dtype.isnative:
        return "its byte order is not the machine's"
    if access.whole_elements and any(stride % dtype.itemsize for stride in strides):
        return "its strides are no multiples of its element size"
    if unaligned:
        return "its address is not a multiple of its element size"
    return ""


def result_dtype(given: dict[str, np.dtype[Any]]) -> np.dtype[Any]:
    """The dtype NumPy promotes to; `DTypeError` where there is none or scanlib does not compute in one of them."""
    for name, dtype in given.items():
        dtype_code(dtype.name, name)
    try:
        return np.result_type(*given.values())
    except TypeError as error:
        raise DTypeError(
            f"NumPy has no dtype that holds all inputs: {error}. Convert them to one dtype."
        ) from None


def native_order(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in the machine's byte order."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _term(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In what a gradient of `dtype` is written where it is one of many to be summed."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def memory_order(shape: Shape, like: Signature) -> tuple[int, ...] | None:
    """The axes as `like` has them in memory, far to near (NumPy's order "K"); None for C order."""
    if like[0] != shape:
        return None
    order = tuple(
        sorted(range(len(shape)), key=lambda axis: -abs(like[1][axis]) if shape[axis] > 1 else 0)
    )
    significant = [axis for axis in order if shape[axis] > 1]
    return None if significant == sorted(significant) else order
