"""XLA's handlers for CUDA, called as XLA calls them; a driver that computes nothing writes down what arrives."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from fake_driver import STREAM, Fake
from native_build import ROOT, run
from native_calls import ROLES, dense_problem

from scanlib import gpu, native
from scanlib.roles import NUMBERS, written


@pytest.fixture(scope="session")
def frame(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Calls handlers as XLA does (tests/native/xla_frame.c)."""
    jax = pytest.importorskip("jax")
    if not hasattr(gpu.library(), "scanlib_xla_cuda"):
        pytest.skip("libscanlib was built without JAX's entry points")
    path = tmp_path_factory.mktemp("frame") / "libframe.so"
    source = ROOT / "tests" / "native" / "xla_frame.c"
    flags = "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"
    run("cc", *flags, "-isystem", jax.ffi.include_dir(), source, "-o", path)
    made = ctypes.CDLL(str(path))
    made.frame_traits.argtypes = [ctypes.c_void_p]
    made.frame_call.restype = ctypes.c_char_p
    pointer, number = ctypes.c_void_p, ctypes.c_int
    made.frame_call.argtypes = [
        pointer,
        pointer,
        number,
        number,
        *[pointer] * 4,
        ctypes.c_int64,
        ctypes.c_bool,
        number,
        pointer,
    ]
    return made


def handler(name: str) -> Any:
    return ctypes.cast(getattr(gpu.library(), f"scanlib_xla_{name}"), ctypes.c_void_p)


def call(
    frame: ctypes.CDLL,
    roles: tuple[str, ...],
    buffers: list[tuple[int, tuple[int, ...]]],
    **tuning: int,
) -> str:
    """Call the handler for a GPU on buffers of (address, extents), the last scratch memory; the error's text."""
    backward = "grad_h" in roles
    arguments = sum(role not in written(backward=backward) for role in roles)
    numbers = (ctypes.c_int64 * len(roles))(*(NUMBERS.get(role, -1) for role in roles))
    data = (ctypes.c_void_p * len(buffers))(*(address for address, _ in buffers))
    ranks = (ctypes.c_int64 * len(buffers))(*(len(dims) for _, dims in buffers))
    flat = [n for _, dims in buffers for n in dims]
    dims = (ctypes.c_int64 * len(flat))(*flat)
    tuned = [tuning.get(name, 0) for name in native.TUNING] if tuning else []
    # fmt: off
    said = frame.frame_call(handler("cuda"), STREAM, arguments, len(buffers), data, ranks, dims, numbers, 0, False,
                            len(tuned), (ctypes.c_int64 * len(tuned))(*tuned))
    # fmt: on
    return said.decode()


SHAPE = (1 << 16, 2)


def buffers(direction: str, scratch: int | None = None) -> list[tuple[int, tuple[int, ...]]]:
    roles = ROLES[direction]
    if scratch is None:
        scratch = gpu.scratch_bytes(dense_problem(SHAPE, 0, roles))
    full = [(4096 * (i + 1), SHAPE) for i in range(len(roles))]
    return [*full, (1 << 20, (scratch,))]


def test_handlers_may_be_recorded(frame: ctypes.CDLL) -> None:
    """XLA puts into a command buffer only what says that it may be."""
    assert frame.frame_traits(handler("cuda")) == 1
    assert frame.frame_traits(handler("cpu")) == 0


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_handlers_put_work_on_xlas_stream(frame: ctypes.CDLL, driver: Fake, direction: str) -> None:
    assert call(frame, ROLES[direction], buffers(direction)) == ""
    work = [line for line in driver.lines() if line.startswith(("cuLaunch", "cuMemset"))]
    assert work
    assert all(f"stream {STREAM}" in line for line in work)
    assert any(line.startswith(f"cuMemsetD8Async {1 << 20} ") for line in work)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_handlers_refuse_too_little_scratch_memory(
    frame: ctypes.CDLL, driver: Fake, direction: str
) -> None:
    said = call(frame, ROLES[direction], buffers(direction, 256))
    assert "brings 256 bytes of scratch memory" in said
    assert "export it again" in said
    assert driver.calls() == []


def test_handlers_cut_work_by_a_programs_numbers(frame: ctypes.CDLL, driver: Fake) -> None:
    roles = ROLES["forward"]
    with gpu.tuned({"bundle": 2}):
        needed = gpu.scratch_bytes(dense_problem(SHAPE, 0, roles, target=gpu.target()))
    assert needed > gpu.scratch_bytes(dense_problem(SHAPE, 0, roles))
    assert f"where {needed} are needed" in call(frame, roles, buffers("forward", 256), bundle=2)
    assert call(frame, roles, buffers("forward", needed), bundle=2) == ""
    assert any("-DSCANLIB_BUNDLE=2" in definitions for definitions, _ in driver.compiled)
    assert "an argument it does not accept" in call(frame, roles, buffers("forward"), bundle=1)


def test_handlers_say_what_the_driver_refused(frame: ctypes.CDLL, driver: Fake) -> None:
    driver.refuse("cuLaunchKernel")
    said = call(frame, ROLES["forward"], buffers("forward"))
    assert "the CUDA driver refused a call: cuLaunchKernel returned FAKE_ERROR" in said


def test_handlers_check_their_results(frame: ctypes.CDLL, driver: Fake) -> None:
    roles, given = ROLES["forward"], buffers("forward")
    assert "libscanlib was given an argument" in call(frame, ("a", "h"), [*given[:2], given[-1]])
    assert "got 0" in call(frame, roles, [*given[:2], given[-1]])
    assert "no role -1" in call(frame, ("a", "x", "no such"), given)
    assert driver.calls() == []
