"""torch.compile, torch.export and opcheck of sequences that start inside the axis of time."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from scanlib import cells, linear_recurrence

torch = pytest.importorskip("torch")
from torch import func  # noqa: E402
from torch_cases import f64, plain, random, sine_loss  # noqa: E402
from torch_segment_cases import COUNT, OFFSETS, STEPS, jagged, offsets_tensor, resets  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

import scanlib.backends.torch  # noqa: E402, F401  whose operators are checked by their names

Tensor = Any

pytestmark = TORCHS_OWN


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


compiled = functools.partial(torch.compile, fullgraph=True, backend="aot_eager")


def loss_of(a: Tensor, x: Tensor, h0: Tensor, **starts: Any) -> Tensor:
    h, final = linear_recurrence(a.sigmoid(), 2 * x, h0, axis=1, return_final=True, **starts)
    return (h**2).sum() + final.sin().sum()


def check_compiled(step: Any, *arguments: Tensor, **starts: Any) -> None:
    found, expected = (
        torch.autograd.grad(f(*arguments, **starts), arguments) for f in (step, loss_of)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_forward_and_backward() -> None:
    step = compiled(loss_of)
    a, x = random(STEPS, 4), random(3, STEPS, 4)
    check_compiled(step, a, x, random(3, 4), reset=resets(3, STEPS, 1))
    check_compiled(step, a, x, random(3, COUNT, 4), offsets=offsets_tensor())
    for offsets in (OFFSETS, np.array(OFFSETS)):
        check_compiled(step, a, x, random(3, COUNT, 4), offsets=offsets)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["gilr", "qrnn", "wkv"])
def test_compiled_cells_for_any_number_of_steps_and_sequences(name: str) -> None:
    """Lengths are symbols then."""
    cell = cells.CELLS[name]()
    params = {k: torch.as_tensor(v) for k, v in cell.init(np.random.default_rng(1), 3, 3).items()}
    step = compiled(functools.partial(cell, params, axis=0), dynamic=True)
    for offsets in ([0, 2, 6], [0, 3, 3, 7], [0, 1, 4, 4, 9]):
        x, cuts = plain(offsets[-1], 3), torch.tensor(offsets)
        found, expected = step(x, offsets=cuts), cell(params, x, axis=0, offsets=cuts)
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_for_any_number_of_sequences() -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(loss_of, fullgraph=True, backend=counter)
    for count in (3, 4, 6):
        offsets = torch.arange(count + 1) * 2
        operands = random(2 * count, 4), random(3, 2 * count, 4), random(3, count, 4)
        check_compiled(step, *operands, offsets=offsets)
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [False, True])
def test_through_inductor(dynamic: bool) -> None:
    step = torch.compile(loss_of, fullgraph=True, dynamic=dynamic)
    for steps in (6, 9) if dynamic else (6,):
        a, x = random(steps, 4), random(3, steps, 4)
        check_compiled(step, a, x, random(3, 4), reset=resets(3, steps, 1))
        offsets = torch.tensor([0, 2, 2, steps])
        check_compiled(step, a, x, random(3, 3, 4), offsets=offsets)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: func.vmap(f, (None, None, 0)),
        lambda f: func.vmap(func.grad(sine_loss(f), (0, 1)), (None, None, 0)),
        lambda f: lambda a, x, s: func.hessian(sine_loss(f))(a, x, s[0]),
    ],
    ids=["vmap", "vmap of grad", "hessian"],
)
def test_transforms_inside_compiled(transform: Any) -> None:
    function = transform(lambda a, x, s: linear_recurrence(a, x, reset=s))
    arguments = plain(4), plain(4), resets(3, 4)
    torch.testing.assert_close(compiled(function)(*arguments), function(*arguments))


@pytest.mark.usefixtures("fresh_compiler")
def test_nested_tensors_compiled() -> None:
    def loss(x: Tensor, a: Tensor) -> Tensor:
        h, final = linear_recurrence(a.sigmoid(), x * 2, axis=1, return_final=True)
        return (h * h).values().sum() + final.sum()

    x, a = jagged(2), random(2)
    found, expected = (torch.autograd.grad(f(x, a), (x, a)) for f in (compiled(loss), loss))
    torch.testing.assert_close(found[0].values(), expected[0].values())
    torch.testing.assert_close(found[1], expected[1])


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a = kind, torch.nn.Parameter(torch.tensor([0.1, 0.5, 0.9, 1.0]))

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        return linear_recurrence(self.a, x, axis=0, **{self.kind: starts})


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("kind", ["reset", "offsets"])
def test_export(kind: str) -> None:
    layer, any_length = Layer(kind), torch.export.Dim("T", min=2, max=1000)

    def inputs(steps: int) -> tuple[Tensor, Tensor]:
        x = plain(steps, 4, dtype=torch.float32)
        return x, resets(steps, 1) if kind == "reset" else torch.tensor([0, 1, steps])

    shapes = {0: any_length}, {0: any_length} if kind == "reset" else None
    program = torch.export.export(layer, inputs(5), dynamic_shapes=shapes)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("scanlib.scan.default") == 1
    torch.testing.assert_close(program.module()(*inputs(9)), layer(*inputs(9)))


@pytest.mark.parametrize("kind", ["reset", "offsets"])
def test_opcheck(kind: str) -> None:
    starts: Any = (resets(3, STEPS, 1), None) if kind == "reset" else (None, offsets_tensor())
    states = (3, 4) if kind == "reset" else (3, COUNT, 4)
    for grad in (False, True):
        a, x, h0 = random(4, grad=grad), random(3, STEPS, 4, grad=grad), random(*states, grad=grad)
        for return_final in (False, True):
            given = a, x, h0, 1, grad, return_final, f64, *starts
            torch.library.opcheck(torch.ops.scanlib.scan.default, given)
        given = x, h0, a, random(3, STEPS, 4, grad=grad), h0, 1, grad, f64, *starts
        torch.library.opcheck(torch.ops.scanlib.scan_backward.default, given)
