"""The CUDA launcher against a driver that writes down what it is asked for: order, contexts, captures, errors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_driver import STREAM, Fake, restore
from native_build import run
from native_calls import dense_problem

from scanlib import compiler, gpu, native
from scanlib.errors import MissingLibraryError, NativeError
from scanlib.roles import FORWARD

SCRATCH = 1 << 20
A, X, H0, H, FINAL = (0x1000 * (i + 1) for i in range(5))  # never looked at


def problem(time: int = 1 << 16, **options: Any) -> native.NativeProblem:
    """One long float32 sequence, which takes scratch memory, with h0 and final state."""
    return dense_problem((time,), 0, FORWARD, **options)


def pointers(**others: int) -> bytes:
    return native.pack({"a": A, "x": X, "h0": H0, "h": H, "final": FINAL, **others})


def forward(stream: int = STREAM, scratch: int = SCRATCH, **options: Any) -> None:
    gpu.run(problem(**options), stream, scratch, pointers())


def test_everything_is_put_on_the_stream(driver: Fake) -> None:
    assert gpu.scratch_bytes(problem()) > 0
    forward()
    calls = driver.calls()
    assert calls[0] == "cuInit"
    assert calls.count("cuMemsetD8Async") == 1
    launches = [line for line in driver.lines() if line.startswith("cuLaunchKernel")]
    assert len(launches) == len(gpu.programs(problem())) >= 1
    assert calls[-1 - len(launches) :] == [
        *["cuLaunchKernel"] * len(launches),
        "cuCtxPopCurrent_v2",
    ]
    assert calls.index("cuMemsetD8Async") < calls.index("cuLaunchKernel")
    for line in driver.lines():
        if line.startswith(("cuLaunchKernel", "cuMemsetD8Async")):
            assert f"stream {STREAM}" in line
        if line.startswith("cuLaunchKernel"):
            assert "y 1 z 1 by 1 bz 1 shared 0" in line
            assert line.endswith("context 1 mode 0 parameters alone")
    assert f" {SCRATCH} 0 " in next(x for x in driver.lines() if x.startswith("cuMemset"))
    assert driver.balanced()


def test_programs_are_compiled_and_loaded_once(driver: Fake) -> None:
    forward()
    assert driver.compiled == [(text, 90) for text in gpu.programs(problem())]
    driver.forget()
    forward()
    assert len(driver.compiled) == len(gpu.programs(problem()))


def test_a_second_call_asks_the_driver_for_nothing_twice(driver: Fake) -> None:
    forward()
    driver.forget()
    forward()
    # fmt: off
    assert driver.calls() == [
        "cuStreamGetCtx", "cuCtxGetCurrent", "cuCtxPushCurrent_v2", "cuCtxGetDevice", "cuMemsetD8Async",
        "cuLaunchKernel", "cuCtxPopCurrent_v2",
    ]
    # fmt: on
    driver.forget()
    forward(time=1 << 17)
    assert "cuOccupancyMaxActiveBlocksPerMultiprocessor" in driver.calls(), "of another problem"


def test_blocks_that_follow_one_another_are_as_many_as_fit(driver: Fake) -> None:
    """The driver says how many of a kernel's blocks a multiprocessor holds: 3 on each of 4."""
    driver.library.fake_multiprocessors(4)
    forward(time=1 << 22)
    (asked,) = (line for line in driver.lines() if line.startswith("cuOccupancy"))
    threads = int(gpu.programs(problem())[0].split("THREADS=")[1].split()[0])
    assert asked.endswith(f"threads {threads} shared 0")
    assert " x 12 y 1 " in next(line for line in driver.lines() if line.startswith("cuLaunch"))


def test_a_device_has_room_for_the_carriers(driver: Fake) -> None:
    """Those of 16 sequences are 8 blocks; without a block beside them nothing would ever be there to be carried."""
    many = dense_problem((16, 1 << 16), 1, FORWARD)
    driver.library.fake_multiprocessors(2)
    with pytest.raises(native.NativeError, match=r"holds 9 blocks of its kernel at once.* holds 6"):
        gpu.run(many, STREAM, SCRATCH, pointers())
    driver.library.fake_multiprocessors(3)
    gpu.run(many, STREAM, SCRATCH, pointers())


def test_another_context_needs_no_other_program(driver: Fake) -> None:
    forward()
    driver.forget()
    forward(stream=2 * 256)
    assert "cuLibraryLoadData" not in driver.calls()
    assert "context 2" in next(x for x in driver.lines() if x.startswith("cuKernelGetFunction"))
    assert all("context 2" in x for x in driver.lines() if x.startswith("cuLaunchKernel"))


def test_another_architecture_needs_another_program(driver: Fake) -> None:
    forward()
    driver.library.fake_architecture(12, 0)
    forward(stream=2 * 256)  # of another device
    assert {architecture for _, architecture in driver.compiled} == {90, 120}


def test_a_first_call_may_be_captured(driver: Fake) -> None:
    """What a capture forbids happens while this thread is relaxed; what it is to record does not."""
    forward()
    for line in driver.lines():
        if line.startswith(("cuLibraryLoadData", "cuKernelGetFunction")):
            assert line.endswith("mode 2"), line
    assert driver.balanced()


def test_a_current_context_is_not_pushed_again(driver: Fake) -> None:
    driver.library.fake_current(1)
    forward()
    assert not {"cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"} & set(driver.calls())
    driver.forget()
    forward(stream=0)  # the default stream of the current context
    assert not {"cuCtxPushCurrent_v2", "cuPointerGetAttribute"} & set(driver.calls())
    driver.library.fake_current(0)


def test_without_a_current_context_the_operands_tell_the_device(driver: Fake) -> None:
    second = 1 << 32
    gpu.run(
        problem(), 0, SCRATCH, native.pack_forward(*(second + at for at in (A, X, H, H0, FINAL)))
    )
    assert "cuDevicePrimaryCtxRetain 1" in driver.lines()
    assert all("context 2" in x for x in driver.lines() if x.startswith("cuLaunchKernel"))
    assert driver.balanced()


REFUSABLE = [
    "cuStreamGetCtx",
    "cuCtxGetCurrent",
    "cuCtxPushCurrent_v2",
    "cuCtxGetDevice",
    "cuDeviceGetAttribute",
    "cuLibraryLoadData",
    "cuLibraryGetKernel",
    "cuKernelGetFunction",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuMemsetD8Async",
    "cuLaunchKernel",
]


@pytest.mark.parametrize("name", REFUSABLE)
def test_what_the_driver_refuses_is_said(driver: Fake, name: str) -> None:
    driver.refuse(name)
    with pytest.raises(NativeError, match=rf"{name} returned FAKE_ERROR \(as the test asked\)"):
        forward()
    assert driver.balanced()
    driver.refuse("nothing")
    forward()  # and the next call is whole again
    assert driver.calls()[-2:] == ["cuLaunchKernel", "cuCtxPopCurrent_v2"]


def test_every_function_of_the_driver_is_tried(driver: Fake) -> None:
    """The list above misses none that a launch goes through."""
    forward()
    harmless = {"cuInit", "cuThreadExchangeStreamCaptureMode", "cuCtxPopCurrent_v2"}
    assert set(driver.calls()) - harmless == set(REFUSABLE)


def test_a_forked_process_is_told_so(driver: Fake) -> None:
    driver.refuse("cuStreamGetCtx", 3)
    with pytest.raises(NativeError, match=r"FAKE_NOT_INITIALIZED.*forked.*spawn"):
        forward()


def test_a_program_that_is_not_loaded_tells_of_versions(
    driver: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: "99.1")
    monkeypatch.setattr(compiler, "unavailable", lambda: "")
    driver.refuse("cuLibraryLoadData")
    with pytest.raises(NativeError, match=r"FAKE_ERROR.*NVRTC 99\.1's.*Update the driver"):
        forward()
    for name, missing in (("cuLibraryGetKernel", ""), ("cuLibraryLoadData", "no NVRTC")):
        monkeypatch.setattr(compiler, "unavailable", lambda said=missing: said)
        driver.refuse(name)
        with pytest.raises(NativeError, match=r"FAKE_ERROR(?!.*NVRTC)"):
            forward()


def test_an_unloadable_kernel_leaves_no_library_behind(driver: Fake) -> None:
    driver.refuse("cuLibraryGetKernel")
    with pytest.raises(NativeError):
        forward()
    assert driver.calls().count("cuLibraryUnload") == driver.calls().count("cuLibraryLoadData") == 1


def test_threads_that_meet_a_program_at_once_share_it(driver: Fake) -> None:
    count, errors = 8, []
    together = threading.Barrier(count)

    def slow(definitions: str, architecture: int) -> bytes:
        together.wait(timeout=600)  # nobody has loaded it before all compile it: no lock is held
        return b"image"

    def call() -> None:
        try:
            forward()
        except BaseException as error:
            errors.append(error)

    if len(gpu.programs(problem())) == 1:
        driver.answer = slow
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    calls = driver.calls()
    kept = calls.count("cuLibraryLoadData") - calls.count("cuLibraryUnload")
    assert kept == len(gpu.programs(problem()))
    kernels = {line.split()[1] for line in driver.lines() if line.startswith("cuLaunchKernel")}
    assert len(kernels) == kept


@pytest.mark.parametrize("kind", [MissingLibraryError, compiler.CompileError])
def test_what_the_compiler_says_is_said(driver: Fake, kind: type[Exception]) -> None:
    def without_luck(definitions: str, architecture: int) -> bytes:
        raise kind("no such luck: 12% done")

    driver.answer = without_luck
    found = MissingLibraryError if kind is MissingLibraryError else NativeError
    with pytest.raises(found, match="no such luck: 12% done"):
        forward()
    assert "cuLaunchKernel" not in driver.calls()
    assert driver.balanced()


def test_an_error_in_the_compiler_does_not_pass_through_c(
    driver: Fake,
) -> None:
    def broken(definitions: str, architecture: int) -> bytes:
        raise KeyboardInterrupt("stopped")

    driver.answer = broken
    with pytest.raises(NativeError, match="does not compile: stopped"):
        forward()


def test_without_a_compiler_the_first_program_fails(driver: Fake) -> None:
    gpu.library().scanlib_cuda_set_compiler(None)
    with pytest.raises(MissingLibraryError, match="no compiler for CUDA kernels was set"):
        forward()


def test_no_driver_is_said() -> None:
    library = gpu.library()
    native.check(library.scanlib_cuda_use_driver(b"/nowhere/libcuda.so"))
    try:
        with pytest.raises(MissingLibraryError, match=r"driver was not found.*/nowhere/libcuda"):
            forward()
    finally:
        restore()


def test_an_old_driver_is_said(tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    source.write_text("int cuInit(unsigned flags) { return (int)flags; }\n")
    run("cc", "-shared", "-fPIC", source, "-o", tmp_path / "libold.so")
    library = gpu.library()
    native.check(library.scanlib_cuda_use_driver(str(tmp_path / "libold.so").encode()))
    try:
        with pytest.raises(MissingLibraryError, match=r"too old: it has no cu\w+.*CUDA 12"):
            forward()
    finally:
        restore()


def test_a_machine_without_a_gpu_is_said(driver: Fake) -> None:
    driver.refuse("cuInit", 100)
    with pytest.raises(MissingLibraryError, match="no GPU is visible to this process"):
        forward()
    driver.refuse("nothing")
    forward()  # it is asked again


@pytest.mark.parametrize("scratch", [0, SCRATCH + 8])
def test_scratch_memory_is_checked(driver: Fake, scratch: int) -> None:
    with pytest.raises(NativeError, match="argument"):
        forward(scratch=scratch)
    assert "cuLaunchKernel" not in driver.calls()


def test_scratch_memory_is_no_more_aligned_than_xla_has_it(driver: Fake) -> None:
    """Its temporaries are at multiples of 128 bytes, and may be at smaller ones."""
    assert gpu.ALIGNMENT == 16
    forward(scratch=SCRATCH + gpu.ALIGNMENT)
    assert "cuLaunchKernel" in driver.calls()


def test_operands_are_checked(driver: Fake) -> None:
    with pytest.raises(NativeError, match="argument"):
        gpu.run(problem(), STREAM, SCRATCH, pointers(h=0))
    with pytest.raises(NativeError, match="multiple of its element size"):
        gpu.run(problem(), STREAM, SCRATCH, pointers(x=X + 2))
    assert driver.calls() == []


def test_addresses_of_objects_are_followed(driver: Fake) -> None:
    holders = np.array([[0, pointer] for pointer in (A, X, H, H0, FINAL)], dtype=np.uint64)
    where = native.pack_forward(*(holders[i].ctypes.data for i in range(5)))
    gpu.run(problem(holder_offset=8), STREAM, SCRATCH, where)
    assert "cuLaunchKernel" in driver.calls()
    holders[2, 1] = 2  # h
    with pytest.raises(NativeError, match="multiple of its element size"):
        gpu.run(problem(holder_offset=8), STREAM, SCRATCH, where)


def test_nothing_to_write_launches_nothing(driver: Fake) -> None:
    empty = dense_problem((0, 4), 0, ("a", "x", "h"))
    assert gpu.scratch_bytes(empty) == 0
    assert gpu.programs(empty) == []
    gpu.run(empty, STREAM, 0, native.pack({}))
    assert "cuLaunchKernel" not in driver.calls()
