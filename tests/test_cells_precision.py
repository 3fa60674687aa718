"""How exact the cells are in float32, and that no size of a parameter or length of a sequence breaks them."""

from __future__ import annotations

import numpy as np
import pytest
from cell_cases import COMPILING
from cell_references import Array, sigmoid, wkv_operator
from helpers import rng_for
from matrix import Member

import scanlib
from scanlib import cells
from scanlib.cells import functions

pytestmark = pytest.mark.needs("functions")


def relative(actual: Array, exact: Array) -> float:
    return float(np.max(np.abs(actual - exact) / np.abs(exact)))


def test_min_gru_does_not_lose_digits_over_time() -> None:
    """The error stays at a few roundings at any length, where a scan in the logarithm loses one digit after another."""
    cell, n = cells.MinGRU(positive=False), 4
    params = {"weight": np.eye(2 * n)}
    for T in (100, 1000, 10_000, 100_000):
        rng = rng_for(T)
        candidate, gate = 0.1 + rng.uniform(size=(T, n)), rng.standard_normal((T, n))
        x = np.concatenate([candidate, gate], axis=1).astype(np.float32)
        exact, _ = cell(params, x.astype(float))
        narrow = {"weight": params["weight"].astype(np.float32)}
        ours = relative(cell(narrow, x)[0], exact)
        assert ours < 1e-6
    whole = scanlib.linear_recurrence(sigmoid(-gate), sigmoid(gate) * candidate, axis=0)
    assert np.allclose(exact, whole, rtol=1e-6)


@pytest.mark.parametrize("scale", [1, 10, 40, 100])
def test_wkv_at_any_scale(scale: int) -> None:
    """Exponents of any size: float32 as good as its inputs allow, where one shift for all steps gives NaN."""
    w, u, k, v, exact = wkv_inputs(scale)
    for kind, tolerance, of_state in (
        ("float32", 2e-5, 0.01),
        ("float64", 1e-12, 1e-9),
    ):
        w_, u_, k_, v_ = (value.astype(kind) for value in (w, u, k, v))
        y, state = cells.wkv(w_, u_, k_, v_)
        assert np.abs(y - exact).max() < tolerance
        head, middle = cells.wkv(w_, u_, k_[:40], v_[:40])
        tail, final = cells.wkv(w_, u_, k_[40:], v_[40:], middle)
        assert np.abs(np.concatenate([head, tail]) - exact).max() < tolerance
        for one, same in zip(final, state, strict=True):
            np.testing.assert_allclose(one, same, rtol=of_state)
        kept, steps = (np.zeros(4, kind), np.zeros(4, kind), np.full(4, -1e38, kind)), []
        for key, value in zip(k_, v_, strict=True):
            step, kept = cells.wkv_step(w_, u_, key, value, kept)
            steps.append(step)
        assert np.abs(np.stack(steps) - exact).max() < tolerance
    if (
        scale >= 40
    ):  # one shift for all steps would not do: some exponents vanish beside the largest
        smallest = np.log(float(np.finfo(np.float32).smallest_subnormal))
        assert np.all(k.min(axis=0) - k.max(axis=0) < smallest)


def test_wkv_on_every_library(lib: Member) -> None:
    w, u, k, v, exact = wkv_inputs(100)
    y, _ = cells.wkv(*(lib.array(value) for value in (w, u, k, v)))
    assert np.abs(lib.numpy(y) - exact).max() < 2e-5


def test_wkv_adds_no_error_of_the_size_of_its_exponents() -> None:
    """A rounding of an exponent of 400 is 1.5e-5, and would be there again in each weight: the error stays below it."""
    scale = 100
    w, u, k, v, exact = wkv_inputs(scale, 400)
    assert np.abs(k).max() > 3 * scale
    rounding = np.spacing(np.abs(k).max()) / 2
    assert np.abs(cells.wkv(w, u, k, v)[0] - exact).max() < rounding


def wkv_inputs(scale: int, T: int = 64) -> tuple[Array, ...]:
    """w, u, k and v in float32, and the outputs from sums over all earlier steps."""
    C, rng = 4, rng_for(scale)
    k, v = scale * rng.standard_normal((T, C)), rng.standard_normal((T, C))
    w, u = -np.exp(rng.uniform(-5, 1, C)), rng.standard_normal(C)
    w, u, k, v = (value.astype(np.float32) for value in (w, u, k, v))
    history = list(zip(k.astype(float), v.astype(float), strict=True))
    exact = [wkv_operator(w.astype(float), u.astype(float), history[: t + 1]) for t in range(T)]
    return w, u, k, v, np.stack(exact)


def test_wkv_over_a_long_sequence_with_a_fast_decay() -> None:
    """The drift of the running maximum grows to 2e6, the outputs stay averages of v."""
    T = 100_000
    rng = rng_for("long")
    k = rng.standard_normal((T, 2)).astype(np.float32)
    v = rng.uniform(1, 2, (T, 2)).astype(np.float32)
    w, u = np.array([-20.0, -1e-4], np.float32), np.zeros(2, np.float32)
    y, _ = cells.wkv(w, u, k, v)
    exact, _ = cells.wkv(*(value.astype(float) for value in (w, u, k, v)))
    assert y.min() >= 0.999
    assert y.max() <= 2.001
    assert np.abs(y - exact).max() < 2e-3


def test_wkv_resets_forget_larger_exponents(lib: Member) -> None:
    """Once a segment starts, the huge exponent before it weighs nothing, even beside tiny ones."""
    k = np.array([[300.0], [-300.0], [-299.0], [250.0], [-400.0]])
    v = np.arange(1.0, 6.0)[:, None]
    reset = np.array([False, True, False, False, True])
    w, u = np.array([-0.5]), np.array([0.25])
    y, state = cells.wkv(*(lib.array(a) for a in (w, u, k, v)), axis=0, reset=lib.array(reset))
    wanted = []
    for start, stop in ((0, 1), (1, 4), (4, 5)):
        history = list(zip(k[start:stop], v[start:stop], strict=True))
        wanted += [wkv_operator(w, u, history[: i + 1]) for i in range(stop - start)]
    np.testing.assert_allclose(lib.numpy(y), wanted, rtol=1e-12)
    assert lib.numpy(state[2]).tolist() == [-400.0]


def test_decay_close_to_one() -> None:
    """1 - a^2 keeps its digits where a is close to 1: RG-LRU's scale and the zero-order hold."""
    params = {
        "decay": np.array([-14.0], np.float32),
        "weight": np.zeros((1, 1, 2), np.float32),
        "bias": np.zeros((1, 2), np.float32),
    }
    output, _ = cells.RGLRU()(params, np.ones((1, 1), np.float32))
    log_a = -4 * np.log1p(np.exp(-14.0))
    assert abs(output[0, 0] / (0.5 * np.sqrt(-np.expm1(2 * log_a))) - 1) < 1e-6


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-9, 1e-3])
def test_zero_order_hold_at_small_eigenvalues(size: float) -> None:
    """(e^z - 1) / z goes to 1, not to 0 / 0; with it S5 becomes a plain sum times the step."""
    value = size * np.exp(2j)
    params = {
        "eigenvalues": np.array([[value.real], [value.imag]]),
        "log_step": np.log([0.5]),
        "input": np.array([[[1.0, 0.5]]]),
        "output": np.array([[[1.0], [-2.0]]]),
        "skip": np.zeros(1),
    }
    y, _ = cells.S5(conjugate=False)(params, np.ones((3, 1)))
    z = value * 0.5
    hold = 0.5 * (1 + z / 2 + z**2 / 6 + z**3 / 24)
    h, wanted = 0, []
    for _ in range(3):
        h = np.exp(z) * h + hold * (1 + 0.5j)
        wanted.append([(h * (1 - 2j)).real])
    np.testing.assert_allclose(y, wanted, rtol=1e-12)


def test_constant_candidate_is_a_fixed_point() -> None:
    """However close to 1 the decay is, a leaky average of a constant stays that constant, in float32 for 10^5 steps."""
    params = {"weight": np.zeros((1, 2), np.float32), "bias": np.array([15.0, 1.5], np.float32)}
    cell, start = cells.GILR(activation="identity"), (np.array([1.5], np.float32),)
    output, _ = cell(params, np.zeros((100_000, 1), np.float32), start)
    assert np.abs(output - 1.5).max() < 2e-5


def test_complement_is_that_of_the_rounded_decay(lib: Member) -> None:
    """Exactly, from 1/2 up, and to a rounding below."""
    rng = rng_for("complement")
    decay = rng.uniform(0, 1, 1000).astype(np.float32)
    decay[:500] = 1 - decay[:500] * np.float32(1e-6)
    candidate = rng.standard_normal(1000).astype(np.float32)
    found = lib.numpy(functions.convex(lib.array(decay), lib.array(candidate)))
    exact = (1 - decay.astype(float)) * candidate
    np.testing.assert_allclose(found, exact, rtol=3e-7)
    assert np.array_equal(found[:500], exact[:500].astype(np.float32))


def test_activations_at_extremes(lib: Member) -> None:
    """No overflow, no warning, and full relative precision in the tails."""
    values = np.array([-800.0, -100.0, -1.0, 0.0, 1.0, 100.0, 800.0])
    wanted = np.array([0, np.exp(-100.0), sigmoid(-1.0), 0.5, sigmoid(1.0), 1, 1])
    v = lib.array(values)
    np.testing.assert_allclose(lib.numpy(functions.sigmoid(v)), wanted, rtol=1e-14, atol=1e-300)
    soft = np.array(
        [0, np.exp(-100.0), np.log1p(np.exp(-1.0)), np.log(2), 1 + np.log1p(np.exp(-1.0)), 100, 800]
    )
    np.testing.assert_allclose(lib.numpy(functions.softplus(v)), soft, rtol=1e-14, atol=1e-300)
    elu = np.where(values > 0, values, np.expm1(np.minimum(values, 0)))
    np.testing.assert_allclose(lib.numpy(functions.elu(v)), elu, rtol=1e-14)


def test_running_maximum(lib: Member) -> None:
    for steps in [65] if lib.backend in COMPILING else [0, 1, 2, 7, 64, 65]:
        rng = rng_for(steps)
        v = np.round(3 * rng.standard_normal((2, steps, 3)))  # with ties
        start = np.broadcast_to(rng.uniform(size=(2, steps, 1)) < 0.2, v.shape).copy()
        plain = functions.running_maximum(lib.array(v), 1)
        assert np.array_equal(lib.numpy(plain), np.maximum.accumulate(v, axis=1))
        wanted = v.copy()
        for t in range(1, steps):
            wanted[:, t] = np.where(start[:, t], v[:, t], np.maximum(wanted[:, t - 1], v[:, t]))
        found = functions.running_maximum(lib.array(v), 1, lib.array(start))
        assert np.array_equal(lib.numpy(found), wanted)
