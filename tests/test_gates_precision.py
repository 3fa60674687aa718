"""The gates' activations and complement: how exact they are over the whole range of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import rng_for
from native_calls import instruction_set, instruction_sets

from scanlib.cells import Gated, Gates
from scanlib.cells.gates import states
from scanlib.cells.starts import Starts


def ulps(actual: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    """The largest error, in units in the last place of the right value."""
    unit = np.spacing(np.abs(right).astype(actual.dtype)).astype(right.dtype)
    return float(np.max(np.abs(actual.astype(right.dtype) - right) / unit))


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations(dtype: str, isa: str) -> None:
    """Over the whole range of numbers, subnormal results and infinities included."""
    rng, wide = rng_for(dtype), np.longdouble
    v = np.concatenate(
        [
            rng.uniform(-30, 30, 4000),
            rng.uniform(-760 if dtype == "float64" else -105, 1000, 2000),
            rng.choice([-1, 1], 3000) * 10.0 ** rng.uniform(-40, 3, 3000),
            [0.0, -0.0],
        ]
    ).astype(dtype)
    x, small = v.astype(wide), np.exp(-np.abs(v.astype(wide)))
    logistic = np.where(v < 0, small, 1) / (1 + small)
    candidates = {
        "identity": x,
        "tanh": np.tanh(x),
        "elu": np.where(v > 0, x, np.expm1(np.minimum(x, 0))),
        "positive": np.where(v >= 0, x + wide(0.5), logistic),
    }
    shut = np.full_like(v, -np.inf)  # a decay of 0: the state is the candidate
    with instruction_set(isa):
        for name, right in candidates.items():
            columns = np.concatenate([shut, v])[None, :]
            h, _ = states(
                Gated(columns, Gates(("decay", "candidate"), name)), None, Starts(0), False
            )
            assert ulps(h[0], right) <= 3, name
        gate = np.concatenate([shut, v, np.ones_like(v)])[None, :]
        identity = Gates(("decay", "input", "candidate"), "identity")
        h, _ = states(Gated(gate, identity), None, Starts(0), False)
        assert ulps(h[0], logistic) <= 3
        extremes = np.array([np.inf, -np.inf, np.nan], dtype)
        for name, right in {
            "tanh": [1, -1, np.nan],
            "elu": [np.inf, -1, np.nan],
            "positive": [np.inf, 0, np.nan],
            "identity": extremes,
        }.items():
            columns = np.concatenate([shut[:3], extremes])[None, :]
            h, _ = states(
                Gated(columns, Gates(("decay", "candidate"), name)), None, Starts(0), False
            )
            np.testing.assert_array_equal(h[0], np.array(right, dtype))


def test_complement_is_precise() -> None:
    """Where a gate renews next to nothing, what is kept is 1 minus that, to the last bit of a small gate."""
    columns = np.array([[1.0, 40.0]] * 3)  # candidate, gate: keep = sigmoid(-40)
    gates = Gates(("candidate", "decay"), "identity", complement=True)
    h, _ = states(Gated(columns, gates), np.array([1e17]), Starts(0), False)
    keep = np.exp(-40.0) / (1 + np.exp(-40.0))
    np.testing.assert_allclose(h[0], keep * 1e17 + (1 - keep), rtol=1e-14)
