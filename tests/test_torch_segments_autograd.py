"""Derivatives in torch of sequences that start inside the axis of time: autograd of any order and torch.func."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from scanlib import linear_recurrence, linear_recurrence_vjp

torch = pytest.importorskip("torch")
from torch import func  # noqa: E402
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch_cases import c128, f64, loop, loop_packed, plain, random, sine_loss  # noqa: E402
from torch_segment_cases import COUNT, OFFSETS, STEPS, both_ways, resets  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

Tensor = Any

pytestmark = TORCHS_OWN


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
        lambda f: func.vmap(func.grad(sine_loss(f), (0, 1)), (None, 1, 0)),
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
    "hessian": (lambda f: func.hessian(sine_loss(f), (0, 1)), ((3,), (3,), (3,))),
    "hessian by reverse": (lambda f: func.jacrev(func.jacrev(sine_loss(f))), ((3,), (3,), (3,))),
    "hessian by forward": (lambda f: func.jacfwd(func.jacfwd(sine_loss(f))), ((3,), (3,), (3,))),
    "third": (lambda f: func.jacfwd(func.jacrev(func.jacfwd(sine_loss(f)))), ((3,), (3,), (3,))),
    "vmap of hessian": (
        lambda f: func.vmap(func.hessian(sine_loss(f)), (0, None, 0)),
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
        lambda f: func.vmap(func.grad(sine_loss(f), (0, 1, 2)), (None, 1, None)),
        ((5,), (5, 2), (3,)),
    ),
    "jacfwd": (lambda f: func.jacfwd(f, (0, 1, 2)), ((5,), (5,), (3,))),
    "jacrev": (lambda f: func.jacrev(f, (0, 1, 2)), ((5,), (5,), (3,))),
    "hessian": (lambda f: func.hessian(sine_loss(f), (0, 1, 2)), ((5,), (5,), (3,))),
    "hessian by forward": (lambda f: func.jacfwd(func.jacfwd(sine_loss(f))), ((5,), (5,), (3,))),
    "third": (lambda f: func.jacfwd(func.jacrev(func.jacfwd(sine_loss(f), 2))), ((5,), (5,), (3,))),
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
