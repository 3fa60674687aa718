"""What scanlib does, in two minutes: one recurrence on every installed library, then models trained through it.

Part 1 runs the same recurrence on each library, compares it with a serial loop and times it beside the library's own
`a + x`. Part 2 fits simple exponential smoothing to three real series by gradient descent, the gradient taken through
`scanlib.linear_recurrence` by PyTorch and by JAX, and compares the fits with statsmodels' own. Part 3 trains language
models on sequences of 4,096 characters of Python's documentation: GILR-LSTM, minGRU, SRU and PyTorch's own LSTM, with
equal parameters and equal time.

Run with `make demo`, or `python examples/demo.py`. Plots go to examples/output/.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import smoothing

import scanlib

OUTPUT = Path(__file__).resolve().parent / "output"
SHAPE, AXIS = (16, 4096, 128), 1
ROUNDS = 15

Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=1500, help="steps of gradient descent (default 1500)"
    )
    parser.add_argument(
        "--seconds", type=float, default=12, help="to train each language model (default 12)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for plots")
    options = parser.parse_args()
    print(f"scanlib {scanlib.__version__}: h[t] = a[t] * h[t-1] + x[t]\n")
    one_recurrence()
    smoothing.fit_all(options.steps, options.output)
    language_models(options.seconds, options.output)


# ---- part 1: the same line on every library


def one_recurrence() -> None:
    """Print the table of part 1."""
    random = np.random.default_rng(0)
    a = random.uniform(0.5, 1.0, SHAPE).astype(np.float32)
    x = random.standard_normal(SHAPE).astype(np.float32)
    expected = serial_loop(a, x)
    print(f"1. float32 arrays of shape {SHAPE}, along axis {AXIS}; median of {ROUNDS} calls\n")
    heading = ("library", "version", "largest difference", "recurrence", "a + x", "ratio")
    print("   {:17} {:10} {:>19} {:>11} {:>9} {:>6}".format(*heading))
    for title, module, make in LIBRARIES:
        if importlib.util.find_spec(module) is None:
            print(f"   {title:17} not installed")
            continue
        recurrence, add, to_numpy = make(a, x)
        difference = np.max(np.abs(to_numpy(recurrence()) - expected))
        ours, own = medians(recurrence, add)
        version = importlib.import_module(module).__version__.split("+")[0]
        times = f"{ours * 1e3:8.2f} ms {own * 1e3:6.2f} ms {ours / own:5.2f}x"
        print(f"   {title:17} {version:10} {difference:19.1e} {times}")
    print(
        f"\n   Differences are from a float64 loop over t; the largest |h| is {np.max(np.abs(expected)):.1f}."
    )


def serial_loop(a: Array, x: Array) -> Array:
    """The definition, step by step in float64."""
    h = np.zeros(SHAPE)
    state = np.zeros((SHAPE[0], SHAPE[2]))
    for t in range(SHAPE[AXIS]):
        state = a[:, t].astype(np.float64) * state + x[:, t]
        h[:, t] = state
    return h


def medians(*calls: Callable[[], Any]) -> list[float]:
    """Median seconds of each call; they take turns, so that a slow moment of the machine meets them all."""
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, times in zip(calls, samples, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in samples]


Calls = tuple[Callable[[], Any], Callable[[], Any], Callable[[Any], Array]]


def with_numpy(a: Array, x: Array) -> Calls:
    return lambda: scanlib.linear_recurrence(a, x, axis=AXIS), lambda: a + x, np.asarray


def with_torch(a: Array, x: Array) -> Calls:
    import torch

    b, y = torch.from_numpy(a), torch.from_numpy(x)
    return lambda: scanlib.linear_recurrence(b, y, axis=AXIS), lambda: b + y, np.asarray


def with_jax(a: Array, x: Array) -> Calls:
    import jax

    b, y = jax.numpy.asarray(a), jax.numpy.asarray(x)
    recurrence = jax.jit(lambda a, x: scanlib.linear_recurrence(a, x, axis=AXIS))
    add = jax.jit(lambda a, x: a + x)
    add(b, y)  # compiled before the clock starts
    return (
        lambda: recurrence(b, y).block_until_ready(),
        lambda: add(b, y).block_until_ready(),
        np.asarray,
    )


def with_cupy(a: Array, x: Array) -> Calls:
    import cupy

    b, y = cupy.asarray(a), cupy.asarray(x)
    finish = cupy.cuda.Device().synchronize
    recurrence = scanlib.linear_recurrence
    return (
        lambda: (recurrence(b, y, axis=AXIS), finish())[0],
        lambda: (b + y, finish())[0],
        cupy.asnumpy,
    )


def with_strict(a: Array, x: Array) -> Calls:
    import array_api_strict as xp

    b, y = xp.asarray(a), xp.asarray(x)
    return lambda: scanlib.linear_recurrence(b, y, axis=AXIS), lambda: b + y, np.asarray


LIBRARIES = [
    ("NumPy", "numpy", with_numpy),
    ("CuPy", "cupy", with_cupy),
    ("PyTorch", "torch", with_torch),
    ("JAX (jitted)", "jax", with_jax),
    ("array-api-strict", "array_api_strict", with_strict),
]


# ---- part 3: layers that train in parallel over time


def language_models(seconds: float, folder: Path) -> None:
    """Run a short version of experiments/language_model.py."""
    print(
        "\n3. Language models: 4,096 characters of Python's documentation at a time, from scratch\n"
    )
    if importlib.util.find_spec("torch") is None:
        print("   skipped: PyTorch is not installed")
        return
    sys.path.append(str(Path(__file__).resolve().parent.parent / "experiments"))
    import language_model

    options = ["--seconds", str(seconds), "--units", "64", "--output", str(folder), "--fresh"]
    language_model.main(options)


if __name__ == "__main__":
    main()
