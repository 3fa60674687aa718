"""Parameters and how they start, counts known from the paper, options without a cell, and surrogates of one's own."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_cases import CASES, case_name, expected, inputs, random_params
from cell_references import sigmoid
from helpers import rng_for
from matrix import Member

import scanlib
from scanlib import cells
from scanlib.cells import Cell, surrogate

Case = tuple[Cell, int, int]
each_cell = pytest.mark.parametrize("case", CASES, ids=case_name)


def count(cell: Cell, m: int, n: int) -> int:
    return sum(int(np.prod(shape)) for shape in cell.shapes(m, n).values())


@each_cell
def test_fresh_parameters(case: Case) -> None:
    """Names and shapes as announced, float64, all finite, given by the generator alone, and fit to run."""
    cell, m, n = case
    params = cell.init(np.random.default_rng(3), m, n)
    assert {name: value.shape for name, value in params.items()} == cell.shapes(m, n)
    assert all(value.dtype == np.float64 for value in params.values())
    assert all(np.isfinite(value).all() for value in params.values())
    again, other = (cell.init(np.random.default_rng(seed), m, n) for seed in (3, 4))
    assert all(np.array_equal(params[name], again[name]) for name in params)
    assert any(not np.array_equal(params[name], other[name]) for name in params)
    assert cell.sizes(params) == (m, n)
    x = inputs(m, (2, 5))
    output, _ = cell(params, x)
    np.testing.assert_allclose(output, expected(cell, params, x), rtol=1e-11, atol=1e-12)
    assert hash(cell) == hash(type(cell)(**vars(cell)))


def test_names() -> None:
    assert {cell.name for cell, _, _ in CASES} == set(cells.CELLS)
    assert all(cells.CELLS[name].name == name for name in cells.CELLS)


def test_every_cell_is_public_and_in_the_docs() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs"
    reference, overview = (docs / "api.md").read_text(), (docs / "cells.md").read_text()
    rows = "".join(re.findall(r"^\|.*", overview, re.MULTILINE))
    for cell in cells.CELLS.values():
        name = cell.__name__
        assert name in cells.__all__
        assert f".. autoclass:: scanlib.cells.{name}\n" in reference, f"{name} is not in api.md"
        assert f"`{name}`" in rows, f"{name} is in no table of cells.md"


def test_counts_of_the_paper() -> None:
    """GILR-LSTM has 2nm + 2n numbers more than an LSTM; 234 is the largest size that fits beside an LSTM of 256."""
    cell = cells.GILRLSTM()

    def lstm(m: int, n: int) -> int:
        return 4 * n * (n + m) + 4 * n

    for m, n in ((41, 234), (1, 1), (7, 5)):
        assert count(cell, m, n) == lstm(m, n) + 2 * n * m + 2 * n
    stack = {n: count(cell, 41, n) + count(cell, n, n) for n in (234, 235)}
    assert lstm(41, 256) + lstm(256, 256) == 830_464
    assert stack == {234: 826_956, 235: 833_780}


def test_gilr_lstm_starts_as_released() -> None:
    params = cells.GILRLSTM().init(rng_for("gilr"), 30, 50)
    for name in ("weight", "surrogate_weight"):
        assert 0.049 < np.abs(params[name]).max() <= 0.05
    assert params["bias"].tolist() == [5.0] * 50 + [0.0] * 150
    assert not params["surrogate_bias"].any()


def test_forget_bias_keeps_a_memory_of_any_length() -> None:
    for T in (128, 1024, 8192, 1 << 20):
        cell = cells.GILRLSTM(forget_bias=cells.forget_bias(T))
        bias = cell.init(rng_for(T), 1, 1)["bias"][0]
        assert 0.68 < sigmoid(bias) ** T < 0.70
    assert sigmoid(np.float64(5.0)) ** 1023 < 2e-3


def test_sru_starts_as_released() -> None:
    params = cells.SRU(forget_bias=5.0, highway_bias=-2.0).init(rng_for("sru"), 12, 300)
    assert params["weight"].shape == (12, 1200)
    assert 0.49 < np.abs(params["weight"]).max() <= 0.5
    assert np.unique(params["bias"]).tolist() == [-2.0, 5.0]
    assert params["bias"][0] == 5.0


def test_rg_lru_starts_in_its_ring() -> None:
    """The decay at r = 1: as in the code, a root of it in [.9, .999]; as in the paper, itself."""
    for option, low, high, root in (("code", 0.9, 0.999, 8), ("paper", 0.9, 0.999, 1)):
        params = cells.RGLRU(heads=10, init_decay=option).init(rng_for(option), 2000, 2000)
        a = np.exp(-8 * np.log1p(np.exp(params["decay"]))) ** (1 / root)
        assert low - 1e-6 < a.min() < low + 0.002
        assert high - 0.002 < a.max() < high + 1e-6
        assert abs(params["weight"].std() - np.sqrt(1 / 200)) < 0.002
        assert not params["bias"].any()


def test_lru_starts_in_its_ring() -> None:
    params = cells.LRU(r_min=0.5, r_max=0.9, max_phase=0.3).init(rng_for("lru"), 40, 3000)
    size, angle = np.exp(-np.exp(params["nu"])), np.exp(params["theta"])
    assert 0.5 <= size.min() < 0.51
    assert 0.89 < size.max() <= 0.9
    assert abs(np.mean(size**2) - (0.25 + 0.81) / 2) < 0.01  # uniform in area
    assert 0.29 < angle.max() <= 0.3
    np.testing.assert_allclose(np.exp(params["gamma"]), np.sqrt(1 - size**2), rtol=1e-12)
    assert abs(params["input"].std() - np.sqrt(1 / 80)) < 0.002
    assert abs(params["output"].std() - np.sqrt(1 / 3000)) < 0.001


def test_s5_starts_with_the_eigenvalues_of_hippo() -> None:
    size = 16
    legs = -np.tril(np.sqrt(np.outer(2 * np.arange(size) + 1, 2 * np.arange(size) + 1)), -1)
    legs = legs - np.diag(np.arange(size) + 1.0)
    low_rank = np.sqrt(np.arange(size) + 0.5)
    values = np.linalg.eigvals(legs + np.outer(low_rank, low_rank))
    for cell, n in ((cells.S5(), 8), (cells.S5(conjugate=False), 16), (cells.S5(blocks=2), 16)):
        params = cell.init(rng_for(n), 3, n)
        assert np.allclose(params["eigenvalues"][0], -0.5)
        wanted = np.sort(values.imag)[: n // cell.blocks]
        assert np.allclose(params["eigenvalues"][1], np.tile(wanted, cell.blocks))
        step = np.exp(params["log_step"])
        assert 0.001 <= step.min() <= step.max() <= 0.1


def test_s5_pairs_stand_for_their_conjugates() -> None:
    """Half of the states, doubled, give what all of them do."""
    rng, n, m = rng_for("pairs"), 4, 3
    half = random_params(cells.S5(), m, n)
    both = {
        "eigenvalues": np.concatenate([half["eigenvalues"], half["eigenvalues"] * [[1], [-1]]], 1),
        "log_step": np.tile(half["log_step"], 2),
        "skip": half["skip"],
    }
    both["input"] = np.concatenate([half["input"], half["input"] * [1, -1]], axis=1)
    both["output"] = np.concatenate([half["output"], half["output"] * [[1], [-1]]])
    x = rng.standard_normal((2, 9, m))
    one, _ = cells.S5()(half, x)
    other, _ = cells.S5(conjugate=False)(both, x)
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def test_wkv_starts_by_its_place_in_the_stack() -> None:
    C = 6
    first, last = (cells.WKV(layer=i, layers=3).init(rng_for(i), C, C) for i in (0, 2))
    assert np.allclose(first["decay"], -5 + 8 * (np.arange(C) / (C - 1)) ** 0.7)
    assert np.allclose(last["decay"], -5 + 8 * (np.arange(C) / (C - 1)) ** 2.0)
    assert np.allclose(first["first"] - np.log(0.3), [0, 0.5, -0.5, 0, 0.5, -0.5])
    assert np.allclose(first["mix"][0], np.arange(C) / C)
    assert np.allclose(last["mix"][0], (np.arange(C) / C) ** (1 / 3))
    assert np.allclose(last["mix"][1], last["mix"][0] + 0.3)
    assert np.allclose(first["weight"][1] @ first["weight"][1].T, np.eye(C))
    assert not first["weight"][[0, 2]].any()
    assert not first["output"].any()


# ---- surrogates of one's own


def test_the_named_cells_are_linear_surrogates() -> None:
    """GILR-LSTM from its transition as a function, and a GILR in the place of the state."""
    cell, m, n = cells.GILRLSTM(), 3, 5
    params, x = random_params(cell, m, n), inputs(m, (2, 9))

    def transition(params: Any, s: Any, x: Any) -> cells.Update:
        y = s @ params["weight"][:n] + x @ params["weight"][n:] + params["bias"]
        f, i, o = (sigmoid(y[..., j * n : (j + 1) * n]) for j in range(3))
        return cells.Update(f, i * np.tanh(y[..., 3 * n :]), lambda c: o * c)

    own = cells.LinearSurrogate(
        transition,
        surrogate=cells.Recurrent(cells.GILR(activation="tanh")),
        parameters=lambda m, n, k: {"weight": (k + m, 4 * n), "bias": (4 * n,)},
        sizes_from=lambda params: (m, n),
        remembers=True,
    )
    assert own.shapes(m, n) == cell.shapes(m, n)
    assert own.state == ("surrogate", "h")
    for one, other in zip(own(params, x), cell(params, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("stand_in", [cells.Recurrent(cells.GILR()), cells.Window(3)])
def test_a_transition_without_memory(stand_in: cells.Surrogate) -> None:
    """Its output is f of the surrogate and the input: whole, in chunks and step by step."""
    m, n = 3, 4
    cell = cells.LinearSurrogate(
        lambda params, s, x: np.tanh(s @ params["U"] + x @ params["V"]),
        surrogate=stand_in,
        parameters=lambda m, n, k: {"U": (k, n), "V": (m, n)},
        sizes_from=lambda params: params["V"].shape,
    )
    params, x = cell.init(rng_for("own"), m, n), inputs(m, (2, 8))
    wanted, final = cell(params, x)
    assert wanted.shape == (2, 8, n)
    head, state = cell(params, x[:, :3])
    outputs = [head]
    for t in range(3, 8):
        output, state = cell.step(params, x[:, t], state)
        outputs.append(output[:, None])
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), wanted, rtol=1e-12)
    np.testing.assert_allclose(state[0], final[0], rtol=1e-12)
    if isinstance(stand_in, cells.Window):
        padded = np.concatenate([np.zeros((2, 3, m)), x], axis=1)
        last = np.concatenate([padded[:, i : i + 8] for i in range(3)], axis=-1)
        np.testing.assert_allclose(wanted, np.tanh(last @ params["U"] + x @ params["V"]))


def test_surrogates_delay() -> None:
    """The first output depends on the first input alone; h~ of step t reaches the gates of step t + 1, or at once."""
    m = n = 2
    delayed, prompt = cells.GILRLSTM(), cells.GILRLSTM(delayed=False)
    params, x = random_params(delayed, m, n), inputs(m, (3,))
    silent = {**params, "surrogate_weight": np.zeros((m, 2 * n)), "surrogate_bias": np.zeros(2 * n)}
    assert np.allclose(delayed(params, x)[0][0], delayed(silent, x)[0][0])
    assert not np.allclose(prompt(params, x)[0][0], prompt(silent, x)[0][0])
    assert not np.allclose(delayed(params, x)[0][1], delayed(silent, x)[0][1])


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: cells.QRNN(pooling="of"), "'f', 'fo', 'ifo'"),
        (lambda: cells.QRNN(width=0), "width 0"),
        (lambda: cells.GILR(activation="softmax"), "'tanh'"),
        (lambda: cells.SRU(activation="softmax"), "'identity'"),
        (lambda: cells.RGLRU(init_decay="released"), "'code', 'paper'"),
        (lambda: cells.RGLRU(heads=3).init(rng_for(1), 4, 4), "3 heads"),
        (lambda: cells.S5(blocks=3).init(rng_for(1), 4, 4), "3 blocks"),
    ],
)
def test_options_without_a_cell(make: Any, says: str) -> None:
    with pytest.raises(cells.CellError, match=says) as raised:
        make()
    assert isinstance(raised.value, scanlib.ScanlibError)
    assert isinstance(raised.value, ValueError)


@each_cell
def test_bad_calls(case: Case) -> None:
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (2, 5))
    name = next(iter(params))
    bad = [
        (params, inputs(m + 1, (2, 5)), {}, scanlib.ShapeError, f"{m} features"),
        (params, x, {"axis": -1}, scanlib.AxisError, "features"),
        (params, x, {"axis": 3}, scanlib.AxisError, "out of range"),
        (params, x.astype(int), {}, scanlib.DTypeError, "int64"),
        (params, x.astype(complex), {}, scanlib.DTypeError, "complex128"),
        (params, x, {"state": (x,) * 7}, scanlib.ShapeError, "7 arrays"),
        (params, x, {"reset": np.zeros((2, 5, 1), bool)}, scanlib.ShapeError, "reset has shape"),
        (params, x, {"reset": np.zeros((5, 2), bool)}, scanlib.ShapeError, "reset has shape"),
        ({k: v for k, v in params.items() if k != name}, x, {}, scanlib.ShapeError, name),
        ({**params, name: params[name][..., None]}, x, {}, scanlib.ShapeError, name),
    ]
    for given, values, options, error, says in bad:
        with pytest.raises(error, match=says):
            cell(given, values, **options)
    with pytest.raises(scanlib.ScanlibError, match="list"):
        cell(params, x.tolist())
    array = pytest.importorskip("array_api_strict").asarray
    with pytest.raises(scanlib.ArrayKindError, match=r"parameter .* of numpy"):
        cell(params, array(x))


@pytest.mark.needs("functions")
def test_an_option_never_decides_the_dtype(lib: Member) -> None:
    """A bound of each layer is naturally one of numpy.linspace's numbers, which are float64 to NumPy and JAX."""
    cell = cells.HGRN(lower_bound=np.linspace(0, 1, 3)[1])
    params = {k: lib.array(v.astype("f4")) for k, v in random_params(cell, 3, 4).items()}
    output, state = cell(params, lib.array(inputs(3, (2, 5)).astype("f4")))
    assert {lib.dtype_name(array) for array in (output, *state)} == {"float32"}


def test_examples_run() -> None:
    """The code of the page about cells, and the docstrings' examples."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "cells.md").read_text()
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "cells.md", "exec"), namespace)
    assert namespace["y"].shape == (8, 64)
    assert namespace["output"].shape == (8, 1000, 64)
    assert doctest.testmod(surrogate).failed == 0
    assert doctest.testmod(surrogate).attempted > 5


def test_import_loads_no_array_library_but_numpy() -> None:
    code = (
        "import scanlib, sys; assert 'scanlib.cells' not in sys.modules; import scanlib.cells; "
        "print(sorted({'torch', 'jax', 'cupy', 'array_api_strict'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
