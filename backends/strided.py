"""What NumPy's adapter and CuPy's share: arrays with strides in bytes and NumPy's dtypes, no autodiff, mutable outputs.

`Strided` is an adapter over such a library. What it leaves to a subclass is where the arrays' memory is and what runs
libscanlib on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np

from scanlib.backends import array_functions
from scanlib.backends.strided_gates import gated_scan
from scanlib.backends.strided_plans import (
    Access,
    Place,
    Signature,
    backward_plan,
    forward_plan,
    native_order,
    result_dtype,
)
from scanlib.call import (
    OFFSETS_DTYPES,
    Shape,
    axis_index,
    reduced_axes,
    resolve,
    resolve_vjp,
)
from scanlib.kinds import is_scalar
from scanlib.native import NativeProblem
from scanlib.offsets import host_offsets
from scanlib.overlap import Memory, check_out
from scanlib.plan import Explanation, Output, Plan, contiguous_strides, copy_notes
from scanlib.roles import STARTS

#: What kernels read as offsets.
_COUNTS = frozenset(map(np.dtype, OFFSETS_DTYPES))


class Strided:
    """An adapter for the library `xp`, whose arrays are of type `kind`."""

    name: str
    path: str
    functions: Any = array_functions
    access = Access()
    #: Of which there are kernels for gates (`strided_gates`).
    gated_dtypes: tuple[Any, ...] = (np.dtype(np.float32), np.dtype(np.float64))

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.kind: type = xp.ndarray
        self.empty = xp.empty
        #: Whether `place` has to be asked: on a CPU it would take a tenth of a small call to hear that it has not.
        self._placed = type(self).place is not Strided.place
        #: Plans of this adapter's calls, kept by all that they depend on.
        self.forward_plan = lru_cache(1024)(partial(forward_plan, self.access))
        self.backward_plan = lru_cache(1024)(partial(backward_plan, self.access))

    # ---- for subclasses

    def address(self, array: Any) -> int:
        """The address of the first element."""
        raise NotImplementedError

    def writable(self, array: Any) -> bool:
        return True

    def device(self, array: Any) -> str:
        """Where `array` is, for `scanlib.explain`."""
        raise NotImplementedError

    def number(self, value: complex, dtype: np.dtype[Any]) -> Any:
        """A Python number as an array without axes."""
        return self.xp.full((), value, dtype)

    def readable(self, array: Any) -> Any:
        """What libscanlib can read, in C order, of an array that it cannot."""
        return array.astype(native_order(array.dtype), order="C", copy=False)

    def write(self, target: Any, values: Any) -> None:
        """Copy values of its shape and dtype to an array that libscanlib cannot write to."""
        self.xp.copyto(target, values)

    def place(self, arrays: Mapping[str, Any], *, runs: bool = True) -> Place | None:
        """Where a plan on a GPU `runs`, or would, and its arrays by role, None for what is absent; None on a CPU."""
        return None

    def describe(self, problem: NativeProblem) -> str:
        """Which kernel runs a problem, and how its work is cut."""
        raise NotImplementedError

    def run_forward(self, plan: Plan, a: Any, x: Any, h: Any, initial: Any, final: Any) -> None:
        """Run a plan on the arrays of `roles.FORWARD`, None for what is absent."""
        raise NotImplementedError

    def run(self, problem: NativeProblem, arrays: Mapping[str, Any]) -> None:
        """Run a problem on arrays by role, None for what is absent."""
        raise NotImplementedError

    # ---- the adapter

    def linear_recurrence(
        self,
        a: Any,
        x: Any,
        h0: Any,
        axis: Any,
        reverse: bool,
        return_final: bool,
        out: Any,
        reset: Any = None,
        offsets: Any = None,
    ) -> Any:
        kind = self.kind
        plain = type(a) is type(x) is kind and (h0 is None or type(h0) is kind)
        if not plain:
            a, x, h0 = self._arrays(a, x, h0)
        if type(axis) is not int:
            axis = axis_index(axis)
        starts = {} if reset is offsets is None else self._starts(reset, offsets)
        target = None if out is None else self._target(a, x, h0, axis, out, starts)
        place = None
        if self._placed:
            place = self.place({"a": a, "x": x, "h0": h0, "h": target, **starts})
        # fmt: off
        plan = self.forward_plan(a.shape, a.strides, a.dtype, x.shape, x.strides, x.dtype,
                                 None if h0 is None else _signature(h0), axis, reverse, return_final,
                                 None if target is None else _signature(target), place,
                                 *(_signatures(starts) if starts else ()))
        # fmt: on
        h = target
        if h is None:
            shape, dtype, order = plan.outputs["h"]
            h = self.empty(shape, dtype) if order is None else self._empty(plan.outputs["h"])
        final = self._empty(plan.outputs["final"]) if return_final else None
        if plan.copies:
            self._run_copied(plan, a=a, x=x, h=h, h0=h0, final=final, **starts)
        elif starts:
            states = {"h0": h0, "final": final}
            given = {role: array for role, array in states.items() if array is not None}
            self.run(plan.native, {"a": a, "x": x, "h": h, **given, **starts})
        else:
            self.run_forward(plan, a, x, h, h0, final)
        if out is not None:
            h = out
        return (h, final) if return_final else h

    def linear_recurrence_vjp(
        self,
        grad_h: Any,
        a: Any,
        h: Any,
        h0: Any,
        axis: Any,
        reverse: bool,
        grad_final: Any,
        reset: Any = None,
        offsets: Any = None,
    ) -> tuple[Any, Any, Any]:
        plain = self.xp.asarray
        a, grad_h, _ = self._arrays(a, grad_h, None)
        h = plain(h)
        if is_scalar(h0):
            h0 = self._number(h0, h.dtype)
        arrays = {"a": a, "h": h, "h0": h0, "grad_h": grad_h, "grad_final": grad_final}
        given = {role: plain(array) for role, array in arrays.items() if array is not None}
        result_dtype({role: array.dtype for role, array in given.items()})
        given |= self._starts(reset, offsets)
        shape = {role: array.shape for role, array in given.items()}
        # fmt: off
        call = resolve_vjp(shape["grad_h"], shape["a"], shape["h"], shape.get("h0"), shape.get("grad_final"),
                           axis_index(axis), shape.get("reset"), shape.get("offsets"))
        # fmt: on
        signatures = tuple((role, _signature(array)) for role, array in given.items())
        plan = self.backward_plan(call, bool(reverse), signatures, self.place(given))
        results = {role: self._empty(output) for role, output in plan.outputs.items()}
        self.run(plan.native, self._readable(plan, given) | results)
        grad_h0 = None
        if "h0" in given:
            own = given["h0"]
            grad_h0 = sum_to(results["grad_h0"], own.shape, native_order(own.dtype))
        return results["grad_a"], results["grad_x"], grad_h0

    gated_scan = gated_scan

    def explain(
        self,
        a: Any,
        x: Any,
        h0: Any,
        axis: Any,
        reverse: bool,
        backward: bool,
        reset: Any = None,
        offsets: Any = None,
    ) -> Explanation:
        a, x, h0 = self._arrays(a, x, h0)
        starts = self._starts(reset, offsets)
        state = None if h0 is None else _signature(h0)
        place = self.place({"a": a, "x": x, "h0": h0, **starts}, runs=False)
        # fmt: off
        plan = self.forward_plan(*_signature(a), *_signature(x), state, axis_index(axis), reverse, False, None,
                                 place, *_signatures(starts))
        # fmt: on
        if backward:
            h = _signature_of(plan.outputs["h"])
            given = {"a": _signature(a), "h": h, "grad_h": h} | (
                {} if h0 is None else {"h0": state}
            )
            given |= {role: _signature(array) for role, array in starts.items()}
            plan = self.backward_plan(plan.call, bool(reverse), tuple(given.items()), place)
        notes = copy_notes(plan.copies)
        return Explanation(
            self.name, self.device(x), self.path, self.describe(plan.native), tuple(notes)
        )

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

    def _starts(self, reset: Any, offsets: Any) -> dict[str, Any]:
        """Which of the two are given, as arrays: offsets of a library's integers, on its device."""
        starts = {}
        if reset is not None:
            starts["reset"] = reset if type(reset) is self.kind else self.xp.asarray(reset)
        if offsets is not None:
            plain: bool = type(offsets) is self.kind
            if not plain or offsets.dtype not in _COUNTS:
                ours = self.xp is not np and isinstance(offsets, self.xp.ndarray)
                offsets = offsets if ours else self.xp.asarray(host_offsets(offsets))
                if offsets.dtype.kind in "iu" and offsets.dtype not in _COUNTS:
                    offsets = offsets.astype(np.int64)
            starts["offsets"] = offsets
        return starts

    def _number(self, value: complex, like: np.dtype[Any]) -> Any:
        """A Python number as an array: of the dtype it meets, made complex where the number is (NEP 50)."""
        return self.number(
            value, np.result_type(like, np.complex64) if isinstance(value, complex) else like
        )

    # ---- running

    def _empty(self, output: Output) -> Any:
        shape, dtype, order = output
        if order is None:
            return self.empty(shape, dtype)
        flat = self.empty([shape[axis] for axis in order], dtype)
        return flat.transpose(sorted(range(len(order)), key=order.__getitem__))

    def _readable(self, plan: Plan, arrays: dict[str, Any]) -> dict[str, Any]:
        """The arrays, with a copy of each that the plan wants copied."""
        copied = {role for role, _ in plan.copies}
        return {
            role: self.readable(array) if role in copied else array
            for role, array in arrays.items()
        }

    def _run_copied(self, plan: Plan, **arrays: Any) -> None:
        """Run a forward plan of any operands, with copies to make, of `h` after it was computed."""
        run = self._readable(plan, {r: v for r, v in arrays.items() if v is not None and r != "h"})
        elsewhere = any(role == "h" for role, _ in plan.copies)
        h = self._empty(plan.outputs["h"]) if elsewhere else arrays["h"]
        self.run(plan.native, {**run, "h": h})
        if elsewhere:
            self.write(arrays["h"], h)

    # ---- writing into `out`

    def _target(
        self, a: Any, x: Any, h0: Any, axis: int | None, out: Any, starts: Mapping[str, Any]
    ) -> Any:
        """`out` as a plain array; raises where the result cannot be written to it."""
        given = {"a": a, "x": x} | ({} if h0 is None else {"h0": h0})
        shapes = (starts[role].shape if role in starts else None for role in STARTS)
        call = resolve(a.shape, x.shape, None if h0 is None else h0.shape, axis, *shapes)
        dtype = result_dtype({role: array.dtype for role, array in given.items()})
        target = self.xp.asarray(out)
        memory = {role: self._memory(array) for role, array in {**given, **starts}.items()}
        check_out(self._memory(target), call.shape, dtype.name, memory)
        return target

    def _memory(self, array: Any) -> Memory:
        return Memory(
            self.address(array),
            array.shape,
            array.strides,
            array.itemsize,
            array.dtype.name,
            self.writable(array),
        )


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


def _signature(array: Any) -> Signature:
    return array.shape, array.strides, array.dtype


def _signatures(starts: Mapping[str, Any]) -> tuple[Signature | None, ...]:
    """Of reset and offsets."""
    return tuple(_signature(starts[role]) if role in starts else None for role in STARTS)


def _signature_of(output: Output) -> Signature:
    shape, dtype, order = output
    return shape, contiguous_strides(shape, dtype.itemsize, order), dtype
