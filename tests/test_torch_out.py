"""Tensors given as `out`: filled and returned, noticed by autograd and modes, or refused and left as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scanlib import linear_recurrence
from scanlib.errors import ArrayKindError, DeviceError, DTypeError, OutputError, ShapeError

torch = pytest.importorskip("torch")
from torch_cases import Recorder, Subclass, c128, f64, loop, plain, random  # noqa: E402

Tensor = Any


def test_out_is_filled_and_returned() -> None:
    a, x, h0 = plain(3, 4), plain(3, 4), plain(3)
    expected = loop(a, x, h0, axis=1)
    for out in (
        torch.full((3, 4), torch.nan, dtype=f64),
        torch.empty(4, 3, dtype=f64).mT,
        x.clone(),
    ):
        version = out._version
        h, final = linear_recurrence(a, x, h0, axis=1, return_final=True, out=out)
        assert h is out
        torch.testing.assert_close((out, final), (expected, expected[:, -1]))
        assert out._version == version + 1
    assert linear_recurrence(a, x, h0, axis=1, out=x) is x
    torch.testing.assert_close(x, expected)


def test_out_that_is_a_conjugate_view() -> None:
    a, x, out = plain(4, dtype=c128), plain(4, dtype=c128), torch.zeros(4, dtype=c128)
    linear_recurrence(a, x, out=out.conj())
    torch.testing.assert_close(out, loop(a, x).conj().resolve_conj())


def test_out_under_a_mode_or_of_a_subclass() -> None:
    a, x = plain(3, 4), plain(3, 4)
    with Recorder() as recorder:
        out = torch.empty_like(x)
        linear_recurrence(a, x, axis=1, out=out)
        with pytest.raises(OutputError, match="overlaps a in memory"):
            linear_recurrence(a, x, axis=1, out=a)
    assert "scanlib.scan.default" in recorder.seen
    torch.testing.assert_close(out, loop(a, x, axis=1))
    out = torch.empty_like(x).as_subclass(Subclass)
    assert linear_recurrence(a, x, axis=1, out=out) is out
    torch.testing.assert_close(out.as_subclass(torch.Tensor), loop(a, x, axis=1))
    with torch._subclasses.FakeTensorMode():
        fake = torch.empty(3, 4)
        assert linear_recurrence(fake, fake, axis=1, out=fake) is fake


def test_out_written_behind_autograd_is_noticed() -> None:
    x, out = random(4), plain(4)
    y = x * out
    linear_recurrence(plain(4), plain(4), out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_out_is_refused() -> None:
    a, x = plain(3, 4), plain(3, 4)
    before = a.clone(), x.clone()
    wide = plain(3, 8)

    def call(out: Any, a: Tensor = a, x: Tensor = x, h0: Any = None) -> None:
        linear_recurrence(a, x, h0, axis=1, out=out)

    with pytest.raises(ShapeError, match=r"out has shape \(4, 3\)"):
        call(torch.empty(4, 3))
    with pytest.raises(DTypeError, match="out has dtype float32"):
        call(torch.empty(3, 4))
    with pytest.raises(OutputError, match="overlaps a in memory"):
        call(a)
    with pytest.raises(OutputError, match="overlaps h0 in memory"):
        call(wide[:, 2:6], h0=wide[:, 3])
    with pytest.raises(OutputError, match="without being x itself"):
        call(wide[:, 1:5], x=wide[:, :4])
    with pytest.raises(OutputError, match="several elements in one place"):
        call(torch.zeros(4, dtype=f64).expand(3, 4))
    with pytest.raises(DeviceError, match="out is on meta"):
        call(torch.empty(3, 4, dtype=f64, device="meta"))
    with pytest.raises(OutputError, match="where autograd records"):
        call(torch.empty_like(a), a=random(3, 4))
    with pytest.raises(OutputError, match="where autograd records"):
        call(random(3, 4))
    with pytest.raises(OutputError, match=r"torch\.func"):
        torch.func.vmap(lambda a, x: linear_recurrence(a, x, out=torch.empty(4, dtype=f64)))(a, x)
    with pytest.raises(ArrayKindError):
        call(np.empty((3, 4)))
    assert torch.equal(a, before[0])
    assert torch.equal(x, before[1])
