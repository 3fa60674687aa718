"""Table 1 of Martin and Cundy (2018) on today's GPU: the recurrence beside one thread a feature that walks all of time.

Batch 1, float32, m features, as there; T from 16 to the paper's 65,536 and on to 2^20.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import scanlib
from bench import gpu_libraries, gpu_report
from bench.gpu_timing import TorchEvents, by_events
from bench.reference import WrongResultError
from bench.timing import Budget

FEATURES = (4, 32, 128)
STEPS = (16, 256, 4096, 65_536, 64, 1024, 16_384, 1 << 18, 1 << 20)  # the paper's first
BUDGET = Budget(0.4, 5, 41)
Row = dict[str, Any]


def jobs() -> Iterator[tuple[str, Callable[[], Row]]]:
    import torch

    from bench import serial_triton

    events = TorchEvents()

    def measure(steps: int, features: int) -> Row:
        a = torch.rand((steps, features), device="cuda") * 0.5 + 0.5
        x = torch.randn((steps, features), device="cuda")
        first = torch.zeros(features, device="cuda")
        serial, ours = torch.empty_like(x), torch.empty_like(x)
        calls = {
            "ours": lambda: scanlib.linear_recurrence(a, x, axis=0, out=ours),
            "serial": lambda: serial_triton.forward(a, x, first, serial),
        }
        times = by_events(events, calls, BUDGET)
        if not torch.allclose(ours, serial, rtol=1e-4, atol=1e-4):
            raise WrongResultError(f"T={steps}, m={features}: the two kernels disagree")
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

    for steps in STEPS:
        for features in FEATURES:
            yield (
                f"T={steps}, m={features}",
                lambda steps=steps, features=features: measure(steps, features),
            )


def main() -> int:
    options = gpu_report.arguments("gpu_table1", __doc__)
    report = gpu_report.Report("table 1", options)
    if reason := gpu_libraries.missing("torch"):
        report.content["left out"].append(reason)
        report.write()
        print(reason)
        return 3
    return report.run(jobs())


if __name__ == "__main__":
    sys.exit(main())
