"""All that needs a GPU, in one call: tests, the sanitizer, then benchmarks, into one folder of JSON and a summary.

    python3 bench/gpu_check.py            (or: make gpu-check)

Runs where nothing can be downloaded and scanlib is not installed: it builds libscanlib with CMake and puts the package
together from the checkout. Each step is a process of its own with a time limit; what cannot run here is named. Exit
status: 0 where everything ran and passed, 1 where something failed, 3 where something could not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "gpu-check"
NEEDED = ("numpy", "pytest", "pytest_timeout", "hypothesis", "ml_dtypes", "array_api_compat")
MINUTES = 9.5  # what a call may take, by default
COULD_NOT = 3
NO_TESTS = 5  # of pytest


@dataclasses.dataclass
class Step:
    """One process: `seconds` at most, and less where the total is nearly spent."""

    name: str
    command: list[str]
    seconds: float
    status: int | None = None
    took: float = 0.0
    said: str = ""

    @property
    def verdict(self) -> str:
        if self.status is None:
            return "not run"
        return {0: "passed", COULD_NOT: "could not run"}.get(self.status, "FAILED")


def main() -> int:
    options = parse()
    end = time.monotonic() + 60 * options.minutes
    patience = max(1.0, options.minutes / MINUTES)  # on a slow machine every step takes longer
    options.output.mkdir(parents=True, exist_ok=True)
    log = (options.output / "log.txt").open("w")
    environment = prepare(options, log)
    steps = [
        step for step in plan(options) if not options.only or step.name.split()[0] in options.only
    ]
    for step in steps:
        left = end - time.monotonic()
        if left < 5:
            step.said = "no time was left"
        else:
            step.seconds = min(step.seconds * patience, left)
            run(step, environment, log)
        print(f"{step.verdict:14} {step.name:12} {step.took:6.1f} s  {step.said}", flush=True)
    summary = summarize(steps, options)
    print("\n" + summary)
    if any(step.verdict == "FAILED" for step in steps):
        return 1
    return COULD_NOT if any(step.status != 0 for step in steps) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help=f"for all steps together; with more, each may take longer too (default {MINUTES})",
    )
    parser.add_argument(
        "--output", type=Path, help="folder to write to (default bench/results/GPU)"
    )
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument("--only", nargs="*", help="steps, by the first word of their names")
    parser.add_argument(
        "--log2", type=int, default=26, help="elements of a benchmark, power of two"
    )
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    options = parser.parse_args()
    options.gpu = gpu_name()
    if options.output is None:
        options.output = WORK / "results"
        if options.gpu:
            name = re.sub(r"[^a-z0-9]+", "-", options.gpu.lower()).strip("-")
            options.output = ROOT / "bench" / "results" / name
    options.output = options.output.resolve()
    return options


def gpu_name() -> str:
    """The first GPU's name; empty where there is none."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.splitlines()[0].strip() if done.stdout.strip() else ""


# ---- the steps


def plan(options: argparse.Namespace) -> list[Step]:
    python = [sys.executable, "-P", "-m"]
    out, log2 = options.output, str(options.log2)
    # Array libraries of other versions than the tests' own may deprecate things; that is no fault here.
    kinds = "DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "UserWarning"
    lenient = [part for kind in kinds for part in ("-W", f"default::{kind}")]
    tests = [
        *python,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout=150",
        *lenient,
        "tests",
        "-m",
    ]
    parallel = ["-n", str(options.workers)] if importlib.util.find_spec("xdist") else []
    sanitizer = find_sanitizer()
    watched = [*python, "bench.gpu_short_list"]
    watch = [sanitizer, "--error-exitcode", "9", "--target-processes", "all", "--tool"]

    def bench(name: str, seconds: int) -> list[str]:
        limits = ["--seconds", str(seconds - 10), "--log2", log2]
        return [*python, f"bench.{name}", "--output", str(out / f"{name[4:]}.json"), *limits]

    return [
        Step("config", [*python, "scanlib"], 30),
        Step("programs", [*python, "bench.gpu_programs", "--log2", log2], 60),
        Step("tests", [*tests, "gpu and not slow", *parallel], 210),
        Step("large", [*tests, "gpu and slow"], 60),
        Step("memcheck", [*watch, "memcheck", *watched] if sanitizer else [], 75),
        Step("racecheck", [*watch, "racecheck", *watched] if sanitizer else [], 75),
        Step("price", bench("gpu_price", 110), 110),
        Step("table1", bench("gpu_table1", 40), 40),
        Step("peers", bench("gpu_peers", 90), 90),
    ]


def find_sanitizer() -> str:
    return (
        shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH')}:/usr/local/cuda/bin")
        or ""
    )


def run(step: Step, environment: dict[str, str], log: Any) -> None:
    """Run a step to its end or its limit; its output goes to the log, its last telling line into `said`."""
    if not step.command:
        step.status, step.said = COULD_NOT, "compute-sanitizer was not found"
        return
    log.write(f"\n===== {step.name}: {' '.join(step.command)}\n")
    log.flush()
    began = time.monotonic()
    process = subprocess.Popen(
        step.command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=step.seconds)
        step.status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        step.status = 1
        step.said = f"stopped after {step.seconds:.0f} s; "
    step.took = time.monotonic() - began
    log.write(output)
    log.flush()
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    step.said += lines[-1][:160] if lines else ""
    if step.name in ("tests", "large") and step.status:
        step.status = 1 if step.status != NO_TESTS else COULD_NOT
    elif step.name in ("tests", "large") and "passed" not in step.said:
        step.status = COULD_NOT  # all were skipped


# ---- an environment in which `import scanlib` finds this checkout


def prepare(options: argparse.Namespace, log: Any) -> dict[str, str]:
    """The environment of the steps; builds and links together what is not installed."""
    site = WORK / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    (site / "bench").symlink_to(ROOT / "bench")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        ),
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "SCANLIB_CACHE_DIR": os.environ.get("SCANLIB_CACHE_DIR") or str(WORK / "cache"),
    }
    if options.commit:
        environment["GPU_CHECK_COMMIT"] = options.commit
    if not installed(environment):
        package = site / "scanlib"
        package.mkdir()
        for path in (ROOT / "scanlib").iterdir():
            if path.name != "__pycache__" and path.suffix not in (".so", ".dylib"):
                (package / path.name).symlink_to(path)
        for name in ("backends", "cuda"):
            (package / name).symlink_to(ROOT / name)
        if "SCANLIB_LIBRARY" not in os.environ:
            environment["SCANLIB_LIBRARY"] = str(build(log))
    link_vendored(site)
    absent = [
        name
        for name in NEEDED
        if importlib.util.find_spec(name) is None and not (site / name).exists()
    ]
    if absent:
        print(f"not installed, so the tests cannot run: {', '.join(absent)}")
    return environment


def installed(environment: dict[str, str]) -> bool:
    """Whether this Python has scanlib from this checkout, libscanlib with it."""
    code = (
        "import scanlib, scanlib.backends, scanlib.gpu, pathlib\n"
        "scanlib.gpu.library()\n"
        "print(pathlib.Path(scanlib.__file__).resolve().parent.parent)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        cwd=WORK,
        check=False,
    )
    return done.returncode == 0 and done.stdout.strip() == str(ROOT)


def build(log: Any) -> Path:
    """libscanlib, by CMake; ends the program where that fails."""
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    folder = WORK / "native"
    configure = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}"]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    for command in (configure, [cmake, "--build", str(folder), "--parallel"]):
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
        except OSError as error:
            raise SystemExit(f"libscanlib cannot be built: {error}") from None
        log.write(done.stdout)
        if done.returncode:
            raise SystemExit(f"libscanlib does not build:\n{done.stdout[-3000:]}")
    return next(folder.glob("libscanlib.*"))


def link_vendored(site: Path) -> None:
    """array-api-compat from a library that carries a copy of it, where it is not installed by itself."""
    name = "array_api_compat"
    if importlib.util.find_spec(name) is not None:
        return
    for library, inside in (("scipy", "_lib"), ("scipy", "_external"), ("sklearn", "externals")):
        spec = importlib.util.find_spec(library)
        folders = spec.submodule_search_locations if spec is not None else None
        for folder in folders or ():
            copy = Path(folder) / inside / name
            if (copy / "__init__.py").exists():
                (site / name).symlink_to(copy)
                return


# ---- the summary


def summarize(steps: list[Step], options: argparse.Namespace) -> str:
    """Write summary.json and summary.md; returns the latter."""
    lines = [
        f"# {options.gpu or 'No GPU'}, {datetime.datetime.now(datetime.UTC).date()}",
        "",
        "| step | verdict | seconds | |",
        "|---|---|---|---|",
        *(f"| {s.name} | {s.verdict} | {s.took:.0f} | {s.said.replace('|', '/')} |" for s in steps),
    ]
    reports = {}
    for name in ("price", "table1", "peers"):
        path = options.output / f"{name}.json"
        if path.exists() and any(step.name == name and step.status is not None for step in steps):
            reports[name] = json.loads(path.read_text())
    if rows := [r for r in reports.get("price", {}).get("rows", []) if "ratio" in r]:
        lines += price_table(rows, reports["price"]["rows"])
    if rows := reports.get("table1", {}).get("rows", []):
        lines += table1(rows)
    if rows := reports.get("peers", {}).get("rows", []):
        lines += peer_table(rows)
    for name, report in reports.items():
        for kind in ("failed", "left out"):
            lines += [f"- {name}, {kind}: {text}" for text in report[kind]]
    text = "\n".join(lines) + "\n"
    (options.output / "summary.md").write_text(text)
    summary = {
        "gpu": options.gpu or None,
        "steps": [
            {"name": s.name, "verdict": s.verdict, "seconds": round(s.took, 1), "said": s.said}
            for s in steps
        ],
    }
    (options.output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return text


def price_table(rows: list[dict[str, Any]], everything: list[dict[str, Any]]) -> list[str]:
    """Ratio to the yardstick and GB/s, a line for each shape, dtype and work, a column for each library."""
    names = list(dict.fromkeys(row["library"] for row in rows))
    copies = [row["gigabytes_per_second"] for row in everything if row["work"] == "copy"]
    lines = ["", "## The price of an add: ratio to the library's own, GB/s", ""]
    lines += [f"A device-to-device copy moves {copies[0]:.0f} GB/s.", ""] if copies else []
    lines += [f"| case | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    keys = dict.fromkeys((r["dtype"], r["work"], r["case"]) for r in rows)
    for dtype, work, case in keys:
        cells = []
        for name in names:
            found = [
                r
                for r in rows
                if (r["library"], r["dtype"], r["work"], r["case"]) == (name, dtype, work, case)
            ]
            cells.append(
                f"{found[0]['ratio']:.2f}, {found[0]['gigabytes_per_second']:.0f}" if found else ""
            )
        lines.append(f"| {dtype} {work} {case} | {' | '.join(cells)} |")
    return lines


def table1(rows: list[dict[str, Any]]) -> list[str]:
    features = sorted({row["features"] for row in rows})
    lines = ["", "## Table 1: times the serial kernel's speed", ""]
    lines += [
        f"| T | {' | '.join(f'm={m}' for m in features)} |",
        "|---" * (len(features) + 1) + "|",
    ]
    for steps in sorted({row["steps"] for row in rows}):
        cells = {row["features"]: f"{row['speedup']:.2f}" for row in rows if row["steps"] == steps}
        lines.append(f"| {steps} | {' | '.join(cells.get(m, '') for m in features)} |")
    return lines


def peer_table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        "## Peers",
        "",
        "| case | candidate | GB/s | time beside ours |",
        "|---|---|---|---|",
    ]
    for row in rows:
        case = row.get("case", f"{row.get('elements')} elements")
        if "skipped" in row:
            lines.append(
                f"| {case} | {row['candidate']} | | {row['skipped'].replace('|', '/')[:80]} |"
            )
            continue
        ratio = f"{row['ratio_to_ours']:.2f}" if "ratio_to_ours" in row else ""
        lines.append(
            f"| {case} | {row['candidate']} | {row['gigabytes_per_second']:.0f} | {ratio} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
