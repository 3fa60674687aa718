"""Derivatives in torch: autograd and forward mode of any order, torch.func, and linear_recurrence_vjp."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from scanlib import linear_recurrence, linear_recurrence_vjp
from scanlib.errors import ArrayKindError, ShapeError

torch = pytest.importorskip("torch")
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch_cases import c128, f64, loop, plain, random, sine_loss  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

Tensor = Any

pytestmark = TORCHS_OWN


# ---- derivatives of any order

CASES = {
    "full": ((3, 4), (3, 4), (3,), 1),
    "per channel": ((2,), (3, 4, 2), None, 1),
    "constant in time": ((3, 1), (3, 4), (3,), -1),
    "x repeated": ((3, 4, 2), (4, 1), (1, 2), 1),
    "both repeated": ((4, 1), (1, 3), (1,), 0),
    "scalars": ((), (4,), (), 0),
    "one step": ((2, 1), (2, 1), (2,), 1),
    "no steps": ((2, 1), (2, 0), (2,), 1),
    "no sequences": ((1, 3), (0, 3), (0,), 1),
}


@pytest.mark.parametrize(
    ("dtype", "reverse"),
    [
        *((f64, True), (c128, False)),
        *(pytest.param(*given, marks=pytest.mark.slow) for given in ((f64, False), (c128, True))),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_first_and_second_order(case: str, dtype: Any, reverse: bool) -> None:
    *shapes, axis = CASES[case]
    inputs = [random(*shape, dtype=dtype) for shape in shapes if shape is not None]
    scan = functools.partial(linear_recurrence, axis=axis, reverse=reverse, return_final=True)
    assert gradcheck(scan, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(scan, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_sums_over_repeated_operands_know_no_number_of_threads() -> None:
    """To one number, of every operand and of the second order: torch's own sum has other bits for other numbers."""
    single = torch.float32
    x, g = plain(300_000, 2, dtype=single), plain(300_000, 2, dtype=single)
    a, shift, h0, final = (torch.full((1, 1), 0.7, requires_grad=True) for _ in range(4))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5, 8):
            torch.set_num_threads(threads)
            h = linear_recurrence(a, x, h0[0], axis=1)
            grads = torch.autograd.grad(h, (a, h0), g, create_graph=True)
            second = torch.autograd.grad(grads[1].sum() * grads[0].sum(), (a, h0))
            of_x = torch.autograd.grad(linear_recurrence(x, shift, axis=1), shift, g)
            vjp = linear_recurrence_vjp(g, a, h.detach(), h0[0], axis=1, grad_final=final[0])
            of_final = torch.autograd.grad(vjp[1], final, g)
            found.append([v.item() for v in (*grads, *second, *of_x, *of_final, vjp[2])])
    finally:
        torch.set_num_threads(before)
    assert all(values == found[0] for values in found[1:])


@pytest.mark.parametrize("dtypes", [(f64, c128, f64), (c128, f64, c128), (c128, f64, f64)], ids=str)
def test_real_and_complex_operands_keep_their_kind_of_gradient(dtypes: tuple[Any, ...]) -> None:
    inputs = [random(*s, dtype=d) for s, d in zip([(3, 4), (3, 4), (3,)], dtypes, strict=True)]
    scan = functools.partial(linear_recurrence, axis=1, return_final=True)
    assert gradcheck(scan, inputs, check_forward_ad=True)
    assert gradgradcheck(scan, inputs, check_fwd_over_rev=True)
    grads = torch.autograd.grad(scan(*inputs)[0].abs().sum(), inputs)
    assert [g.dtype for g in grads] == list(dtypes)


@pytest.mark.parametrize("reverse", [False, True])
def test_derivatives_of_third_order(reverse: bool) -> None:
    inputs = [random(3), random(2, 3), random(2)]

    def gradients(*given: Tensor) -> Any:
        h, final = linear_recurrence(*given, axis=1, reverse=reverse, return_final=True)
        loss = (h**3).sum() + (h[0] * final[0]).sin().sum()
        return torch.autograd.grad(loss, given, create_graph=True)

    assert gradgradcheck(gradients, inputs)


@pytest.mark.parametrize("used", ["h", "final"])
def test_gradient_of_one_output_alone(used: str) -> None:
    a, x, h0 = random(3, 4), random(3, 4), random(3)
    h, final = linear_recurrence(a, x, h0, axis=1, return_final=True)
    expected = loop(a, x, h0, axis=1)
    loss, wanted = (
        (h.sin().sum(), expected.sin().sum())
        if used == "h"
        else (final.sum(), expected[:, -1].sum())
    )
    torch.testing.assert_close(
        torch.autograd.grad(loss, (a, x, h0)), torch.autograd.grad(wanted, (a, x, h0))
    )


def test_backward_keeps_a_and_h_alone() -> None:
    a, x = random(3, 4), random(3, 4)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.data_ptr()) or t, lambda t: t
    ):
        h = linear_recurrence(a, x, axis=1)
    assert sorted(kept) == sorted([a.data_ptr(), h.data_ptr()])


def test_gradient_of_narrow_operands_has_their_dtype() -> None:
    a, x, h0 = (
        random(4, dtype=torch.float32),
        random(3, 5, 4, dtype=torch.bfloat16),
        random(4, dtype=torch.float16),
    )
    h = linear_recurrence(a, x, h0, axis=1)
    assert h.dtype == torch.float32
    wide = [t.detach().double().requires_grad_() for t in (a, x, h0)]
    found = torch.autograd.grad(h.sin().sum(), (a, x, h0))
    expected = torch.autograd.grad(
        loop(wide[0], wide[1], wide[2].expand(3, 4), axis=1).sin().sum(), wide
    )
    for grad, want, of in zip(found, expected, (a, x, h0), strict=True):
        assert grad.dtype == of.dtype
        torch.testing.assert_close(grad.double(), want, rtol=1e-2, atol=1e-2)


def test_batched_gradients_of_the_old_vmap() -> None:
    a, x = random(3, 4), random(3, 4)
    basis = torch.eye(12, dtype=f64).reshape(12, 3, 4)
    pairs = (linear_recurrence(a, x, axis=1), loop(a, x, axis=1))
    found, expected = (torch.autograd.grad(h, (a, x), basis, is_grads_batched=True) for h in pairs)
    torch.testing.assert_close(found, expected)


def test_checkpointed_and_accumulated_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    a, x = torch.nn.Parameter(plain(4)), random(3, 4)
    for _ in range(2):
        checkpoint(
            functools.partial(linear_recurrence, axis=1), a, x, use_reentrant=False
        ).sum().backward()
    expected = torch.autograd.grad(2 * loop(a, x, axis=1).sum(), (a, x))
    torch.testing.assert_close((a.grad, x.grad), expected)


# ---- torch.func

func = torch.func
Transform = Callable[[Callable[..., Tensor]], Callable[..., Any]]

TRANSFORMS: dict[str, tuple[Transform, tuple[Tensor, ...]]] = {
    "vmap": (lambda f: func.vmap(f), (plain(2, 4), plain(2, 4))),
    "vmap of a": (lambda f: func.vmap(f, (0, None)), (plain(2, 4), plain(4))),
    "vmap of x": (lambda f: func.vmap(f, (None, 0)), (plain(4), plain(2, 4))),
    "vmap of other axes": (lambda f: func.vmap(f, (1, -1)), (plain(4, 2), plain(4, 2))),
    "vmap of a short a": (lambda f: func.vmap(f, (1, None)), (plain(3, 2), plain(4, 3))),
    "vmap twice": (
        lambda f: func.vmap(func.vmap(f, (None, 0)), (0, None)),
        (plain(2, 4), plain(3, 4)),
    ),
    "grad": (lambda f: func.grad(sine_loss(f), (0, 1)), (plain(4), plain(4))),
    "grad of grad": (
        lambda f: func.grad(lambda a, x: func.grad(sine_loss(f), 1)(a, x).cos().sum()),
        (plain(4), plain(4)),
    ),
    "vmap of grad": (
        lambda f: func.vmap(func.grad(sine_loss(f), (0, 1)), (None, 1)),
        (plain(4), plain(4, 3)),
    ),
    "grad of vmap": (
        lambda f: func.grad(lambda a, x: func.vmap(f, (None, 0))(a, x).sin().sum()),
        (plain(4), plain(2, 4)),
    ),
    "jvp": (lambda f: lambda a, x: func.jvp(f, (a, x), (x, a)), (plain(4), plain(4))),
    "jvp of a": (
        lambda f: lambda a, x: func.jvp(lambda a: f(a, x), (a,), (x,)),
        (plain(4), plain(4)),
    ),
    "jacfwd": (lambda f: func.jacfwd(f, (0, 1)), (plain(3), plain(3))),
    "jacrev": (lambda f: func.jacrev(f, (0, 1)), (plain(3), plain(3))),
    "hessian": (lambda f: func.hessian(sine_loss(f), (0, 1)), (plain(3), plain(3))),
    "hessian by reverse": (lambda f: func.jacrev(func.jacrev(sine_loss(f))), (plain(3), plain(3))),
    "hessian by forward": (lambda f: func.jacfwd(func.jacfwd(sine_loss(f))), (plain(3), plain(3))),
    "third, forward": (
        lambda f: func.jacfwd(func.jacfwd(func.jacfwd(sine_loss(f)))),
        (plain(3), plain(3)),
    ),
    "third, mixed": (
        lambda f: func.jacfwd(func.jacfwd(func.jacrev(sine_loss(f)))),
        (plain(3), plain(3)),
    ),
    "third, mixed again": (
        lambda f: func.jacrev(func.jacfwd(func.grad(sine_loss(f)))),
        (plain(3), plain(3)),
    ),
    "vmap of hessian": (
        lambda f: func.vmap(func.hessian(sine_loss(f)), (0, None)),
        (plain(2, 3), plain(3)),
    ),
    "linearize": (lambda f: lambda a, x: func.linearize(f, a, x)[1](x, a), (plain(3), plain(3))),
    "vjp": (lambda f: lambda a, x: func.vjp(f, a, x)[1](x), (plain(3), plain(3))),
}


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # linearize itself
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    transform, arguments = TRANSFORMS[name]
    found = transform(functools.partial(linear_recurrence, axis=0))(*arguments)
    torch.testing.assert_close(found, transform(functools.partial(loop, axis=0))(*arguments))


@pytest.mark.parametrize("reverse", [False, True])
def test_transforms_with_states(reverse: bool) -> None:
    """vmap over h0 alone, gradients of the final state, and complex numbers, all at once."""
    a, x, h0 = plain(4, 2, dtype=c128), plain(4, 2, dtype=c128), plain(3, 2, dtype=c128)

    def loss(scan: Any, a: Tensor, x: Tensor, h0: Tensor) -> Tensor:
        return (scan(a, x, h0) * x).abs().sum()

    def final(a: Tensor, x: Tensor, h0: Tensor) -> Tensor:
        return linear_recurrence(a, x, h0, axis=0, reverse=reverse, return_final=True)[1]

    def final_of_loop(a: Tensor, x: Tensor, h0: Tensor) -> Tensor:
        return loop(a, x, h0, reverse=reverse)[0 if reverse else -1]

    found, expected = (
        func.vmap(func.grad(functools.partial(loss, scan), (0, 1, 2)), (None, None, 0))(a, x, h0)
        for scan in (final, final_of_loop)
    )
    torch.testing.assert_close(found, expected)


def test_forward_mode_without_transforms() -> None:
    a, x, da = plain(4), plain(4), plain(4).flip(0)
    with forward_ad.dual_level():
        h = linear_recurrence(forward_ad.make_dual(a, da), x)
        found = forward_ad.unpack_dual(h).tangent
    torch.testing.assert_close(found, func.jvp(lambda a: loop(a, x), (a,), (da,))[1])


# ---- linear_recurrence_vjp


@pytest.mark.parametrize("reverse", [False, True])
def test_vjp_is_the_gradient_and_has_one(reverse: bool) -> None:
    a, x, h0, grad_h, grad_final = random(4, 1), random(4, 3), random(1), random(4, 3), random(3)
    options: dict[str, Any] = {"axis": 0, "reverse": reverse}
    h, final = linear_recurrence(a, x, h0, return_final=True, **options)
    found = linear_recurrence_vjp(grad_h, a, h, h0, grad_final=grad_final, **options)
    expected = torch.autograd.grad((h, final), (a, x, h0), (grad_h, grad_final), create_graph=True)
    torch.testing.assert_close(found, expected)

    def vjp(grad_h: Tensor, a: Tensor, h: Tensor, h0: Tensor, grad_final: Tensor) -> Any:
        return linear_recurrence_vjp(grad_h, a, h, h0, grad_final=grad_final, **options)

    assert gradcheck(
        vjp, (grad_h, a, h.detach().requires_grad_(), h0, grad_final), check_forward_ad=True
    )


def test_vjp_without_states_or_with_a_number() -> None:
    h = linear_recurrence(0.5, plain(3, 4), axis=1)
    grad_a, grad_x, grad_h0 = linear_recurrence_vjp(torch.ones_like(h), 0.5, h, axis=1)
    assert grad_h0 is None
    a = torch.tensor(0.5, dtype=f64, requires_grad=True)
    torch.testing.assert_close(
        grad_a, torch.autograd.grad(loop(a, plain(3, 4), axis=1).sum(), a)[0]
    )
    assert grad_x.shape == (3, 4)
    with pytest.raises(ShapeError, match="must be equal"):
        linear_recurrence_vjp(torch.ones(3, 5, dtype=f64), 0.5, h, axis=1)
    with pytest.raises(ArrayKindError, match="not Python numbers"):
        linear_recurrence_vjp(1.0, h, h, axis=1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("return_final", [False, True])
def test_what_autograd_alone_looks_at_is_what_transforms_see(
    reverse: bool, return_final: bool, packed: bool
) -> None:
    """The short way and the longer one that transforms take: the same bits, first and second derivatives among them."""
    offsets = torch.tensor([0, 2, 2, 5]) if packed else None
    state = (3, 3) if packed else (3,)
    shapes = (3, 1), (3, 5), state
    run = functools.partial(
        linear_recurrence, axis=-1, reverse=reverse, return_final=return_final, offsets=offsets
    )

    def results(scan: Callable[..., Any]) -> list[Any]:
        inputs = [random(*shape) for shape in shapes]
        outputs = scan(*inputs)
        outputs = outputs if return_final else (outputs,)
        grads = torch.autograd.grad(sum((v**2).sum() for v in outputs), inputs, create_graph=True)
        second = torch.autograd.grad(sum((v**2).sum() for v in grads), inputs)
        return [*outputs, *grads, *second]

    short = results(run)
    assert type(short[0].grad_fn).__name__ == "RecordedScanBackward"
    # Transforms record what they call for those outside of them.
    longer = results(
        lambda *inputs: torch.func.vmap(run, randomness="error")(*(v[None] for v in inputs))
    )
    for one, other in zip(short, longer, strict=True):
        assert torch.equal(one, other.reshape(one.shape))
