"""The shapes every benchmark runs on: the same number of elements laid out in very different ways."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """One recurrence: `shape` and `axis` of x, its direction, and how `a` and `x` lie in memory.

    `layout` is "contiguous", or "halves" where `a` and `x` are the two halves of the last axis of one projection.
    """

    shape: tuple[int, ...]
    axis: int
    reverse: bool = False
    layout: str = "contiguous"

    @property
    def name(self) -> str:
        notes = [self.layout] * (self.layout != "contiguous") + ["reverse"] * self.reverse
        return ", ".join([f"{self.shape} axis {self.axis}", *notes])

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))

    @property
    def channel_shape(self) -> tuple[int, ...]:
        """The shape of one coefficient per channel: per sequence where there is no channel axis."""
        if self.axis < len(self.shape) - 1:
            return (self.shape[-1],)
        return (*self.shape[:-1], 1)


def shapes(log2: int = 24) -> list[Case]:
    """The six shapes, each of 2**log2 elements."""
    n = 2**log2
    return [
        Case((n // (4096 * 512), 4096, 512), 1),
        Case((n // 256, 256), 0),
        Case((n // 16, 16), 0),
        Case((n // 32768, 32768), 1),
        Case((16, n // 16), 1),
        Case((n,), 0),
    ]


def cases(log2: int = 24) -> list[Case]:
    """The six shapes, then strided halves of a projection and reverse directions."""
    columns, tall, _, rows, few, _ = plain = shapes(log2)
    return [
        *plain,
        Case(columns.shape, columns.axis, layout="halves"),
        Case(rows.shape, rows.axis, layout="halves"),
        Case(tall.shape, tall.axis, reverse=True),
        Case(few.shape, few.axis, reverse=True),
    ]


@functools.lru_cache(maxsize=1)
def random_inputs(case: Case, dtype: str, seed: int = 0) -> tuple[Array, Array, Array]:
    """`(a, x, grad_h)` of one case as NumPy arrays; `a` in [0.5, 1), the others normal, none of them zero."""
    random = np.random.default_rng(seed)
    kind = np.float32 if np_dtype(dtype).itemsize < 8 else np.float64
    a = 0.5 + 0.5 * random.random(case.shape, kind)
    x, grad = random.standard_normal(case.shape, kind), random.standard_normal(case.shape, kind)
    return tuple(array.astype(np_dtype(dtype), copy=False) for array in (a, x, grad))  # type: ignore[return-value]


def np_dtype(name: str) -> np.dtype[Any]:
    """A NumPy dtype by name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
