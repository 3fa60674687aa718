"""What NumPy's adapter and CuPy's share: arrays with strides in bytes and NumPy's dtypes, no autodiff, mutable outputs.

`Strided` is an adapter over such a library. What it leaves to a subclass is where the arrays' memory is and what runs
libscanlib on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scanlib import native
from scanlib.backends._strided_plans import (
    STATES,
    Plan,
    Signature,
    backward_problem,
    forward_plan,
    native_order,
    result_dtype,
)
from scanlib.dispatch import Explanation, is_scalar
from scanlib.overlap import Memory, check_out
from scanlib.problem import Problem, Shape, axis_index, reduced_axes, resolve, resolve_vjp

_BACKWARD = ("a", "h", "h0", "grad_h", "grad_final", "grad_a", "grad_x", "grad_h0")


class Strided:
    """An adapter for the library `xp`, whose arrays are of type `kind`.

    Attributes
    ----------
    holder_offset
        Where not 0, libscanlib is given the addresses of array objects and reads the data pointer at this offset.
    """

    name: str
    path: str
    holder_offset = 0

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.kind: type = xp.ndarray
        self.empty = xp.empty

    # ---- for subclasses

    def address(self, array: Any) -> int:
        """The address of the first element."""
        raise NotImplementedError

    def writable(self, array: Any) -> bool:
        return True

    def alignment(self, dtype: np.dtype[Any]) -> int:
        """What an address has to be a multiple of."""
        return dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize

    def device(self, array: Any) -> str:
        """Where `array` is, for `scanlib.explain`."""
        raise NotImplementedError

    def number(self, value: complex, dtype: np.dtype[Any]) -> Any:
        """A Python number as an array without axes."""
        return self.xp.full((), value, dtype)

    def describe(self, problem: native.NativeProblem) -> str:
        raise NotImplementedError

    def forward(self, plan: Plan, a: Any, x: Any, h0: Any, h: Any, final: Any) -> None:
        raise NotImplementedError

    def backward(self, problem: native.NativeProblem, *arrays: Any) -> None:
        """Run a backward on the arrays of `a, h, h0, grad_h, grad_final, grad_a, grad_x, grad_h0`; some are None."""
        raise NotImplementedError

    # ---- the adapter

    def linear_recurrence(
        self, a: Any, x: Any, h0: Any, axis: Any, reverse: bool, return_final: bool, out: Any
    ) -> Any:
        kind = self.kind
        if type(a) is not kind or type(x) is not kind or h0 is not None:
            a, x, h0 = self._arrays(a, x, h0)
        if type(axis) is not int:
            axis = axis_index(axis)
        if out is not None:
            return self._into(a, x, h0, axis, reverse, return_final, out)
        try:
            # fmt: off
            plan = forward_plan(a.shape, a.strides, a.dtype, x.shape, x.strides, x.dtype,
                                None if h0 is None else _signature(h0), axis, reverse, return_final, None,
                                self.holder_offset)
            # fmt: on
            h = self._empty(plan)
            return self._run(plan, a, x, h0, h, return_final)
        except (native.RankError, native.AlignmentError):
            resolved = resolve(a.shape, x.shape, None if h0 is None else h0.shape, axis)
            given = self._copies(resolved, _present(a, x, h0))
            return self.linear_recurrence(
                given["a"], given["x"], given.get("h0"), axis, reverse, return_final, out
            )

    def linear_recurrence_vjp(
        self, grad_h: Any, a: Any, h: Any, h0: Any, axis: Any, reverse: bool, grad_final: Any
    ) -> tuple[Any, Any, Any]:
        plain = self.xp.asarray
        a, grad_h, _ = self._arrays(a, grad_h, None)
        h = plain(h)
        if is_scalar(h0):
            h0 = self._number(h0, h.dtype)
        arrays = {"a": a, "h": h, "h0": h0, "grad_h": grad_h, "grad_final": grad_final}
        given = {role: plain(array) for role, array in arrays.items() if array is not None}
        shapes = (given[role].shape if role in given else None for role in ("h0", "grad_final"))
        resolved = resolve_vjp(grad_h.shape, a.shape, h.shape, *shapes, axis_index(axis))
        result_dtype({role: array.dtype for role, array in given.items()})
        own = {role: array.shape for role, array in given.items()}
        try:
            return self._backward(resolved, reverse, given, own)
        except (native.RankError, native.AlignmentError):
            return self._backward(resolved, reverse, self._copies(resolved, given), own)

    def explain(self, a: Any, x: Any, h0: Any, axis: Any, reverse: bool) -> Explanation:
        given = _present(*self._arrays(a, x, h0))
        state = given.get("h0")
        shapes = given["a"].shape, given["x"].shape, None if state is None else state.shape
        resolved = resolve(*shapes, axis_index(axis))
        awkward = {
            name: reason for name, array in given.items() if (reason := self._awkward(array))
        }
        notes = [f"{name} is copied: {reason}" for name, reason in awkward.items()]
        if awkward:
            given = self._copies(resolved, given)
        try:
            plan = self._plan_of(given, resolved.axis, reverse)
        except native.RankError:
            notes.append(
                f"all operands are copied: more than {native.MAX_OUTER} axes are left after merging"
            )
            plan = self._plan_of(self._copies(resolved, given), resolved.axis, reverse)
        kernel = self.describe(plan.native)
        return Explanation(self.name, self.device(given["x"]), self.path, kernel, tuple(notes))

    def _plan_of(self, given: dict[str, Any], axis: int, reverse: bool) -> Plan:
        state = _signature(given["h0"]) if "h0" in given else None
        signatures = *_signature(given["a"]), *_signature(given["x"]), state
        return forward_plan(*signatures, axis, reverse, False, None, self.holder_offset)

    # ---- from arguments to arrays

    def _arrays(self, a: Any, x: Any, h0: Any) -> tuple[Any, Any, Any]:
        """Plain arrays: subclasses as asarray sees them, Python numbers in the dtype they are promoted to."""
        given = {"a": a, "x": x} | ({} if h0 is None else {"h0": h0})
        arrays = {
            name: self.xp.asarray(value) for name, value in given.items() if not is_scalar(value)
        }
        if len(arrays) < len(given):
            like = result_dtype({name: array.dtype for name, array in arrays.items()})
            arrays |= {
                name: self._number(value, like) for name, value in given.items() if is_scalar(value)
            }
        return arrays["a"], arrays["x"], arrays.get("h0")

    def _number(self, value: complex, like: np.dtype[Any]) -> Any:
        """A Python number as an array: of the dtype it meets, made complex where the number is (NEP 50)."""
        return self.number(
            value, np.result_type(like, np.complex64) if isinstance(value, complex) else like
        )

    def _awkward(self, array: Any) -> str:
        """Why libscanlib cannot read this memory as it lies; empty if it can."""
        if not array.dtype.isnative:
            return "its byte order is not the machine's"
        if self.address(array) % self.alignment(array.dtype):
            return "its address is not a multiple of its element size"
        if any(stride % array.itemsize for stride in array.strides):
            return "its strides are no multiples of its element size"
        return ""

    def _copies(self, resolved: Problem, given: dict[str, Any]) -> dict[str, Any]:
        """Operands libscanlib can walk: those it cannot read copied, or where it can read all, all at full size."""
        if any(map(self._awkward, given.values())):
            return {
                name: array.astype(native_order(array.dtype), order="C")
                if self._awkward(array)
                else array
                for name, array in given.items()
            }
        shapes = {
            name: resolved.state_shape if name in STATES else resolved.shape for name in given
        }
        return {
            name: self.xp.array(self.xp.broadcast_to(array, shapes[name]), order="C")
            for name, array in given.items()
        }

    # ---- running

    def _empty(self, plan: Plan) -> Any:
        order = plan.order
        if order is None:
            return self.empty(plan.resolved.shape, plan.dtype)
        flat = self.empty([plan.resolved.shape[axis] for axis in order], plan.dtype)
        return flat.transpose(sorted(range(len(order)), key=order.__getitem__))

    def _run(self, plan: Plan, a: Any, x: Any, h0: Any, h: Any, return_final: bool) -> Any:
        if not return_final:
            self.forward(plan, a, x, h0, h, None)
            return h
        final = self.empty(plan.resolved.state_shape, plan.dtype)
        self.forward(plan, a, x, h0, h, final)
        return h, final

    def _into(
        self, a: Any, x: Any, h0: Any, axis: int | None, reverse: bool, return_final: bool, out: Any
    ) -> Any:
        """Write the result to `out`: straight, or where libscanlib cannot walk an operand or `out`, by a copy."""
        resolved = resolve(a.shape, x.shape, None if h0 is None else h0.shape, axis)
        dtype = result_dtype(
            {"a": a.dtype, "x": x.dtype} | ({} if h0 is None else {"h0": h0.dtype})
        )
        target = self.xp.asarray(out)
        memory = {name: self._memory(array) for name, array in _present(a, x, h0).items()}
        check_out(self._memory(target), resolved.shape, dtype.name, **memory)
        state = None if h0 is None else _signature(h0)
        call = axis, reverse, return_final, _signature(target), self.holder_offset
        try:
            plan = forward_plan(*_signature(a), *_signature(x), state, *call)
            result = self._run(plan, a, x, h0, target, return_final)
        except (native.RankError, native.AlignmentError):
            result = self.linear_recurrence(a, x, h0, axis, reverse, return_final, None)
            self.xp.copyto(target, result[0] if return_final else result)
        return (out, result[1]) if return_final else out

    def _memory(self, array: Any) -> Memory:
        return Memory(
            self.address(array),
            array.shape,
            array.strides,
            array.itemsize,
            array.dtype.name,
            self.writable(array),
        )

    def _backward(
        self, resolved: Problem, reverse: bool, given: dict[str, Any], own: dict[str, Shape]
    ) -> tuple[Any, Any, Any]:
        """The gradients of a, x and h0, which are summed to the shapes they have of their `own`."""
        shapes = {"a": given["a"].shape, "grad_h": resolved.shape, "h0": resolved.state_shape}
        dtypes = {of: native_order(given[of].dtype) for of in shapes if of in given}
        arrays = dict(given)
        for of, name in (("a", "grad_a"), ("grad_h", "grad_x"), ("h0", "grad_h0")):
            if of in given:
                whole = own[of] == shapes[of]
                arrays[name] = self.empty(shapes[of], dtypes[of] if whole else _term(dtypes[of]))
        signatures = tuple((role, _signature(array)) for role, array in arrays.items())
        problem = backward_problem(resolved, reverse, signatures, self.holder_offset)
        self.backward(problem, *(arrays.get(role) for role in _BACKWARD))
        grad_a = sum_to(arrays["grad_a"], own["a"], dtypes["a"])
        if "h0" not in given:
            return grad_a, arrays["grad_x"], None
        return grad_a, arrays["grad_x"], sum_to(arrays["grad_h0"], own["h0"], dtypes["h0"])


def sum_to(array: Any, shape: Shape, dtype: np.dtype[Any]) -> Any:
    """Sum `array` over the axes along which `shape` was broadcast to it, in float64, and round it to `dtype` once."""
    axes = reduced_axes(shape, array.shape)
    if not axes:
        return array
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # as libscanlib, which says nothing of infinities
        wide = np.result_type(array.dtype, np.float64)
        total = array.sum(axis=axes, dtype=wide, keepdims=True)
        return total.reshape(shape).astype(dtype)


def _term(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In what a gradient of `dtype` is written where it is one of many to be summed."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def _present(a: Any, x: Any, h0: Any) -> dict[str, Any]:
    return {"a": a, "x": x} if h0 is None else {"a": a, "x": x, "h0": h0}


def _signature(array: Any) -> Signature:
    return array.shape, array.strides, array.dtype
