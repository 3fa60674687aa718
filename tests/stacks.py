"""Sequences of more than four stacks of bundles of tiles, or batches of carriers, at the sizes of a GPU."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from helpers import check_forward, check_gradients, normal, rng_for, same_bits, state_shape
from matrix import Member

from scanlib import gpu

#: Bundles have 2 tiles, and stacks 4.
TUNING = {"bundle": 2}
#: Shape and axis for each layout, cut so.
SHAPES = {
    "rows": ((66, 1 << 16), 1),
    "one of rows": ((1 << 20,), 0),
    "few rows": ((5, 1 << 18), 1),
    "columns": ((1 << 14, 40), 0),
    "few columns": ((1 << 16, 3), 0),
}


def backward_in_this_thread() -> AbstractContextManager[Any]:
    """Where numbers hold: torch runs the gradients of a GPU's tensors in a thread of its own."""
    torch = sys.modules.get("torch")
    return torch.autograd.set_multithreading_enabled(False) if torch else nullcontext()


def check(lib: Member, layout: str, repeats: int) -> None:
    """Sequences that remember their first stack in their last: right, and the same bits every time."""
    shape, axis = SHAPES[layout]
    rng = rng_for(layout)
    a = (1 - rng.uniform(0, 2e-5, shape)).astype(np.float32)
    x, grad_h = (normal(rng, shape, "float32") for _ in range(2))
    h0, grad_final = (normal(rng, state_shape(shape, axis), "float32") for _ in range(2))
    with gpu.tuned(TUNING), backward_in_this_thread():
        check_forward(lib, a, x, h0, axis=axis)
        check_gradients(lib, a, x, h0, axis=axis)
        given = [lib.array(v) for v in (a, x, h0, grad_h, grad_final)]
        first: list[np.ndarray] = []
        for _ in range(repeats):
            h, final = lib.scan(*given[:3], axis=axis, return_final=True)
            found = [lib.numpy(v) for v in (h, final, *lib.gradients(*given, axis=axis))]
            first = first or found
            assert all(same_bits(*pair) for pair in zip(found, first, strict=True))
