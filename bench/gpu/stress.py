"""Look-back over many bundles and stacks of tiles, again and again: the same bits every time, and no hang.

Tiles are joined two at a time, so that a few of them already make stacks, which otherwise take a thousand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bench.core import libraries, progress, reference
from bench.core.reference import WrongResultError
from bench.core.shapes import Case
from bench.gpu import direct as gpu_direct
from bench.gpu import libraries as gpu_libraries
from bench.gpu import report as gpu_report
from bench.gpu.report import Job, Row

KNOBS = {"bundle": 2}
CASES = [
    Case((1 << 18,), 0),
    Case((1 << 22,), 0),
    Case((1 << 16, 40), 0),
    Case((3, 1 << 14, 64), 1),
    Case((7, 1 << 16), 1),
    Case((80, 1 << 16), 1),
    Case((1 << 16, 3), 0, reverse=True),
]
REPEATS = 200
SLOW = 4e-5


def jobs(library: Any, repeats: int) -> Iterator[Job]:
    for case in CASES:
        for work in ("forward", "backward", "backward, a summed"):
            yield (
                f"{case.name}: {work}",
                lambda case=case, work=work: stress(library, case, work, repeats),
            )


def stress(library: Any, case: Case, work: str, repeats: int) -> Row:
    """Check the first result, then demand its bits of every other."""
    inputs = library.inputs(case, "float32")
    if library.computes:  # the last step remembers the first
        inputs = replace(inputs, a=1 - SLOW * (1 - inputs.a))
    forward = gpu_direct.forward(library, case, "float32", inputs, KNOBS)
    _run(library, forward, "forward")
    call = forward
    if work == "forward":
        if library.computes:
            reads = (
                libraries.reader(library, case, work, v)
                for v in (forward.outputs[0], inputs.a, inputs.x)
            )
            reference.check(case, f"scanlib ({work}, stress)", 4, *reads)
    else:
        if work != "backward":
            inputs = replace(inputs, a=library.channels(case, inputs.a))
        made = [
            gpu_direct.backward(library, case, "float32", inputs, forward.outputs[0], knobs)
            for knobs in (KNOBS, {"enough_groups": 1})  # and by the kernel that does not look back
        ]
        for one in made:
            _run(library, one, work)
        for name, *pair in zip(("a", "x"), *(one.outputs for one in made), strict=True):
            if not (off := library.apart(*pair)) <= 1e-4:
                raise WrongResultError(f"grad_{name} of two kernels differs by {off:.2g}")
        call = made[0]
    first = [library.xp.asarray(array) + 0 for array in call.outputs] if library.computes else []
    for repeat in range(repeats):
        _run(library, call, f"repeat {repeat}")
        for again, before in zip(call.outputs, first, strict=library.computes):
            if not library.same(again, before):
                raise WrongResultError(f"repeat {repeat} has other bits than the first call")
    return {
        "case": case.name,
        "work": work,
        "repeats": repeats,
        "checked": library.computes,
        "plan": call.plan[1],
    }


def _run(library: Any, call: gpu_direct.Call, what: str) -> None:
    progress.beat(what)
    call()
    library.wait()


def main() -> int:
    options = gpu_report.arguments("bench.gpu.stress", __doc__, 30).parse_args()
    report = gpu_report.Report("stress", options.output, options.seconds)
    progress.enter("importing", 120)
    try:
        library = gpu_libraries.first("cupy", "torch")
    except gpu_libraries.MissingError as error:
        return gpu_report.could_not(report, str(error))
    report.run(jobs(library, REPEATS if library.computes else 1))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
