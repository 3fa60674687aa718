"""Timing on a GPU: candidates in turn, by events on the stream, each after the cache was filled with something else.

It is filled by reading: lines that were written would go to memory while a call is timed, and make every call slower by
as much. What is timed is queued before the GPU is done with that, so the host's share does not show: a call for which
it was not is timed again after more of it. JAX has no events; its calls are queued many at a time, and all are timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bench.core import progress
from bench.core.timing import Budget, Call, Summary, collector_off, summarize

FLUSH_BYTES = 1 << 30
#: Times that the cache is filled at most: a call that waits for the GPU itself is never queued before.
MOST_FLUSHES = 16


class Events(Protocol):
    """A library's stream: something to fill the cache with, and marks in time."""

    def flush(self) -> None: ...

    def mark(self) -> Any: ...

    def passed(self, mark: Any) -> bool:
        """Whether the GPU has come to a mark."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Between two marks that have passed."""
        ...

    def wait(self) -> None: ...


class TorchEvents:
    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.memory = torch.ones(FLUSH_BYTES // 4, device="cuda")

    def flush(self) -> None:
        self.memory.sum()

    def mark(self) -> Any:
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, mark: Any) -> bool:
        return mark.query()

    def seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) * 1e-3

    def wait(self) -> None:
        self.torch.cuda.synchronize()


class CuPyEvents:
    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.memory = cupy.ones(FLUSH_BYTES // 4, dtype=cupy.float32)

    def flush(self) -> None:
        self.memory.sum()

    def mark(self) -> Any:
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def passed(self, mark: Any) -> bool:
        return mark.done

    def seconds(self, start: Any, end: Any) -> float:
        return self.cupy.cuda.get_elapsed_time(start, end) * 1e-3

    def wait(self) -> None:
        self.cupy.cuda.Device().synchronize()


def by_events(
    events: Events, calls: Mapping[str, Call], budget: Budget, inner: int = 1
) -> dict[str, Summary]:
    """Time `calls` in turn; `inner` calls to one sample, each after a flush of its own unless there are several."""

    flushes = dict.fromkeys(calls, 1)

    def sample() -> dict[str, float]:
        marks = []
        for name, call in calls.items():
            while True:
                progress.beat(name)
                for _ in range(flushes[name]):
                    events.flush()
                begin = events.mark()
                for _ in range(inner):
                    call()
                end = events.mark()
                # Many calls in a row are timed for the host's share.
                if inner > 1 or flushes[name] >= MOST_FLUSHES or not events.passed(begin):
                    break
                flushes[name] *= 2
            marks.append((name, begin, end))
        events.wait()
        return {name: events.seconds(begin, end) / inner for name, begin, end in marks}

    return _rounds(sample, events.wait, calls, budget)


def by_clock(
    wait: Call, calls: Mapping[str, Call], budget: Budget, inner: int = 1, queued: int = 20
) -> dict[str, Summary]:
    """The same by the host's clock: `queued` calls that nothing waits for, then `wait`."""
    count = max(queued, inner)

    def sample() -> dict[str, float]:
        seconds = {}
        for name, call in calls.items():
            progress.beat(name)
            begin = time.perf_counter()
            for _ in range(count):
                call()
            wait()
            seconds[name] = (time.perf_counter() - begin) / count
        return seconds

    return _rounds(sample, wait, calls, budget)


def _rounds(
    sample: Callable[[], dict[str, float]], wait: Call, calls: Mapping[str, Call], budget: Budget
) -> dict[str, Summary]:
    """Each call by itself first, so that one that does not come back is known by its name; then samples of all."""
    for name, call in calls.items():
        progress.beat(f"{name}, first call")
        call()
        wait()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with collector_off():
        start = time.perf_counter()
        rounds = 0
        while rounds < budget.least or (
            rounds < budget.most and time.perf_counter() - start < budget.seconds
        ):
            for name, seconds in sample().items():
                samples[name].append(seconds)
            rounds += 1
    return {name: summarize(values) for name, values in samples.items()}
