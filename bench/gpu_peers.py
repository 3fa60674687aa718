"""Other ways to run the same recurrence on a GPU, each where it is installed and can take the shape."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import gpu_libraries, gpu_report, peers, race, shapes
from bench.peers import Function, combine
from bench.shapes import Case
from bench.timing import Budget

BUDGET = Budget(0.5, 3, 31)
#: lax.scan launches a kernel for every step: past so many it measures nothing but that
MOST_STEPS = 4096
Row = dict[str, Any]


class AcceleratedScan:
    """One block a sequence, time contiguous."""

    name, library, constant, gradients = "accelerated-scan", "torch", False, True

    def __init__(self) -> None:
        self.scan = importlib.import_module("accelerated_scan.warp").scan

    def reason(self, case: Case) -> str:
        T = case.shape[-1]
        if case.axis != len(case.shape) - 1 or len(case.shape) != 2:
            return "takes time as the last of its axes"
        if T & (T - 1) or T > 65_536:
            return "takes powers of two up to 65,536"
        return ""

    def function(self, case: Case) -> Function:
        return lambda a, x: self.scan(a[None], x[None])[0]


class TorchCompiledScan:
    """torch's associative_scan under inductor, whose kernel takes one block a sequence."""

    name, library, constant, gradients = "torch associative_scan", "torch", False, False

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        module = importlib.import_module("torch._higher_order_ops.associative_scan")
        self.scan = module.associative_scan

    def reason(self, case: Case) -> str:
        return ""

    def function(self, case: Case) -> Function:
        def run(a: Any, x: Any) -> Any:
            return self.scan(
                combine, (a, x), dim=case.axis, reverse=case.reverse, combine_mode="pointwise"
            )[1]

        function: Function = self.torch.compile(run, dynamic=False)
        return function


class Hgrn:
    """flash-linear-attention's recurrence; it takes the logarithm of `a`."""

    name, library, constant, gradients = "fla hgrn", "torch", False, True

    def __init__(self) -> None:
        self.run = importlib.import_module("fla.ops.hgrn").fused_recurrent_hgrn

    def reason(self, case: Case) -> str:
        return "" if case.axis == len(case.shape) - 2 else "takes (batch, time, channels)"

    def function(self, case: Case) -> Function:
        lead = (1,) * (3 - len(case.shape))

        def run(a: Any, x: Any) -> Any:
            h = self.run(x.view(*lead, *x.shape), a.log().view(*lead, *a.shape))[0]
            return h.view(x.shape)

        return run


class ShortLaxScan(peers.LaxScan):
    def reason(self, case: Case) -> str:
        steps = case.shape[case.axis]
        return f"launches {steps} kernels" if steps > MOST_STEPS else ""


PEERS: tuple[type, ...] = (
    AcceleratedScan,
    TorchCompiledScan,
    Hgrn,
    ShortLaxScan,
    peers.LaxAssociativeScan,
)


def jobs(log2: int, names: list[str]) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    columns, _, _, rows, few, long = shapes.shapes(log2)
    yield "CUB's DeviceScan", lambda: [cub(log2)]
    for name in names:
        for case in (rows, columns, few, long):
            yield (
                f"{case.name}: {name}",
                lambda name=name, case=case: race.race(
                    gpu_libraries.load(name), case, "forward", False, BUDGET, PEERS
                ),
            )


def cub(log2: int) -> Row:
    """One sequence through CUB's single-pass scan of the pairs (a, x), as cub_scan.cu runs it."""
    row = {"library": "CUDA C++", "candidate": "CUB DeviceScan", "elements": 2**log2}
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    source = Path(__file__).with_name("cub_scan.cu")
    if not os.path.exists(nvcc):
        return row | {"skipped": "nvcc was not found"}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "cub_scan"
        for command in (
            [nvcc, "-O3", "-std=c++17", "-arch=native", str(source), "-o", str(program)],
            [str(program), str(log2)],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                return row | {"skipped": (done.stderr or done.stdout).strip()[-300:]}
    return row | json.loads(done.stdout)


def main() -> int:
    options = gpu_report.arguments("gpu_peers", __doc__)
    report = gpu_report.Report("peers", options)
    names = [name for name in options.libraries.split(",") if name != "cupy"]
    lacking = [reason for name in names if (reason := gpu_libraries.missing(name))]
    report.content["left out"] += lacking
    here = [name for name in names if not gpu_libraries.missing(name)]
    if not here:
        print("\n".join(lacking))
        report.write()
        return 3
    return report.run(jobs(options.log2, here))


if __name__ == "__main__":
    sys.exit(main())
