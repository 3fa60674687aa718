"""The cells under test with their options and sizes, random parameters, and each member's way of calling them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from capabilities import Backend
from cell_references import Array, run
from helpers import rng_for
from matrix import Member

from scanlib import cells
from scanlib.cells import Cell

#: (cell, inputs, hidden units)
CASES: list[tuple[Cell, int, int]] = [
    (cells.GILR(), 3, 5),
    (cells.GILR(activation="silu"), 3, 2),
    (cells.GILRLSTM(), 3, 5),
    (cells.GILRLSTM(delayed=False), 4, 2),
    (cells.GILRLSTM(coupled=True), 3, 4),
    (cells.SRU(), 4, 4),
    (cells.SRU(activation="tanh", rescale=True, highway_bias=-1.0), 3, 4),
    (cells.QRNN(width=1, pooling="f"), 3, 4),
    (cells.QRNN(), 3, 4),
    (cells.QRNN(width=5, pooling="ifo"), 2, 3),
    (cells.TRNN(), 3, 4),
    (cells.TGRU(), 3, 4),
    (cells.TLSTM(), 3, 4),
    (cells.RGLRU(), 6, 6),
    (cells.RGLRU(heads=3), 6, 6),
    (cells.RGLRU(heads=2), 3, 4),
    (cells.WKV(), 4, 4),
    (cells.WKV(), 3, 5),
    (cells.MinGRU(), 3, 4),
    (cells.MinGRU(bias=True, positive=False), 3, 4),
    (cells.MinLSTM(), 3, 4),
    (cells.LRU(), 3, 5),
    (cells.S5(), 3, 5),
    (cells.S5(conjugate=False), 3, 4),
    (cells.HGRN(), 3, 4),
    (cells.HGRN(lower_bound=0.3, output_gate=False), 3, 4),
]


#: Members that spend a tenth of a second or more on each new shape.
COMPILING = (Backend.JAX, Backend.JAX_JIT, Backend.JAX_CUDA, Backend.TORCH_COMPILE)


def cases(lib: Member, few: int) -> list[tuple[Cell, int, int]]:
    """All of them, or for a member that compiles `few`, evenly spread."""
    if lib.backend not in COMPILING:
        return CASES
    few = min(few, lib.capability.cases)
    return [CASES[(i * len(CASES)) // few] for i in range(few)]


def case_name(case: Any) -> str:
    cell = case[0]
    default = type(cell)()
    changed = [
        f"{field.name}={getattr(cell, field.name)}"
        for field in dataclasses.fields(cell)
        if getattr(cell, field.name) != getattr(default, field.name)
    ]
    return "-".join([cell.name, *changed])


def random_params(cell: Cell, m: int, n: int) -> dict[str, Array]:
    """Parameters in which every term matters, unlike fresh ones with their zeros."""
    rng = rng_for(cell, m, n)
    params = {name: 0.6 * rng.standard_normal(shape) for name, shape in cell.shapes(m, n).items()}
    if "eigenvalues" in params:
        params["eigenvalues"][0] = -np.abs(params["eigenvalues"][0]) - 0.1
    if "mix" in params:
        params["mix"] = rng.uniform(size=params["mix"].shape)
    return params


def inputs(m: int, shape: tuple[int, ...], *key: object) -> Array:
    return rng_for(m, shape, key).standard_normal((*shape, m))


def starts(shape: tuple[int, ...]) -> Array:
    """Where segments start: some at the first step, all at two steps side by side."""
    found = rng_for(shape).uniform(size=shape) < 0.2
    found[..., 3:5], found[..., 5:9] = True, False
    return found


def expected(cell: Cell, params: dict[str, Array], x: Array, reset: Array | None = None) -> Array:
    return run(cell.name, params, x, reset, **dataclasses.asdict(cell))


def to_library(lib: Member, values: Any) -> Any:
    """Arrays in dicts and tuples, or None, as the library's."""
    if values is None:
        return None
    if isinstance(values, dict):
        return {name: lib.array(value) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(lib.array(value) for value in values)
    return lib.array(values)


def call(lib: Member, cell: Cell, params: Any, x: Any, state: Any = None, **options: Any) -> Any:
    """`cell(...)` on the library's arrays, as this member calls it."""
    return _function(lib.backend, cell, "__call__", options.pop("axis", -2))(
        params, x, state, **options
    )


def step(lib: Member, cell: Cell, params: Any, x: Any, state: Any = None, **options: Any) -> Any:
    """`cell.step(...)`, likewise."""
    return _function(lib.backend, cell, "step", None)(params, x, state, **options)


@functools.cache
def _function(backend: Backend, cell: Cell, method: str, axis: int | None) -> Any:
    function = getattr(cell, method)
    if axis is not None:
        function = functools.partial(function, axis=axis)
    if backend.value.startswith("jax"):
        import jax

        precise = jax.default_matmul_precision("highest")  # GPUs take fewer bits by default
        return precise(jax.jit(function) if backend is Backend.JAX_JIT else function)
    if backend is Backend.TORCH_COMPILE:
        from torch_cases import compile_each_shape

        return compile_each_shape(function)
    return function
