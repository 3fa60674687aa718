"""The serial loops as Triton kernels: a thread for each channel, one step of time after the other."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

THREADS = 32  # blocks of one warp: channels are few, and every multiprocessor should get some


def forward(a: Tensor, x: Tensor, first: Tensor, h: Tensor) -> None:
    """h_t = a_t h_{t-1} + x_t."""
    steps, channels = a.shape
    grid = (triton.cdiv(channels, THREADS),)
    _forward[grid](a, x, first, h, steps, channels, THREADS=THREADS, num_warps=1)


def backward(
    grad: Tensor, a: Tensor, h: Tensor, first: Tensor, grad_a: Tensor, grad_x: Tensor
) -> None:
    """grad_x_t = grad_t + a_{t+1} grad_x_{t+1}, grad_a_t = grad_x_t h_{t-1}."""
    steps, channels = a.shape
    grid = (triton.cdiv(channels, THREADS),)
    last = (steps - 1) * channels
    arguments = grad, a, h, first, grad_a, grad_x, steps, channels, last
    _backward[grid](*arguments, THREADS=THREADS, num_warps=1)


@triton.jit
def _forward(a, x, first, h, steps, channels, THREADS: tl.constexpr):
    channel = tl.program_id(0) * THREADS + tl.arange(0, THREADS)
    inside = channel < channels
    state = tl.load(first + channel, mask=inside, other=0.0)
    place = channel.to(tl.int64)
    for _ in range(steps):
        state = tl.load(a + place, mask=inside) * state + tl.load(x + place, mask=inside)
        tl.store(h + place, state, mask=inside)
        place += channels


@triton.jit
def _backward(grad, a, h, first, grad_a, grad_x, steps, channels, last, THREADS: tl.constexpr):
    channel = tl.program_id(0) * THREADS + tl.arange(0, THREADS)
    inside = channel < channels
    place = channel.to(tl.int64) + last
    carry = tl.zeros((THREADS,), tl.float32)  # a_{t+1} grad_x_{t+1}
    for _ in range(steps):
        state = tl.load(grad + place, mask=inside) + carry
        tl.store(grad_x + place, state, mask=inside)
        carry = state * tl.load(a + place, mask=inside)
        # Before the first step lies `first`.
        later, first_step = inside & (place >= channels), inside & (place < channels)
        before = tl.load(h + place - channels, mask=later, other=0.0)
        before += tl.load(first + channel, mask=first_step, other=0.0)
        tl.store(grad_a + place, state * before, mask=inside)
        place -= channels
