"""Sequences that start inside the axis of time, in torch: as each alone, also into `out`, and what `explain` says."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest

import scanlib
from scanlib import linear_recurrence
from scanlib.errors import OutputError

torch = pytest.importorskip("torch")
from torch import func  # noqa: E402
from torch_cases import Recorder, c128, f64, loop, loop_packed, plain, random  # noqa: E402
from torch_segment_cases import COUNT, OFFSETS, STEPS, both_ways, jagged, offsets_tensor, resets  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

Tensor = Any

pytestmark = TORCHS_OWN

FLOATS = [torch.float16, torch.bfloat16, torch.float32, f64, torch.complex64, c128]


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


# ---- beside the results


def test_meta_tensors_give_shapes() -> None:
    x = torch.empty(3, 5, 2, device="meta")
    h, final = linear_recurrence(0.5, x, axis=1, return_final=True, offsets=[0, 1, 5])
    assert (h.device.type, h.shape, final.shape) == ("meta", (3, 5, 2), (3, 2, 2))


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
