"""torch.compile, torch.export and opcheck, through the public function."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from scanlib import linear_recurrence, linear_recurrence_vjp

torch = pytest.importorskip("torch")
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

import scanlib.backends.torch  # noqa: E402, F401  whose operators are checked by their names

Tensor = Any

pytestmark = TORCHS_OWN


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


compiled = functools.partial(torch.compile, fullgraph=True, backend="aot_eager")


def loss(a: Tensor, x: Tensor, h0: Tensor) -> Tensor:
    h, final = linear_recurrence(a.sigmoid(), 2 * x, h0, axis=1, return_final=True)
    return (h**2).sum() + final.sin().sum()


def inputs(*shapes: tuple[int, ...], dtype: Any = torch.float32, grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=dtype, generator=generator).requires_grad_(grad) for s in shapes]


def check_gradients(function: Any, *arguments: Tensor) -> None:
    """The compiled function and its gradients against the function itself."""
    found, expected = compiled(function)(*arguments), function(*arguments)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()
    grads = (torch.autograd.grad(y.abs().sum(), arguments) for y in (found, expected))
    torch.testing.assert_close(next(grads), next(grads))


@pytest.mark.parametrize("dynamic", [False, True])
def test_forward_and_backward_through_inductor(dynamic: bool) -> None:
    step = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    for length in (5, 8) if dynamic else (5,):
        arguments = inputs((3, length, 4), (length, 4), (4,))
        found, expected = (torch.autograd.grad(f(*arguments), arguments) for f in (step, loss))
        torch.testing.assert_close(found, expected)


def test_shapes_that_change_compile_at_most_twice() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(loss, fullgraph=True, backend=counter)
    for length in (5, 7, 9, 11):
        arguments = inputs((3, length, 4), (3, length, 4), (3, 4))
        torch.testing.assert_close(step(*arguments), loss(*arguments))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("reverse", [False, True])
def test_layouts_and_broadcasts(reverse: bool) -> None:
    scan = functools.partial(linear_recurrence, axis=1, reverse=reverse)
    check_gradients(scan, *inputs((4,), (3, 5, 4)))
    check_gradients(scan, *inputs((3, 5, 4), (5, 1)))
    check_gradients(lambda a, x: scan(a, x.mT), *inputs((3, 5, 4), (3, 4, 5)))
    check_gradients(lambda a, x: scan(a, (2 * x)[..., ::2]), *inputs((3, 5, 4), (3, 5, 8)))
    check_gradients(scan, *inputs((3, 5), (3, 5), (3,), dtype=torch.complex128))
    check_gradients(scan, *inputs((4,), (3, 0, 4)))


def test_mixed_dtypes() -> None:
    a, x = inputs((4,)) + inputs((3, 5, 4), dtype=torch.bfloat16)
    check_gradients(functools.partial(linear_recurrence, axis=1), a, x)


def test_numbers() -> None:
    check_gradients(
        lambda x: linear_recurrence(0.9, x, 1.0, axis=-1, reverse=True), *inputs((3, 5))
    )
    (x,) = inputs((3, 5), grad=False)
    step = compiled(lambda a, x: linear_recurrence(a, x, axis=1))
    for a in (0.9, 0.8, 0.7):
        torch.testing.assert_close(step(a, x), linear_recurrence(a, x, axis=1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    a, x = inputs((4,), (3, 5, 4))
    with mode():
        h = compiled(lambda a, x: linear_recurrence(a, x, axis=1))(a, x)
    torch.testing.assert_close(h, linear_recurrence(a, x, axis=1).detach())
    assert not h.requires_grad


def test_out() -> None:
    def double(a: Tensor, x: Tensor) -> Tensor:
        y = 2 * x
        assert linear_recurrence(a, y, axis=1, out=y) is y
        return y + 1

    a, x = inputs((3, 5), (3, 5), grad=False)
    torch.testing.assert_close(compiled(double)(a, x), double(a, x))


def test_vjp() -> None:
    def gradients(grad_h: Tensor, a: Tensor, h: Tensor) -> Any:
        return linear_recurrence_vjp(grad_h, a, h, axis=1)[:2]

    arguments = inputs((3, 5, 4), (5, 1), (3, 5, 4), grad=False)
    torch.testing.assert_close(compiled(gradients)(*arguments), gradients(*arguments))


scan = functools.partial(linear_recurrence, axis=0)
func = torch.func


@pytest.mark.parametrize(
    "function",
    [
        func.vmap(scan, (None, 1)),
        func.grad(lambda a, x: scan(a, x[:, 0]).sin().sum()),
        func.vmap(func.grad(lambda a, x: scan(a, x).sin().sum(), (0, 1)), (None, 1)),
        func.grad(lambda a, x: func.grad(lambda a: scan(a, x[:, 0]).sin().sum())(a).cos().sum()),
        lambda a, x: func.jvp(lambda a: scan(a, x[:, 0]), (a,), (a,)),
        func.hessian(lambda a, x: scan(a, x[:, 0]).sin().sum()),
    ],
    ids=["vmap", "grad", "vmap of grad", "grad of grad", "jvp", "hessian"],
)
def test_transforms_inside(function: Any) -> None:
    a, x = inputs((4,), (4, 3), grad=False)
    torch.testing.assert_close(compiled(function)(a, x), function(a, x))


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([0.1, 0.5, 0.9, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return linear_recurrence(self.a, x, axis=1)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    layer, time = Layer(), torch.export.Dim("T", min=2, max=1000)
    program = torch.export.export(
        layer, tuple(inputs((3, 5, 4), grad=False)), dynamic_shapes=({1: time},), strict=strict
    )
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("scanlib.scan.default") == 1
    assert not [
        t
        for t in targets
        if not t.startswith(("scanlib", "aten.expand", "aten.sym_size", "<built-in"))
    ]
    (x,) = inputs((3, 9, 4), grad=False)
    torch.testing.assert_close(program.module()(x), layer(x))


def test_traced_by_make_fx() -> None:
    arguments = inputs((3, 5, 4), (3, 5, 4), (3, 4))

    def gradients(*given: Tensor) -> Any:
        return torch.autograd.grad(loss(*given), given)

    graph = make_fx(gradients, tracing_mode="symbolic")(*arguments)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert (
        targets.count("scanlib.scan.default") == targets.count("scanlib.scan_backward.default") == 1
    )
    torch.testing.assert_close(graph(*arguments), gradients(*arguments))


def test_opcheck_of_scan() -> None:
    for grad, dtype, reverse in itertools.product(
        (False, True), (torch.float32, torch.complex128), (False, True)
    ):
        a, x, h0 = inputs((4,), (3, 5, 4), (3, 4), dtype=dtype, grad=grad)
        torch.library.opcheck(torch.ops.scanlib.scan.default, (a, x, h0, 1, reverse, True, dtype))
    a, x = inputs((3, 1, 1), (4, 5, 3), grad=False)
    arguments = (a, x.permute(2, 1, 0), None, 1, False, False, torch.float64)
    torch.library.opcheck(torch.ops.scanlib.scan.default, arguments)


def test_opcheck_of_scan_backward() -> None:
    op = torch.ops.scanlib.scan_backward.default
    for grad, dtype in itertools.product((False, True), (torch.float32, torch.complex128)):
        shapes = ((3, 5, 4), (3, 4), (4,), (3, 5, 4), (3, 4))
        torch.library.opcheck(op, (*inputs(*shapes, dtype=dtype, grad=grad), 1, False, dtype))
    grad_h, a, h = inputs((1, 5, 1), (3, 1, 4), (3, 5, 4), grad=False)
    torch.library.opcheck(op, (grad_h.expand(3, 5, 4), None, a, h, None, 1, True, torch.bfloat16))
