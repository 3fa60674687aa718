"""Layers exported and compiled once, for any batch and any number of steps."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch_layers import LAYERS, M, N, inputs, make  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

pytestmark = TORCHS_OWN

Options = tuple[bool, int, bool, bool]

#: What a program made at one size has to run at: (batch, T). None is M or N, which a compiler would take for the same.
MADE_AT = (5, 9)
SHAPES = [(2, 3), (6, 100), (3, 1), (1, 2), (1, 1)]


class Use(torch.nn.Module):  # type: ignore[misc]
    """A layer with what it is called with, as positional arguments."""

    def __init__(
        self, name: str, bidirectional: bool, count: int, reset: bool, state: bool
    ) -> None:
        super().__init__()
        # Both layouts, each beside both values of every other option.
        batch_first = bidirectional ^ reset ^ state
        self.layer = make(name, M, N, count, bidirectional=bidirectional, batch_first=batch_first)
        self.reset, self.state = reset, state

    def forward(self, x: Any, reset: Any = None, state: Any = None) -> Any:
        return self.layer(x, state, reset=reset)

    def arguments(self, batch: int, steps: int) -> tuple[Any, Any, Any]:
        x = inputs(steps, batch, M)
        reset = x[..., 0] > 0.5 if self.reset else None
        state = None
        if self.layer.batch_first:
            x, reset = x.transpose(0, 1).contiguous(), None if reset is None else reset.mT
        if self.state:
            with torch.no_grad():
                _, state = self.layer(torch.cos(x))
        return x, reset, state

    def dynamic_shapes(self) -> dict[str, Any]:
        batch, time = torch.export.Dim("batch", min=1), torch.export.Dim("time", min=1)
        steps = {0: batch, 1: time} if self.layer.batch_first else {0: time, 1: batch}
        _, _, state = self.arguments(2, 2)
        of_state = tuple(tuple({0: batch} for _ in one) for one in state) if self.state else None
        return {"x": steps, "reset": steps if self.reset else None, "state": of_state}


def uses(
    everyday: set[Options], slow: Collection[Options], names: Collection[str] = tuple(LAYERS)
) -> Any:
    """Layers with these (bidirectional, layers, reset, state): those named on all days, and every one with the slow."""
    cases = []
    for name, options in itertools.product(LAYERS, sorted(everyday.union(slow))):
        if options in everyday and options not in slow and name not in names:
            continue
        words = ("bidirectional", "stacked", "reset", "state")
        chosen = [
            word for word, value in zip(words, options, strict=True) if value is True or value == 2
        ]
        marks = () if options in everyday and name in names else pytest.mark.slow
        cases.append(pytest.param(name, *options, id="-".join([name, *chosen]), marks=marks))
    return pytest.mark.parametrize(("name", "bidirectional", "count", "reset", "state"), cases)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


#: Any two options meet with both their values each.
PAIRS = {
    (False, 1, False, False),
    (False, 2, True, True),
    (True, 1, True, True),
    (True, 2, False, True),
    (True, 2, True, False),
}


@uses({(True, 2, True, True)}, PAIRS)
def test_exports_for_any_batch_and_length(
    name: str, bidirectional: bool, count: int, reset: bool, state: bool
) -> None:
    use = Use(name, bidirectional, count, reset, state)
    program = torch.export.export(
        use, use.arguments(*MADE_AT), dynamic_shapes=use.dynamic_shapes(), strict=False
    ).module()
    for shape in SHAPES:
        given = use.arguments(*shape)
        torch.testing.assert_close(program(*given), use(*given))


@pytest.mark.timeout(1200)
@uses(
    {(False, 1, True, True)},
    {(True, 2, True, True)},
    ("gilr_lstm", "qrnn"),  # a delay, a window
)
def test_compiles_for_any_batch_and_length(
    name: str, bidirectional: bool, count: int, reset: bool, state: bool
) -> None:
    """With gradients, and from one program; torch.compile itself makes another for a length or a batch of 1."""
    use = Use(name, bidirectional, count, reset, state)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(use, fullgraph=True, dynamic=True, backend=counter)
    weights, programs = list(use.parameters()), []
    for shape in (MADE_AT, *SHAPES[:3]):
        given = use.arguments(*shape)
        expected, found = use(*given), compiled(*given)
        torch.testing.assert_close(found, expected)
        grads = [torch.autograd.grad(y.square().sum(), weights) for y in (found[0], expected[0])]
        torch.testing.assert_close(*grads)
        programs.append(counter.frame_count)
    assert len(set(programs[:3])) == 1
