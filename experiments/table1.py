"""Table 1 of Martin and Cundy (2018) on today's GPU: the recurrence beside one thread a feature that walks all of time.

Batch 1, float32, m features, as there; T from 16 to the paper's 65,536 and on to 2^20.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import scanlib
from bench.core import progress
from bench.core.reference import WrongResultError
from bench.core.shapes import Case
from bench.core.timing import Budget
from bench.gpu import libraries as gpu_libraries
from bench.gpu import report as gpu_report
from bench.gpu.report import Job, Row

FEATURES = (4, 32, 128)
STEPS = (16, 256, 4096, 65_536, 64, 1024, 16_384, 1 << 18, 1 << 20)  # the paper's first
BUDGET = Budget(0.4, 5, 41)


def jobs(library: Any) -> Iterator[Job]:
    for steps in STEPS:
        for features in FEATURES:
            yield (
                f"T={steps}, m={features}",
                lambda steps=steps, features=features: measure(library, steps, features),
            )


def measure(library: Any, steps: int, features: int) -> Row:
    inputs = library.inputs(Case((steps, features), 0), "float32")
    a, x = inputs.a, inputs.x
    ours, loop = (library.empty((steps, features), "float32") for _ in range(2))
    calls = {
        "ours": lambda: scanlib.linear_recurrence(a, x, axis=0, out=ours),
        "serial": serial(library, a, x, loop),
    }
    times = library.timer(calls, BUDGET)
    if not library.apart(ours, loop) <= 1e-4:
        raise WrongResultError("the two kernels disagree")
    return {
        "steps": steps,
        "features": features,
        "speedup": times["serial"].median / times["ours"].median,
        "ours_us": times["ours"].median * 1e6,
        "serial_us": times["serial"].median * 1e6,
        "ours": times["ours"].as_json(),
        "serial": times["serial"].as_json(),
        "kernel": scanlib.explain(a, x, axis=0).kernel,
    }


def serial(library: Any, a: Any, x: Any, h: Any) -> Callable[[], None]:
    if not library.computes:
        return lambda: None
    from bench.gpu import serial_triton

    first = library.torch.zeros(a.shape[1], device=library.device)
    return lambda: serial_triton.forward(a, x, first, h)


def main() -> int:
    options = gpu_report.arguments("experiments.table1", __doc__, 40).parse_args()
    report = gpu_report.Report("table1", options.output, options.seconds)
    progress.enter("importing torch", 120)
    if reason := gpu_libraries.missing("torch"):
        return gpu_report.could_not(report, reason)
    report.run(jobs(gpu_libraries.load("torch")))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
