"""What is given in torch for `offsets` and `reset`: any integers are taken, lies and what does not fit refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import scanlib
from scanlib import linear_recurrence, linear_recurrence_vjp
from scanlib.errors import ArrayKindError, DeviceError, DTypeError, OffsetsError, ShapeError

torch = pytest.importorskip("torch")
from torch_cases import f64, loop_packed, random  # noqa: E402
from torch_segment_cases import OFFSETS, STEPS  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

Tensor = Any

pytestmark = TORCHS_OWN


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
    refused(DTypeError, "offsets has dtype float64", offsets=[0.0, 4.0])
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
