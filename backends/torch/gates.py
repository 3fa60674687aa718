"""Gated recurrences of torch's tensors, in one pass: `scanlib.gates` says what they are.

Gradients of the first order have a kernel too; those of higher order go through the same written out. So does all that
is transformed or compiled: a compiler fuses the gates itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from scanlib.backends.torch import functions
from scanlib.backends.torch.autograd import scan
from scanlib.backends.torch.cuda import aligned, is_aligned, target_of
from scanlib.backends.torch.dtypes import dtype_name
from scanlib.backends.torch.neighbours import Neighbours
from scanlib.backends.torch.ops import LIBRARY, ordinary, transformed
from scanlib.backends.torch.plans import state_shape
from scanlib.backends.torch.run import run
from scanlib.gates import BEFORE, GATED, GateForm, opened_by
from scanlib.plan import prepare_gates
from scanlib.roles import INITIAL

State = Tensor | None
#: For which there are kernels, on each type of device.
_DTYPES: dict[str, tuple[torch.dtype, ...]] = {"cpu": (torch.float32, torch.float64)}
_DTYPES["cuda"] = (*_DTYPES["cpu"], torch.float16, torch.bfloat16)

# `form` is a GateForm. `h` has the states the gradient needs; `output` is of shape (0,) where it is `h`.
LIBRARY.define(
    "gated_scan(Tensor columns, Tensor? initial, Tensor? reset, int axis, int[] form, Tensor? offsets=None) "
    "-> (Tensor h, Tensor output, Tensor final)",
    tags=torch.Tag.pt2_compliant_tag,
)
LIBRARY.define(
    "gated_scan_backward(Tensor grad, Tensor? grad_final, Tensor columns, Tensor h, Tensor? initial, "
    "Tensor? reset, int axis, int[] form, Tensor? offsets=None) -> (Tensor grad_columns, Tensor grad_initial)",
    tags=torch.Tag.pt2_compliant_tag,
)
_forward_op = torch.ops.scanlib.gated_scan.default
_backward_op = torch.ops.scanlib.gated_scan_backward.default


def gated_scan(
    columns: Tensor,
    initial: State,
    reset: State,
    axis: int,
    form: GateForm,
    offsets: State = None,
) -> tuple[Tensor, Tensor] | None:
    """Output and final state, or None where there is no kernel for these tensors."""
    device = columns.device
    if not (
        _plain(columns, device)
        and columns.dtype in _DTYPES[device.type]
        and columns.is_contiguous()
    ):
        return None
    if reset is not None and not (
        _plain(reset, device) and reset.dtype == torch.bool and reset.shape == columns.shape[:-1]
    ):
        return None
    if offsets is not None and not (
        reset is None
        and _plain(offsets, device)
        and offsets.dtype == torch.int64
        and offsets.ndim == 1
        and len(offsets)
    ):
        return None
    if initial is not None:
        state = state_shape((*columns.shape[:-1], form.width), axis, offsets)
        if not _plain(initial, device) or initial.dtype != columns.dtype or initial.shape != state:
            return None
    if torch.is_grad_enabled() and (
        columns.requires_grad or (initial is not None and initial.requires_grad)
    ):
        output, final = GatedScan.apply(columns, initial, reset, axis, form, offsets)
        return output, final
    h, output, final = _forward_op(columns, initial, reset, axis, form, offsets)
    return output if form.reading == GATED else h, final


def _plain(tensor: Any, device: torch.device) -> bool:
    """Whether this is an ordinary tensor on a device, one for which there are kernels, in an ordinary call."""
    if torch.compiler.is_compiling():
        return False
    return (
        (type(tensor) is Tensor or type(tensor) is Parameter)
        and tensor.device == device
        and device.type in _DTYPES
        and ordinary(tensor)
        and not transformed()
        and forward_ad._current_level < 0
        and is_aligned(tensor)
    )


class GatedScan(torch.autograd.Function):
    """(columns, initial, reset, axis, form, offsets) -> (output, final)"""

    @staticmethod
    def forward(
        ctx: Any,
        columns: Tensor,
        initial: State,
        reset: State,
        axis: int,
        form: GateForm,
        offsets: State,
    ) -> tuple[Tensor, Tensor]:
        h, output, final = _forward_op(columns, initial, reset, axis, form, offsets)
        ctx.axis, ctx.form = axis, form
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(columns, initial, reset, h, offsets)
        return output if form.reading == GATED else h, final

    @staticmethod
    def backward(ctx: Any, grad: State, grad_final: Tensor | None) -> Any:
        columns, initial, reset, h, offsets = ctx.saved_tensors
        given = [g for g in (grad, grad_final) if g is not None]
        if not given:
            return (None,) * 6
        if torch.is_grad_enabled() or not all(_plain(g, columns.device) for g in given):
            grads = _differentiable_backward(
                columns, initial, reset, ctx.axis, ctx.form, offsets, grad, grad_final
            )
            return *grads, *(None,) * 4
        grad = torch.zeros_like(h) if grad is None else grad
        grad_columns, grad_initial = _backward_op(
            grad, grad_final, columns, h, initial, reset, ctx.axis, ctx.form, offsets
        )
        return grad_columns, None if initial is None else grad_initial, *(None,) * 4


def _differentiable_backward(
    columns: Tensor,
    initial: State,
    reset: State,
    axis: int,
    form: GateForm,
    offsets: State,
    grad: State,
    grad_final: State,
) -> tuple[State, State]:
    """The gradients as differentiable functions of everything."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        written_out = _written_out(columns, initial, reset, axis, form, offsets)
        results = zip(written_out, (grad, grad_final), strict=True)
        outputs, grads = zip(*((y, g) for y, g in results if g is not None), strict=True)
        inputs = [t for t in (columns, initial) if t is not None and t.requires_grad]
        found = torch.autograd.grad(outputs, inputs, grads, create_graph=create, allow_unused=True)
    of_columns = found[0] if columns.requires_grad else None
    of_h0 = found[-1] if initial is not None and initial.requires_grad else None
    return of_columns, of_h0


def _written_out(
    columns: Tensor, initial: State, reset: State, axis: int, form: GateForm, offsets: State
) -> tuple[Tensor, Tensor]:
    """The same in torch's functions, which have derivatives of every order."""
    starts = None if reset is None else reset.unsqueeze(-1), offsets
    decay, entering, output = opened_by(columns, form, functions)
    h, final = scan(decay, entering, initial, axis, False, True, columns.dtype, *starts)
    if form.reading == BEFORE:
        h = Neighbours(axis, False, *starts).previous(h, initial)
    return h if output is None or form.reading != GATED else output * h, final


# ---- the operators, and their shapes


def _empty(
    columns: Tensor, axis: int, form: GateForm, offsets: State
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*columns.shape[:-1], form.width)
    h = columns.new_empty(shape)
    output = columns.new_empty(shape if form.reading == GATED else (0,))
    return h, output, columns.new_empty(state_shape(shape, axis, offsets))


def _empty_grads(columns: Tensor, initial: State, form: GateForm) -> tuple[Tensor, Tensor]:
    written = 2 + (form.at_input >= 0) + (form.reading == GATED)
    all_written = written * form.width == columns.shape[-1]
    grad_columns = torch.empty_like(columns) if all_written else torch.zeros_like(columns)
    return grad_columns, columns.new_empty(() if initial is None else initial.shape)


def _forward(
    columns: Tensor,
    initial: State,
    reset: State,
    axis: int,
    numbers: list[int],
    offsets: State = None,
) -> tuple[Tensor, Tensor, Tensor]:
    form = GateForm(*numbers)
    h, output, final = _empty(columns, axis, form, offsets)
    y = output if form.reading == GATED else None
    given = {"a": columns, INITIAL: initial, "reset": reset, "offsets": offsets}
    _run(form, axis, given, {"h": h, "y": y, "final": final})
    return h, output, final


def _backward(
    grad: Tensor,
    grad_final: State,
    columns: Tensor,
    h: Tensor,
    initial: State,
    reset: State,
    axis: int,
    numbers: list[int],
    offsets: State = None,
) -> tuple[Tensor, Tensor]:
    form = GateForm(*numbers)
    grad_columns, grad_initial = _empty_grads(columns, initial, form)
    given = {"a": columns, "h": h, INITIAL: initial, "reset": reset, "offsets": offsets}
    given |= {"grad_h": grad, "grad_final": grad_final}
    target = None if initial is None else grad_initial
    _run(form, axis, given, {"grad_a": grad_columns, "grad_h0": target})
    return grad_columns, grad_initial


def _run(form: GateForm, axis: int, given: dict[str, State], results: dict[str, State]) -> None:
    """Run the kernel on tensors by role, None for what is absent: contiguous results, and what is made so."""
    tensors = {role: aligned(t.contiguous()) for role, t in given.items() if t is not None}
    tensors |= {role: t for role, t in results.items() if t is not None}
    columns, roles = tensors["a"], frozenset(tensors)
    dtype, shape = dtype_name(columns.dtype), tuple(columns.shape)
    options: dict[str, Any] = {"segments": len(tensors["offsets"]) - 1 if "offsets" in roles else 0}
    if columns.is_cuda:
        options["target"] = target_of(columns)
    else:
        options |= {"threads": torch.get_num_threads(), "openmp": True}
    run(prepare_gates(form, dtype, shape, axis, roles, **options), tensors)


for _key in ("CPU", "CUDA"):
    LIBRARY.impl("gated_scan", _forward, _key)
    LIBRARY.impl("gated_scan_backward", _backward, _key)
torch.library.register_fake(
    "scanlib::gated_scan",
    lambda columns, initial, reset, axis, form, offsets=None: _empty(
        columns, axis, GateForm(*form), offsets
    ),
    lib=LIBRARY,
)
torch.library.register_fake(
    "scanlib::gated_scan_backward",
    lambda grad, grad_final, columns, h, initial, reset, axis, form, offsets=None: _empty_grads(
        columns, initial, GateForm(*form)
    ),
    lib=LIBRARY,
)
