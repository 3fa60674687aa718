"""What only a GPU can show: every kernel, the same bits again, sizes past 2^31, threads, forks and other devices.

test_gpu_streams.py has streams and captures. The matrix covers the values.
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stacks
from capabilities import Backend
from gpu_members import fresh_programs, member
from helpers import check_forward, check_gradients, decay, normal, rng_for, same_bits
from matrix import Member
from native_calls import dense_problem

import scanlib
from scanlib import compiler, gpu, native

pytestmark = pytest.mark.gpu

#: Shapes that reach every kernel: walks over rows and columns, look-back, short and long.
REGIMES = [
    ((8, 512, 64), 1),
    ((4096, 32), 0),
    ((1 << 16, 3), 0),
    ((1 << 18,), 0),
    ((4, 1 << 16), 1),
    ((2048, 300), 1),
    ((1 << 14, 16), 1),
    ((16, 1 << 14), 0),
]


@pytest.fixture(params=[Backend.CUPY, Backend.TORCH_CUDA, Backend.JAX_CUDA], ids=lambda b: b.value)
def on_gpu(request: pytest.FixtureRequest) -> Member:
    return member(request.param)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128"])
@pytest.mark.parametrize("case", REGIMES, ids=str)
def test_every_kernel(on_gpu: Member, case: tuple[tuple[int, ...], int], dtype: str) -> None:
    shape, axis = case
    rng = rng_for(case, dtype)
    reverse = bool(rng.integers(2))
    a, x = decay(rng, shape, dtype), normal(rng, shape, dtype)
    h0 = normal(rng, tuple(np.delete(shape, axis)), dtype)
    check_forward(on_gpu, a, x, h0, axis=axis, reverse=reverse)
    check_gradients(on_gpu, a, x, h0, axis=axis, reverse=reverse)
    once = a[:1] if shape[0] > 1 and axis != 0 else a[:, :1] if len(shape) > 1 else a[:1]
    check_gradients(on_gpu, once, x, h0, axis=axis, reverse=reverse)


@pytest.mark.parametrize("case", REGIMES, ids=str)
def test_the_same_bits_again(on_gpu: Member, case: tuple[tuple[int, ...], int]) -> None:
    shape, axis = case
    rng = rng_for(case)
    a, x = (on_gpu.array(v) for v in (decay(rng, shape, "float32"), normal(rng, shape, "float32")))
    runs = [on_gpu.numpy(on_gpu.scan(a, x, axis=axis)) for _ in range(5)]
    assert all(same_bits(run, runs[0]) for run in runs)
    grads = [on_gpu.gradients(a[:1], x, None, x, None, axis=axis) for _ in range(3)]
    for other in grads[1:]:
        for mine, first in zip(other[:2], grads[0][:2], strict=True):
            assert same_bits(on_gpu.numpy(mine), on_gpu.numpy(first))


@pytest.mark.parametrize("layout", stacks.SHAPES)
@pytest.mark.parametrize("backend", [Backend.CUPY, Backend.TORCH_CUDA], ids=lambda b: b.value)
def test_stacks(backend: Backend, layout: str) -> None:
    stacks.check(member(backend), layout, repeats=200)


@pytest.mark.parametrize("shape", [(300, 64, 48), (1 << 16, 2, 24), (3, 40, 1024)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gates(torch: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Columns of gates in one pass, with resets and states: outputs and gradients are those of the CPU."""
    from scanlib.cells.gates import Gated, Gates, outputs
    from scanlib.cells.starts import Starts

    gates = Gates(("decay", "input", "output", "candidate"))
    torch.manual_seed(1)
    drawn = [
        torch.randn(*rest) for rest in ((*shape[:2], 4 * shape[2]), shape[1:], shape, shape[1:])
    ]
    reset = torch.rand(*shape[:2]) < 0.1
    drawn = [t.to(getattr(torch, dtype)) for t in drawn]
    results = []
    for device, own in (("cpu", torch.float32), ("cuda", drawn[0].dtype)):
        columns, first, *grads = (t.to(device, own) for t in drawn)
        given = [columns.requires_grad_(), first.requires_grad_()]
        found = outputs(Gated(columns, gates), first, Starts(0, reset.to(device)))
        assert "GatedScan" in type(found[0].grad_fn).__name__
        results.append([*found, *torch.autograd.grad(found, given, grads)])
    close = 5e-2 if dtype == "bfloat16" else 1e-4
    for right, actual in zip(*results, strict=True):
        assert (right - actual.cpu()).abs().max() <= close * right.abs().max()


# ---- sizes


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 5], ids=["one sequence", "five"])
def test_past_two_to_the_31_elements(torch: Any, columns: int) -> None:
    """Half-lives of a step, so that the value at t depends on the last 40 steps alone, wherever t lies."""
    steps = (1 << 31) // columns + 12_345
    if torch.cuda.mem_get_info()[0] < 8 * steps * columns:
        pytest.skip("needs more free memory on the GPU than there is")
    x = torch.zeros((steps, columns), dtype=torch.bfloat16, device="cuda")
    where = torch.tensor(
        [0, 1 << 20, (1 << 31) // columns - 3, (1 << 31) // columns + 7, steps - 1]
    )
    x[where] = 1.0
    h = scanlib.linear_recurrence(0.5, x, axis=0)
    for spot in where.tolist():
        for back in range(0, 5):
            if spot + back < steps:
                assert h[spot + back].eq(0.5**back).all(), (spot, back)
    assert h[(1 << 30) // columns].eq(0).all()
    torch.cuda.synchronize()


# ---- processes and devices


def test_many_threads(torch: Any) -> None:
    fresh_programs()
    a, x = torch.rand((64, 2048), device="cuda"), torch.randn((64, 2048), device="cuda")
    expected = scanlib.linear_recurrence(a, x, axis=1)
    torch.cuda.synchronize()
    fresh_programs()
    results: list[Any] = []

    def call() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            h = scanlib.linear_recurrence(a, x, axis=1)
            torch.cuda.current_stream().synchronize()
            results.append(h)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(torch.equal(h, expected) for h in results)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_fork_it_says_so(cupy: Any) -> None:
    a = cupy.full((8, 8), 0.5)
    scanlib.linear_recurrence(a, a, axis=0)
    problem = dense_problem((8,), 0, "axh")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            gpu.run(problem, 0, 0, native.pack(dict.fromkeys("axh", a.data.ptr)))
            os.write(writer, b"nothing")
        except BaseException as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.waitpid(child, 0)
    assert "spawn" in said, said


def test_two_devices(torch: Any) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    a, x = torch.rand((32, 500), device="cuda:1"), torch.randn((32, 500), device="cuda:1")
    h = scanlib.linear_recurrence(a, x, axis=1)
    assert h.device == x.device
    assert torch.cuda.current_device() == 0
    assert torch.equal(h.cpu(), scanlib.linear_recurrence(a.to(0), x.to(0), axis=1).cpu())
    with pytest.raises(scanlib.DeviceError):
        scanlib.linear_recurrence(a.to(0), x, axis=1)


def test_ptx_for_gpus_newer_than_the_compiler(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiler, "target", lambda architecture: ("ptx", "compute_75"))
    monkeypatch.setenv("SCANLIB_CACHE_DIR", str(tmp_path))
    fresh_programs()
    driver = divmod(cupy.cuda.runtime.driverGetVersion() // 10, 100)
    refused = tuple(map(int, compiler.nvrtc_version().split("."))) > driver
    try:
        with (
            pytest.raises(scanlib.NativeError, match=r"NVRTC.*Update the driver")
            if refused
            else nullcontext()
        ):
            h = scanlib.linear_recurrence(cupy.full(8, 0.5), cupy.ones(8))
            assert h.get().tolist() == [2 - 0.5**k for k in range(8)]
    finally:
        fresh_programs()


def test_explained(on_gpu: Member) -> None:
    a = on_gpu.array(np.full((4, 1000), 0.5, np.float32))
    explanation = scanlib.explain(a, a, axis=1)
    assert explanation.path == "libscanlib (cuda)"
    assert "cuda" in explanation.device.lower()
