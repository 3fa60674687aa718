"""What the emulation is there to find, it finds: races and stray accesses by sanitizers, and kernels broken on purpose.

A broken kernel is a copy of the source with one line changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import emulated
import numpy as np
import pytest
from capabilities import Backend
from emulated import SMALL, Emulation
from helpers import check_forward, check_gradients, decay, normal, rng_for
from matrix import Member, missing
from native_build import OPTIONS, sanitizer_prefix

import scanlib
from scanlib import native

pytestmark = pytest.mark.skipif(
    bool(missing(Backend.EMULATED)), reason=missing(Backend.EMULATED) or "-"
)
FRAMES = ("-g1", "-fno-omit-frame-pointer")


def sanitized(folder: Path, sanitize: str, emulation: Emulation, problems: int) -> tuple[int, str]:
    """Exit status and output of emulation/run.py under a sanitizer."""
    library = {"thread": "libtsan.so"}.get(sanitize, "libasan.so")
    prefix = sanitizer_prefix(sanitize, folder)
    where = (
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in (library, "libstdc++.so")
    )
    options = OPTIONS | {"ASAN_OPTIONS": "detect_leaks=0", "OPENBLAS_NUM_THREADS": "1"}
    # fmt: off
    command = [*prefix, sys.executable, Path(__file__).parent / "emulation" / "run.py", emulation.cuda,
               emulation.emulation, emulation.kept, problems, *FRAMES, f"-fsanitize={sanitize}"]
    # fmt: on
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **options, "LD_PRELOAD": " ".join(where)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def broken(folder: Path, name: str, before: str, after: str) -> Emulation:
    """A copy of the source in which `before`, which is there once, is `after`."""
    emulation = Emulation(folder / "cuda", folder / "emulation", (), folder / "kept")
    for source, copy in (
        (emulated.CUDA, emulation.cuda),
        (emulated.EMULATION, emulation.emulation),
    ):
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (path,) = (
        path for path in (emulation.cuda / name, emulation.emulation / name) if path.exists()
    )
    text = path.read_text()
    assert text.count(before) == 1, f"{name} has {text.count(before)} times: {before}"
    path.write_text(text.replace(before, after))
    return emulation


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", ["address,undefined", "thread"])
def test_sanitizers(sanitize: str, tmp_path: Path) -> None:
    """No access outside an operand, no undefined arithmetic, nothing that barriers and publications leave unordered."""
    status, output = sanitized(tmp_path, sanitize, Emulation(), 8)
    assert status == 0, output[-4000:]
    assert output.endswith("right\n")


STORE = "__atomic_store_n(&to->word[i], mail.word[i], __ATOMIC_RELAXED);"
TORN = """{
    const size_t j = sizeof(Word) / 4 - 1 - i;
    __atomic_store_n(&to->word[j], mail.word[j], __ATOMIC_RELAXED);
    emulated_wait();
  }"""
DRAW = "memory.ticket = ticket;"
LATER = """memory.ticket =
      ticket < p.tiles * p.groups ? unsigned(p.tiles * p.groups) - 1 - ticket : ticket;"""
READ = "    if (ahead == 0) read_tile(p, place, inputs, run);\n"
START = "    __syncthreads();\n    if (exists(after)) start_tile(p, after, inputs);\n"

#: what is wrong -> (file, lines, the lines instead)
WRONG = {
    "an operand swapped": (
        "summary.cuh",
        "applied(second, first.local)",
        "applied(first, second.local)",
    ),
    "a tail taken for whole": (
        "operands.cuh",
        "run.n = left < 0 ? 0 : left < kRun ? left : kRun;",
        "run.n = left < 0 ? 0 : kRun;",
    ),
    "mail that is not written whole": ("emulator.h", STORE, TORN),
    "mail of which the first word is looked at": (
        "mail.cuh",
        "whole = whole && tag[w] != 0;",
        "whole = tag[0] != 0;",
    ),
    "no waiting for what others publish": (
        "joints.cuh",
        "whole = whole && mails.of[i].there();",
        "(void)i;",
    ),
    "waiting for a bundle that is not complete": (
        "joints.cuh",
        "  if (!was_last(count, memory)) return;\n  const unsigned groups",
        "  const unsigned groups",
    ),
    "waiting for a later tile": ("lookback.cuh", DRAW, LATER),
    "copies that are not waited for": ("lookback.cuh", "      wait_for_copies();\n", ""),
    "a tile loaded over one that is still read": (
        "lookback.cuh",
        READ + START,
        START + READ,
    ),
    "a carry of which others before it have not been seen": (
        "carriers.cuh",
        "all_before = !(incomplete & ((1u << thread_) - 1));",
        "all_before = true;",
    ),
    "no waiting for the carrier before": (
        "carriers.cuh",
        "bool entered = batch == 0,",
        "bool entered = true,",
    ),
}


def runs_right(member: Member) -> None:
    for seed in range(4):
        rng = rng_for(seed)
        dtype = "float64" if seed % 2 else "float32"  # mail of two words, and of one
        a, x = decay(rng, (301, 8), dtype), normal(rng, (301, 8), dtype)
        emulated.schedule(seed, 3)
        check_forward(member, a, x)
        if seed == 3:
            check_gradients(member, a, x, x[0])
    a, x = decay(rng, (20_001,), "float32"), normal(rng, (20_001,), "float32")
    emulated.schedule(0, 20)
    check_forward(member, a, x)  # of two batches of carriers


@pytest.mark.parametrize("fault", WRONG)
def test_a_broken_kernel_fails(fault: str, tmp_path: Path, member: Member) -> None:
    deadlock = fault.startswith("waiting for")
    with (
        emulated.tuned(**SMALL),
        emulated.running(broken(tmp_path, *WRONG[fault])),
        np.errstate(all="ignore"),
        pytest.raises(
            native.NativeError if deadlock else AssertionError,
            match="deadlock" if deadlock else None,
        ),
    ):
        runs_right(member)
    with emulated.tuned(**SMALL):
        runs_right(member)


#: Nothing of this shows in a value, or seldom: the thread sanitizer sees what is not ordered.
#: The same, and how many of the problems of emulation/run.py it takes; the fourth is walked.
UNORDERED: dict[str, tuple[str, str, str, int]] = {
    "a barrier too few": (
        "scan.cuh",
        "memory->of_warp.put(warp_, lane_, mine);\n  __syncthreads();",
        "memory->of_warp.put(warp_, lane_, mine);",
        1,
    ),
    "results stored before they are there": (
        "operands.cuh",
        "__syncwarp();\n    write_first_(from);",
        "write_first_(from);",
        1,
    ),
    "a place found anew that others still read": (
        "walk.cuh",
        "if (tile + 1 < p.tiles) start_tile(p, *next, inputs);",
        "if (finds) advance(p, *next, *later);\n      if (tile + 1 < p.tiles) start_tile(p, *next, inputs);",
        4,
    ),
    "mail that others may write meanwhile": (
        "emulator.h",
        STORE,
        "to->word[i] = mail.word[i];",
        1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", UNORDERED)
def test_a_race_is_found(fault: str, tmp_path: Path) -> None:
    *change, problems = UNORDERED[fault]
    status, output = sanitized(tmp_path, "thread", broken(tmp_path, *change), problems)
    assert status != 0
    assert "ThreadSanitizer: data race" in output, output[-4000:]


def test_a_failed_launch_is_an_error(tmp_path: Path, member: Member) -> None:
    """What the driver reports reaches the caller as scanlib's error, with the driver's words."""
    barrier = "  __syncthreads();\n  if (own_slice() == kWarpSlices - 1) memory->of_warp"
    fault = broken(tmp_path, "scan.cuh", barrier, "  if (warp() == 0)" + barrier)
    x = member.array(np.ones((300, 8), np.float32))
    with (
        emulated.tuned(**SMALL),
        emulated.running(fault),
        pytest.raises(native.NativeError, match="CUDA_ERROR_LAUNCH_FAILED"),
    ):
        scanlib.linear_recurrence(x, x, axis=0)
