"""Cells inside a library's transformations: scans, maps over parameters, second derivatives."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from cell_cases import CASES as ALL_CASES
from cell_cases import case_name, expected, inputs, random_params

from scanlib import cells
from scanlib.cells import Cell

Case = tuple[Cell, int, int]
CASES: list[Case] = [
    (cells.GILRLSTM(), 3, 4),
    (cells.QRNN(width=3), 3, 4),
    (cells.WKV(), 4, 4),
    (cells.RGLRU(heads=2), 4, 4),
    (cells.S5(), 3, 4),
]
some_cells = pytest.mark.parametrize("case", CASES, ids=case_name)
BATCH, STEPS = 2, 6


def close(actual: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=1e-10, atol=1e-11)


@some_cells
def test_generation_in_a_jax_scan(case: Case) -> None:
    """The state keeps structure, shapes and dtypes, so a loop over steps compiles; the cell is a static argument."""
    jax = pytest.importorskip("jax")
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (BATCH, STEPS))

    @functools.partial(jax.jit, static_argnums=0)
    def generate(cell: Cell, params: Any, x: Any) -> Any:
        def step(state: Any, x_t: Any) -> Any:
            output, state = cell.step(params, x_t, state)
            return state, output

        start = cell.initial_state(params, x[:, 0])
        return jax.lax.scan(step, start, x.swapaxes(0, 1))[1].swapaxes(0, 1)

    close(generate(cell, params, x), expected(cell, params, x))


@some_cells
def test_jax_vmap_over_parameters(case: Case) -> None:
    jax = pytest.importorskip("jax")
    cell, m, n = case
    several = [random_params(cell, m, n), {k: 0.9 * v for k, v in random_params(*case).items()}]
    x = inputs(m, (BATCH, STEPS))
    stacked = {name: np.stack([params[name] for params in several]) for name in several[0]}
    over_params = jax.vmap(lambda params, x: cell(params, x)[0], in_axes=(0, None))
    output = jax.jit(over_params)(stacked, x)
    close(output, np.stack([expected(cell, params, x) for params in several]))


@some_cells
def test_torch_vmap_over_parameters(case: Case) -> None:
    torch = pytest.importorskip("torch")
    cell, m, n = case
    several = [random_params(cell, m, n), {k: 0.9 * v for k, v in random_params(*case).items()}]
    x = torch.tensor(inputs(m, (BATCH, STEPS)))
    stacked = {
        name: torch.tensor(np.stack([params[name] for params in several])) for name in several[0]
    }
    output = torch.func.vmap(lambda params: cell(params, x)[0])(stacked)
    close(output, np.stack([expected(cell, params, x.numpy()) for params in several]))
    of_inputs = torch.func.vmap(lambda x: cell({k: v[0] for k, v in stacked.items()}, x)[0])(x)
    close(of_inputs, expected(cell, several[0], x.numpy()))


@some_cells
def test_second_derivatives(case: Case) -> None:
    """torch's, by its own finite differences of the first ones."""
    torch = pytest.importorskip("torch")
    cell, m, _ = case
    params = {name: torch.tensor(v) for name, v in random_params(*case).items()}
    x = torch.tensor(inputs(m, (1, 4)), requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: cell(params, x)[0], (x,), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cell", [cells.LRU(), cells.S5()], ids=["lru", "s5"])
def test_a_constant_decay_is_not_repeated(cell: Cell) -> None:
    """It has one number for each state, and goes to the recurrence like that."""
    m, n = 3, 4
    update = cell.update(random_params(cell, m, n), None, inputs(m, (BATCH, STEPS)), None)
    assert update.decay.shape == (n,)
    assert update.input.shape == (BATCH, STEPS, n)


@pytest.mark.parametrize("case", ALL_CASES, ids=case_name)
def test_torch_autocast(case: Case) -> None:
    """Projections in bfloat16, all else in float32: close to float64, with gradients and a float32 state."""
    torch = pytest.importorskip("torch")
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (BATCH, STEPS))
    given = {k: torch.tensor(v, dtype=torch.float32, requires_grad=True) for k, v in params.items()}
    with torch.autocast("cpu", torch.bfloat16):
        output, state = cell(given, torch.tensor(x, dtype=torch.float32))
    wanted = expected(cell, params, x)
    error = np.abs(output.detach().float().numpy() - wanted).max()
    assert 1e-5 < error / np.abs(wanted).max() < 0.08
    assert all(array.dtype in (torch.float32, torch.complex64) for array in state)
    output.float().square().sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in given.values())
