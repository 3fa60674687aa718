"""The paper's experiments on a GPU: Table 2 and the long-dependency task of a million steps.

    python3 experiments/gpu_paper.py table2        (or: make gpu-table2)
    python3 experiments/gpu_paper.py million       (or: make gpu-million)

Like bench/gpu/check.py it runs where nothing can be downloaded and scanlib is not installed. Each call ends within its
minutes; the same call again goes on where that one stopped. `--small` runs everything in small sizes on the CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

# The checkout goes last on the path: its folder scanlib holds only a part of what is installed.
if __name__ == "__main__":
    sys.path.pop(0)
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench.core.machine import ROOT
from bench.gpu import environment as gpu_environment

TASK = [str(ROOT / "experiments" / "long_dependency.py")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", default=["table2", "million"])
    parser.add_argument("--minutes", type=float, default=9.5, help="for each (default 9.5)")
    parser.add_argument("--output", type=Path, help="folder for results")
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument("--small", action="store_true", help="small sizes, on the CPU")
    options = parser.parse_args()
    gpu_environment.WORK.mkdir(parents=True, exist_ok=True)
    with (gpu_environment.WORK / "paper.log").open("w") as log:
        environment = gpu_environment.prepare(log, options.commit)
    output = [] if options.output is None else ["--output", str(options.output.resolve())]
    failed = 0
    for experiment in options.experiments:
        end = time.monotonic() + 60 * options.minutes
        for command in commands(experiment, options.small):
            # What is left, less what a process takes to start and to write its last results.
            left = end - time.monotonic() - 20
            if left < 10:
                print(f"no time was left for {' '.join(command[1:])}; call again to go on")
                break
            full = [sys.executable, *command, "--budget", f"{left:.0f}", *output]
            failed += subprocess.run(full, env=environment, cwd=ROOT, check=False).returncode != 0
    return 1 if failed else 0


def commands(experiment: str, small: bool) -> list[list[str]]:
    """The processes of an experiment, the most telling ones first."""
    if experiment == "table2":
        sizes = ["--device", "cpu", "--steps", "512", "--units", "8"] if small else []
        return [
            [str(ROOT / "experiments" / "table2.py"), *sizes, "--seconds", "0.5" if small else "3"]
        ]
    if experiment != "million":
        raise SystemExit(f"There is no experiment {experiment!r}; choose table2 or million.")
    sizes = ["--units", "64", "--batch", "2"]
    sizes += ["--length", "256", "--device", "cpu"] if small else ["--length", str(2**20)]
    seeds, limit = ("1", "5") if small else ("5", "120")
    ours = [*TASK, *sizes, "--model", "gilr_lstm", "--start", "coupled", "--held-out", "64"]
    own = [*TASK, *sizes, "--model", "lstm", "--seeds", "1", "--held-out", "64"]
    return [
        [*ours, "--library", "torch", "--seeds", seeds, "--time-limit", limit],
        [*own, "--library", "torch", "--time-limit", "5" if small else "90"],
        [*ours, "--library", "jax", "--seeds", "1" if small else "2", "--time-limit", limit],
    ]


if __name__ == "__main__":
    sys.exit(main())
