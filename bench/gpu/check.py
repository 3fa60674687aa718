"""All that needs a GPU, in one call: what matters most first, every result written when it is known, a summary last.

    python3 bench/gpu/check.py --minutes 9            (or: make gpu-check)

Runs where nothing can be downloaded and scanlib is not installed, and compiles nothing of what `make gpu-prepare` has
compiled elsewhere. Each stage is a process of its own, killed where it hangs; what cannot run here is named. Exit
status: 0 where everything ran and passed, 1 where something failed, 3 where something could not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path

# The checkout goes last on the path: its folder scanlib holds only a part of what is installed.
if __name__ == "__main__":
    sys.path.pop(0)
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.core import machine
from bench.core.machine import ROOT
from bench.gpu import environment as gpu_environment
from bench.gpu import report as gpu_report
from bench.gpu import stages as gpu_stages
from bench.gpu import summary as gpu_summary
from bench.gpu.stages import Stage

MINUTES = 9.5  # what a call may take, by default
LEAST = 5  # seconds in which no stage gets anywhere
#: The tests that say most; the others come when all else is done.
FIRST = ("gpu", "gpu_streams", "values", "gradients", "special_values")
TEST_LIMIT = 40  # seconds for one test


def main() -> int:
    options = parse()
    end = time.monotonic() + 60 * options.minutes
    # Given more time than a GPU needs, this is a slow machine, where every stage may take longer.
    patience = max(1.0, options.minutes / 10)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / gpu_report.FILE).unlink(missing_ok=True)
    with (options.output / "log.txt").open("w") as log:
        environment = gpu_environment.prepare(log, options.commit, options.prepared)
        if options.rehearse:
            environment = gpu_environment.rehearsed(environment)
        stages = [
            stage
            for stage in plan(options)
            if stage.name not in options.skip and (not options.only or stage.name in options.only)
        ]
        for stage in stages:
            left = end - time.monotonic()
            if left < LEAST:
                stage.said = "no time was left"
            else:
                stage.seconds = min(stage.seconds * patience, left)
                gpu_stages.run(stage, environment, ROOT, log, patience)
            print(
                f"{stage.verdict:14} {stage.name:12} {stage.took:6.1f} s  {stage.said}", flush=True
            )
        text, _ = gpu_summary.write(stages, options.output, options.gpu, options.rehearse)
        print("\n" + text)
        return gpu_summary.status(stages)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help=f"for all stages together (default {MINUTES}); spent in their order",
    )
    parser.add_argument(
        "--output", type=Path, help="folder to write to (default bench/results/GPU)"
    )
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument(
        "--prepared",
        type=Path,
        default=gpu_environment.PREPARED,
        help="folder that `make gpu-prepare` made (default %(default)s)",
    )
    parser.add_argument("--only", nargs="*", help="stages, by their names")
    parser.add_argument("--skip", nargs="*", default=[], help="stages to leave out")
    parser.add_argument(
        "--log2", type=int, default=26, help="elements of a benchmark, power of two"
    )
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--wheels", type=Path, help="folder of wheels to find peers in")
    parser.add_argument(
        "--rehearse", action="store_true", help="without a GPU: everything up to the launches"
    )
    options = parser.parse_args(arguments)
    options.gpu = "" if options.rehearse else machine.gpu()["name"] or ""
    if options.output is None:
        name = machine.folder_name(options.gpu) if options.gpu else ""
        options.output = ROOT / "bench" / "results" / name if name else None
        options.output = options.output or gpu_environment.WORK / "results"
    options.output, options.prepared = options.output.resolve(), options.prepared.resolve()
    return options


# ---- the stages, in the order in which time is spent on them


def plan(options: argparse.Namespace) -> list[Stage]:
    results = ["--output", str(options.output / gpu_report.FILE), "--log2", str(options.log2)]
    sanitizer, why = find_sanitizer(options.rehearse)

    def stage(name: str, module: str, seconds: int, *more: str) -> Stage:
        limits = ["--seconds", gpu_stages.LIMIT]
        return Stage(name, [*PYTHON, module, *results, *limits, *more], seconds)

    def watched(tool: str, seconds: int, quiet: float) -> Stage:
        # fmt: off
        watch = [sanitizer, "--tool", tool, "--error-exitcode", str(gpu_stages.SANITIZER), "--report-api-errors", "no",
                 "--target-processes", "all"]
        # fmt: on
        call = stage(tool, "bench.gpu.short_list", seconds, "--stage", tool, "--stacks")
        command = [*watch, *call.command] if sanitizer else []
        return Stage(tool, command, seconds, quiet, why, "sanitizer")

    wheels = []
    if options.wheels is not None:
        wheels = ["--wheels", str(gpu_environment.unpacked(options.wheels))]
    first, other = split_tests()
    return [
        stage("versions", "bench.gpu.versions", 40),
        stage("short-list", "bench.gpu.short_list", 60),
        stage("stress", "bench.gpu.stress", 60),
        stage("measure", "bench.gpu.measure", 130),
        stage("profile", "bench.gpu.profile", 60),
        tests("tests", first, "gpu and not slow", 130, options, "-k", "not jax"),
        tests("tests-jax", first, "gpu and not slow", 90, options, "-k", "jax"),
        tests("tests-large", ["tests/test_gpu.py"], "gpu and slow", 60, options),
        watched("memcheck", 75, 45),
        watched("racecheck", 75, 60),
        stage("table1", "experiments.table1", 40),
        stage("peers", "bench.gpu.peers", 120, *wheels),
        tests("tests-other", other, "gpu and not slow", 180, options),
    ]


PYTHON = [sys.executable, "-P", "-m"]


def split_tests() -> tuple[list[str], list[str]]:
    """The files that say most, and the others."""
    every = sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py"))
    first = [f"tests/test_{name}.py" for name in FIRST]
    return first, [name for name in every if name not in first]


def tests(
    name: str, files: list[str], marks: str, seconds: int, options: argparse.Namespace, *more: str
) -> Stage:
    # Array libraries of other versions than the tests' own may deprecate things; that is no fault here.
    kinds = "DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "UserWarning"
    lenient = [part for kind in kinds for part in ("-W", f"default::{kind}")]
    # A test that hangs in a call of the driver is ended with its process, which only this method does.
    limit = [f"--timeout={TEST_LIMIT}", "--timeout-method=thread"]
    parallel = ["-n", str(options.workers)] if importlib.util.find_spec("xdist") else []
    if options.rehearse or name == "tests-large":
        parallel = []
    # fmt: off
    command = [*PYTHON, "pytest", "-q", "-p", "no:cacheprovider", "-p", "bench.core.heartbeat", *limit, *lenient,
               *parallel, "-m", marks, *more, *files]
    # fmt: on
    return Stage(name, command, seconds, 1.5 * TEST_LIMIT, "", "pytest")


def find_sanitizer(rehearse: bool) -> tuple[str, str]:
    """compute-sanitizer, and why it cannot be used."""
    if rehearse:
        return "", "rehearsal"
    found = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH')}:/usr/local/cuda/bin")
    return found or "", "compute-sanitizer was not found"


if __name__ == "__main__":
    sys.exit(main())
