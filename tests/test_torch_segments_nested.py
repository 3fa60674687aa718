"""Jagged nested tensors in torch: their sequences go in and come out nested, and what does not fit is refused."""

from __future__ import annotations

from typing import Any

import pytest

from scanlib import linear_recurrence, linear_recurrence_vjp
from scanlib.errors import ArrayKindError, AxisError, OutputError, ShapeError

torch = pytest.importorskip("torch")
from torch_cases import f64, loop_packed, plain, random  # noqa: E402
from torch_segment_cases import both_ways, jagged  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

Tensor = Any

pytestmark = TORCHS_OWN


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
