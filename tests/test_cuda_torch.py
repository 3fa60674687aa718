"""What the adapter of PyTorch hands to the CUDA launcher, without a GPU: tensors say that they are on one.

The emulated kernels (tests/emulated.py) compute what torch asks for, or a driver that computes nothing writes it down.
"""

from __future__ import annotations

import struct
from typing import Any

import emulated
import numpy as np
import pytest
from fake_driver import STREAM, Fake, asked_before_the_driver
from helpers import decay, normal, rng_for
from native_calls import ROLES, dense_problem

import scanlib
from scanlib import gpu, native
from scanlib.gates import GATED, form_of
from scanlib.roles import NAMES

torch = pytest.importorskip("torch")
from scanlib.backends.torch import cuda as torch_cuda  # noqa: E402
from scanlib.backends.torch import gates as torch_gates  # noqa: E402
from scanlib.backends.torch import plans  # noqa: E402
from scanlib.backends.torch import run as torch_run  # noqa: E402


class OnGpu(torch.Tensor):  # type: ignore[misc]
    """A tensor that says it is in a GPU's memory; what is made from it says so too."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]


@pytest.fixture
def emulated_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tensors on the "GPU" run on the emulated kernels; returns the sizes of scratch memory that were asked for."""
    emulated.adapter()
    emulated.start()
    sizes: list[int] = []
    empty = torch.empty

    def aligned(size: Any, **options: Any) -> Any:
        """As torch's CUDA allocator aligns; filled, since only what a launch zeroes itself may be relied on."""
        if options.get("dtype") is not torch.uint8:
            return empty(size, **options)
        sizes.append(size)
        memory = torch.full((size + gpu.ALIGNMENT,), 255, dtype=torch.uint8)
        return memory[-memory.data_ptr() % gpu.ALIGNMENT :][:size]

    monkeypatch.setattr(torch_cuda, "_stream", lambda index: 0)
    monkeypatch.setattr(torch_cuda, "architectures", lambda index: (90,))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)  # what a CPU tensor says
    monkeypatch.setattr(torch, "empty", aligned)
    return sizes


CASES = [
    ((3, 40, 5), 1, (3, 40, 5), "float32"),
    ((3, 40, 5), 1, (5,), "float32"),
    ((6000,), 0, (6000,), "float64"),
    ((6000, 2), 0, (1, 2), "complex64"),
    ((4, 3000), 1, (4, 1), "bfloat16"),
]


@pytest.mark.parametrize(("shape", "axis", "a_shape", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_torch_hands_everything_over(
    emulated_gpu: list[int],
    shape: tuple[int, ...],
    axis: int,
    a_shape: tuple[int, ...],
    dtype: str,
    reverse: bool,
) -> None:
    rng = rng_for(shape, dtype, reverse)
    wide = "float32" if dtype == "bfloat16" else dtype

    def tensor(values: Any) -> Any:
        return torch.from_numpy(values).to(getattr(torch, dtype))

    states = tuple(np.delete(shape, axis))
    a, x = tensor(decay(rng, a_shape, wide)), tensor(normal(rng, shape, wide))
    h0, grad_final = (tensor(normal(rng, states, wide)) for _ in range(2))
    grad_h = tensor(normal(rng, shape, wide))
    results = []
    for kind in (torch.Tensor, OnGpu):
        given = [t.as_subclass(kind) for t in (a, x, h0, grad_h, grad_final)]
        h, final = torch_run.forward(*given[:3], axis, reverse, True)
        grads = torch_run.backward(
            given[3], given[4], given[0], h, given[2], axis, reverse, x.dtype
        )
        results.append([t.as_subclass(torch.Tensor) for t in (h, final, *grads)])
    close = 3e-2 if dtype == "bfloat16" else 1e-4
    for cpu, cuda in zip(*results, strict=True):
        assert cpu.shape == cuda.shape
        assert (cpu - cuda).abs().max() <= close * cpu.abs().max()


@pytest.mark.parametrize("kind", ["reset", "offsets", "offsets at any address"])
def test_torch_hands_over_where_sequences_start(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """To a launch that runs the same problem on the CPU."""
    launched: list[set[str]] = []

    def launch(problem: native.NativeProblem, pointers: bytes, beside: Any) -> None:
        table = struct.unpack(f"{len(NAMES)}P", pointers)
        given = {role: pointer for role, pointer in zip(NAMES, table, strict=True) if pointer}
        assert isinstance(beside, OnGpu)
        assert all(pointer % 8 == 0 for role, pointer in given.items() if role != "reset")
        launched.append(set(given))
        native.run(problem, pointers)

    monkeypatch.setattr(torch_run, "launch", launch)
    monkeypatch.setattr(torch_cuda, "architectures", lambda index: ())
    reset, offsets, states = None, torch.tensor([0, 0, 7, 20]), (3, 2)
    if kind == "reset":
        reset, offsets, states = torch.arange(20)[:, None] % 7 == 0, None, (2,)
    elif kind != "offsets":
        buffer = bytearray(4) + offsets.numpy().tobytes()
        offsets = torch.frombuffer(buffer, dtype=torch.int64, offset=4)
    shapes = (20, 2), (20, 2), states, (20, 2), states
    torch.manual_seed(1)
    operands = [torch.rand(shape) for shape in shapes]
    results = []
    for kind_of in (torch.Tensor, OnGpu):
        a, x, h0, grad_h, grad_final = (t.as_subclass(kind_of) for t in operands)
        starts = [None if t is None else t.as_subclass(kind_of) for t in (reset, offsets)]
        h, final = torch_run.forward(a, x, h0, 0, False, True, None, None, *starts)
        h = h.as_subclass(kind_of)
        grads = torch_run.backward(grad_h, grad_final, a, h, h0, 0, False, x.dtype, *starts)
        results.append([t.as_subclass(torch.Tensor) for t in (h, final, *grads)])
    role = kind.split()[0]
    assert [role in roles for roles in launched] == [True, True]
    assert all(map(torch.equal, *results))


def test_torch_brings_as_much_scratch_memory_as_is_needed(emulated_gpu: list[int]) -> None:
    a, x = (torch.full((50_000,), 0.5).as_subclass(OnGpu) for _ in range(2))
    plan = plans.forward_plan(
        *plans.signature(a), *plans.signature(x), None, 0, False, False, 1
    ).plan
    assert gpu.scratch_bytes(plan.native) > 0
    torch_run.forward(a, x, None, 0, False, False)
    assert emulated_gpu == [gpu.scratch_bytes(plan.native)]


def test_torch_takes_the_current_stream_of_the_tensors_device(
    driver: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch_cuda, "_stream", lambda index: asked.append(index) or STREAM)
    monkeypatch.setattr(torch_cuda, "architectures", lambda index: (90,))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    a, x = (torch.full((8, 4), 0.5).as_subclass(OnGpu) for _ in range(2))
    torch_run.forward(a, x, None, 0, False, False)
    assert asked == [-1]
    (launch,) = (line for line in driver.lines() if line.startswith("cuLaunchKernel"))
    assert f"stream {STREAM} context 1" in launch


def test_torch_makes_another_device_current(driver: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *_: object) -> None:
            current.pop()

    seen: list[int] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch_cuda, "architectures", lambda index: (90,))
    monkeypatch.setattr(torch_cuda, "_stream", lambda index: seen.append(current[-1]) or STREAM)
    a = torch.full((8, 4), 0.5).as_subclass(OnGpu)  # of "device" -1
    torch_run.forward(a, a, None, 0, False, False)
    assert seen == [-1]
    assert current == [0]


def test_torch_for_rocm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    a = torch.full((8, 4), 0.5).as_subclass(OnGpu)
    with pytest.raises(ValueError, match="built for ROCm"):
        torch_run.forward(a, a, None, 0, False, False)


def test_torch_compiles_when_a_plan_is_made(driver: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the architecture of the tensors' device, before the call; one that finds its plan asks for nothing."""
    monkeypatch.setattr(torch_cuda, "_stream", lambda index: STREAM)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    plans.forward_plan.cache_clear()
    plans.backward_plan.cache_clear()
    found = asked_before_the_driver(driver)
    a = torch.full((1 << 17,), 0.5).as_subclass(OnGpu)
    for backward in (False, True):
        assert "look-back" in scanlib.explain(a, a, backward=backward).kernel
    assert driver.compiled == []
    for architecture in (90, 120):
        monkeypatch.setattr(torch_cuda, "architectures", lambda index, of=architecture: (of,))
        for roles, pass_ in (
            (ROLES["forward"], lambda: torch_run.forward(a, a, None, 0, False, False)),
            (ROLES["backward"], lambda: torch_run.backward(a, None, a, a, None, 0, False, a.dtype)),
        ):
            found.clear()
            driver.forget()
            pass_()
            needed = gpu.programs(dense_problem(tuple(a.shape), 0, roles))
            assert found == [(text, architecture) for text in needed]
            assert driver.calls()
            count = len(driver.compiled)
            pass_()
            assert len(driver.compiled) == count


def test_torch_compiles_nothing_for_tensors_without_memory(driver: Fake) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    plans.forward_plan.cache_clear()
    with FakeTensorMode():
        x = torch.empty((1 << 17,), device="cuda:0")
        assert scanlib.linear_recurrence(0.5, x).device.type == "cuda"
    x = torch.empty((1 << 17,), device="meta")
    assert scanlib.linear_recurrence(0.5, x).is_meta
    assert plans.forward_plan.cache_info().currsize == 0
    assert driver.compiled == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_runs_gates_on_a_gpu(
    emulated_gpu: list[int], monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """The operators of gates hand tensors over, and their programs' architecture, as on the CPU they hand addresses."""
    asked: list[int] = []
    monkeypatch.setattr(torch_cuda, "architectures", lambda index: asked.append(index) or (90,))
    form = form_of(4 * 8, ("decay", "input", "output", "candidate"), "tanh", False, GATED)
    assert form is not None
    torch.manual_seed(1)
    shapes = ((3000, 1, 32), (1, 8), (3000, 1, 8), (1, 8))
    columns, first, grad, grad_final = (torch.randn(shape) for shape in shapes)
    reset = torch.rand(3000, 1) < 0.01
    results = []
    for kind in (torch.Tensor, OnGpu):
        own = torch.float32 if kind is torch.Tensor else getattr(torch, dtype)
        c, h0, g, gf = (t.to(own).as_subclass(kind) for t in (columns, first, grad, grad_final))
        r = reset.as_subclass(kind)
        h, y, final = torch_gates._forward(c, h0, r, 0, list(form))
        grads = torch_gates._backward(g, gf, c, h, h0, r, 0, list(form))
        results.append([t.as_subclass(torch.Tensor) for t in (y, final, *grads)])
    assert asked == [-1, -1]
    close = 5e-2 if dtype == "bfloat16" else 1e-4
    for cpu, cuda in zip(*results, strict=True):
        assert cuda.dtype == getattr(torch, dtype)
        assert (cpu - cuda).abs().max() <= close * cpu.abs().max()
