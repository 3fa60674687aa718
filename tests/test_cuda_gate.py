"""No CUDA program spills registers, and older compilers take the source: shares of what cuda_gate.py compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cuda_gate
import pytest
from native_build import ROOT

from scanlib import compiler

pytestmark = pytest.mark.skipif(
    bool(compiler.unavailable()), reason=compiler.unavailable() or "the compiler is here"
)

#: architecture -> of how many kinds of program one is compiled here, and the first; cuda_gate.py compiles all
SHARES = {75: (16, 1), 80: (16, 5), 90: (8, 0), 100: (16, 9), 120: (16, 13)}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", cuda_gate.ARCHITECTURES)
@pytest.mark.parametrize("half", [0, 1])
def test_no_program_spills(architecture: int, half: int) -> None:
    step, first = SHARES[architecture]
    kinds = list(cuda_gate.kinds(cuda_gate.programs()).values())
    spilling = []
    for index, alike in list(enumerate(kinds))[first::step][half::2]:
        definitions = alike[index % len(alike)]
        found = cuda_gate.use(definitions, architecture)
        if found.spilled:
            spilling.append(f"{found}: {definitions}")
    assert not spilling, "\n".join(spilling)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["13.0.88", "12.4.127"])
def test_older_compilers_take_the_source(version: str, tmp_path: Path) -> None:
    """Of every sixteenth kind of program one: what a newer NVRTC takes, an older one may refuse."""
    from bench.gpu import prepare as gpu_prepare

    with Path(os.devnull).open("w") as log:
        nvrtc = gpu_prepare.nvrtc(version, tmp_path, log)
    kinds = list(cuda_gate.kinds(cuda_gate.programs()).values())
    wanted = [alike[index % len(alike)] for index, alike in list(enumerate(kinds))[3::16]]
    (tmp_path / "programs").write_text("\n".join(wanted))
    command = [sys.executable, "-m", "bench.gpu.programs", str(tmp_path / "programs")]
    command += ["--nvrtc", str(nvrtc), "--output", str(tmp_path)]
    environment = {**os.environ, "SCANLIB_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    release = ".".join(version.split(".")[:2])
    assert f"{len(wanted)} programs for sm_90 by NVRTC {release}" in done.stdout


def test_a_spill_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate reads is there to be read: a kernel that must spill is found to."""
    text = """
    extern "C" __global__ void __launch_bounds__(1024, 2) scanlib_kernel(const double *from, double *to, int n) {
      double kept[64];
      for (int k = 0; k < 64; ++k) kept[k] = from[k * n + threadIdx.x];
      __syncthreads();
      for (int r = 0; r < n; ++r)
        for (int k = 0; k < 64; ++k) kept[k] = kept[k] * kept[(k + 7) % 64] + from[r];
      for (int k = 0; k < 64; ++k) to[k * n + threadIdx.x] = kept[k];
    }"""
    monkeypatch.setattr(compiler, "source", lambda: {compiler.ENTRY: text})
    found = cuda_gate.use("-DNOTHING=1", 90)
    assert found.spilled > 0
    assert found.registers == 32


def test_the_record_has_the_most_of_each_kind() -> None:
    rows = []
    small = cuda_gate.smallest()
    for definitions in (small, small.replace("THREADS=256", "THREADS=128")):
        rows.append({"sm": 90, **cuda_gate.use(definitions, 90)._asdict()})
        rows[-1]["definitions"] = cuda_gate._short(definitions)
    rows[1]["spilled"] = 8
    (kind,) = cuda_gate.summary(rows)
    assert (kind["sm"], kind["kernel"], kind["direction"]) == (90, "sums", "backward")
    assert (kind["programs"], kind["spilling"], kind["spilled"]) == (2, 1, 8)
    assert kind["registers"] == max(row["registers"] for row in rows) > 0
