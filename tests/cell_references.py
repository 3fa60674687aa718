"""What each cell is: one step of one sequence in float64, from the published equations, and a loop over steps.

Nothing is shared with scanlib.cells but the layout of its parameters. `STEPS` maps a cell's name to a function
(params, x, past, first, options) -> output: x is a vector, `past` a dict the step keeps what it likes in, empty at the
start of a sequence or segment, and `first` says whether a reset asked for this step to be one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Params = Mapping[str, Array]
Past = dict[str, Any]


def run(name: str, params: Params, x: Array, reset: Array | None = None, **options: Any) -> Array:
    """Outputs for x of shape (batch, T, m), each sequence and step by itself."""
    outputs = []
    for i, sequence in enumerate(x):
        past: Past = {}
        for t, step in enumerate(sequence):
            first = reset is not None and bool(reset[i, t])
            if first:
                past = {}
            outputs.append(STEPS[name](params, step, past, first, options))
    return np.reshape(outputs, (*x.shape[:2], -1))


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def softplus(v: Array) -> Array:
    return np.logaddexp(0, v)


def silu(v: Array) -> Array:
    return v * sigmoid(v)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda v: v,
    "tanh": np.tanh,
    "silu": silu,
    "elu": lambda v: np.array([e if e > 0 else np.exp(e) - 1 for e in v]),
}


def gilr(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    u, v = np.split(p["weight"], 2, axis=1)
    b_g, b_i = np.split(p["bias"], 2)
    g = sigmoid(x @ u + b_g)
    i = ACTIVATIONS[options.get("activation", "elu")](x @ v + b_i)
    past["h"] = g * past.get("h", 0) + (1 - g) * i
    return past["h"]


def gilr_lstm(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    coupled = options.get("coupled", False)
    n = len(p["bias"]) // (3 if coupled else 4)
    before = past.get("h", np.zeros(n))
    inner = {"weight": p["surrogate_weight"], "bias": p["surrogate_bias"]}
    now = gilr(inner, x, past, first, {"activation": "tanh"})
    seen = before if options.get("delayed", True) else now
    total = seen @ p["weight"][:n] + x @ p["weight"][n:] + p["bias"]
    f, *i, o, z = np.split(total, 3 if coupled else 4)
    share = 1 - sigmoid(f) if coupled else sigmoid(i[0])
    past["c"] = sigmoid(f) * past.get("c", 0) + share * np.tanh(z)
    return sigmoid(o) * past["c"]


def sru(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    n = len(p["bias"]) // 2
    blocks = np.split(p["weight"], p["weight"].shape[1] // n, axis=1)
    f = sigmoid(x @ blocks[1] + p["bias"][:n])
    r = sigmoid(x @ blocks[2] + p["bias"][n:])
    past["c"] = f * past.get("c", 0) + (1 - f) * (x @ blocks[0])
    highway = x @ blocks[3] if len(blocks) == 4 else x
    if options.get("rescale", False):
        highway = highway * np.sqrt(1 + 2 * np.exp(options["highway_bias"]))
    return r * ACTIVATIONS[options.get("activation", "identity")](past["c"]) + (1 - r) * highway


def qrnn(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    width, pooling, m = options.get("width", 2), options.get("pooling", "fo"), len(x)
    past["inputs"] = [*past.get("inputs", [np.zeros(m)] * (width - 1)), x][-width:]
    taps = np.split(p["weight"], width)
    total = p["bias"] + sum(v @ w for v, w in zip(past["inputs"], taps, strict=True))
    past["inputs"] = past["inputs"][1:]
    blocks = np.split(total, 1 + len(pooling))
    z, f = np.tanh(blocks[0]), sigmoid(blocks[1])
    share = sigmoid(blocks[3]) if pooling == "ifo" else 1 - f
    past["c"] = f * past.get("c", 0) + share * z
    return past["c"] if pooling == "f" else sigmoid(blocks[2]) * past["c"]


def t_rnn(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    z, f = np.split(x @ p["weight"] + p["bias"], 2)
    past["h"] = sigmoid(f) * past.get("h", 0) + (1 - sigmoid(f)) * z
    return past["h"]


def _typed(p: Params, x: Array, past: Past) -> tuple[Array, Array, Array]:
    m = len(x)
    before = past.get("x", np.zeros(m))
    past["x"] = x
    z, f, o = np.split(before @ p["weight"][:m] + x @ p["weight"][m:] + p["bias"], 3)
    return z, sigmoid(f), np.tanh(o)


def t_gru(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    z, f, o = _typed(p, x, past)
    past["h"] = f * past.get("h", 0) + z * o
    return past["h"]


def t_lstm(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    z, f, o = _typed(p, x, past)
    past["c"] = f * past.get("c", 0) + (1 - f) * z
    return past["c"] * o


def rg_lru(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    heads, width, _ = p["weight"].shape
    x = x @ p["input"] if "input" in p else x
    r, i = [], []
    for head in range(heads):
        own = x[head * width : (head + 1) * width]
        r.append(own @ p["weight"][head, :, :width] + p["bias"][head, :width])
        i.append(own @ p["weight"][head, :, width:] + p["bias"][head, width:])
    base = sigmoid(-p["decay"])  # a = sigmoid(-decay)^(c r), as the paper has it
    a = base ** (8 * sigmoid(np.concatenate(r)))
    scale = np.ones_like(a) if first else np.sqrt(1 - a**2)
    past["h"] = a * past.get("h", 0) + scale * sigmoid(np.concatenate(i)) * x
    return past["h"]


def wkv_operator(w: Array, u: Array, history: list[tuple[Array, Array]]) -> Array:
    """The definition as two sums over all steps up to the last, after a common factor."""
    k, v = (np.stack(values) for values in zip(*history, strict=True))
    age = np.arange(len(k))[::-1, None] - 1  # t - 1 - i
    exponents = k + np.where(age < 0, u, age * w)
    weights = np.exp(exponents - exponents.max(axis=0))
    return np.asarray((weights * v).sum(axis=0) / weights.sum(axis=0))


def wkv(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    before = past.get("x", np.zeros(len(x)))
    past["x"] = x
    k, v, r = (
        (mu * x + (1 - mu) * before) @ w for mu, w in zip(p["mix"], p["weight"], strict=True)
    )
    past["history"] = [*past.get("history", []), (k, v)]
    y = wkv_operator(-np.exp(p["decay"]), p["first"], past["history"])
    return (sigmoid(r) * y) @ p["output"]


def _candidate(v: Array, options: Any) -> Array:
    return np.where(v >= 0, v + 0.5, sigmoid(v)) if options.get("positive", True) else v


def min_gru(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    candidate, z = np.split(x @ p["weight"] + p.get("bias", 0), 2)
    z = sigmoid(z)
    past["h"] = (1 - z) * past.get("h", 0) + z * _candidate(candidate, options)
    return past["h"]


def min_lstm(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    candidate, f, i = np.split(x @ p["weight"] + p.get("bias", 0), 3)
    f, i = sigmoid(f), sigmoid(i)
    candidate = _candidate(candidate, options)
    past["h"] = f / (f + i) * past.get("h", 0) + i / (f + i) * candidate
    return past["h"]


def lru(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    a = np.exp(-np.exp(p["nu"]) + 1j * np.exp(p["theta"]))
    b, c = _matrices(p)
    past["h"] = a * past.get("h", 0) + np.exp(p["gamma"]) * (b @ x)
    return (c @ past["h"]).real + p["skip"] * x


def _matrices(p: Params) -> tuple[Array, Array]:
    """B (n, m) and C (m, n)."""
    b, c = p["input"], p["output"]
    return (b[:, :, 0] + 1j * b[:, :, 1]).T, (c[:, 0] + 1j * c[:, 1]).T


def s5(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    values, step = p["eigenvalues"][0] + 1j * p["eigenvalues"][1], np.exp(p["log_step"])
    a = np.exp(values * step)
    b, c = _matrices(p)
    past["h"] = a * past.get("h", 0) + (a - 1) / values * (b @ x)
    y = (c @ past["h"]).real
    return (2 * y if options.get("conjugate", True) else y) + p["skip"] * x


def hgrn(p: Params, x: Array, past: Past, first: bool, options: Any) -> Array:
    bound, gated = options.get("lower_bound", 0.0), options.get("output_gate", True)
    i, f, *gate = np.split(x @ p["weight"], 3 if gated else 2)
    decay = bound + (1 - bound) * sigmoid(f)
    past["h"] = decay * past.get("h", 0) + (1 - decay) * silu(i)
    if not gated:
        return past["h"]
    normal = past["h"] / np.sqrt(np.mean(past["h"] ** 2) + 1e-5)
    return (normal * p["norm"] * silu(gate[0])) @ p["output"]


STEPS: dict[str, Callable[[Params, Array, Past, bool, Any], Array]] = {
    "gilr": gilr,
    "gilr_lstm": gilr_lstm,
    "sru": sru,
    "qrnn": qrnn,
    "t_rnn": t_rnn,
    "t_gru": t_gru,
    "t_lstm": t_lstm,
    "rg_lru": rg_lru,
    "wkv": wkv,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "lru": lru,
    "s5": s5,
    "hgrn": hgrn,
}
