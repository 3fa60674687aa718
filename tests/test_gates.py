"""Gated recurrences in one pass against the same written out: every form, order of gradient, and corner."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import rng_for
from native_calls import instruction_set, instruction_sets

from scanlib import native
from scanlib.cells import CELLS, Gated, Gates
from scanlib.cells.gates import outputs, states
from scanlib.cells.starts import Starts
from scanlib.gates import AFTER, CANDIDATES, GATED, GateForm, form_of

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
Tensor = Any

#: every order of blocks that a cell may have, with every activation there is a kernel for
FORMS = [
    Gates(order, activation, complement=complement)
    for order, activation, complement in [
        *itertools.product(
            [("decay", "candidate"), ("candidate", "decay")], CANDIDATES, [False, True]
        ),
        *itertools.product(
            [("decay", "input", "output", "candidate"), ("candidate", "decay", "output", "input")],
            CANDIDATES,
            [False],
        ),
        (("candidate", "decay", "output"), "tanh", False),
        (("input", "decay", "candidate"), "identity", False),
    ]
]
#: (shape without columns, time axis, n): partial vectors, many rows, rows wider than a block, blocks that end early
SIZES = [
    ((37, 1), 0, 27),
    ((2, 50, 3), 1, 5),
    ((300, 2), 0, 300),
    ((2, 9, 40), 1, 17),
    ((400,), 0, 1),
    ((1, 1, 1), 0, 1),
    ((3, 2, 0, 4), 2, 3),
]
READINGS: dict[str, Callable[..., Any]] = {
    "output": outputs,
    "after": lambda *arguments: states(*arguments, before=False),
    "before": lambda *arguments: states(*arguments, before=True),
}


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two kernels ran."""
    calls: list[str] = []
    run = native.run

    def recorded(problem: native.NativeProblem, pointers: bytes) -> None:
        direction, kind, *_ = native.describe(problem).split()
        calls.append(f"{'gated' if kind == 'gates' else 'plain'}_{direction}")
        run(problem, pointers)

    monkeypatch.setattr(native, "run", recorded)
    return calls


def tensors(*key: object, shape: tuple[int, ...], axis: int, n: int, blocks: int) -> list[Tensor]:
    """Columns and a first state in float64."""
    rng = rng_for(*key, shape, n)
    state = shape[:axis] + shape[axis + 1 :]
    columns = 2 * rng.standard_normal((*shape, blocks * n))
    return [torch.from_numpy(v) for v in (columns, rng.standard_normal((*state, n)))]


def results_and_grads(run: Callable[..., Any], inputs: list[Tensor], seed: int = 0) -> list[Tensor]:
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    found = run(*inputs)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [
        torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in found
    ]
    return [*found, *torch.autograd.grad(found, inputs, cotangents)]


def plain(gates: Gates, reading: str, axis: int, reset: Tensor | None = None) -> Callable[..., Any]:
    """The same as a loop over time."""

    def run(columns: Tensor, first: Tensor) -> Any:
        decay, entering, read = Gated(columns, gates).update()
        before, after, h = [], [], first
        cut = torch.zeros(entering.shape[:-1], dtype=torch.bool) if reset is None else reset
        steps = (v.unbind(axis) for v in (decay, entering, cut.unsqueeze(-1)))
        for f, b, forget in zip(*steps, strict=True):
            h = h.masked_fill(forget, 0)
            before.append(h)
            h = f * h + b
            after.append(h)
        if not after:
            return entering + 0 * first.sum(), first + 0 * columns.sum()
        stacked = torch.stack(before if reading == "before" else after, axis)
        # A gradient that is zero must still be one.
        return (read(stacked) if reading == "output" else stacked) + 0 * columns.sum(), h

    return run


@pytest.mark.parametrize("reading", READINGS)
def test_every_form(reading: str, kernel_calls: list[str]) -> None:
    """Values and first gradients equal those of a loop over time, on every instruction set."""
    # Each form at two sizes, each size with as many forms: what a form changes does not depend on the size.
    for index, gates in enumerate(FORMS * 2):
        shape, axis, n = SIZES[index % len(SIZES)]
        given = tensors(gates, shape=shape, axis=axis, n=n, blocks=len(gates.order))
        reset = torch.from_numpy(rng_for(index).random(shape) < 0.3) if index % 2 else None
        wanted = results_and_grads(plain(gates, reading, axis, reset), given)
        for isa in instruction_sets():
            kernel_calls.clear()
            with instruction_set(isa):
                found = results_and_grads(
                    lambda c, h, g=gates, t=axis, r=reset: READINGS[reading](
                        Gated(c, g), h, Starts(t, r)
                    ),
                    given,
                )
            assert kernel_calls == ["gated_forward", "gated_backward"]
            for actual, right in zip(found, wanted, strict=True):
                torch.testing.assert_close(
                    actual, right, rtol=1e-10, atol=1e-11, msg=f"{gates} {shape} {isa}"
                )


@pytest.mark.parametrize("isa", instruction_sets())
def test_threads_do_not_change_bits(isa: str) -> None:
    gates = Gates(("decay", "input", "output", "candidate"))
    given = [t.float() for t in tensors(1, shape=(3000, 2), axis=0, n=37, blocks=4)]
    threads, found = torch.get_num_threads(), []
    try:
        with instruction_set(isa):
            for count in (1, 2, 3, 5):
                torch.set_num_threads(count)
                found.append(
                    results_and_grads(lambda c, h: outputs(Gated(c, gates), h, Starts(0)), given)
                )
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.equal(one, two)


def test_shut_and_open_gates() -> None:
    """Gates that infinities shut or open to the full leave states and gradients exact."""
    gates = Gates(("decay", "input", "output", "candidate"), "identity")
    inf = float("inf")
    columns = torch.tensor([[0.0, inf, inf, 3.0], [inf, -inf, inf, 7.0], [-inf, inf, -inf, 5.0]])
    found = results_and_grads(
        lambda c, h: outputs(Gated(c, gates), h, Starts(0)), [columns, torch.ones(1)]
    )
    assert found[0].tolist() == [[3.5], [3.5], [0.0]]
    assert found[1].tolist() == [5.0]
    assert all(torch.isfinite(t).all() for t in found)


def test_higher_orders(kernel_calls: list[str]) -> None:
    """Second derivatives, batched gradients, forward mode and vmap go through the gates written out."""
    gates = Gates(("decay", "input", "output", "candidate"))
    columns, first = tensors(2, shape=(4, 2), axis=0, n=3, blocks=4)
    columns.requires_grad_()
    first.requires_grad_()

    reset = torch.tensor([[False, False], [True, False], [False, False], [False, True]])

    def run(columns: Tensor, first: Tensor) -> Any:
        return outputs(Gated(columns, gates), first, Starts(0, reset))

    assert torch.autograd.gradcheck(run, (columns, first), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, (columns, first))
    assert torch.autograd.gradcheck(run, (columns, first), check_forward_ad=True)
    assert "gated_backward" in kernel_calls
    mapped = torch.func.vmap(run)(torch.stack([columns, -columns]), torch.stack([first, first]))
    torch.testing.assert_close(mapped[0][1], run(-columns, first)[0])
    # Only one of the two wants a gradient; and only the final state has one.
    (grad,) = torch.autograd.grad(run(columns.detach(), first)[1].sum(), first)
    (wanted,) = torch.autograd.grad(
        plain(gates, "output", 0, reset)(columns, first)[1].sum(), first
    )
    torch.testing.assert_close(grad, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(run(columns, first)[0].sum(), columns),
        torch.autograd.grad(plain(gates, "output", 0, reset)(columns, first)[0].sum(), columns),
    )


def test_where_there_is_no_kernel(kernel_calls: list[str]) -> None:
    """Other activations, dtypes and layouts give the same, written out."""
    gates = Gates(("candidate", "decay", "output"))
    columns, first = tensors(3, shape=(2, 6, 3), axis=1, n=4, blocks=3)
    wanted = plain(gates, "output", 1)(columns, first)
    sparse_columns = torch.empty(2, 6, 3, 24, dtype=torch.float64)[..., ::2]
    for c, h in (
        (sparse_columns.copy_(columns), first),
        (columns.transpose(0, 2).contiguous().transpose(0, 2), first),
        (columns, first.float()),
    ):
        kernel_calls.clear()
        found = outputs(Gated(c, gates), h, Starts(1))
        assert not kernel_calls
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6, check_dtype=False)
    outputs(Gated(columns, Gates(gates.order, "silu")), first, Starts(1))
    outputs(Gated(columns.half(), gates), first.half(), Starts(1))
    outputs(Gated(np.asfortranarray(columns.numpy()), gates), first.numpy(), Starts(1))
    assert not kernel_calls
    # A state that is not contiguous, and arrays that may not be written to, have one.
    turned = first.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(outputs(Gated(columns, gates), turned, Starts(1)), wanted)
    locked = columns.numpy().copy()
    locked.flags.writeable = False
    y, final = outputs(Gated(locked, gates), turned.numpy(), Starts(1))
    np.testing.assert_allclose(y, wanted[0], rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(final, wanted[1], rtol=1e-11, atol=1e-14)
    assert kernel_calls == ["gated_forward"] * 2


def test_a_state_at_any_address(kernel_calls: list[str]) -> None:
    """A state whose address its elements do not fit is copied, not refused."""
    gates = Gates(("decay", "input", "output", "candidate"))
    columns, first = (t.numpy() for t in tensors(6, shape=(5, 2), axis=0, n=3, blocks=4))
    unaligned = np.zeros(first.nbytes + 1, np.uint8)[1:].view(first.dtype).reshape(first.shape)
    unaligned[...] = first
    for actual, right in zip(
        outputs(Gated(columns, gates), unaligned, Starts(0)),
        outputs(Gated(columns, gates), first, Starts(0)),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, right)
    assert kernel_calls == ["gated_forward"] * 2


def test_operators() -> None:
    """The operators have the schema, shapes and strides they say they have."""
    gates = Gates(("decay", "input", "output", "candidate"))
    columns, first = tensors(4, shape=(5, 2), axis=0, n=3, blocks=4)
    form = form_of(columns.shape[-1], gates.order, gates.activation, gates.complement, GATED)
    assert form is not None
    tests = ("test_schema", "test_faketensor")
    starts = torch.tensor([[False, True]]).expand(5, 2)
    for reset in (None, starts):
        torch.library.opcheck(
            torch.ops.scanlib.gated_scan.default, (columns, first, reset, 0, form), test_utils=tests
        )
    h, output, final = torch.ops.scanlib.gated_scan(columns, first, None, 0, form)
    for state, reset in ((first, None), (None, starts)):
        arguments = (output, final, columns, h, state, reset, 0, form)
        torch.library.opcheck(
            torch.ops.scanlib.gated_scan_backward.default, arguments, test_utils=tests
        )


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize(
    "name", ["gilr_lstm", "gilr", "qrnn", "sru", "t_rnn", "t_lstm", "min_gru", "min_lstm"]
)
def test_cells_use_it(name: str, with_reset: bool, kernel_calls: list[str]) -> None:
    """A forward and backward pass of these cells is one call of each kernel for each recurrence, resets or not."""
    cell = CELLS[name](activation="tanh") if name == "gilr" else CELLS[name]()
    rng = np.random.default_rng(0)
    params = {
        k: torch.from_numpy(v).float().requires_grad_() for k, v in cell.init(rng, 3, 4).items()
    }
    reset = torch.rand(7, 1) < 0.3 if with_reset else None
    y, _ = cell(params, torch.randn(7, 2, 3), axis=0, reset=reset)
    y.square().sum().backward()
    count = 2 if name == "gilr_lstm" else 1
    assert kernel_calls == ["gated_forward"] * count + ["gated_backward"] * count
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in params.values())


def test_refusals() -> None:
    """What the C interface must refuse; nothing is written."""
    form = GateForm(2, 0, -1, -1, 2, 1, AFTER, False)
    columns, h = np.ones((3, 4)), np.full((3, 2), 7.0)
    operands = frozenset({"a", "h"})
    good = {"form": form, "dtype": 4, "shape": (3, 4), "axis": 0, "given": operands}
    bad = [
        {"dtype": 0},
        {"dtype": 5},
        {"dtype": 7},
        {"form": form._replace(candidate=4)},
        {"form": form._replace(candidate=-1)},
        {"form": form._replace(reading=3)},
        {"form": form._replace(at_decay=3)},
        {"form": form._replace(at_decay=-1)},
        {"form": form._replace(at_input=-2)},
        {"form": form._replace(reading=GATED)},
        {"form": form._replace(reading=GATED, at_output=0)},
        {"form": form._replace(width=-1)},
        {"shape": (1 << 40, 1 << 30)},
        {"given": operands - {"a"}},
        {"given": operands - {"h"}},
        {"given": operands | {"x"}},
        {"given": operands | {"y"}},
        {"given": operands | {"grad_final"}},
        {"given": operands | {"grad_h"}},
    ]
    for change in bad:
        with pytest.raises(native.NativeError):
            native.prepare_gates(**(good | change))
    problem = native.prepare_gates(**good)
    pointers = {"a": columns.ctypes.data, "h": h.ctypes.data}
    for wrong in ({"a": 0}, {"h": 0}, {"a": columns.ctypes.data + 1}):
        with pytest.raises(native.NativeError):
            native.run(problem, native.pack(pointers | wrong))
    with pytest.raises(native.NativeError):
        native.run(native.prepare_gates(**(good | {"dtype": 1})), native.pack(pointers))
    assert (h == 7).all()
    native.run(problem, native.pack(pointers))
    assert (h != 7).all()
