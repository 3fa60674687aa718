"""Where sequences of the tests of torch start inside the axis of time: masks, offsets and jagged nested tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_cases import plain

Tensor = Any

#: One empty at each end, two in a row inside, and one of a single step.
OFFSETS = [0, 0, 3, 3, 3, 8, 9, 9]
STEPS, COUNT = OFFSETS[-1], len(OFFSETS) - 1
LENGTHS = [3, 0, 4, 1]
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def resets(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=generator) < 0.4


def offsets_tensor(dtype: Any = torch.int64) -> Tensor:
    return torch.tensor(OFFSETS, dtype=dtype)


def jagged(*rest: int, like: Tensor = None, grad: bool = True) -> Tensor:
    if like is None:
        rows = [plain(length, *rest) + length for length in LENGTHS]
        return torch.nested.nested_tensor(rows, layout=torch.jagged).requires_grad_(grad)
    values = plain(sum(LENGTHS), *rest).requires_grad_(grad)
    return torch.nested.nested_tensor_from_jagged(values, like.offsets())
