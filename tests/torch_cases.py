"""Tensors for the tests of torch, the recurrence in torch operations to compare with, and what watches a call."""

from __future__ import annotations

import itertools
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
    a: Tensor,
    x: Tensor,
    h0: Tensor | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    reset: Tensor | None = None,
) -> Tensor:
    """The recurrence in torch operations, for every derivative and transform to be compared with."""
    shape = torch.broadcast_shapes(a.shape, x.shape)
    masks = torch.zeros((), dtype=torch.bool) if reset is None else reset
    operands = (t.expand(shape).unbind(axis) for t in (a, x, masks))
    steps = list(zip(*operands, strict=True))
    state, states = torch.zeros_like(steps[0][1]) if h0 is None else h0, []
    for a_t, x_t, starts in reversed(steps) if reverse else steps:
        state = a_t * state.masked_fill(starts, 0) + x_t
        states.append(state)
    return torch.stack(states[::-1] if reverse else states, axis)


def loop_packed(
    a: Tensor,
    x: Tensor,
    h0: Tensor | None = None,
    *,
    offsets: list[int],
    axis: int = 0,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same and the final states of sequences one after the other: `loop` on each alone."""
    shape = torch.broadcast_shapes(a.shape, x.shape)
    axis, count = axis % len(shape), len(offsets) - 1
    states = (*shape[:axis], count, *shape[axis + 1 :])
    h0 = (x.new_zeros(()) if h0 is None else h0).expand(states)
    h, final = [], []
    for number, (begin, end) in enumerate(itertools.pairwise(offsets)):
        state = h0.select(axis, number)
        if end > begin:
            rows = (t.expand(shape).narrow(axis, begin, end - begin) for t in (a, x))
            h.append(loop(*rows, state, axis=axis, reverse=reverse))
            state = h[-1].select(axis, 0 if reverse else -1)
        final.append(state)
    return torch.cat(h, axis), torch.stack(final, axis)


def sine_loss(scan: Any) -> Any:
    """A scalar of a function's result, with derivatives of every order."""
    return lambda *given: scan(*given).sin().sum()


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
