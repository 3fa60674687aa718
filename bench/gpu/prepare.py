"""All of a GPU check that needs no GPU, done ahead: libscanlib, every program that its stages will ask for, CUB's.

    python3 bench/gpu/prepare.py --nvrtc 13.0.88      (or: make gpu-prepare)

Which programs those are is found by rehearsing the stages, and by running the tests of a GPU on the CPU. Everything
goes into build/gpu-check, which may be copied along with the checkout. A program is found again there by the version of
the NVRTC that compiled it: name the one of the machine with the GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

# The checkout goes last on the path: its folder scanlib holds only a part of what is installed.
if __name__ == "__main__":
    sys.path.pop(0)
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.core.machine import ROOT
from bench.gpu import check as gpu_check
from bench.gpu import environment as gpu_environment
from bench.gpu import stages as gpu_stages


def main() -> int:
    options = parse()
    prepared, work = options.prepared, gpu_environment.WORK
    for folder in (work / "programs", prepared):
        folder.mkdir(parents=True, exist_ok=True)
    with (work / "prepare.log").open("w") as log:
        if not (options.no_library or options.again):
            gpu_environment.keep(gpu_environment.build(log), prepared)
            say("libscanlib is built")
        environment = gpu_environment.prepare(log, prepared=prepared)
        environment["SCANLIB_CACHE_DIR"] = str(work / "cache")
        files: list[Path] = []
        # Those of the tests take longest to find: what does not compile is known before.
        for wanted in (stages(options), tests(options)):
            for name, command in wanted:
                files.append(work / "programs" / f"{name}.txt")
                if not (options.again and files[-1].exists()):
                    record(name, command, environment, files[-1], log)
            if wanted and compiled(files, options, environment, log):
                return 1
    if not options.only or "peers" in options.only:
        say(cub(prepared, options.architecture, environment))
    size = sum(path.stat().st_size for path in prepared.iterdir()) / 2**20
    say(f"{prepared} has {size:.1f} MiB, to be copied along with the checkout")
    return 0


BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:4.0f} s] {text}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", type=int, default=90, help="90 for sm_90 (default)")
    parser.add_argument(
        "--nvrtc", help="of this version, from the package index (default: the installed one)"
    )
    parser.add_argument("--prepared", type=Path, default=gpu_environment.PREPARED)
    parser.add_argument("--log2", type=int, default=26, help="elements of a benchmark")
    parser.add_argument("--no-tests", action="store_true", help="not the programs of the tests")
    parser.add_argument("--no-library", action="store_true", help="not libscanlib")
    parser.add_argument("--only", nargs="*", help="only what these stages need")
    parser.add_argument(
        "--again",
        action="store_true",
        help="compile what the last call has found, by another NVRTC",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.prepared = options.prepared.resolve()
    return options


# ---- which programs


def planned(options: argparse.Namespace) -> list[gpu_stages.Stage]:
    given = ["--rehearse", "--log2", str(options.log2), "--workers", str(options.workers)]
    given += ["--output", str(gpu_environment.WORK / "recording")]
    every = gpu_check.plan(gpu_check.parse(given))
    return [stage for stage in every if not options.only or stage.name in options.only]


def stages(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """The stages that are rehearsed, each with its command; it takes as long as this machine needs."""
    return [
        (stage.name, [part.replace(gpu_stages.LIMIT, "3600") for part in stage.command])
        for stage in planned(options)
        if stage.command and stage.kind != "pytest"
    ]


def tests(options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """The tests that are run on the CPU. JAX's need no other programs: bench/gpu/recorded_tests.py."""
    more = ["-n", str(options.workers), "-p", "bench.gpu.recorded_tests", "-k", "not jax"]
    return [
        (stage.name, [*stage.command, *more, "--timeout=0"])
        for stage in planned(options)
        if stage.kind == "pytest" and stage.name in ("tests", "tests-other")
        if not options.no_tests
    ]


def record(
    name: str, command: list[str], environment: dict[str, str], file: Path, log: IO[str]
) -> None:
    """Run a stage, each program that it asks for a line of `file`; ends the program where that fails."""
    file.write_text("")
    log.write(f"\n===== {' '.join(command)}\n")
    log.flush()
    # bench.gpu.recorded_tests imports the matrix of the tests.
    path = os.pathsep.join([environment["PYTHONPATH"], str(ROOT / "tests")])
    given = gpu_environment.rehearsed(environment) | {
        "GPU_CHECK_RECORD": str(file),
        "PYTHONPATH": path,
    }
    done = subprocess.run(command, env=given, cwd=ROOT, stdout=log, stderr=log, check=False)
    say(f"{name}: {len(set(file.read_text().splitlines()))} programs")
    if done.returncode and not name.startswith("tests"):  # some of which do need a GPU
        raise SystemExit(f"the rehearsal of {name} failed: see {log.name}")


# ---- compiling


def compiled(
    files: list[Path], options: argparse.Namespace, environment: dict[str, str], log: IO[str]
) -> int:
    """Compile what these files name; the exit status."""
    command = [*gpu_check.PYTHON, "bench.gpu.programs", *map(str, files)]
    command += ["--architecture", str(options.architecture)]
    command += ["--output", str(options.prepared)]
    if options.nvrtc:
        command += ["--nvrtc", str(nvrtc(options.nvrtc, gpu_environment.WORK, log))]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    say(done.stdout.strip())
    return done.returncode


def nvrtc(version: str, work: Path, log: IO[str]) -> Path:
    """The libnvrtc of a version, from the package index."""
    folder = work / f"nvrtc-{version}"
    if not list(folder.rglob("libnvrtc.so.*")):
        major = int(version.split(".")[0])
        name = "nvidia-cuda-nvrtc" if major >= 13 else f"nvidia-cuda-nvrtc-cu{major}"
        # fmt: off
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder),
                   f"{name}=={version}"]
        # fmt: on
        subprocess.run(command, stdout=log, stderr=log, check=True)
    return next(path for path in folder.rglob("libnvrtc.so.*") if "alt" not in path.name)


def cub(prepared: Path, architecture: int, environment: dict[str, str]) -> str:
    """Compile CUB's program; says what became of it."""
    code = (
        "import sys; from pathlib import Path; from bench.gpu import peers\n"
        "print(peers.compile_cub(Path(sys.argv[1]), sys.argv[2]))"
    )
    # fmt: off
    command = [sys.executable, "-P", "-c", code, str(prepared / "cub_scan"), f"sm_{architecture}"]
    # fmt: on
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    why = done.stdout.strip() or done.stderr.strip()[-300:]
    return f"cub_scan is not compiled: {why}" if why else "cub_scan compiled"


if __name__ == "__main__":
    sys.exit(main())
