"""Interleaved timing: every candidate is run in turn, so a slow moment of the machine meets them all.

Each is called twice and the second call is timed: it finds caches and free memory as its own last call left them. What
another candidate left costs up to three times the call, where a virtual machine's host takes free memory back.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

#: Runs one call to its end. What it returns is dropped inside the timed region: allocation and release both count.
Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Budget:
    """How long one comparison may measure: rounds until `seconds` have passed, at least and at most so many."""

    seconds: float
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Seconds a call took over all rounds."""

    median: float
    q1: float
    q3: float
    fastest: float
    rounds: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def interleaved(calls: Mapping[str, Call], budget: Budget, inner: int = 1) -> dict[str, Summary]:
    """Time `calls` in turn, round after round; `inner` calls to one sample.

    Each is called once before all rounds, for compilation, and once more before each sample.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    with collector_off():
        start = time.perf_counter()
        rounds = 0
        while rounds < budget.least or (
            rounds < budget.most and time.perf_counter() - start < budget.seconds
        ):
            for name, call in calls.items():
                settle()
                call()
                samples[name].append(timed(call, inner))
            rounds += 1
    return {name: summarize(values) for name, values in samples.items()}


def settle(longest: float = 0.25) -> None:
    """Wait until the threads of the candidate before sleep: thread pools spin for a while after their work."""
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        busy, start = time.process_time(), time.perf_counter()
        time.sleep(0.002)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - start):
            return


def timed(call: Call, inner: int = 1) -> float:
    """Seconds a call takes, as the mean of `inner` calls in a row."""
    start = time.perf_counter()
    for _ in range(inner):
        call()
    return (time.perf_counter() - start) / inner


def summarize(values: list[float]) -> Summary:
    q1, median, q3 = (float(q) for q in np.percentile(values, [25, 50, 75]))
    return Summary(median, q1, q3, min(values), len(values))


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
