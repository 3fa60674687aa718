"""Derivatives of `scanlib::scan` in torch: reverse and forward mode of any order, and vmap.

With h = S(a, x, h0), where h_t = a_t h_{t-1} + x_t, one backward B(grad_h, grad_final, a, h, h0) gives

    g_t = grad_h_t + conj(a_{t+1}) g_{t+1},   grad_a_t = g_t conj(h_{t-1}),   grad_h0 = conj(a_0) g_0.

S and B are each other's derivatives: a tangent of S is S of another input, a tangent of B is B of another gradient,
and the gradient of B is one S and products. So both functions below lean on each other only, for any order, which is
why they share a file. What h_{t-1} is where sequences start inside the axis of time is in `neighbours.py`; `a_t` does
not matter there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from scanlib.backends.torch.dtypes import cast
from scanlib.backends.torch.neighbours import Neighbours
from scanlib.backends.torch.ops import (
    LIBRARY,
    run_scan,
    run_scan_backward,
    scan_backward_op,
    scan_op,
)
from scanlib.backends.torch.run import forward
from scanlib.backends.torch.sums import positional, sum_to
from scanlib.errors import DTypeError

State = Tensor | None


def scan(
    a: Tensor,
    x: Tensor,
    h0: State,
    axis: int,
    reverse: bool,
    return_final: bool,
    dtype: torch.dtype,
    reset: State = None,
    offsets: State = None,
) -> tuple[Tensor, Tensor]:
    """`h` and the final state (of shape (0,) if not wanted), differentiably; `x` and `h0` at full size."""
    arguments = (a, x, h0, axis, reverse, return_final, dtype, reset, offsets)
    if torch.compiler.is_dynamo_compiling():
        if _transformed():
            _open_to_dynamo()
            return _scan_in_graph(*arguments)
        return scan_op(*arguments)
    if derivatives_wanted(a, x, h0):
        return Scan.apply(*arguments)
    return run_scan(*arguments)


def scan_backward(
    grad_h: Tensor,
    grad_final: State,
    a: Tensor,
    h: Tensor,
    h0: State,
    axis: int,
    reverse: bool,
    x_dtype: torch.dtype,
    reset: State = None,
    offsets: State = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The three gradients, differentiably; `grad_a` of a's shape, `grad_x` and `grad_h0` at full size."""
    if not derivatives_wanted(grad_h, grad_final, a, h, h0):
        run = scan_backward_op if torch.compiler.is_dynamo_compiling() else run_scan_backward
        return run(grad_h, grad_final, a, h, h0, axis, reverse, x_dtype, reset, offsets)
    # Derivatives of these need grad_x as it is, neither rounded nor projected on the real numbers to x's dtype.
    arguments = (grad_h, grad_final, a, h, h0, axis, reverse, h.dtype, reset, offsets)
    if not torch.compiler.is_dynamo_compiling():
        grad_a, grad_x, grad_h0 = ScanBackward.apply(*arguments)
    elif _transformed():
        _open_to_dynamo()
        grad_a, grad_x, grad_h0 = _scan_backward_in_graph(*arguments)
    else:
        grad_a, grad_x, grad_h0 = scan_backward_op(*arguments)
    return grad_a, cast(grad_x, x_dtype), grad_h0


def recorded_scan(
    a: Tensor,
    x: Tensor,
    h0: State,
    axis: int,
    reverse: bool,
    return_final: bool,
    reset: State,
    offsets: State,
) -> Any:
    """`scan` of plain tensors at which autograd alone looks on, in less time; `h` alone without return_final."""
    return RecordedScan.apply(a, x, h0, axis, reverse, return_final, None, reset, offsets)


def derivatives_wanted(*tensors: State) -> bool:
    """Whether a transform is active or autograd would record a call on these tensors."""
    if _transformed() or (
        not torch.compiler.is_dynamo_compiling() and forward_ad._current_level >= 0
    ):
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


_transformed = torch._C._are_functorch_transforms_active


# Inside torch.compile the operators carry their own gradients (below), but transforms of torch.func need the Functions,
# which torch.compile does not trace. So it takes these calls into its graph as they are.


def _scan_in_graph(*arguments: Any) -> tuple[Tensor, Tensor]:
    return Scan.apply(*arguments)


def _scan_backward_in_graph(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return ScanBackward.apply(*arguments)


def _open_to_dynamo() -> None:
    torch.compiler.allow_in_graph([_scan_in_graph, _scan_backward_in_graph])


# What torch.compiler.assume_constant_result sets: run when it is met in tracing. Using either of these functions of
# torch.compiler right here would import the compiler with scanlib, which takes longer than importing torch.
_open_to_dynamo._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Scan(torch.autograd.Function):
    """S: arguments and outputs are those of `scanlib::scan`."""

    @staticmethod
    @positional
    def forward(
        a: Tensor,
        x: Tensor,
        h0: State,
        axis: int,
        reverse: bool,
        return_final: bool,
        dtype: torch.dtype,
        reset: State,
        offsets: State,
    ) -> tuple[Tensor, Tensor]:
        return run_scan(a, x, h0, axis, reverse, return_final, dtype, reset, offsets)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        a, x, h0, ctx.axis, ctx.reverse, ctx.return_final, _, reset, offsets = inputs
        ctx.x_dtype = x.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, output[0], h0, reset, offsets)
        ctx.save_for_forward(a, output[0], h0, reset, offsets)

    @staticmethod
    def backward(ctx: Any, grad_h: State, grad_final: State = None) -> Any:
        grad_final = grad_final if ctx.return_final else None
        if grad_h is None and grad_final is None:
            return (None,) * 9
        a, h, h0, *starts = ctx.saved_tensors
        grad_h = _zeros(h) if grad_h is None else grad_h
        grad_a, grad_x, grad_h0 = scan_backward(
            grad_h, grad_final, a, h, h0, ctx.axis, ctx.reverse, ctx.x_dtype, *starts
        )
        return grad_a, grad_x, None if h0 is None else grad_h0, *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, da: State, dx: State, dh0: State, *_: None) -> tuple[Tensor, Tensor]:
        with forward_ad._set_fwd_grad_enabled(True):
            a, h, h0, *starts = _primals(ctx)
            force = _zeros(h) if dx is None else dx
            if da is not None:
                steps = Neighbours(ctx.axis, ctx.reverse, *starts)
                force = force + steps.cut(da) * steps.previous(h, h0)
            return scan(a, force, dh0, ctx.axis, ctx.reverse, ctx.return_final, h.dtype, *starts)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        a: Tensor,
        x: Tensor,
        h0: State,
        axis: int,
        reverse: bool,
        return_final: bool,
        dtype: torch.dtype,
        reset: State,
        offsets: State,
    ) -> Any:
        if in_dims[-1] is not None:
            arguments = (a, x, h0, axis, reverse, return_final, dtype, reset, offsets)
            return _one_by_one(scan, info.batch_size, in_dims, arguments)
        ndim = x.ndim - (in_dims[1] is not None)
        a, reset = _lead(a, in_dims[0], ndim), _lead(reset, in_dims[-2], ndim)
        x, h0 = (
            batched(t, dim, info.batch_size) for t, dim in zip((x, h0), in_dims[1:3], strict=True)
        )
        outputs = scan(a, x, h0, axis + 1, reverse, return_final, dtype, reset, offsets)
        # No batch of a final state that is not wanted.
        return outputs, (0, 0 if return_final else None)


class RecordedScan(Scan):
    """S where autograd alone looks on: `h` alone without return_final, and the dtype is what the operands say.

    A Function that transforms can take apart has its context set up apart. For that torch binds its arguments and looks
    through its outputs, which takes longer than a small recurrence.
    """

    setup_context = staticmethod(torch.autograd.Function.setup_context)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        a, x, h0, axis, reverse, return_final, dtype, reset, offsets = arguments
        outputs = forward(a, x, h0, axis, reverse, return_final, dtype, None, reset, offsets)
        Scan.setup_context(ctx, arguments, outputs)
        return outputs if return_final else outputs[0]


class ScanBackward(torch.autograd.Function):
    """B: arguments and outputs are those of `scanlib::scan_backward`."""

    @staticmethod
    @positional
    def forward(
        grad_h: Tensor,
        grad_final: State,
        a: Tensor,
        h: Tensor,
        h0: State,
        axis: int,
        reverse: bool,
        x_dtype: torch.dtype,
        reset: State,
        offsets: State,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return run_scan_backward(
            grad_h, grad_final, a, h, h0, axis, reverse, x_dtype, reset, offsets
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        grad_h, grad_final, a, h, h0, ctx.axis, ctx.reverse, x_dtype, reset, offsets = inputs
        if h.dtype.is_complex and not x_dtype.is_complex:
            raise DTypeError(
                "The derivative of scanlib::scan_backward needs its complex grad_x, but x_dtype is "
                f"{x_dtype}. Ask for {h.dtype} and take the real part."
            )
        ctx.dtypes = grad_h.dtype, None if grad_final is None else grad_final.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, h, h0, output[1], reset, offsets)
        ctx.save_for_forward(a, h, h0, output[1], reset, offsets)

    @staticmethod
    def backward(ctx: Any, u: State, v: State, w: State) -> Any:
        # u, v, w belong to grad_a, grad_x, grad_h0. The adjoint of g = S^H(grad_h) is p = S(v + u h_{t-1}, w).
        a, h, h0, g, *starts = ctx.saved_tensors
        axis, reverse, (h_dtype, final_dtype) = ctx.axis, ctx.reverse, ctx.dtypes
        steps = Neighbours(axis, reverse, *starts)
        force = _zeros(h) if v is None else v
        to_h = to_h0 = to_final = None
        g = steps.cut(g)
        if u is not None:
            u = steps.cut(u)
            force = force + u * steps.previous(h, h0)
            product = u.conj() * g
            to_h = cast(steps.following(product), h.dtype)
            to_h0 = None if h0 is None else cast(steps.first(product), h0.dtype)
        w = None if w is None or h0 is None else w.to(h.dtype)
        wanted = final_dtype is not None
        p, final = scan(a, cast(force, h.dtype), w, axis, reverse, wanted, h.dtype, *starts)
        if wanted:
            to_final = cast(final, final_dtype)
        to_a = cast(sum_to(steps.previous(p, w).conj() * g, a.shape), a.dtype)
        return cast(p, h_dtype), to_final, to_a, to_h, to_h0, *(None,) * 5

    @staticmethod
    def jvp(
        ctx: Any, dgrad_h: State, dgrad_final: State, da: State, dh: State, dh0: State, *_: None
    ) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            a, h, h0, g, *starts = _primals(ctx)
            axis, reverse = ctx.axis, ctx.reverse
            steps = Neighbours(axis, reverse, *starts)
            dtype, g = g.dtype, steps.cut(g)
            force = _zeros(h) if dgrad_h is None else dgrad_h
            if da is not None:
                product = steps.cut(da).conj() * g
                force = force + steps.following(product)
            grad_a, grad_x, grad_h0 = scan_backward(
                force, dgrad_final, a, h, h0, axis, reverse, dtype, *starts
            )
            if dh is not None or dh0 is not None:
                dh = _zeros(h) if dh is None else dh
                moved = g * steps.previous(dh, dh0).conj()
                grad_a = grad_a + cast(sum_to(moved, a.shape), a.dtype)
            if h0 is not None and da is not None:
                grad_h0 = grad_h0 + cast(steps.first(product), h0.dtype)
            return grad_a, grad_x, grad_h0

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        grad_h: Tensor,
        grad_final: State,
        a: Tensor,
        h: Tensor,
        h0: State,
        axis: int,
        reverse: bool,
        x_dtype: torch.dtype,
        reset: State,
        offsets: State,
    ) -> Any:
        size, ndim = info.batch_size, h.ndim - (in_dims[3] is not None)
        if in_dims[-1] is not None:
            # fmt: off
            arguments = (grad_h, grad_final, a, h, h0, axis, reverse, x_dtype, reset, offsets)
            # fmt: on
            return _one_by_one(scan_backward, size, in_dims, arguments)
        # Where `a` is not batched its gradient is, so it is spread over the batch first.
        a = batched(a, in_dims[2], size)
        shape, a = a.shape, _lead(a, 0, ndim)
        reset = _lead(reset, in_dims[-2], ndim)
        tensors = (grad_h, in_dims[0]), (grad_final, in_dims[1]), (h, in_dims[3]), (h0, in_dims[4])
        grad_h, grad_final, h, h0 = (batched(tensor, dim, size) for tensor, dim in tensors)
        grad_a, grad_x, grad_h0 = scan_backward(
            grad_h, grad_final, a, h, h0, axis + 1, reverse, x_dtype, reset, offsets
        )
        return (grad_a.reshape(shape), grad_x, grad_h0), (0, 0, None if h0 is None else 0)


# The operators know their gradients as well, for compiled and exported graphs, which see nothing else.
for _name, _function in (("scanlib::scan", Scan), ("scanlib::scan_backward", ScanBackward)):
    torch.library.register_autograd(
        _name, _function.backward, setup_context=_function.setup_context, lib=LIBRARY
    )


def _primals(ctx: Any) -> list[Any]:
    """The saved tensors without the tangents of the level that a jvp is for.

    torch turns forward mode off around a jvp, and so loses the tangents of outer levels (jacfwd of jacfwd is wrong
    then). With it on, those of this level have to be taken off here. torch has one dual level, 0; transforms nest by
    wrapping tensors.
    """
    return [
        None if t is None else forward_ad.unpack_dual(t, level=0).primal for t in ctx.saved_tensors
    ]


def _zeros(like: Tensor) -> Tensor:
    """Zeros that take no memory."""
    return like.new_zeros(()).expand(like.shape)


# ---- batch axes


def batched(tensor: Any, dim: int | None, size: int) -> Any:
    """The batch axis first, whether or not there is one yet; None stays None."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _lead(tensor: Any, dim: int | None, ndim: int) -> Any:
    """The batch axis, if there is one, first; then axes of length 1 up to `ndim` axes of its own. None stays None."""
    if tensor is None or dim is None:
        return tensor
    tensor = tensor.movedim(dim, 0)
    return tensor.reshape(tensor.shape[0], *(1,) * (ndim - tensor.ndim + 1), *tensor.shape[1:])


def _one_by_one(function: Any, size: int, in_dims: Any, arguments: Any) -> Any:
    """A batch of sequences cut up in different places, which no one call can have, as `vmap` returns it."""
    rows = [
        function(
            *(v if d is None else v.select(d, i) for v, d in zip(arguments, in_dims, strict=True))
        )
        for i in range(size)
    ]
    outputs = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
    return outputs, (0,) * len(outputs)
