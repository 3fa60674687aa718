"""Arguments as a user gives them: tensors and numbers, checked, promoted, and resolved to one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanlib.backends.torch.dtypes import dtype_name, promote, result_dtype
from scanlib.call import Call, Shape, axis_index, check_one_device, dtype_code, resolve
from scanlib.errors import ArrayKindError, DeviceError
from scanlib.kinds import is_scalar
from scanlib.offsets import host_offsets

State = Tensor | None

#: Devices with a kernel; on "meta" there is nothing to compute but shapes.
DEVICES = ("cpu", "cuda", "meta")

_compiling = torch.compiler.is_dynamo_compiling


def prepare(
    a: Any, x: Any, h0: Any, axis: Any, reset: Any, offsets: Any
) -> tuple[Tensor, Tensor, State, State, State, torch.dtype, Call]:
    """Tensors for all operands, the result's dtype, and the problem; raises where they do not fit together."""
    given = {"a": a, "x": x, "h0": h0}
    starts = starts_of(given, reset, offsets)
    check_operands(given | starts)
    dtype = promoted(given)
    device = _device(*given.values())
    a, x, h0 = (tensor_of(value, dtype, device) for value in given.values())
    shapes = *map(shape_of, (a, x, h0)), axis_index(axis), *map(shape_of, starts.values())
    return a, x, h0, *starts.values(), dtype, resolved(resolve, *shapes)


def shape_of(tensor: State) -> Shape | None:
    return None if tensor is None else tuple(tensor.shape)


def _device(*operands: Any) -> torch.device:
    return next(value.device for value in operands if isinstance(value, Tensor))


def starts_of(given: dict[str, Any], reset: Any, offsets: Any) -> dict[str, State]:
    """reset and offsets as tensors, by name; `given` are the other operands."""
    if reset is not None and not isinstance(reset, Tensor):
        dtype_code(type(reset).__name__, "reset")
    return {
        "reset": reset,
        "offsets": None if offsets is None else offsets_of(offsets, *given.values()),
    }


def offsets_of(given: Any, *operands: Any) -> Tensor:
    """Offsets as a tensor of a dtype that kernels read; a list or NumPy array where the operands are."""
    if isinstance(given, Tensor):
        return given if given.dtype in _COUNTS else _counted(given)
    # A copy: an array that its owner writes to would change a gradient that is still to come.
    if _compiling():
        counts = _counted(torch.as_tensor(given, device="cpu").clone())
    else:
        counts = torch.from_numpy(host_offsets(given).copy())
    return counts.to(_device(*operands), non_blocking=True)


def _counted(offsets: Tensor) -> Tensor:
    """Integers of any width, or no numbers at all, as int64."""
    integers = not (
        offsets.is_floating_point() or offsets.is_complex() or offsets.dtype is torch.bool
    )
    counted = integers and offsets.dtype not in _COUNTS
    return offsets.to(torch.int64) if counted or offsets.shape == (0,) else offsets


_COUNTS = (torch.int32, torch.int64)


def check_operands(given: dict[str, Any]) -> None:
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_nested or tensor.layout is not torch.strided:
            kind = "nested" if tensor.is_nested else str(tensor.layout)
            raise ArrayKindError(
                f"{name} is a {kind} tensor; scanlib takes strided ones. Convert it first, for example with "
                f"{name}.to_padded_tensor(0.0) or {name}.to_dense()."
            )
        dtype_code(dtype_name(tensor.dtype), name)
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    check_one_device(devices, "tensors", "Move them with .to(device).")
    for name, tensor in tensors.items():
        if tensor.device.type not in DEVICES:
            raise DeviceError(
                f"{name} is on {tensor.device}, for which this scanlib has no kernel: torch tensors are served on "
                f"{', '.join(DEVICES)}. Move the tensors with .to('cpu')."
            )


def promoted(given: dict[str, Any]) -> torch.dtype:
    """torch's result dtype; Python numbers only decide whether it is complex."""
    tensors = [(value.dtype, value.ndim) for value in given.values() if isinstance(value, Tensor)]
    dtype = result_dtype(tensors, tuple(type(value) for value in given.values()))
    dtype_code(dtype_name(dtype), "the result")
    return dtype


def tensor_of(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A Python number as a tensor without axes, at float32 at least, as torch takes it; others as they are."""
    if not is_scalar(value):
        return value
    wide = promote(dtype, torch.float32) if isinstance(value, complex) else _NUMBER[dtype]
    return torch.full((), value, dtype=wide, device=device)


def number_beside(a: float, x: Tensor) -> Any:
    """The same for a lone number beside a plain tensor, quickly; `a` as it is where that has a strange dtype."""
    dtype = _NUMBER.get(x.dtype)
    if dtype is None:
        return a
    if x.is_cuda:  # filled by a kernel: copying a number to a GPU would wait for it
        return torch.full((), a, dtype=dtype, device=x.device)
    return torch.tensor(a, dtype=dtype, device="cpu")


_NUMBER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def resolved(function: Any, *arguments: Any) -> Call:
    """`resolve` or `resolve_vjp`, past their cache where lengths are symbols, which do not hash."""
    if _compiling():
        return function.__wrapped__(*arguments)
    try:
        return function(*arguments)
    except TypeError:
        return function.__wrapped__(*arguments)


def copied_because(tensor: Tensor) -> str:
    """Why this tensor is copied before libscanlib reads it; empty if it is not."""
    if tensor.is_conj() or tensor.is_neg() or tensor._is_zerotensor():
        return "it is a conjugate, negative or zero view whose memory holds other values"
    if tensor.is_cuda and tensor.data_ptr() % tensor.element_size():
        return "its address is not a multiple of its element size"
    return ""
