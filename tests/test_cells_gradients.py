"""Gradients of each cell by torch and JAX, through a state handed on, against finite differences of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cell_cases import CASES, case_name, expected, inputs, random_params, starts
from cell_references import Array
from helpers import rng_for

from scanlib.cells import Cell
from scanlib.cells.functions import sqrt_capped

BATCH, STEPS, CUT = 2, 7, 4
Case = tuple[Cell, int, int]


def loss(cell: Cell, params: Any, x: Any, weight: Any, reset: Any) -> Any:
    """<weight, output> over two chunks, the second of which starts from the first one's state."""
    first, second = (None, None) if reset is None else (reset[:, :CUT], reset[:, CUT:])
    head, state = cell(params, x[:, :CUT, :], reset=first)
    tail, _ = cell(params, x[:, CUT:, :], state, reset=second)
    return (head * weight[:, :CUT, :]).sum() + (tail * weight[:, CUT:, :]).sum()


def by_torch(cell: Cell, params: Any, x: Array, weight: Array, reset: Array | None) -> Any:
    torch = pytest.importorskip("torch")
    given = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    step = torch.tensor(x, requires_grad=True)
    mask = None if reset is None else torch.tensor(reset)
    loss(cell, given, step, torch.tensor(weight), mask).backward()
    return {name: value.grad.numpy() for name, value in given.items()}, step.grad.numpy()


def by_jax(cell: Cell, params: Any, x: Array, weight: Array, reset: Array | None) -> Any:
    jax = pytest.importorskip("jax")

    @jax.jit
    def gradient(params: Any, x: Any) -> Any:
        return jax.grad(lambda p, v: loss(cell, p, v, weight, reset), argnums=(0, 1))(params, x)

    grads, grad_x = gradient(params, x)
    return {name: np.asarray(value) for name, value in grads.items()}, np.asarray(grad_x)


def gradient_cases() -> Iterator[Any]:
    """Every case by both; those by JAX, which compiles them, count as slow."""
    for case in CASES:
        for gradients in (by_torch, by_jax):
            marks = [pytest.mark.slow] if gradients is by_jax else []
            name = f"{case_name(case)}-{gradients.__name__}"
            yield pytest.param(case, gradients, marks=marks, id=name)


@pytest.mark.parametrize(("case", "gradients"), list(gradient_cases()))
def test_finite_differences(case: Case, gradients: Any) -> None:
    """Along random directions in each parameter and in the inputs; with resets too, where that is another path."""
    cell, m, n = case
    params, x = random_params(*case), inputs(m, (BATCH, STEPS))
    rng = rng_for(cell)
    weight = rng.standard_normal((BATCH, STEPS, cell.output_size(m, n)))
    for reset in (None, starts((BATCH, STEPS))) if gradients is by_torch else (None,):
        grads, grad_x = gradients(cell, params, x, weight, reset)
        assert set(grads) == set(params)
        arrays = {**params, "x": x}
        for name, grad in {**grads, "x": grad_x}.items():
            for _ in range(2):
                direction = rng.standard_normal(arrays[name].shape)
                values = []
                for size in (1e-5, -1e-5):
                    moved = {**arrays, name: arrays[name] + size * direction}
                    output = expected(cell, moved, moved.pop("x"), reset)
                    values.append(np.sum(weight * output))
                slope = (values[0] - values[1]) / 2e-5
                assert np.isclose(np.sum(grad * direction), slope, rtol=1e-7, atol=1e-7), name


def test_slope_of_the_square_root_is_capped() -> None:
    """Right values and slopes above 2.5e-7, at most 1000 below, and never NaN."""
    torch, jax = (pytest.importorskip(name) for name in ("torch", "jax"))
    values = np.array([0.0, 1e-30, 1e-7, 2.4e-7, 2.6e-7, 1e-3, 1.0])
    wanted = 1 / np.sqrt(np.maximum(4 * values, 1e-6))
    v = torch.tensor(values, requires_grad=True)
    root = sqrt_capped(v)
    (slope,) = torch.autograd.grad(root.sum(), v)
    np.testing.assert_allclose(root.detach().numpy(), np.sqrt(values), rtol=1e-15)
    np.testing.assert_allclose(slope.numpy(), wanted, rtol=1e-14)
    np.testing.assert_allclose(jax.grad(lambda v: sqrt_capped(v).sum())(values), wanted, rtol=1e-14)
    np.testing.assert_allclose(jax.jit(sqrt_capped)(values), np.sqrt(values), rtol=1e-15)
