"""Jagged nested tensors: sequences of different lengths, (N, ragged T, ...), as torch.nested has them.

They run as what they are in memory, one sequence after the other and offsets, and give tensors of that structure back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scanlib.call import axis_index, normalize_axis
from scanlib.errors import ArrayKindError, AxisError, ShapeError

#: The ragged axis of a nested tensor, and what it is of the values.
RAGGED, AXIS = 1, 0


class Packed(NamedTuple):
    """Operands of nested tensors' values by name, and their offsets; `like` is one of those tensors."""

    operands: dict[str, Any]
    offsets: Tensor
    like: Tensor

    def nested(self, values: Tensor) -> Tensor:
        """Values of the result's shape as a nested tensor of the operands' structure."""
        return torch.nested.nested_tensor_from_jagged(values, self.offsets)


def packed(operands: dict[str, Any], axis: Any, reset: Any, offsets: Any) -> Packed | None:
    """What to run in place of operands (..., T, ...) by name; None where none of them is jagged."""
    jagged = {name: value for name, value in operands.items() if is_jagged(value)}
    if not jagged:
        return None
    name, like = next(iter(jagged.items()))
    if reset is not None or offsets is not None:
        raise ShapeError(
            f"{name} is a nested tensor, which says itself where sequences start: give neither reset nor offsets."
        )
    ndim = like.ndim
    if normalize_axis(axis_index(axis), ndim, name) != RAGGED:
        raise AxisError(
            f"axis is {axis}, but the recurrence of nested tensors runs along their ragged axis, axis {RAGGED} of "
            f"{name}."
        )
    for other, tensor in jagged.items():
        _check_structure(other, tensor, name, like)
    found = {
        other: value.values() if other in jagged else _row(other, value, name, ndim)
        for other, value in operands.items()
    }
    return Packed(found, like.offsets(), like)


def is_jagged(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_nested and value.layout is torch.jagged


def _check_structure(name: str, tensor: Any, first: str, like: Tensor) -> None:
    if tensor._ragged_idx != RAGGED or tensor.lengths() is not None:
        raise ArrayKindError(
            f"{name} is a nested tensor of another structure than (N, ragged T, ...) with its sequences side by side. "
            "Transpose it back, or copy it with .contiguous()."
        )
    # The length of the ragged axis stands for the offsets.
    if tensor.ndim != like.ndim or tensor.shape[:2] != like.shape[:2]:
        raise ShapeError(
            f"{name} has shape {tuple(tensor.shape)} and {first} has shape {tuple(like.shape)}: nested tensors must "
            "have the same number of axes and the same offsets. Make one with the offsets of the other: "
            f"torch.nested.nested_tensor_from_jagged(values, {first}.offsets())."
        )


def _row(name: str, value: Any, first: str, ndim: int) -> Any:
    """What all steps of all sequences share, to be broadcast with values."""
    if not isinstance(value, Tensor):
        return value
    missing = ndim - value.ndim
    if missing < 0 or any(length != 1 for length in value.shape[: max(2 - missing, 0)]):
        raise ShapeError(
            f"{name} has shape {tuple(value.shape)}, but beside {first}, a nested tensor, it must be nested too or "
            "have length 1 on the axes of sequences and of time."
        )
    return value if missing else value.squeeze(0)
