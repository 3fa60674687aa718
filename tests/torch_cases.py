"""Tensors for the tests of torch, the recurrence in torch operations to compare with, and what watches a call."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Tensor = Any

f64, c128 = torch.float64, torch.complex128


def random(*shape: int, dtype: Any = f64, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return torch.randn(shape, dtype=dtype, generator=generator).requires_grad_(grad)


def plain(*shape: int, dtype: Any = f64) -> Tensor:
    return random(*shape, dtype=dtype, grad=False)


def loop(
    a: Tensor, x: Tensor, h0: Tensor | None = None, *, axis: int = 0, reverse: bool = False
) -> Tensor:
    """The recurrence in torch operations, for every derivative and transform to be compared with."""
    a, x = torch.broadcast_tensors(a, x)
    steps = list(zip(a.unbind(axis), x.unbind(axis), strict=True))
    state, states = torch.zeros_like(steps[0][1]) if h0 is None else h0, []
    for a_t, x_t in reversed(steps) if reverse else steps:
        state = a_t * state + x_t
        states.append(state)
    return torch.stack(states[::-1] if reverse else states, axis)


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(op))
        return op(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def compile_each_shape(function: Any) -> Any:
    """`torch.compile` without a graph break, for any number of shapes; test_torch_compile.py has inductor itself."""
    from torch._dynamo import config

    # The names of 2.6, which later versions still know.
    for name in ("cache_size_limit", "accumulated_cache_size_limit"):
        setattr(config, name, 10_000)
    return torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=False)
