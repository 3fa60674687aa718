"""The paper's experiments in small: what they measure is what they say, and a stopped run goes on where it was."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folders of the checkout as modules, and none of them left imported."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments"), *sys.path, str(ROOT)])
    yield
    for name in set(sys.modules) - before:
        if str(ROOT / "experiments") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def settings(library: str, **changes: Any) -> Any:
    import long_dependency

    device = "cpu"
    given = long_dependency.Settings(library, "gilr_lstm", 12, 4, 3, 1e-2, 0, device)
    return dataclasses.replace(given, **changes)


def test_sequences_are_those_of_the_task() -> None:
    import long_dependency
    import long_torch

    one = settings("torch", length=50, batch=40)
    symbols, signs = long_dependency.minibatch(one, 3)
    again, _ = long_dependency.minibatch(one, 3)
    assert np.array_equal(symbols, again)
    assert not np.array_equal(symbols, long_dependency.minibatch(one, 4)[0])
    assert not np.array_equal(symbols, long_dependency.minibatch(one, -3)[0])
    x, sign = long_torch.Learner(one)._inputs(symbols, signs)
    assert set(signs) == {-1, 1}
    assert torch.equal(x[0, :, 0], sign)
    assert torch.equal(x.abs().sum(-1), torch.ones(50, 40))
    assert torch.equal(x[1:].argmax(-1), torch.from_numpy(symbols[1:]).long())
    assert len(np.unique(symbols[1:])) == long_dependency.SYMBOLS


@pytest.mark.parametrize("model", ["gilr_lstm", "lstm"])
@pytest.mark.parametrize("library", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_a_restored_learner_goes_on_as_if_never_stopped(library: str, model: str) -> None:
    pytest.importorskip(library)
    import long_dependency

    make = __import__(f"long_{library}").learner
    one = settings(library, model=model)
    batches = [long_dependency.minibatch(one, number) for number in range(4)]
    first, second = make(one), make(dataclasses.replace(one, seed=5))
    begun = [first.learn(*batch)[0] for batch in batches[:2]]
    saved = pickle.loads(pickle.dumps(first.state()))
    losses = [first.learn(*batch)[0] for batch in batches[2:]]
    second.restore(saved)
    assert [second.learn(*batch)[0] for batch in batches[2:]] == losses
    assert len({*begun, *losses}) == 4


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_latching_start_is_what_it_says(library: str) -> None:
    """Both libraries' models begin with gates that sum to one in the last layer, and with the published rest."""
    pytest.importorskip(library)
    n = 4

    def parameters(start: str) -> dict[str, Any]:
        learner = __import__(f"long_{library}").learner(settings(library, start=start))
        if library == "torch":
            return {
                k: v.detach().numpy() for k, v in learner.training.model.layers.named_parameters()
            }
        return {k: np.asarray(v) for k, v in learner.trained[0]["layers"].items()}

    ours, published = parameters("latching"), parameters("published")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in published.items()}
    changed = {k for k in ours if not np.array_equal(ours[k], published[k])}
    assert changed == {"weight_l0", "weight_l1", "bias_l0", "bias_l1"}
    np.testing.assert_array_equal(ours["weight_l0"], 10 * published["weight_l0"])
    coupled = parameters("coupled")
    assert coupled["weight_l1"].shape == (2 * n, 3 * n)
    assert list(coupled["bias_l1"][:n]) == [2] * n
    gates = np.ones(n + n) @ ours["weight_l1"] + ours["bias_l1"]
    np.testing.assert_allclose(gates[:n], -gates[n : 2 * n], rtol=1e-5)
    assert set(np.abs(ours["bias_l0"][3 * n :])) == {np.float32(0.3)}
    np.testing.assert_array_equal(ours["bias_l0"][: 3 * n], published["bias_l0"][: 3 * n])


def test_a_run_converges_stops_and_goes_on(tmp_path: Path) -> None:
    import long_dependency

    from experiments import experiment

    options = argparse.Namespace(
        output=tmp_path, fresh=False, iterations=4000, time_limit=math.inf, held_out=50
    )
    one = settings("torch", length=8, batch=16, units=16, rate=2e-2)
    results = experiment.Results(tmp_path, "task")
    assert long_dependency.run(one, results, options, deadline=0.0) is None
    (saved,) = (tmp_path / "checkpoints").iterdir()
    row = long_dependency.run(one, results, options, deadline=math.inf)
    assert row is not None
    assert row["converged"]
    assert row["held_out"] >= 0.95
    assert row["first_iteration"] <= row["iteration"] < 4000
    assert not saved.exists()
    again = experiment.Results(tmp_path, "task")
    assert again.find(long_dependency._key(one)) == row
    assert experiment.Results(tmp_path, "task", fresh=True).find(row["key"]) is None
    assert "1 of 1" in long_dependency.table(again.rows)


@pytest.mark.parametrize("axis", [0, 1])
def test_serial_scans_are_the_recurrence(axis: int) -> None:
    import scanlib
    from experiments import serial_scan

    random = torch.Generator().manual_seed(0)
    a, x = (torch.rand((5, 6, 3), generator=random).requires_grad_() for _ in range(2))
    h0 = torch.rand((6, 3) if axis == 0 else (5, 3), generator=random).requires_grad_()
    expected = scanlib.linear_recurrence(a, x, h0, axis=axis, return_final=True)
    grads = torch.autograd.grad(sum(y.square().sum() for y in expected), (a, x, h0))
    scans = {name: scan for name, scan in serial_scan.scans("cpu").items() if scan is not None}
    assert "steps" in scans
    for scan in scans.values():
        found = scan(a, x, h0, axis=axis, return_final=True)
        torch.testing.assert_close(found, expected)
        again = torch.autograd.grad(sum(y.square().sum() for y in found), (a, x, h0))
        torch.testing.assert_close(again, grads)


def test_table2_replaces_the_scan_of_every_layer(tmp_path: Path) -> None:
    from experiments import table2

    calls = []

    def counted(a: Any, x: Any, h0: Any = None, **options: Any) -> Any:
        import scanlib

        calls.append(options["axis"])
        return scanlib.linear_recurrence(a, x, h0, **options)

    for name, scans in (("SRU", 1), ("QRNN (2)", 1), ("GILR-LSTM", 2)):
        calls.clear()
        layer = table2.MODELS[name](4, 3, 2)
        with table2.replaced(counted):
            layer(torch.rand(5, 2, 4))
        assert len(calls) == 2 * scans
        layer(torch.rand(5, 2, 4))
        assert len(calls) == 2 * scans
    options = argparse.Namespace(steps=32, units=3, device="cpu", seconds=0.0)
    row = table2.measure("GILR-LSTM", 16, options)
    assert {"parallel", "steps"} <= row["steps_per_second"].keys()


def test_language_model_trains_counts_and_writes(tmp_path: Path) -> None:
    import language_model

    text = language_model.load_text()
    assert len(text.train) + len(text.held_out) > 300_000
    alphabet = len(text.alphabet)
    limit = language_model.count(language_model.Model("LSTM", alphabet, 8, device="meta"))
    for name in language_model.MODELS:
        units = language_model.units_for(name, alphabet, limit)
        sizes = [language_model.Model(name, alphabet, n, device="meta") for n in (units, units + 1)]
        assert language_model.count(sizes[0]) <= limit < language_model.count(sizes[1])
    arguments = ["--seconds", "0.5", "--units", "8", "--models", "GILR-LSTM"]
    assert language_model.main([*arguments, "--output", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "language-model.json").read_text())["rows"]
    assert 0 < row["bits_per_character"] < math.log2(alphabet) + 1
    assert len(row["sample"]) == 400
    assert row["characters"] % language_model.LENGTH == 0


def test_a_model_says_the_same_by_step_and_as_a_whole() -> None:
    import language_model

    torch.manual_seed(0)
    characters = torch.randint(0, 20, (9, 1))
    for name in language_model.MODELS:
        model = language_model.Model(name, 20, 6)
        whole, _ = model(characters)
        state = None
        for t, character in enumerate(characters):
            logits, state = model.step(character, state)
            torch.testing.assert_close(logits, whole[t])
