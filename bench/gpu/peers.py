"""Other ways to run the same recurrence on a GPU, each where it is installed and can take the shape."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core import peers, progress, race, shapes
from bench.core.peers import Function, combine
from bench.core.shapes import Case
from bench.core.timing import Budget
from bench.gpu import direct as gpu_direct
from bench.gpu import libraries as gpu_libraries
from bench.gpu import rehearsal
from bench.gpu import report as gpu_report
from bench.gpu.report import Job, Row

BUDGET = Budget(0.5, 3, 31)
#: lax.scan launches a kernel for every step: past so many it measures nothing but that
MOST_STEPS = 4096


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


#: What takes long to compile comes last.
PEERS: tuple[type, ...] = (
    ShortLaxScan,
    peers.LaxAssociativeScan,
    AcceleratedScan,
    Hgrn,
    TorchCompiledScan,
)
COMPILING = 120  # seconds that a peer may take before its first call returns


def jobs(log2: int, names: list[str]) -> Iterator[Job]:
    """CUB, then each peer of JAX and of PyTorch, on a shape of each layout."""
    columns, _, _, rows, few, long = shapes.shapes(log2)
    yield "CUB's DeviceScan", lambda: cub(log2)
    for kind in PEERS:
        name = kind.library  # type: ignore[attr-defined]
        if name not in names:
            continue
        for case in (rows, columns, few, long):
            yield (
                f"{case.name}: {kind.name}",  # type: ignore[attr-defined]
                lambda name=name, case=case, kind=kind: against(name, case, kind),
            )


def against(name: str, case: Case, kind: type) -> list[Row]:
    library = gpu_libraries.load(name)
    if not library.computes:
        gpu_direct.forward(library, case, "float32", library.inputs(case, "float32"), {})()
        return [{"case": case.name, "candidate": kind.name, "skipped": "rehearsal"}]  # type: ignore[attr-defined]
    progress.beat("compiling", COMPILING)
    return race.race(library, case, "forward", False, BUDGET, (kind,))


def cub(log2: int) -> Row:
    """One sequence through CUB's single-pass scan of the pairs (a, x), as cub_scan.cu runs it."""
    row = {"library": "CUDA C++", "candidate": "CUB DeviceScan", "elements": 2**log2}
    if rehearsal.active():
        return row | {"skipped": "rehearsal"}
    program = Path(os.environ.get("GPU_CHECK_CUB", "cub_scan"))
    if not program.exists():
        progress.beat("compiling", COMPILING)
        program = Path(tempfile.mkdtemp()) / "cub_scan"
        if reason := compile_cub(program, "native"):
            return row | {"skipped": reason}
    done = subprocess.run(
        [str(program), str(log2)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        return row | {"skipped": (done.stderr or done.stdout).strip()[-300:]}
    return row | json.loads(done.stdout)


def compile_cub(target: Path, architecture: str) -> str:
    """Compile cub_scan.cu for "sm_90" or "native"; why that cannot be, or an empty string."""
    nvcc = shutil.which("nvcc", path=f"{os.environ.get('PATH')}:/usr/local/cuda/bin")
    if nvcc is None:
        return "nvcc was not found"
    source = Path(__file__).with_name("cub_scan.cu")
    command = [nvcc, "-O3", "-std=c++17", f"-arch={architecture}", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout).strip()[-300:] if done.returncode else ""


def main() -> int:
    parser = gpu_report.arguments("bench.gpu.peers", __doc__, 90)
    parser.add_argument("--wheels", type=Path, help="folder of packages to find peers in")
    options = parser.parse_args()
    if options.wheels:
        sys.path.append(str(options.wheels))
    report = gpu_report.Report("peers", options.output, options.seconds)
    names = []
    for name in dict.fromkeys(kind.library for kind in PEERS):  # type: ignore[attr-defined]
        progress.enter(f"importing {name}", COMPILING)
        if reason := gpu_libraries.missing(name):
            report.left_out(name, reason)
        else:
            names.append(name)
    if not names and not rehearsal.active():
        return gpu_report.could_not(report, "no library has a GPU here")
    report.run(jobs(options.log2, names))
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
