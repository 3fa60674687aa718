"""Gated recurrences in torch over sequences that start inside the axis of time: gradients, refusals and opcheck."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from scanlib.errors import OffsetsError
from scanlib.gates import AFTER, BEFORE, GATED, form_of

torch = pytest.importorskip("torch")
from torch_cases import plain, random  # noqa: E402
from torch_segment_cases import COUNT, OFFSETS, STEPS, offsets_tensor, resets  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

from scanlib.backends.torch import gated_scan  # noqa: E402

Tensor = Any

pytestmark = TORCHS_OWN

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
