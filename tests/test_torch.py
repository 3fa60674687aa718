"""What torch alone has: dtype promotion, views, modes, devices. Values are tested in the matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle import recurrence

import scanlib
from scanlib import linear_recurrence
from scanlib.errors import (
    ArrayKindError,
    AxisError,
    AxisTypeError,
    DeviceError,
    DTypeError,
    ShapeError,
)

torch = pytest.importorskip("torch")
from torch_cases import Recorder, Subclass, c128, f64, loop, plain, random  # noqa: E402

Tensor = Any


# ---- dtypes

FLOATS = [torch.float16, torch.bfloat16, torch.float32, f64, torch.complex64, c128]


def test_promotion_is_torchs() -> None:
    operands = [torch.ones(shape, dtype=d) for shape in ((), (3,)) for d in FLOATS] + [2.0, 2, 2j]
    checked = 0
    for a, x in itertools.product(operands, operands):
        if not any(isinstance(t, torch.Tensor) and t.ndim for t in (a, x)):
            continue
        expected = torch.result_type(a, x)
        if str(expected) in ("torch.complex32", "torch.bcomplex32"):
            with pytest.raises(DTypeError, match=f"the result has dtype {str(expected)[6:]}"):
                linear_recurrence(a, x)
            continue
        assert linear_recurrence(a, x).dtype == expected
        checked += 1
    assert checked > 120
    for a, x, h0 in itertools.product(FLOATS, repeat=3):
        expected = torch.promote_types(torch.promote_types(a, x), h0)
        ones = torch.ones(2, 3, dtype=a), torch.ones(2, 3, dtype=x), torch.ones(2, dtype=h0)
        assert linear_recurrence(*ones, axis=1).dtype == expected


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_numbers_are_tensors_of_no_axes(dtype: Any) -> None:
    x = plain(3, 4, dtype=dtype)
    wide = torch.tensor(0.9, dtype=torch.promote_types(dtype, torch.float32))
    for grad in (False, True):
        x.requires_grad_(grad)
        assert torch.equal(linear_recurrence(0.9, x, axis=1), linear_recurrence(wide, x, axis=1))
    h, final = linear_recurrence(0.9, x, 1, axis=1, return_final=True)
    assert torch.equal(h[:, -1], final)
    assert torch.equal(linear_recurrence(x, 1.0, axis=1), linear_recurrence(x, wide**0, axis=1))


def test_a_number_is_not_rounded_to_16_bits() -> None:
    x = torch.ones(4000, dtype=torch.bfloat16)
    h = linear_recurrence(0.999, x)
    assert abs(h[-1].item() - (1 - 0.999**4000) * 1000) < 5
    assert h.dtype == torch.bfloat16


def test_autocast_leaves_dtypes_as_given() -> None:
    a, x = random(3, 4, dtype=torch.float32), random(3, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = linear_recurrence(a, x, axis=1)
        with torch.no_grad():
            assert linear_recurrence(a, a, axis=1).dtype == torch.float32
        h.sum().backward()
    assert h.dtype == a.grad.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.float8_e5m2, torch.complex32], ids=str
)
def test_other_dtypes_are_refused(dtype: Any) -> None:
    bad = torch.zeros(4).to(dtype)
    with pytest.raises(DTypeError, match=f"a has dtype {str(dtype)[6:]}"):
        linear_recurrence(bad, torch.zeros(4))
    with pytest.raises(TypeError, match="x has dtype"):
        linear_recurrence(0.5, bad)


# ---- layouts and views


def conjugate_view() -> Tensor:
    return plain(5, 3, dtype=c128).conj()


def unaligned(values: Tensor) -> Tensor:
    buffer = bytearray(4) + values.numpy().tobytes()
    return torch.frombuffer(buffer, dtype=values.dtype, offset=4).view(values.shape)


VIEWS: dict[str, Callable[[], Tensor]] = {
    "transposed": lambda: plain(3, 5).mT,
    "strided": lambda: plain(10, 6)[::2, 1::2],
    "expanded": lambda: plain(5, 1).expand(5, 3),
    "conjugate": conjugate_view,
    "negative": lambda: conjugate_view().imag,
    "parameter": lambda: torch.nn.Parameter(plain(5, 3)),
    "unaligned": lambda: unaligned(plain(5, 3)),
}


@pytest.mark.parametrize("role", ["a", "x", "h0"])
@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str, role: str) -> None:
    view = VIEWS[name]()
    operands = {"a": plain(5, 3), "x": plain(5, 3), "h0": plain(5)}
    operands[role] = view if role != "h0" else view[:, 0]
    values = [t.detach().resolve_conj().resolve_neg().numpy() for t in operands.values()]
    expected = recurrence(*values, axis=1)[0]
    with torch.no_grad():
        result = linear_recurrence(*operands.values(), axis=1)
    assert type(result) is torch.Tensor
    np.testing.assert_allclose(result.numpy(), expected)
    leaves = [t.detach().clone().requires_grad_() for t in operands.values()]
    tensors = [t.detach().requires_grad_() for t in operands.values()]
    found = torch.autograd.grad(linear_recurrence(*tensors, axis=1).abs().sum(), tensors)
    torch.testing.assert_close(
        found, torch.autograd.grad(loop(*leaves, axis=1).abs().sum(), leaves)
    )


@pytest.mark.parametrize(
    "x",
    [
        plain(2, 3, 4),
        plain(4, 3, 2).permute(2, 1, 0),
        plain(2, 6, 4)[:, ::2],
        plain(3, 2, 8).transpose(0, 1)[..., ::2],
        plain(4).expand(2, 3, 4),
        plain(0, 3, 4),
        plain(8, 5, 7)[:1].transpose(0, 1),
    ],
    ids=["contiguous", "permuted", "strided", "both", "expanded", "empty", "one row"],
)
def test_memory_order_follows_x_on_every_path(x: Tensor) -> None:
    h = linear_recurrence(0.5, x, axis=1)
    strides = [
        (s, t) for n, s, t in zip(h.shape, h.stride(), (x + 0.5).stride(), strict=True) if n > 1
    ]
    assert all(s == t for s, t in strides) if x.stride()[0] else h.is_contiguous()
    assert linear_recurrence(0.5, x.requires_grad_(), axis=1).stride() == h.stride()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = linear_recurrence(0.5, mode.from_tensor(x.detach()), axis=1)
    assert fake.stride() == h.stride()


def many_axes() -> list[Tensor]:
    """More axes than libscanlib walks: no two neighbours merge."""
    a, x, h0 = random(*(1, 2) * 8), random(*(2, 1) * 8), random(*(1, 2) * 7, 1)
    return [a, x, h0]


def test_axes_that_do_not_merge() -> None:
    inputs = a, x, h0 = many_axes()
    assert "copied" not in str(scanlib.explain(*inputs, axis=1))
    found, expected = (
        linear_recurrence(*inputs, axis=1),
        loop(a, x, h0.expand(2, *(2,) * 14), axis=1),
    )
    torch.testing.assert_close(found, expected)
    grads = (torch.autograd.grad(h.sin().sum(), inputs) for h in (found, expected))
    torch.testing.assert_close(next(grads), next(grads))
    out = torch.empty_like(found)
    with torch.no_grad():
        linear_recurrence(*inputs, axis=1, out=out)
    assert torch.equal(out, found)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    a, x = random(40, 3000, dtype=torch.float32).sigmoid(), random(40, 3000, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (before, threads):
            torch.set_num_threads(count)
            h = linear_recurrence(a, x, axis=1)
            results.append((h, *torch.autograd.grad(h.sum(), (a, x))))
    finally:
        torch.set_num_threads(before)
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


# ---- what watches a call sees scanlib's operators


def test_modes_and_subclasses_see_the_operators() -> None:
    a, x = plain(3, 4), random(3, 4)
    with Recorder() as recorder:
        linear_recurrence(a, a, axis=1)
        linear_recurrence(a, x, axis=1).sum().backward()
    assert [op for op in recorder.seen if "scanlib" in op] == [
        "scanlib.scan.default",
        "scanlib.scan.default",
        "scanlib.scan_backward.default",
    ]
    h = linear_recurrence(a.as_subclass(Subclass), a, axis=1)
    assert type(h) is Subclass
    torch.testing.assert_close(h.as_subclass(torch.Tensor), loop(a, a, axis=1))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradients(mode: Any) -> None:
    a, x = random(3, 4), random(3, 4)
    with mode():
        h, final = linear_recurrence(a, x, axis=1, return_final=True)
    assert not h.requires_grad
    assert not final.requires_grad
    assert h.is_inference() == (mode is torch.inference_mode)
    torch.testing.assert_close(h, loop(a, x, axis=1).detach())


def test_meta_tensors_give_shapes() -> None:
    a, x = torch.empty(4, device="meta"), torch.empty(3, 4, 2, device="meta").mT
    h, final = linear_recurrence(a, x, axis=1, return_final=True)
    assert (h.device.type, h.shape, h.stride(), final.shape) == (
        "meta",
        (3, 2, 4),
        x.stride(),
        (3, 4),
    )
    x = plain(4)
    with torch.device("meta"):  # a mode that makes tensors elsewhere must not reach into the call
        h, final = linear_recurrence(0.5, x, return_final=True)
    assert h.device.type == final.device.type == "cpu"


# ---- bad input


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_not_strided_are_refused() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(ArrayKindError, match=r"a is a torch\.sparse_coo tensor.*to_dense"):
        linear_recurrence(x.to_sparse(), x, axis=1)
    quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
    with pytest.raises(DTypeError, match="x has dtype qint8"):
        linear_recurrence(x, quantized, axis=1)
    nested = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=torch.strided)
    with pytest.raises(ArrayKindError, match="x is a nested tensor"):
        linear_recurrence(0.5, nested, axis=1)


def test_devices() -> None:
    x = torch.ones(3)
    with pytest.raises(DeviceError, match="a is on cpu, x is on meta"):
        linear_recurrence(x, x.to("meta"))
    with torch._subclasses.FakeTensorMode():
        fake = torch.empty(3, device="xla")
        with pytest.raises(DeviceError, match=r"a is on xla.*for which.*cpu, cuda, meta"):
            linear_recurrence(fake, fake)
        on_gpu = torch.empty(3, 4, device="cuda")  # shapes are worked out without one
        h = linear_recurrence(on_gpu, on_gpu, axis=0)
        assert (h.device, h.shape) == (on_gpu.device, on_gpu.shape)


def test_shapes_and_axes() -> None:
    x = torch.ones(3, 4)
    for grad in (False, True):
        x.requires_grad_(grad)
        with pytest.raises(ShapeError, match=r"a has shape \(3,\) and x has shape \(3, 4\)"):
            linear_recurrence(torch.ones(3), x, axis=1)
        with pytest.raises(ShapeError, match=r"h0 has shape \(4,\)"):
            linear_recurrence(x, x, torch.ones(4), axis=1)
        with pytest.raises(AxisError, match="axis is missing"):
            linear_recurrence(x, x)
        for axis, error in ((2, AxisError), (1.0, AxisTypeError), (True, AxisTypeError)):
            with pytest.raises(error):
                linear_recurrence(x, x, axis=axis)  # type: ignore[arg-type]


# ---- explain


def test_explain_says_what_a_call_goes_through() -> None:
    a, x = plain(3, 4), random(3, 4)
    direct = scanlib.explain(a, a, axis=1)
    assert (direct.library, direct.device, direct.path, direct.notes) == (
        "torch",
        "cpu",
        "libscanlib (cpu)",
        (),
    )
    assert direct.kernel
    assert "autograd" in scanlib.explain(a, x, axis=1).notes[0]
    with Recorder() as recorder:
        assert "dispatcher" in scanlib.explain(a, a, axis=1).notes[0]
    assert not [op for op in recorder.seen if "scanlib" in op]
    conjugated = scanlib.explain(conjugate_view(), plain(5, 3), axis=1)
    assert any("a is copied: it is a conjugate" in note for note in conjugated.notes)
    assert scanlib.explain(a.to("meta"), a.to("meta"), axis=1).path == "shapes only"
    with pytest.raises(ShapeError):
        scanlib.explain(a, plain(3, 5), axis=1)
