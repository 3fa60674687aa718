"""What the adapters of PyTorch and CuPy and JAX's handlers hand to the CUDA launcher, without a GPU.

The emulated kernels (tests/emulated.py) compute what torch asks for; the handlers are called as XLA calls them
and a driver that computes nothing writes down what arrives.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import emulated
import numpy as np
import pytest
from fake_driver import Fake
from helpers import decay, normal, rng_for
from native_build import ROOT, run
from native_calls import dense_problem

import scanlib
from scanlib import dispatch, gpu, kinds
from scanlib.gates import GATED, form_of
from scanlib.roles import NUMBERS, written

torch = pytest.importorskip("torch")
from scanlib.backends.torch import cuda as torch_cuda  # noqa: E402
from scanlib.backends.torch import gates as torch_gates  # noqa: E402
from scanlib.backends.torch import run as torch_run  # noqa: E402

STREAM = 1 * 256 + 7


# ---- torch


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


def test_torch_brings_as_much_scratch_memory_as_is_needed(emulated_gpu: list[int]) -> None:
    a, x = (torch.full((50_000,), 0.5).as_subclass(OnGpu) for _ in range(2))
    plan = torch_run.forward_plan(
        *torch_run.signature(a), *torch_run.signature(x), None, 0, False, False, 1
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


def asked_before_the_driver(driver: Fake) -> list[tuple[str, int]]:
    """Will hold the programs that are asked for before a call has got to the driver."""
    found: list[tuple[str, int]] = []

    def answer(definitions: str, architecture: int) -> bytes:
        if not driver.calls():
            found.append((definitions, architecture))
        return b"image"

    driver.answer = answer
    return found


def test_torch_compiles_when_a_plan_is_made(driver: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the architecture of the tensors' device, before the call; one that finds its plan asks for nothing."""
    monkeypatch.setattr(torch_cuda, "_stream", lambda index: STREAM)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)
    torch_run.forward_plan.cache_clear()
    torch_run.backward_plan.cache_clear()
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

    torch_run.forward_plan.cache_clear()
    with FakeTensorMode():
        x = torch.empty((1 << 17,), device="cuda:0")
        assert scanlib.linear_recurrence(0.5, x).device.type == "cuda"
    x = torch.empty((1 << 17,), device="meta")
    assert scanlib.linear_recurrence(0.5, x).is_meta
    assert torch_run.forward_plan.cache_info().currsize == 0
    assert driver.compiled == []


# ---- CuPy: what the adapter asks of it, as far as that can be shown without it


class _Device:
    """cupy.cuda.Device: a number, and a context in which it is current."""

    entered: ClassVar[list[int]] = []

    def __init__(self, number: int) -> None:
        self.id = number
        self.compute_capability = "120" if number % 2 else "90"

    def __enter__(self) -> None:
        self.entered.append(self.id)

    def __exit__(self, *_: object) -> None:
        self.entered.append(-1)


class _Array(np.ndarray[Any, Any]):
    """An array that says it is CuPy's, on device 0 or another."""

    number = 0
    device = property(lambda self: _Device(self.number))
    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))  # type: ignore[assignment]


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The adapter, imported over a stand-in; puts everything back."""
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("CuPy itself is here")
    blocks: list[tuple[int, weakref.ref[Any]]] = []

    def alloc(size: int) -> Any:
        memory = np.full(size + 512, 255, np.uint8)
        address = memory.ctypes.data + -memory.ctypes.data % 512
        blocks.append((address, weakref.ref(memory)))
        return SimpleNamespace(ptr=address, size=size, memory=memory)

    # Of two kinds of GPU: those with an odd number are sm_120.
    runtime = SimpleNamespace(is_hip=False, getDevice=lambda: max(_Device.entered[-1], 0))
    stream = SimpleNamespace(ptr=STREAM, capturing=False, is_capturing=lambda: stream.capturing)
    module: Any = ModuleType("cupy")
    module.ndarray = _Array
    module.empty = lambda shape, dtype: np.empty(shape, dtype).view(_Array)
    module.asarray = lambda value: value
    module.full = lambda shape, value, dtype: np.full(shape, value, dtype).view(_Array)
    module.cuda = SimpleNamespace(
        runtime=runtime,
        alloc=alloc,
        get_current_stream=lambda: stream,
        blocks=blocks,
        Device=_Device,
    )
    _Device.entered.clear()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(kinds._kinds, _Array, "cupy")
    yield module
    sys.modules.pop("scanlib.backends.cupy", None)
    for types in [types for types in dispatch._adapters if _Array in types]:
        del dispatch._adapters[types]


def test_cupy_takes_the_current_stream_and_its_pool(cupy: Any, driver: Fake) -> None:
    a = cupy.full((1 << 17,), 0.5, np.float32)
    h, final = scanlib.linear_recurrence(a, a, return_final=True)
    assert (type(h), type(final)) == (_Array, _Array)
    ((address, _),) = cupy.cuda.blocks
    work = [line for line in driver.lines() if line.startswith(("cuLaunch", "cuMemset"))]
    assert all(f"stream {STREAM}" in line for line in work)
    assert any(line.startswith(f"cuMemsetD8Async {address} ") for line in work)
    assert _Device.entered == [0, -1]


def test_cupy_keeps_the_scratch_memory_of_captured_calls(cupy: Any, driver: Fake) -> None:
    """A graph's launches write it, so no other array may ever be given it; an ordinary call gives it back."""
    a, stream = cupy.full((1 << 17,), 0.5, np.float32), cupy.cuda.get_current_stream()
    for stream.capturing in (False, True, True, False):
        scanlib.linear_recurrence(a, a)
        scanlib.linear_recurrence_vjp(a, a, a)
    gc.collect()
    kept = [memory() is not None for _, memory in cupy.cuda.blocks]
    assert kept == [False] * 2 + [True] * 4 + [False] * 2
    assert (
        len({address for (address, _), alive in zip(cupy.cuda.blocks, kept, strict=True) if alive})
        == 4
    )


def test_cupy_works_on_the_arrays_device(cupy: Any, driver: Fake) -> None:
    a, b = (cupy.full((8, 4), 0.5, np.float32) for _ in range(2))
    a.number = b.number = 3
    scanlib.linear_recurrence(a, b, axis=0)
    scanlib.linear_recurrence_vjp(a, b, b, axis=0)
    assert scanlib.explain(0.5, b, axis=0).path == "libscanlib (cuda)"
    assert _Device.entered == [3, -1] * 3
    b.number = 1
    with pytest.raises(scanlib.DeviceError, match="must be on one device, but a is on GPU 3"):
        scanlib.linear_recurrence(a, b, axis=0)


def test_cupy_compiles_when_a_plan_is_made(cupy: Any, driver: Fake) -> None:
    """As torch does: for the architecture of the current device, and nothing to explain a call."""
    found = asked_before_the_driver(driver)
    a = cupy.full((1 << 17,), 0.5, np.float32)
    for backward in (False, True):
        assert "look-back" in scanlib.explain(a, a, backward=backward).kernel
    assert driver.compiled == []
    for a.number, architecture in ((0, 90), (1, 120), (2, 90)):
        for roles, pass_ in (
            (ROLES["forward"], lambda: scanlib.linear_recurrence(a, a)),
            (ROLES["backward"], lambda: scanlib.linear_recurrence_vjp(a, a, a)),
        ):
            found.clear()
            driver.forget()
            pass_()
            needed = gpu.programs(dense_problem(a.shape, 0, roles))
            assert found == [(text, architecture) for text in needed if a.number < 2]
            count = len(driver.compiled)
            pass_()
            assert len(driver.compiled) == count


def test_cupy_for_rocm_is_refused(cupy: Any) -> None:
    cupy.cuda.runtime.is_hip = True
    a = cupy.full((8,), 0.5, np.float32)
    with pytest.raises(scanlib.DeviceError, match="built for ROCm"):
        scanlib.linear_recurrence(a, a)


# ---- XLA's handlers


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
    ]
    return made


def handler(name: str) -> Any:
    return ctypes.cast(getattr(gpu.library(), f"scanlib_xla_{name}"), ctypes.c_void_p)


def call(
    frame: ctypes.CDLL,
    roles: tuple[str, ...],
    buffers: list[tuple[int, tuple[int, ...]]],
) -> str:
    """Call the handler for a GPU on buffers of (address, extents), the last scratch memory; the error's text."""
    backward = "grad_h" in roles
    arguments = sum(role not in written(backward=backward) for role in roles)
    numbers = (ctypes.c_int64 * len(roles))(*(NUMBERS.get(role, -1) for role in roles))
    data = (ctypes.c_void_p * len(buffers))(*(address for address, _ in buffers))
    ranks = (ctypes.c_int64 * len(buffers))(*(len(dims) for _, dims in buffers))
    flat = [n for _, dims in buffers for n in dims]
    dims = (ctypes.c_int64 * len(flat))(*flat)
    said = frame.frame_call(
        handler("cuda"), STREAM, arguments, len(buffers), data, ranks, dims, numbers, 0, False
    )
    return said.decode()


SHAPE = (1 << 16, 2)


ROLES = {"forward": ("a", "x", "h"), "backward": ("a", "h", "grad_h", "grad_a", "grad_x")}


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
