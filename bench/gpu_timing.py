"""Timing on a GPU: candidates in turn, by events on the stream, each after the cache was filled with something else.

Filling the cache also takes longer than a call needs on the host, so what is timed is queued before the GPU gets to it
and the host's share does not show. JAX has no events; its calls are queued many at a time and the whole is timed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from bench.timing import Budget, Call, Summary, collector_off, summarize

FLUSH_BYTES = 1 << 30


class Events(Protocol):
    """A library's stream: something to fill the cache with, and marks in time."""

    def flush(self) -> None: ...

    def mark(self) -> Any: ...

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks that have passed."""
        ...

    def wait(self) -> None: ...


class TorchEvents:
    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.memory = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def flush(self) -> None:
        self.memory.fill_(1)

    def mark(self) -> Any:
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) * 1e-3

    def wait(self) -> None:
        self.torch.cuda.synchronize()


class CuPyEvents:
    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.memory = cupy.empty(FLUSH_BYTES, dtype=cupy.uint8)

    def flush(self) -> None:
        self.memory.fill(1)

    def mark(self) -> Any:
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        return self.cupy.cuda.get_elapsed_time(start, end) * 1e-3

    def wait(self) -> None:
        self.cupy.cuda.Device().synchronize()


def by_events(
    events: Events, calls: Mapping[str, Call], budget: Budget, inner: int = 1
) -> dict[str, Summary]:
    """Time `calls` in turn; `inner` calls to one sample, each after a flush of its own unless there are several."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    events.wait()
    with collector_off():
        start = time.perf_counter()
        rounds = 0
        while rounds < budget.least or (
            rounds < budget.most and time.perf_counter() - start < budget.seconds
        ):
            marks = []
            for name, call in calls.items():
                events.flush()
                begin = events.mark()
                for _ in range(inner):
                    call()
                marks.append((name, begin, events.mark()))
            events.wait()
            for name, begin, end in marks:
                samples[name].append(events.seconds(begin, end) / inner)
            rounds += 1
    return {name: summarize(values) for name, values in samples.items()}


def by_clock(
    wait: Call, calls: Mapping[str, Call], budget: Budget, inner: int = 1, queued: int = 20
) -> dict[str, Summary]:
    """The same by the host's clock: `queued` calls that nothing waits for, then `wait`."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    wait()
    count = max(queued, inner)
    with collector_off():
        start = time.perf_counter()
        rounds = 0
        while rounds < budget.least or (
            rounds < budget.most and time.perf_counter() - start < budget.seconds
        ):
            for name, call in calls.items():
                begin = time.perf_counter()
                for _ in range(count):
                    call()
                wait()
                samples[name].append((time.perf_counter() - begin) / count)
            rounds += 1
    return {name: summarize(values) for name, values in samples.items()}
