"""What is put on a GPU's streams: calls wait for their own alone, and graphs record them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from capabilities import Backend
from gpu_members import fresh_programs, member
from helpers import decay, normal, rng_for, same_bits
from native_calls import dense_problem
from oracle import recurrence

import scanlib
from scanlib import gpu

pytestmark = pytest.mark.gpu


# ---- streams


#: Cycles that a kernel holds its stream up: the next where the host took longer than that for the call behind it.
DELAYS = [4 * 10**8, 2 * 10**9, 10**10]


def test_torch_waits_for_its_stream_alone(torch: Any) -> None:
    """Inputs that a long kernel holds up on a side stream are read when they are there, with no host in between."""
    a = torch.full((1000, 64), 0.5, device="cuda")
    expected = scanlib.linear_recurrence(a, torch.ones_like(a), axis=0)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.empty_like(a)

        def filled_and_run() -> Any:
            x.fill_(1.0)
            return scanlib.linear_recurrence(a, x, axis=0)

        # Getting memory for a stream's pool, and loading a kernel, may wait for the device: done ahead.
        torch.cuda._sleep(1)
        filled_and_run()
        for cycles in DELAYS:
            h = None  # whose memory the next call takes
            x.fill_(float("nan"))
            stream.synchronize()
            torch.cuda._sleep(cycles)
            h = filled_and_run()
            ahead = not stream.query()
            stream.synchronize()
            if ahead:
                break
    assert ahead, "the call waited for the GPU"
    assert torch.equal(h, expected)


def test_cupy_waits_for_its_stream_alone(cupy: Any) -> None:
    nap = cupy.RawKernel(
        'extern "C" __global__ void nap(long long n) { long long t = clock64(); while (clock64() - t < n) {} }',
        "nap",
    )
    a = cupy.full((1000, 64), 0.5)
    expected = scanlib.linear_recurrence(a, cupy.ones_like(a), axis=0)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.empty_like(a)

        def filled_and_run() -> Any:
            x.fill(1.0)
            return scanlib.linear_recurrence(a, x, axis=0)

        nap((1,), (1,), (np.int64(1),))
        filled_and_run()
        for cycles in DELAYS:
            h = None
            x.fill(cupy.nan)
            stream.synchronize()
            nap((1,), (1,), (np.int64(cycles),))
            h = filled_and_run()
            ahead = not stream.done
            stream.synchronize()
            if ahead:
                break
    assert ahead, "the call waited for the GPU"
    assert bool((h == expected).all())


# ---- graphs


@pytest.mark.parametrize("first", [False, True], ids=["warm", "first call"])
@pytest.mark.parametrize("shape", [(64, 300, 40), (1 << 18, 2)], ids=str)
def test_torch_graph(torch: Any, shape: tuple[int, ...], first: bool) -> None:
    axis = len(shape) - 2
    a, x = torch.rand(shape, device="cuda"), torch.randn(shape, device="cuda")
    a.requires_grad_()
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def step() -> tuple[Any, Any]:
        h = scanlib.linear_recurrence(a, x, axis=axis)
        return h, torch.autograd.grad(h.sum(), a)[0]

    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # torch's own warm-up: its kernels and its autograd must be up
        step()
    torch.cuda.current_stream().wait_stream(side)
    if first:
        fresh_programs()
    with torch.cuda.graph(graph):
        h, grad = step()
    for _ in range(3):
        with torch.no_grad():
            x.normal_()
        graph.replay()
        torch.cuda.synchronize()
        want_h, want_grad = step()
        assert torch.equal(h, want_h)
        assert torch.equal(grad, want_grad)


def test_cupy_graph(cupy: Any) -> None:
    """Replays give the right values, and write to no memory that others have been given since."""
    a, x = cupy.random.random((1 << 18, 2)), cupy.random.random((1 << 18, 2))
    out = cupy.empty_like(x)
    size = gpu.scratch_bytes(dense_problem(x.shape, 0, "axh", "float64"))
    assert size > 0
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        scanlib.linear_recurrence(a, x, axis=0, out=out)
        stream.synchronize()
        stream.begin_capture()
        scanlib.linear_recurrence(a, x, axis=0, out=out)
        graph = stream.end_capture()
        # The pool would hand out first what was given back last on this stream; filled with what no launch writes.
        others = [cupy.full(size, 0xA5, cupy.uint8) for _ in range(8)]
        for _ in range(3):
            x[...] = cupy.random.random(x.shape)
            graph.launch(stream)
            stream.synchronize()
            assert bool((out == scanlib.linear_recurrence(a, x, axis=0)).all())
        assert all(bool((other == 0xA5).all()) for other in others)


def test_jax_command_buffers() -> None:
    lib = member(Backend.JAX_CUDA)
    import jax
    import jax.numpy as jnp

    def many(a: Any, x: Any) -> Any:
        for _ in range(6):  # enough calls in a row for XLA to record them
            x = jnp.sin(scanlib.linear_recurrence(a, x, axis=0))
        return x

    rng = rng_for("command buffers")
    shape = (1 << 16, 4)
    a, x = (lib.array(v) for v in (decay(rng, shape, "float32"), normal(rng, shape, "float32")))
    run = jax.jit(many)
    text = run.lower(a, x).compile().as_text()
    assert text.count("scanlib_recurrence") >= 6
    assert all(same_bits(run(a, x), run(a, x)) for _ in range(3))
    expected = np.asarray(x, np.float64)
    for _ in range(6):
        expected = np.sin(recurrence(np.asarray(a, np.float64), expected, axis=0)[0])
    assert np.allclose(run(a, x), expected, atol=1e-3)
