"""Sequences that start inside the axis of time, in torch: `reset`, `offsets` and jagged nested tensors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import scanlib
from scanlib import linear_recurrence, linear_recurrence_vjp
from scanlib.errors import (
    ArrayKindError,
    AxisError,
    DeviceError,
    DTypeError,
    OffsetsError,
    OutputError,
    ShapeError,
)
from scanlib.gates import AFTER, BEFORE, GATED, form_of

torch = pytest.importorskip("torch")
from torch import func  # noqa: E402
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch_cases import Recorder, c128, f64, loop, loop_packed, plain, random  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

from scanlib.backends.torch import gated_scan  # noqa: E402

Tensor = Any

pytestmark = TORCHS_OWN

#: One empty at each end, two in a row inside, and one of a single step.
OFFSETS = [0, 0, 3, 3, 3, 8, 9, 9]
STEPS, COUNT = OFFSETS[-1], len(OFFSETS) - 1
FLOATS = [torch.float16, torch.bfloat16, torch.float32, f64, torch.complex64, c128]
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def resets(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=generator) < 0.4


def offsets_tensor(dtype: Any = torch.int64) -> Tensor:
    return torch.tensor(OFFSETS, dtype=dtype)


# ---- each sequence as if it were alone


@both_ways
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_packed_sequences_are_each_alone(dtype: Any, reverse: bool) -> None:
    """To the last bit where the layout is one whose steps are taken in order; gradients too."""
    a, x, h0 = (random(n, 5, dtype=dtype) for n in (STEPS, STEPS, COUNT))
    grad_h, grad_final = plain(STEPS, 5, dtype=dtype), plain(COUNT, 5, dtype=dtype)
    options: dict[str, Any] = {"axis": 0, "reverse": reverse, "return_final": True}
    h, final = linear_recurrence(a, x, h0, offsets=OFFSETS, **options)
    assert final.shape == (COUNT, 5)
    grads = torch.autograd.grad((h, final), (a, x, h0), (grad_h, grad_final))
    with torch.no_grad():
        short = linear_recurrence(a, x, h0, offsets=offsets_tensor(torch.int32), **options)
    assert torch.equal(short[0], h)
    assert torch.equal(short[1], final)
    for i, (begin, end) in enumerate(itertools.pairwise(OFFSETS)):
        rows = slice(begin, end)
        alone = [t.detach().requires_grad_() for t in (a[rows], x[rows], h0[i])]
        h_alone, final_alone = linear_recurrence(*alone, **options)
        assert torch.equal(h[rows], h_alone)
        assert torch.equal(final[i], final_alone)
        expected = torch.autograd.grad((h_alone, final_alone), alone, (grad_h[rows], grad_final[i]))
        found = grads[0][rows], grads[1][rows], grads[2][i]
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@both_ways
def test_packed_sequences_without_states_begin_with_nothing(reverse: bool) -> None:
    a, x = random(2, STEPS), random(2, STEPS)
    found = linear_recurrence(
        a, x, axis=1, reverse=reverse, return_final=True, offsets=np.array(OFFSETS)
    )
    expected = loop_packed(a, x, axis=1, reverse=reverse, offsets=OFFSETS)
    torch.testing.assert_close(found, expected)
    grads = (
        torch.autograd.grad((h * h).sum() + final.sum(), (a, x)) for h, final in (found, expected)
    )
    torch.testing.assert_close(next(grads), next(grads))


@both_ways
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_reset_starts_anew(dtype: Any, reverse: bool) -> None:
    a, x, h0, reset = (
        random(6, 4, dtype=dtype),
        random(6, 4, dtype=dtype),
        random(4, dtype=dtype),
        resets(6, 1),
    )
    options: dict[str, Any] = {"axis": 0, "reverse": reverse, "return_final": True}
    found = linear_recurrence(a, x, h0, reset=reset, **options)
    assert torch.equal(found[0][reset[:, 0]], x[reset[:, 0]])
    with torch.no_grad():  # what nothing enters has decayed to nothing
        expected = linear_recurrence(a.masked_fill(reset, 0), x, h0, **options)
    assert all(map(torch.equal, found, expected))
    grad_a, grad_x, grad_h0 = torch.autograd.grad(found, (a, x, h0), (x.detach(), h0.detach()))
    assert not grad_a[reset[:, 0]].any()
    wide = dtype if dtype in (f64, c128) else c128 if dtype.is_complex else f64
    leaves = [t.detach().to(wide).requires_grad_() for t in (a, x, h0)]
    h = loop(*leaves, reverse=reverse, reset=reset)
    outputs = h, h[0 if reverse else -1]
    exact = torch.autograd.grad(outputs, leaves, [t.detach() for t in leaves[1:]])
    close = {"rtol": 5e-2, "atol": 5e-2} if dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-5}
    for one, other in zip((grad_a, grad_x, grad_h0), exact, strict=True):
        torch.testing.assert_close(one.to(wide), other, **close)


@both_ways
@pytest.mark.parametrize(
    "shape", [(), (9,), (9, 1), (3, 1, 1), (3, 9, 1), (1, 9, 4), (3, 9, 4)], ids=str
)
def test_reset_is_repeated_like_any_operand(shape: tuple[int, ...], reverse: bool) -> None:
    shape = (9, 1) if shape == (9,) else shape
    a, x, h0, reset = random(4), random(3, 9, 1), random(3, 1), resets(*shape)
    found = linear_recurrence(a, x, h0, axis=1, reverse=reverse, reset=reset)
    expected = loop(a, x, h0.expand(3, 4), axis=1, reverse=reverse, reset=reset)
    torch.testing.assert_close(found, expected)
    grads = (torch.autograd.grad(h.sin().sum(), (a, x, h0)) for h in (found, expected))
    torch.testing.assert_close(next(grads), next(grads))


# ---- what is not a number stays in its sequence


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("spoilt", ["the first", "the second"])
@pytest.mark.parametrize("kind", ["reset", "offsets"])
@both_ways
def test_nothing_crosses_a_start(kind: str, spoilt: str, bad: float, reverse: bool) -> None:
    """Neither way, in derivatives of first and second order: what is spoilt spoils its own sequence alone."""
    first, second, start = slice(0, 4), slice(4, 8), 4
    if reverse:
        first, second, start = second, first, 3
    inside, other = (first, second) if spoilt == "the first" else (second, first)
    starts: dict[str, Any] = {"offsets": [0, 4, 8]}
    if kind == "reset":
        starts = {"reset": torch.arange(8)[:, None] == start}
    scan = functools.partial(linear_recurrence, axis=0, reverse=reverse, **starts)

    def gradients(a: Tensor, x: Tensor, grad_h: Tensor) -> Any:
        return func.vjp(scan, a, x)[1](grad_h)

    def everything(a: Tensor, x: Tensor, grad_h: Tensor, da: Tensor, dx: Tensor) -> list[Tensor]:
        given, tangents = (a, x, grad_h), (da, dx, grad_h.flip(1))
        found = [scan(a, x), *gradients(*given), *func.vjp(gradients, *given)[1]((da, dx))]
        found += [*func.jvp(gradients, given, tangents)[1], func.jvp(scan, (a, x), (da, dx))[1]]
        return [t[other] for t in found]

    operands = [plain(8, 3) * scale for scale in (1, 2, 3, 4, 5)]
    clean = everything(*operands)
    for t in operands:
        t[inside] = bad
    if kind == "reset":  # what a start would do to the state before it is not looked at
        operands[0][start] = operands[3][start] = bad
    for found, expected in zip(everything(*operands), clean, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-13)
    assert not scan(*operands[:2])[inside].isfinite().any()


# ---- derivatives of any order

CASES: dict[str, tuple[Any, ...]] = {
    "offsets": ((STEPS, 2), (STEPS, 2), (COUNT, 2), 0, {"offsets": OFFSETS}),
    "offsets without states": ((2, STEPS), (2, STEPS), None, 1, {"offsets": OFFSETS}),
    "offsets, repeated operands": ((1, 2), (STEPS, 1), (1, 2), 0, {"offsets": OFFSETS}),
    "offsets of nothing": ((2, 1), (2, 0), (2, 3), 1, {"offsets": [0, 0, 0, 0]}),
    "reset": ((3, 6), (3, 6), (3,), 1, {"reset": resets(3, 6)}),
    "reset of all channels": ((2,), (3, 4, 2), (3, 1), 1, {"reset": resets(3, 4, 1)}),
    "reset at both ends": (
        (4, 2),
        (4, 2),
        (2,),
        0,
        {"reset": torch.tensor([1, 0, 0, 1])[:, None] > 0},
    ),
}


@pytest.mark.parametrize(
    ("dtype", "reverse"),
    [
        *((f64, True), (f64, False)),
        *(pytest.param(c128, reverse, marks=pytest.mark.slow) for reverse in (False, True)),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_first_and_second_order(case: str, dtype: Any, reverse: bool) -> None:
    *shapes, axis, starts = CASES[case]
    inputs = [random(*shape, dtype=dtype) for shape in shapes if shape is not None]
    scan = functools.partial(
        linear_recurrence, axis=axis, reverse=reverse, return_final=True, **starts
    )
    assert gradcheck(scan, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(scan, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


@both_ways
@pytest.mark.parametrize("kind", ["reset", "offsets"])
def test_derivatives_of_third_order(kind: str, reverse: bool) -> None:
    starts: dict[str, Any] = (
        {"offsets": [0, 2, 2, 3]} if kind == "offsets" else {"reset": resets(3)}
    )
    inputs = [random(1, 3), random(1, 3), random(1, 3) if kind == "offsets" else random(1)]

    def gradients(*given: Tensor) -> Any:
        h, final = linear_recurrence(*given, axis=1, reverse=reverse, return_final=True, **starts)
        loss = (h**3).sum() + (h[0, 0] * final).sin().sum()
        return torch.autograd.grad(loss, given, create_graph=True)

    assert gradgradcheck(gradients, inputs)


@both_ways
@pytest.mark.parametrize("kind", ["reset", "offsets"])
def test_vjp_is_the_gradient_and_has_one(kind: str, reverse: bool) -> None:
    starts: dict[str, Any] = (
        {"offsets": OFFSETS} if kind == "offsets" else {"reset": resets(STEPS, 1)}
    )
    states = (COUNT, 3) if kind == "offsets" else (3,)
    a, x, h0, grad_h = random(STEPS, 1), random(STEPS, 3), random(*states), random(STEPS, 3)
    options: dict[str, Any] = {"axis": 0, "reverse": reverse, **starts}
    h, final = linear_recurrence(a, x, h0, return_final=True, **options)
    grad_final = random(*final.shape)
    found = linear_recurrence_vjp(grad_h, a, h, h0, grad_final=grad_final, **options)
    expected = torch.autograd.grad((h, final), (a, x, h0), (grad_h, grad_final), create_graph=True)
    torch.testing.assert_close(found, expected)

    def vjp(grad_h: Tensor, a: Tensor, h: Tensor, h0: Tensor, grad_final: Tensor) -> Any:
        return linear_recurrence_vjp(grad_h, a, h, h0, grad_final=grad_final, **options)

    operands = grad_h, a, h.detach().requires_grad_(), h0, grad_final
    assert gradcheck(vjp, operands, check_forward_ad=True)


def test_forward_mode_without_transforms() -> None:
    a, x, da, reset = plain(4), plain(4), plain(4).flip(0), resets(4)
    with forward_ad.dual_level():
        h = linear_recurrence(forward_ad.make_dual(a, da), x, reset=reset)
        found = forward_ad.unpack_dual(h).tangent
    expected = torch.func.jvp(lambda a: loop(a, x, reset=reset), (a,), (da,))[1]
    torch.testing.assert_close(found, expected)


# ---- torch.func


def _loss(scan: Any) -> Any:
    return lambda a, x, s: scan(a, x, s).sin().sum()


#: Of a function of a, x and what says where sequences start: a reset of as many steps.
TRANSFORMS: dict[str, Any] = {
    "vmap": (lambda f: func.vmap(f), ((2, 4), (2, 4), (2, 4))),
    "vmap of reset": (lambda f: func.vmap(f, (None, None, 0)), ((4,), (4,), (2, 4))),
    "vmap of a and reset": (lambda f: func.vmap(f, (1, None, 1)), ((4, 2), (4,), (4, 2))),
    "vmap of x": (lambda f: func.vmap(f, (None, 0, None)), ((4,), (2, 4), (4,))),
    "vmap of a short reset": (lambda f: func.vmap(f, (None, None, 0)), ((4, 3), (4, 3), (2, 4, 1))),
    "vmap of a reset of no axes": (lambda f: func.vmap(f, (None, None, 0)), ((4,), (4,), (2,))),
    "vmap twice": (
        lambda f: func.vmap(func.vmap(f, (None, None, 0)), (0, None, None)),
        ((2, 4), (4,), (3, 4)),
    ),
    "vmap of grad": (
        lambda f: func.vmap(func.grad(_loss(f), (0, 1)), (None, 1, 0)),
        ((4,), (4, 3), (3, 4)),
    ),
    "grad of vmap": (
        lambda f: func.grad(
            lambda a, x, s: func.vmap(f, (None, None, 0))(a, x, s).sin().sum(), (0, 1)
        ),
        ((4,), (4,), (3, 4)),
    ),
    "jvp of a": (
        lambda f: lambda a, x, s: func.jvp(lambda a: f(a, x, s), (a,), (x,)),
        ((4,), (4,), (4,)),
    ),
    "jacfwd": (lambda f: func.jacfwd(f, (0, 1)), ((4,), (4,), (4,))),
    "jacrev": (lambda f: func.jacrev(f, (0, 1)), ((4,), (4,), (4,))),
    "hessian": (lambda f: func.hessian(_loss(f), (0, 1)), ((3,), (3,), (3,))),
    "hessian by reverse": (lambda f: func.jacrev(func.jacrev(_loss(f))), ((3,), (3,), (3,))),
    "hessian by forward": (lambda f: func.jacfwd(func.jacfwd(_loss(f))), ((3,), (3,), (3,))),
    "third": (lambda f: func.jacfwd(func.jacrev(func.jacfwd(_loss(f)))), ((3,), (3,), (3,))),
    "vmap of hessian": (
        lambda f: func.vmap(func.hessian(_loss(f)), (0, None, 0)),
        ((2, 3), (3,), (2, 3)),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_with_reset(name: str) -> None:
    transform, shapes = TRANSFORMS[name]
    arguments = plain(*shapes[0]), plain(*shapes[1]), resets(*shapes[2])
    found, expected = (
        transform(lambda a, x, s, scan=scan: scan(a, x, axis=0, reset=s))(*arguments)
        for scan in (linear_recurrence, loop)
    )
    torch.testing.assert_close(found, expected)


#: The same of a, x and h0 of packed sequences.
PACKED_TRANSFORMS: dict[str, Any] = {
    "vmap": (lambda f: func.vmap(f), ((2, 5), (2, 5), (2, 3))),
    "vmap of h0": (lambda f: func.vmap(f, (None, None, 1)), ((5,), (5,), (3, 2))),
    "vmap of grad": (
        lambda f: func.vmap(func.grad(_loss(f), (0, 1, 2)), (None, 1, None)),
        ((5,), (5, 2), (3,)),
    ),
    "jacfwd": (lambda f: func.jacfwd(f, (0, 1, 2)), ((5,), (5,), (3,))),
    "jacrev": (lambda f: func.jacrev(f, (0, 1, 2)), ((5,), (5,), (3,))),
    "hessian": (lambda f: func.hessian(_loss(f), (0, 1, 2)), ((5,), (5,), (3,))),
    "hessian by forward": (lambda f: func.jacfwd(func.jacfwd(_loss(f))), ((5,), (5,), (3,))),
    "third": (lambda f: func.jacfwd(func.jacrev(func.jacfwd(_loss(f), 2))), ((5,), (5,), (3,))),
}


@both_ways
@pytest.mark.parametrize("name", PACKED_TRANSFORMS)
def test_transforms_with_offsets(name: str, reverse: bool) -> None:
    transform, shapes = PACKED_TRANSFORMS[name]
    options: dict[str, Any] = {"axis": 0, "reverse": reverse, "offsets": [0, 2, 2, 5]}

    def scan(a: Tensor, x: Tensor, h0: Tensor) -> Tensor:
        return torch.cat(linear_recurrence(a, x, h0, return_final=True, **options))

    def written_out(a: Tensor, x: Tensor, h0: Tensor) -> Tensor:
        return torch.cat(loop_packed(a, x, h0, **options))

    arguments = [plain(*shape) for shape in shapes]
    found, expected = (transform(f)(*arguments) for f in (scan, written_out))
    torch.testing.assert_close(found, expected)


def test_vmap_of_offsets_takes_them_one_by_one() -> None:
    a, x, h0 = plain(5), plain(2, 5), plain(3)
    rows = [[0, 2, 2, 5], [0, 0, 4, 5]]

    def loss(x: Tensor, offsets: Tensor) -> Any:
        h, final = linear_recurrence(a, x, h0, offsets=offsets, return_final=True)
        return (h**2).sum() + final.sum(), (h, final)

    found = func.vmap(func.grad(loss, has_aux=True))(x, torch.tensor(rows))
    each = [
        func.grad(loss, has_aux=True)(row, torch.tensor(o)) for row, o in zip(x, rows, strict=True)
    ]
    expected = tuple(
        torch.stack(parts) for parts in zip(*((g, *aux) for g, aux in each), strict=True)
    )
    torch.testing.assert_close((found[0], *found[1]), expected)
    h = func.vmap(lambda o: linear_recurrence(a, x, offsets=o, axis=1))(torch.tensor(rows))
    assert h.shape == (2, 2, 5)


# ---- compilers


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
        lambda f: func.vmap(func.grad(_loss(f), (0, 1)), (None, None, 0)),
        lambda f: lambda a, x, s: func.hessian(_loss(f))(a, x, s[0]),
    ],
    ids=["vmap", "vmap of grad", "hessian"],
)
def test_transforms_inside_compiled(transform: Any) -> None:
    function = transform(lambda a, x, s: linear_recurrence(a, x, reset=s))
    arguments = plain(4), plain(4), resets(3, 4)
    torch.testing.assert_close(compiled(function)(*arguments), function(*arguments))


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


def test_modes_see_the_operators() -> None:
    a, x = plain(3, 4), random(3, 4)
    with Recorder() as recorder:
        linear_recurrence(a, a, axis=1, reset=resets(3, 4))
        linear_recurrence(a, x, axis=1, offsets=[0, 4]).sum().backward()
    assert [op for op in recorder.seen if "scanlib" in op] == [
        "scanlib.scan.default",
        "scanlib.scan.default",
        "scanlib.scan_backward.default",
    ]


def test_meta_tensors_give_shapes() -> None:
    x = torch.empty(3, 5, 2, device="meta")
    h, final = linear_recurrence(0.5, x, axis=1, return_final=True, offsets=[0, 1, 5])
    assert (h.device.type, h.shape, final.shape) == ("meta", (3, 5, 2), (3, 2, 2))


# ---- jagged nested tensors

LENGTHS = [3, 0, 4, 1]


def jagged(*rest: int, like: Tensor = None, grad: bool = True) -> Tensor:
    if like is None:
        rows = [plain(length, *rest) + length for length in LENGTHS]
        return torch.nested.nested_tensor(rows, layout=torch.jagged).requires_grad_(grad)
    values = plain(sum(LENGTHS), *rest).requires_grad_(grad)
    return torch.nested.nested_tensor_from_jagged(values, like.offsets())


@both_ways
@pytest.mark.parametrize("of_a", ["number", "row", "nested"])
def test_nested_tensors_go_in_and_come_out(of_a: str, reverse: bool) -> None:
    x, h0 = jagged(2), random(4, 2)
    a = {"number": 0.5, "row": random(1, 1, 2), "nested": jagged(2, like=x)}[of_a]
    h, final = linear_recurrence(a, x, h0, axis=1, reverse=reverse, return_final=True)
    assert h.shape == x.shape
    assert (h + x).shape == x.shape  # one structure
    torch.testing.assert_close(
        linear_recurrence(a, x, h0, axis=-2, reverse=reverse).values(), h.values()
    )
    flat = a.values() if of_a == "nested" else torch.as_tensor(a, dtype=f64).reshape(-1)
    offsets = x.offsets().tolist()
    expected = loop_packed(flat, x.values(), h0, offsets=offsets, reverse=reverse)
    torch.testing.assert_close((h.values(), final), expected)
    inputs = [t for t in (a, x, h0) if isinstance(t, torch.Tensor)]
    grads = (
        torch.autograd.grad((v * v).sum() + f.sum(), inputs)
        for v, f in ((h.values(), final), expected)
    )
    for one, other in zip(next(grads), next(grads), strict=True):
        assert one.shape == other.shape
        pair = (one.values(), other.values()) if one.is_nested else (one, other)
        torch.testing.assert_close(*pair)


def test_a_nested_decay_beside_a_number() -> None:
    a = jagged(grad=False)
    h = linear_recurrence(a, 1.0, axis=1)
    expected = loop_packed(a.values(), torch.ones(8, dtype=f64), offsets=a.offsets().tolist())[0]
    torch.testing.assert_close(h.values(), expected)


def test_vjp_of_nested_tensors() -> None:
    x, row = jagged(2), random(1, 1, 2)
    for a in (jagged(2, like=x), row, 0.5):
        h = linear_recurrence(a, x, axis=1)
        grad_a, grad_x, grad_h0 = linear_recurrence_vjp(h, a, h, axis=1)
        assert grad_h0 is None
        if isinstance(a, float):
            assert grad_a.shape == ()
            continue
        values = (h.values() ** 2).sum() / 2
        for one, other in zip((grad_a, grad_x), torch.autograd.grad(values, (a, x)), strict=True):
            assert one.shape == other.shape
            pair = (one.values(), other.values()) if one.is_nested else (one, other)
            torch.testing.assert_close(*pair)


@pytest.mark.usefixtures("fresh_compiler")
def test_nested_tensors_compiled() -> None:
    def loss(x: Tensor, a: Tensor) -> Tensor:
        h, final = linear_recurrence(a.sigmoid(), x * 2, axis=1, return_final=True)
        return (h * h).values().sum() + final.sum()

    x, a = jagged(2), random(2)
    found, expected = (torch.autograd.grad(f(x, a), (x, a)) for f in (compiled(loss), loss))
    torch.testing.assert_close(found[0].values(), expected[0].values())
    torch.testing.assert_close(found[1], expected[1])


def test_nested_tensors_that_do_not_fit() -> None:
    x = jagged(2, grad=False)

    def call(a: Any = 0.5, x: Any = x, axis: Any = 1, **options: Any) -> None:
        linear_recurrence(a, x, axis=axis, **options)

    for axis in (0, 2, -1):
        with pytest.raises(AxisError, match="along their ragged axis, axis 1"):
            call(axis=axis)
    with pytest.raises(AxisError, match="axis is missing"):
        call(axis=None)
    with pytest.raises(ShapeError, match="the same offsets"):
        call(jagged(2, grad=False))
    with pytest.raises(ShapeError, match="the same number of axes"):
        call(jagged(like=x, grad=False))
    for shape in ((4, 1, 2), (1, 3, 2), (8, 2), (1, 1, 1, 2)):
        with pytest.raises(ShapeError, match="it must be nested too or have length 1"):
            call(torch.ones(shape))
    for starts in ({"offsets": x.offsets()}, {"reset": torch.tensor(True)}):
        with pytest.raises(ShapeError, match="x is a nested tensor, which says itself"):
            call(**starts)
    with pytest.raises(ArrayKindError, match="another structure"):
        call(x=x.transpose(1, 2))
    narrow = torch.nested.narrow(
        plain(2, 5, 3), 1, torch.tensor([0, 1]), torch.tensor([2, 3]), layout=torch.jagged
    )
    with pytest.raises(ArrayKindError, match="another structure"):
        call(x=narrow)
    assert linear_recurrence(0.5, narrow.contiguous(), axis=1).shape[0] == 2
    with pytest.raises(OutputError, match="beside nested tensors"):
        call(out=torch.empty(8, 2, dtype=f64))
    with pytest.raises(ShapeError, match="h0 has shape"):
        linear_recurrence(0.5, x, torch.ones(3, 2), axis=1)


# ---- what is given for offsets and reset


@pytest.mark.parametrize(
    "offsets",
    [
        tuple(OFFSETS),
        np.array(OFFSETS),
        np.array(OFFSETS, np.uint16),
        np.array(OFFSETS, ">i4"),
        [np.int64(o) for o in OFFSETS],
        torch.tensor(OFFSETS, dtype=torch.uint8),
        torch.tensor(OFFSETS).repeat_interleave(2)[::2],
        torch.nn.functional.pad(torch.tensor(OFFSETS), (1, 1))[1:-1],
    ],
    ids=["tuple", "NumPy", "uint16", "big-endian", "NumPy scalars", "uint8", "strided", "shifted"],
)
def test_offsets_of_any_integers(offsets: Any) -> None:
    for grad in (False, True):
        a, x = random(STEPS, grad=grad), random(STEPS, grad=grad)
        found = linear_recurrence(a, x, offsets=offsets)
        torch.testing.assert_close(found, loop_packed(a, x, offsets=OFFSETS)[0])


def test_offsets_are_those_of_the_call() -> None:
    """A gradient to come does not see what their owner writes afterwards."""
    x, offsets = random(4), np.array([0, 2, 4])
    h = linear_recurrence(0.5, x, offsets=offsets)
    offsets[1] = 3
    torch.testing.assert_close(
        torch.autograd.grad(h.sum(), x)[0], torch.tensor([1.5, 1, 1.5, 1], dtype=f64)
    )


LIES = [[1, 4], [0, 3], [0, 5], [0, 3, 2, 4], [0, -1, 4], [0], [0, 4, 4, 5], [-1, 4]]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_offsets_that_lie_are_refused(lie: list[int]) -> None:
    for grad, given in itertools.product((False, True), (lie, torch.tensor(lie))):
        x = random(4, 2, grad=grad)
        with pytest.raises(OffsetsError):
            linear_recurrence(0.5, x, axis=0, offsets=given)
        with pytest.raises(OffsetsError):
            linear_recurrence_vjp(x, 0.5, x.detach(), axis=0, offsets=given)
    for empty in (torch.ones(4, 0), *([torch.ones(0, 2)] if lie != [0] else [])):
        with pytest.raises(OffsetsError):
            linear_recurrence(0.5, empty, axis=0, offsets=lie)
        with pytest.raises(OffsetsError):
            linear_recurrence_vjp(empty, 0.5, empty, axis=0, offsets=lie)


def test_sequences_without_steps() -> None:
    for grad in (False, True):
        x, h0 = random(0, 2, grad=grad), random(1, 2, grad=grad)
        h, final = linear_recurrence(0.5, x, h0, axis=0, return_final=True, offsets=[0, 0, 0])
        assert h.shape == (0, 2)
        assert torch.equal(final, h0.expand(2, 2))
    grads = torch.autograd.grad(final.sum(), (x, h0))
    assert torch.equal(grads[1], torch.full((1, 2), 2, dtype=f64))
    h, final = linear_recurrence(0.5, x, axis=0, return_final=True, offsets=[0])
    assert final.shape == (0, 2)


def test_starts_that_do_not_fit() -> None:
    x = torch.ones(4, 3)

    def refused(error: Any, match: str, **starts: Any) -> None:
        for grad in (False, True):
            with pytest.raises(error, match=match):
                linear_recurrence(0.5, x.clone().requires_grad_(grad), axis=0, **starts)
        with pytest.raises(error, match=match):
            linear_recurrence_vjp(x, 0.5, x, axis=0, **starts)
        with pytest.raises(error, match=match):
            scanlib.explain(0.5, x, axis=0, **starts)

    yes = torch.ones(4, 1, dtype=torch.bool)
    refused(ShapeError, "give one of them", reset=yes, offsets=[0, 4])
    refused(ShapeError, r"reset has shape \(2, 1\)", reset=yes[:2])
    refused(DTypeError, "reset has dtype float32", reset=yes.float())
    refused(DTypeError, "reset has dtype int", reset=1)
    refused(ArrayKindError, "reset", reset=yes.tolist())
    refused(ArrayKindError, "reset", reset=yes.numpy())
    refused(DeviceError, "reset is on meta", reset=yes.to("meta"))
    refused(DTypeError, "offsets has dtype float32", offsets=[0.0, 4.0])
    refused(DTypeError, "offsets has dtype bool", offsets=torch.tensor([False, True]))
    refused(DTypeError, "offsets has dtype float64", offsets=np.array([0.0, 4.0]))
    refused(ShapeError, r"offsets has shape \(1, 2\)", offsets=[[0, 4]])
    refused(ShapeError, r"offsets has shape \(0,\)", offsets=[])
    refused(ShapeError, r"offsets has shape \(\)", offsets=torch.tensor(4))
    refused(ArrayKindError, "offsets is a dict", offsets={0: 4})
    refused(DeviceError, "offsets is on meta", offsets=torch.tensor([0, 4], device="meta"))
    with pytest.raises(ShapeError, match=r"h0 has shape \(3, 3\).*2 sequences"):
        linear_recurrence(0.5, x, torch.ones(3, 3), axis=0, offsets=[0, 2, 4])
    with pytest.raises(ShapeError, match="grad_final has shape"):
        linear_recurrence_vjp(x, 0.5, x, axis=0, grad_final=torch.ones(3, 3), offsets=[0, 2, 4])


def test_out() -> None:
    a, x, h0 = plain(STEPS, 2), plain(STEPS, 2), plain(COUNT, 2)
    h, final = loop_packed(a, x, h0, offsets=OFFSETS)
    for out in (torch.empty_like(x), x.clone()):
        y = out if out.equal(x) else x
        found = linear_recurrence(a, y, h0, axis=0, return_final=True, offsets=OFFSETS, out=out)
        assert found[0] is out
        torch.testing.assert_close(found, (h, final))
    reset = resets(STEPS, 1)
    with Recorder() as recorder:
        linear_recurrence(a, x, axis=0, reset=reset, out=out)
    assert "scanlib.scan.default" in recorder.seen
    torch.testing.assert_close(out, loop(a, x, reset=reset))
    memory = torch.zeros(STEPS, 2, dtype=f64)
    mask = memory.view(torch.bool)[:, :2]
    with pytest.raises(OutputError, match="overlaps reset"):
        linear_recurrence(a, x, axis=0, reset=mask, out=memory)


def test_explain() -> None:
    a, x = plain(STEPS, 4), random(STEPS, 4)
    for starts in ({"reset": resets(STEPS, 1)}, {"offsets": OFFSETS}):
        for backward in (False, True):
            direct = scanlib.explain(a, a, axis=0, backward=backward, **starts)
            assert (direct.path, direct.notes) == ("libscanlib (cpu)", ())
        assert "autograd" in scanlib.explain(a, x, axis=0, **starts).notes[0]
    nested = jagged(2, grad=False)
    assert scanlib.explain(0.5, nested, axis=1).path == "libscanlib (cpu)"


# ---- gates

GATES = ("decay", "input", "output", "candidate")


def gate_form(width: int, reading: int) -> Any:
    form = form_of(4 * width, GATES, "tanh", False, reading)
    assert form is not None
    return form


@pytest.mark.parametrize("reading", [AFTER, BEFORE, GATED])
@pytest.mark.parametrize("with_states", [False, True])
def test_gates_of_packed_sequences(reading: int, with_states: bool) -> None:
    """Each sequence as if it were alone, gradients of second order too."""
    form, offsets = gate_form(3, reading), offsets_tensor()
    columns, h0 = random(STEPS, 2, 12), random(COUNT, 2, 3) if with_states else None
    y, final = gated_scan(columns, h0, None, 0, form, offsets)
    alone = [
        gated_scan(columns[begin:end].contiguous(), None if h0 is None else h0[i], None, 0, form)
        for i, (begin, end) in enumerate(itertools.pairwise(OFFSETS))
    ]
    expected = tuple(
        join(parts)
        for join, parts in zip((torch.cat, torch.stack), zip(*alone, strict=True), strict=True)
    )
    torch.testing.assert_close((y, final), expected)
    inputs = [columns] if h0 is None else [columns, h0]
    found, right = (
        torch.autograd.grad(y.sin().sum() + f.sin().sum(), inputs, create_graph=True)
        for y, f in ((y, final), expected)
    )
    torch.testing.assert_close(found, right)
    found, right = (
        torch.autograd.grad(sum((g**2).sum() for g in grads), inputs) for grads in (found, right)
    )
    torch.testing.assert_close(found, right)


def test_gates_do_not_take_what_says_no_starts() -> None:
    form, columns = gate_form(3, AFTER), plain(4, 2, 12)
    assert gated_scan(columns, None, None, 0, form, torch.tensor([0, 1, 4])) is not None
    for offsets in (
        torch.tensor([[0, 4]]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor([0, 4], dtype=torch.int32),
    ):
        assert gated_scan(columns, None, None, 0, form, offsets) is None
    assert gated_scan(columns, None, resets(4, 2), 0, form, torch.tensor([0, 4])) is None
    assert gated_scan(columns, plain(2, 3), None, 0, form, torch.tensor([0, 1, 4])) is None
    with pytest.raises(OffsetsError):
        gated_scan(columns, None, None, 0, form, torch.tensor([0, 5]))


@pytest.mark.parametrize("reading", [BEFORE, GATED])
def test_gates_cut_what_a_reset_cuts(reading: int) -> None:
    """In derivatives of second order as well, whatever lies before the start."""
    form, reset = gate_form(3, reading), (torch.arange(6) == 3)[:, None].expand(6, 2)
    whole, results = slice(3, 6), []
    for bad in (0.25, torch.inf):
        columns = plain(6, 2, 12)
        columns[:3] = bad
        columns.requires_grad_()
        y, _ = gated_scan(columns, None, reset, 0, form)
        (grad,) = torch.autograd.grad(y.sin()[whole].sum(), columns, create_graph=True)
        (second,) = torch.autograd.grad((grad[whole] ** 2).sum(), columns)
        results.append([t[whole] for t in (y, grad, second)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_opcheck_of_gates() -> None:
    tests = ("test_schema", "test_faketensor")
    for reading in (BEFORE, GATED):
        form, offsets = gate_form(3, reading), offsets_tensor()
        columns, h0 = plain(STEPS, 2, 12), plain(COUNT, 2, 3)
        given = columns, h0, None, 0, form, offsets
        torch.library.opcheck(torch.ops.scanlib.gated_scan.default, given, test_utils=tests)
        h, y, final = torch.ops.scanlib.gated_scan(*given)
        given = y if reading == GATED else h, final, columns, h, h0, None, 0, form, offsets
        torch.library.opcheck(
            torch.ops.scanlib.gated_scan_backward.default, given, test_utils=tests
        )
