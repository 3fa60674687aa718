"""Runs a few problems on an emulation and compares them with the CPU core: in a process of its own, for sanitizers.

python run.py CUDA EMULATION KEPT PROBLEMS [FLAGS...]: the folders of `emulated.Emulation`, how many problems, and flags
for g++.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import emulated
import numpy as np
from helpers import decay, normal, rng_for

import scanlib

#: (shape, axis, dtype, shape of a, numbers of the plan): look-back in columns, in rows, with sums, and the walk.
PROBLEMS = [
    ((61, 20), 0, "float32", (61, 20), {}),
    ((3, 701), 1, "float32", (3, 701), {}),
    ((301, 3), 0, "complex64", (1, 1), {}),
    ((61, 20), 0, "float32", (61, 1), {"enough_groups": 1}),
    ((5, 403), 1, "bfloat16", (5, 403), {"enough_groups": 1}),
]


def main() -> None:
    cuda, emulation, kept = map(Path, sys.argv[1:4])
    count, flags = int(sys.argv[4]), tuple(sys.argv[5:])
    emulated.adapter()
    emulated.start(emulated.Emulation(cuda, emulation, flags, kept))
    for shape, axis, dtype, a_shape, numbers in PROBLEMS[:count]:
        rng = rng_for(shape, dtype)
        given = decay(rng, a_shape, dtype), normal(rng, shape, dtype), normal(rng, shape, dtype)
        a, x, g = (v.view(emulated.EmulatedArray) for v in given)
        options = {"axis": axis, "reverse": True}
        with emulated.tuned(**emulated.SMALL, **numbers):
            for seed in range(4):
                emulated.schedule(seed, 2 + seed)
                h, final = scanlib.linear_recurrence(a, x, return_final=True, **options)
            grads = scanlib.linear_recurrence_vjp(g, a, h, **options)[:2]
        a, x, g, plain = (np.asarray(v) for v in (a, x, g, h))
        expected = scanlib.linear_recurrence(a, x, return_final=True, **options)
        expected += scanlib.linear_recurrence_vjp(g, a, plain, **options)[:2]
        for one, other in zip((h, final, *grads), expected, strict=True):
            one, other = (np.asarray(v).astype(complex) for v in (one, other))
            assert np.allclose(one, other, rtol=0.02, atol=0.1 if dtype == "bfloat16" else 1e-4)
    print("right")


if __name__ == "__main__":
    main()
