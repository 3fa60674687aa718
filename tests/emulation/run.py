"""Runs a few problems on an emulation and compares them with the CPU core: in a process of its own, for sanitizers.

python run.py CUDA EMULATION KEPT PROBLEMS [FLAGS...]: the folders of `emulated.Emulation`, how many problems, and flags
for g++. Past the last of them come sequences that start inside the time axis, some of which have no right result.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import emulated
import numpy as np
from helpers import decay, normal, rng_for
from segment_cases import LIES, problem_of, results_for

import scanlib
from scanlib import gpu

#: (shape, axis, dtype, shape of a, numbers of the plan): look-back in columns, in rows, with sums, and the walk.
PROBLEMS = [
    ((61, 20), 0, "float32", (61, 20), {}),
    ((3, 701), 1, "float32", (3, 701), {}),
    ((301, 3), 0, "complex64", (1, 1), {}),
    ((61, 20), 0, "float32", (61, 1), {"enough_groups": 1}),
    ((5, 403), 1, "bfloat16", (5, 403), {"enough_groups": 1}),
]


#: (shape, axis, numbers of the plan) of problems with resets, and with offsets that are none.
SEGMENTED = [((201, 20), 0, {}), ((3, 201), 1, {}), ((201, 20), 0, {"enough_groups": 1})]


def run_segmented(shape: tuple[int, ...], axis: int, numbers: dict[str, int]) -> None:
    rng = rng_for(shape, "segmented")
    reset = np.broadcast_to(rng.random(shape) < 0.1, shape)
    for starts in ({"reset": reset}, *({"offsets": np.array(lie)} for lie in LIES.values())):
        segments = (len(starts["offsets"]) - 1,) if "offsets" in starts else ()
        state = (*shape[:axis], *segments, *shape[axis + 1 :])
        for backward in (False, True):
            roles = ("h", "grad_h") if backward else ("x",)
            given = starts | {role: normal(rng, shape, "float32") for role in roles}
            given["a"] = decay(rng, shape, "float32")
            entering = ("h0", "grad_final") if backward else ("h0",)
            given |= {role: normal(rng, state, "float32") for role in entering}
            arrays = given | results_for(given, axis, shape, "float32")
            with emulated.tuned(**emulated.SMALL, **numbers):
                problem, pointers = problem_of(shape, axis, arrays)
                emulated.schedule(len(segments), 3)
                address, memory = emulated.adapter().scratch(gpu.scratch_bytes(problem))
                gpu.run(problem, 0, address, pointers)
                del memory


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
    for shape, axis, numbers in SEGMENTED[: max(0, count - len(PROBLEMS))]:
        run_segmented(shape, axis, numbers)
    print("right")


if __name__ == "__main__":
    main()
