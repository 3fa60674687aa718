"""The examples compute what they say: returns as a loop has them, documents that do not see one another."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import rng_for

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_returns_and_advantages_are_those_of_a_loop() -> None:
    returns, rng, shape = example("returns"), rng_for("returns"), (70, 5)
    rewards, values, next_values = rng.normal(size=(3, *shape))
    terminated, truncated = rng.random(shape) < 0.1, rng.random(shape) < 0.05
    gamma, lam, last = 0.97, 0.9, rng.normal(size=5)
    want_returns, want = np.empty(shape), np.empty(shape)
    running, advantage = last.copy(), np.zeros(5)
    for t in reversed(range(shape[0])):
        for i in range(shape[1]):
            ended = terminated[t, i] or truncated[t, i]
            running[i] = rewards[t, i] + (0 if ended else gamma * running[i])
            value = 0 if terminated[t, i] else next_values[t, i]
            delta = rewards[t, i] + gamma * value - values[t, i]
            advantage[i] = delta + (0 if ended else gamma * lam * advantage[i])
        want_returns[t], want[t] = running, advantage
    got = returns.discounted_returns(rewards, terminated | truncated, gamma, last)
    np.testing.assert_allclose(got, want_returns, rtol=1e-12)
    found = returns.advantages(rewards, values, next_values, terminated, truncated, gamma, lam)
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-12)
    returns.main()


def test_documents_do_not_see_one_another() -> None:
    torch = pytest.importorskip("torch")
    documents = example("documents")
    torch.manual_seed(0)
    model = documents.CharacterModel()
    text, offsets = documents.packed(documents.DOCUMENTS)
    together = model(text, offsets)
    for i, document in enumerate(documents.DOCUMENTS):
        alone = model(*documents.packed([document]))
        torch.testing.assert_close(together[offsets[i] : offsets[i + 1]], alone)
    losses = documents.train(steps=25)
    assert losses[-1] < losses[0] / 2
