"""Passes with resets or offsets through the CUDA kernels, emulated: plans, operands, launches, checks by a loop."""

from __future__ import annotations

import emulated
import numpy as np
from emulated import ABREAST
from helpers import TOLERANCE, decay, normal, rng_for
from segment_cases import Array, problem_of, results_for, serial

from scanlib import gpu

#: (what is said of it, shape, axis, further numbers), as in test_emulated.py; the first three are everyday tests.
PLANS: list[tuple[str, tuple[int, ...], int, dict[str, int]]] = [
    ("look-back over rows", (2, 701), 1, {}),
    ("look-back over columns", (2, 201, 20), 1, {}),
    ("walk over columns", (101, 20), 0, {"enough_groups": 1}),
    ("walk over rows", (5, 403), 1, {"enough_groups": 1}),
    ("walk over columns", (71, 150), 0, {"many_lanes": 100}),
    ("walk over rows", (201, 3), 1, {}),
    ("walk over columns", (9, 3), 0, {}),
    ("look-back over columns", (301, 3), 0, {}),
    ("in 2 groups of up to 64", (101, 128), 0, ABREAST),
]
EVERYDAY = 3
KINDS = ("reset", "offsets")


def offsets_for(length: int, dtype: str = "int64") -> Array:
    """Sequences of a step, of a few, of many tiles, and without any at both ends and in between.

    Some start where tiles do, and of those in the middle there are more than a warp looks at together.
    """
    rng = rng_for("offsets", length)
    cuts = rng.integers(0, length + 1, 9).tolist()
    cuts += [0, 1, length // 3, length // 3, length // 3 + 1, length, length, 16, 64, 64, 128, 192]
    cuts += rng.integers(length // 2, length // 2 + 30, 60).tolist()
    return np.sort([0, *np.minimum(cuts, length), length]).astype(dtype)


def starts_for(kind: str, shape: tuple[int, ...], axis: int, dtype: str = "int64") -> Array:
    """A mask is that of all lanes alike."""
    if kind == "offsets":
        return offsets_for(shape[axis], dtype)
    rng = rng_for("reset", shape)
    alike = tuple(n if d == axis or d < len(shape) - 1 else 1 for d, n in enumerate(shape))
    mask = rng.random(alike) < 0.06
    first = mask.swapaxes(0, axis)[:1]
    first[...] = rng.random(first.shape) < 0.5
    return mask


def draw(
    kind: str,
    shape: tuple[int, ...],
    axis: int,
    dtypes: dict[str, str] | str,
    *,
    states: bool,
    backward: bool,
    a_shape: tuple[int, ...] | None = None,
    starts: Array | None = None,
) -> dict[str, Array]:
    """Operands of a pass. `dtypes`: by role, or of all."""
    starts = starts_for(kind, shape, axis) if starts is None else starts
    rng = rng_for(kind, shape, axis, str(dtypes))
    segments = (len(starts) - 1,) if kind == "offsets" else ()
    state = (*shape[:axis], *segments, *shape[axis + 1 :])

    def dtype(role: str) -> str:
        return dtypes if isinstance(dtypes, str) else dtypes.get(role, dtypes["x"])

    given = {kind: starts, "a": decay(rng, a_shape or shape, dtype("a"))}
    for role in ("h", "grad_h") if backward else ("x",):
        given[role] = normal(rng, shape, dtype(role))
    for role in (("h0", "grad_final") if backward else ("h0",)) if states else ():
        given[role] = normal(rng, state, dtype(role))
    return given


def launch(
    given: dict[str, Array], results: dict[str, Array], axis: int, reverse: bool, way: str = ""
) -> None:
    shape = given["h" if "grad_h" in given else "x"].shape
    emulated.adapter()
    problem, pointers = problem_of(shape, axis, given | results, reverse=reverse)
    said = gpu.describe(problem)
    assert way in said
    wanted = f"{len(given['offsets']) - 1} segments" if "offsets" in given else "with resets"
    assert wanted in said
    address, memory = emulated.adapter().scratch(gpu.scratch_bytes(problem))
    gpu.run(problem, 0, address, pointers)
    del memory


def check(
    given: dict[str, Array],
    axis: int,
    reverse: bool,
    way: str = "",
    dtype: str = "",
    spare: tuple[str, ...] = (),
) -> dict[str, Array]:
    """A pass against the serial loop; a gradient of a repeated `a` is that summed."""
    shape = given["h" if "grad_h" in given else "x"].shape
    results = results_for(given, axis, shape, dtype or str(given["a"].dtype))
    for name in spare:
        del results[name]
    launch(given, results, axis, reverse, way)
    expected = serial(given, axis, reverse, shape)
    sizes = serial(
        {
            name: v if v.dtype.kind in "bi" else np.abs(v.astype(complex))
            for name, v in given.items()
        },
        axis,
        reverse,
        shape,
    )
    for name, found in results.items():
        want, size = expected[name], sizes[name].real
        if name == "grad_a" and found.shape != want.shape:
            along = tuple(d for d, n in enumerate(found.shape) if n != want.shape[d])
            want, size = (each.sum(along, keepdims=True) for each in (want, size))
        bound = 2 * TOLERANCE[str(found.dtype)] * size
        wrong = ~(np.abs(found.astype(complex) - want) <= bound)
        assert not wrong.any(), f"{name}, first at {np.argwhere(wrong)[0]}"
        if name == "grad_a" and "reset" in given and found.shape == shape:
            assert not np.any(found[np.broadcast_to(given["reset"], shape)])
    return results
