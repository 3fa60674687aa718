"""What is made of a GPU's figures: the sweep's table, the profile's rows, and calls cut by other numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_build import ROOT
from native_calls import dense_problem

from scanlib import gpu
from scanlib.errors import NativeError

sys.path.insert(0, str(ROOT))
from bench.core import libraries
from bench.core.reference import WrongResultError
from bench.core.shapes import Case
from bench.core.timing import Budget, interleaved
from bench.gpu import direct as gpu_direct
from bench.gpu import profile as gpu_profile
from bench.gpu import report as gpu_report
from bench.gpu import stress as gpu_stress
from bench.gpu import sweep as gpu_sweep


def cell(knob: str, value: int, work: str, ratio: float, noise: float = 0.0) -> dict[str, Any]:
    where = {"case": "(8,) axis 0", "dtype": "float32", "work": work}
    return {"knob": knob, "value": value, "ratio": ratio, "noise": noise, **where}


def test_the_table_says_what_to_change() -> None:
    rows = [
        cell("bundle", 8, "forward", 0.5),
        cell("bundle", 8, "backward", 0.98),
        cell("bundle", 64, "forward", 1.2),
        cell("row_threads", 64, "forward", 0.97, noise=0.02),
        cell("run_bytes", 128, "forward", 1.1),
        cell("run_bytes", 32, "forward", 0.995),
    ]
    bundle, run_bytes, row_threads = gpu_sweep.table(rows)
    assert (bundle["knob"], bundle["best"], bundle["change"]) == ("bundle", 8, True)
    assert bundle["now"] == gpu_sweep.in_force()["bundle"]
    assert bundle["gain"] == pytest.approx(1 - (0.5 * 0.98) ** 0.5)
    assert (bundle["gain forward"], bundle["gain backward"]) == pytest.approx((0.5, 0.02))
    assert (bundle["worst"], bundle["worst at"]) == (0.98, "float32 (8,) axis 0, backward")
    assert (run_bytes["best"], run_bytes["change"]) == (32, False)  # not worth it
    assert (row_threads["best"], row_threads["change"]) == (64, False)  # within the noise


def test_every_number_of_the_plan_is_a_knob() -> None:
    """A number that is added to native/cuda_plan.h is tried too, and none is tried that has gone."""
    numbers = set(gpu_sweep.in_force())
    assert numbers
    assert numbers <= set(gpu_sweep.KNOBS)
    for knob, values in gpu_sweep.KNOBS.items():
        assert gpu_sweep.in_force().get(knob) not in values


def test_what_libscanlib_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sweep, "KNOBS", {"bundle": (8, 16), "no_such_knob": (1,)})
    report = gpu_report.Report("sweep", tmp_path / "results")
    assert gpu_sweep.accepted(report) == {"bundle": (8, 16)}
    (note,) = gpu_report.read(tmp_path / "results")["sweep"].left_out
    assert note.startswith("no_such_knob 1: libscanlib refuses it")


def test_numbers_hold_inside_only() -> None:
    def plan() -> tuple[list[str], str]:
        problem = dense_problem((1 << 18,), 0, ("a", "x", "h"), target=gpu.target())
        return gpu.programs(problem), gpu.describe(problem)

    before = plan()
    with gpu.tuned({"bundle": 2, "run_bytes": 32}):
        assert plan()[0] != before[0]
        assert plan()[1] != before[1]
    assert plan() == before
    with pytest.raises(NativeError, match="no_such_knob"), gpu.tuned({"no_such_knob": 1}):
        plan()
    for refused in ({"bundle": 1}, {"row_threads": 48}, {"run_bytes": -1}, {"resident": 4096}):
        with pytest.raises(NativeError, match="argument"), gpu.tuned(refused):
            plan()
    assert plan() == before


RAW = """
==PROF== Connected to process 1
calling (8,) axis 0: forward look-back over rows in float32
==PROF== Profiling "scanlib_kernel" - 0: 0%....50%....100% - 12 passes
"ID","Kernel Name","Grid Size","dram__throughput.avg.pct_of_peak_sustained_elapsed","launch__registers_per_thread",\
"smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",\
"smsp__average_warps_issue_stalled_membar_per_issue_active.ratio","gpu__time_duration.sum"
"","","","%","register/thread","inst","inst","inst","ns"
"0","scanlib_kernel","(528, 1, 1)","61.5","117","2.25","1,004.5","","812,345"
"1","scanlib_kernel(Params)","(528, 1, 1)","71.5","95","2.25","4.5","0.5","812,345"
"""


def test_the_counters_of_a_kernel_are_read() -> None:
    first, second = gpu_profile.rows(RAW.replace("\\\n", "").splitlines())
    assert first == {
        "duration": "812,345",
        "DRAM %": "61.5",
        "registers": "117",
        "stalls": "long_scoreboard 1004.5, wait 2.2",
    }
    assert second["stalls"] == "long_scoreboard 4.5, wait 2.2, membar 0.5"


def test_a_profile_without_counters_has_no_rows() -> None:
    assert gpu_profile.rows(["==ERROR== ERR_NVGPUCTRPERM", "", '"ID","Kernel Name"']) == []


class Memory:
    """An array of which nothing but its shape is known."""

    def __init__(self, shape: tuple[int, ...], address: int) -> None:
        self.shape, self.at = shape, address


class Library:
    def __init__(self) -> None:
        self.next = 1 << 20

    def empty(self, shape: tuple[int, ...], dtype: str) -> Memory:
        self.next += 1 << 28
        return Memory(shape, self.next + 4)

    def address(self, array: Memory) -> int:
        return array.at

    def stream(self) -> int:
        return 263


def test_a_call_is_made_under_its_own_numbers(driver: Any) -> None:
    library, case = Library(), Case((1 << 14, 64), 0)
    arrays = {role: library.empty(case.shape, "float32") for role in ("a", "x", "h")}
    plain = gpu_direct.Call(library, case, "float32", arrays, {})
    other = gpu_direct.Call(library, case, "float32", arrays, {"bundle": 2})
    assert plain.plan != other.plan
    assert [array is arrays["h"] for array in other.outputs] == [True]
    for call in (other, plain, other):
        call()
    bundles = [re.findall(r"BUNDLE=(\d+)", text)[0] for text, _ in driver.compiled]
    assert len(bundles) == len(set(bundles)) == 2
    assert bundles[0] == "2"
    (zeroed, *_) = [line for line in driver.lines() if line.startswith("cuMemset")]
    assert int(zeroed.split()[1]) % gpu.ALIGNMENT == 0


class Emulated(libraries.NumPy):
    """Arrays of NumPy for the emulated kernels."""

    name = "emulated"

    def array(self, values: Any) -> Any:
        return np.array(values)

    def to_numpy(self, array: Any) -> Any:
        return array

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return np.full(shape, 0x3F, dtype)

    def address(self, array: Any) -> int:
        return array.ctypes.data

    def stream(self) -> int:
        return 0

    def wait(self) -> None:
        pass

    def same(self, first: Any, second: Any) -> bool:
        return np.array_equal(first, second)

    def apart(self, first: Any, second: Any) -> float:
        return float(np.abs(first - second).max() / np.abs(second).max())


#: Of more than four stacks, where tiles are of 64 threads and short runs.
STRESSED = Case((1 << 14,), 0)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch, member: Any) -> Emulated:
    small = {"row_threads": 64, "run_bytes": 16, "backward_run_bytes": 16}
    monkeypatch.setattr(gpu_stress, "KNOBS", {**gpu_stress.KNOBS, **small})
    return Emulated()


@pytest.mark.parametrize(
    "work",
    [
        "forward",
        pytest.param("backward", marks=pytest.mark.slow),
        pytest.param("backward, a summed", marks=pytest.mark.slow),
    ],
)
def test_the_stress_test_passes_right_kernels(small_tiles: Emulated, work: str) -> None:
    row = gpu_stress.stress(small_tiles, STRESSED, work, 2)
    assert row["checked"]
    assert "look-back" in row["plan"]


def test_the_stress_test_sees_a_wrong_value_and_other_bits(
    small_tiles: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls, spoiled = gpu_stress._run, [], [0]

    def spoiling(library: Any, call: Any, what: str) -> None:
        run(library, call, what)
        calls.append(what)
        if len(calls) == spoiled[0]:
            call.outputs[0][-1] = np.nextafter(call.outputs[0][-1], np.inf, dtype=np.float32)
            call.outputs[0][7] *= 1 if what.startswith("repeat") else 1.5

    monkeypatch.setattr(gpu_stress, "_run", spoiling)
    spoiled[0] = 1
    with pytest.raises(WrongResultError, match="float64 loop"):
        gpu_stress.stress(small_tiles, STRESSED, "forward", 2)
    calls.clear()
    spoiled[0] = 3
    with pytest.raises(WrongResultError, match="repeat 1 has other bits"):
        gpu_stress.stress(small_tiles, STRESSED, "forward", 2)


@pytest.mark.slow
def test_the_sweep_measures_what_a_number_changes(
    member: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_sweep, "BUDGET", Budget(0, 2, 2))
    monkeypatch.setattr(Emulated, "timer", staticmethod(interleaved))
    knobs = {"look_back_threads": (64, 1024), "column_threads": (64,)}
    rows = gpu_sweep.measure(Emulated(), Case((3, 3000), 1), "float32", "backward", knobs)
    assert [(row["knob"], row["value"]) for row in rows] == [
        ("look_back_threads", 64),
        ("look_back_threads", 1024),  # more than shared memory has room for
    ]
    assert rows[0]["ratio"] > 0
    assert "error" in rows[1]["refused"]
    assert gpu_sweep.table([row for row in rows if "ratio" in row])[0]["best"] == 64
