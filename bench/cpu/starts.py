"""The price of sequences that start inside the time axis: `python bench/cpu/starts.py`.

A call with `reset` beside the same call without it, forward and backward, with one mask for all channels and episodes
of about `mean` steps; and a ragged batch of 64 sequences, of lengths from 10 to 4,096 that are uniform in their
logarithm, one after the other (`offsets`) beside the same batch padded to its longest, as a recurrence and in a layer
of PyTorch, forward and backward.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# The checkout goes last on the path: its folder scanlib holds only a part of what is installed.
if __name__ == "__main__":
    sys.path.pop(0)
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.core import machine
from bench.core.timing import Budget, interleaved
from scanlib import linear_recurrence, linear_recurrence_vjp

Row = dict[str, Any]
#: (batch, T, channels): from cache and from memory.
SHAPES = [
    (16, 4096, 1),
    (64, 16384, 1),
    (1, 2**22, 1),
    (8, 4096, 16),
    (64, 4096, 16),
    (64, 4096, 64),
    (16, 4096, 256),
]
#: Time first, a mask for each of many environments: (T, environments).
ENVIRONMENTS = [(2048, 64), (1024, 4096)]
MEANS = (32, 200, 1000)
LAYERS = ("GILRLSTM", "QRNN", "MinGRU")
CHANNELS = 64


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench/cpu/starts.py", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for one comparison")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    budget = Budget(options.seconds, 7, 201)
    rows = []
    for what, compare in comparisons():
        times = {name: s.as_json() for name, s in interleaved(compare, budget).items()}
        first, second = (summary["median"] for summary in times.values())
        rows.append({"what": what, "seconds": times, "ratio": first / second})
        print(f"{what:58} {first / second:6.2f}  ({second * 1e3:.2f} ms)", flush=True)
    if options.output:
        machine.write(machine.header({"seconds": options.seconds}) | {"rows": rows}, options.output)
        print(f"Results: {options.output}")
    return 0


def comparisons() -> Any:
    """(what, two calls): their ratio is the first over the second."""
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        for mean in MEANS:
            mask = rng.random((*shape[:2], 1)) < 1 / mean
            yield from resets(f"reset, (batch, T, channels) {shape}, mean {mean}", shape, 1, mask)
    for shape in ENVIRONMENTS:
        for mean in MEANS:
            mask = rng.random(shape) < 1 / mean
            yield from resets(f"reset, (T, environments) {shape}, mean {mean}", shape, 0, mask)
    yield from ragged()


def resets(what: str, shape: tuple[int, ...], axis: int, mask: Any) -> Any:
    rng = np.random.default_rng(1)
    a = rng.uniform(0.9, 1, shape).astype(np.float32)
    x = rng.standard_normal(shape).astype(np.float32)
    h = linear_recurrence(a, x, axis=axis, reset=mask)
    yield (
        f"{what}, forward",
        {
            "with": lambda: linear_recurrence(a, x, axis=axis, reset=mask),
            "without": lambda: linear_recurrence(a, x, axis=axis),
        },
    )
    yield (
        f"{what}, backward",
        {
            "with": lambda: linear_recurrence_vjp(x, a, h, axis=axis, reset=mask),
            "without": lambda: linear_recurrence_vjp(x, a, h, axis=axis),
        },
    )


def lengths() -> list[int]:
    rng = np.random.default_rng(2)
    return np.exp(rng.uniform(np.log(10), np.log(4096), 64)).astype(int).tolist()


def ragged() -> Any:
    """Padded beside packed, so that the ratio says how many times as fast packed is."""
    known = lengths()
    offsets, longest = np.concatenate([[0], np.cumsum(known)]), max(known)
    rng = np.random.default_rng(3)

    def operands(*lead: int) -> tuple[Any, Any]:
        shape = (*lead, CHANNELS)
        decay = rng.uniform(0.9, 1, shape).astype(np.float32)
        return decay, rng.standard_normal(shape).astype(np.float32)

    a, x = operands(int(offsets[-1]))
    wide_a, wide_x = operands(len(known), longest)
    yield (
        "ragged batch, recurrence, padded / packed",
        {
            "padded": lambda: linear_recurrence(wide_a, wide_x, axis=1),
            "packed": lambda: linear_recurrence(a, x, axis=0, offsets=offsets),
        },
    )
    try:
        import torch

        from scanlib.layers import torch as layers
    except ImportError:
        return
    batch = torch.from_numpy(wide_x)
    for name in LAYERS:
        layer = getattr(layers, name)(CHANNELS, CHANNELS, batch_first=True)

        def train(layer: Any = layer, **given: Any) -> None:
            layer.zero_grad()
            layer(batch, **given)[0].sum().backward()

        packed: Callable[[], None] = lambda train=train: train(lengths=known)  # noqa: E731
        yield f"ragged batch, {name}, padded / lengths", {"padded": train, "lengths": packed}


if __name__ == "__main__":
    sys.exit(main())
