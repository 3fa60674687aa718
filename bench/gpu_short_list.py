"""A few small calls that reach every kernel, checked on the CPU: what compute-sanitizer watches."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import scanlib

#: shape, axis, and the shape of `a`, which is summed over where it is repeated
CASES = [
    ((3, 200, 40), 1, (3, 200, 40)),
    ((3, 200, 40), 1, (40,)),
    ((5, 3000), 1, (5, 3000)),
    ((5, 3000), 1, (5, 1)),
    ((20_000, 3), 0, (20_000, 3)),
    ((20_000, 3), 0, (1, 1)),
    ((40_000,), 0, (40_000,)),
    ((300, 17), 1, (300, 17)),
]


def main() -> int:
    import cupy

    if cupy.cuda.runtime.getDeviceCount() == 0:
        return 3
    random = np.random.default_rng(0)
    for shape, axis, a_shape in CASES:
        for dtype in ("float32", "float16", "complex128"):
            a = random.uniform(0.5, 1, a_shape).astype(dtype)
            x, grad = (random.standard_normal(shape).astype(dtype) for _ in range(2))
            h0 = random.standard_normal(np.delete(shape, axis)).astype(dtype)
            both: list[Any] = []
            for move in (np.asarray, cupy.asarray):
                given = [move(v) for v in (a, x, h0, grad)]
                h, final = scanlib.linear_recurrence(*given[:3], axis=axis, return_final=True)
                grads = scanlib.linear_recurrence_vjp(
                    given[3], given[0], h, given[2], axis=axis, grad_final=final
                )
                both.append(
                    [np.asarray(v.get() if move is cupy.asarray else v) for v in (h, *grads)]
                )
            for name, expected, actual in zip(("h", "a", "x", "h0"), *both, strict=True):
                scale = np.abs(expected.astype("complex128")).max()
                error = np.abs(actual.astype("complex128") - expected).max() / scale
                limit = 5e-3 if dtype == "float16" else 1e-5
                if not error <= limit:
                    print(
                        f"WRONG {shape} axis {axis} a {a_shape} {dtype}: {name} off by {error:.2g}"
                    )
                    return 1
    print(f"{len(CASES)} shapes in three dtypes agree with the CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
