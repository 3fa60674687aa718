"""`explain` says which path a call takes and what it costs, in words that match what happens."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from helpers import decay, normal, rng_for
from matrix import Member

import scanlib

Array = np.ndarray[Any, np.dtype[Any]]


def test_every_member_is_explained(lib: Member) -> None:
    a, x = lib.array(np.full((4, 100), 0.5)), lib.array(np.ones((4, 100)))
    for reverse in (False, True):
        explanation = scanlib.explain(a, x, lib.array(np.ones(4)), axis=1, reverse=reverse)
        assert explanation.library in repr(lib) or explanation.library == "array_api_strict"
        on_gpu = lib.capability.gpu
        assert ("cuda" if on_gpu else "cpu") in explanation.device.lower()
        assert explanation.kernel
        native = "libscanlib" in explanation.path
        assert native == lib.capability.native, explanation
        assert ("(cuda)" in explanation.path) == on_gpu
        assert all(isinstance(note, str) and note for note in explanation.notes)
        text = str(explanation)
        assert all(
            word in text for word in (explanation.path, explanation.kernel, *explanation.notes)
        )


def test_a_slow_path_says_why() -> None:
    xp = pytest.importorskip("array_api_strict")
    explanation = scanlib.explain(0.5, xp.ones((4, 100)), axis=1)
    assert "100 steps" in explanation.kernel
    assert any("slower" in note and "from_dlpack" in note for note in explanation.notes)


def test_nothing_is_computed() -> None:
    """Arrays that would take a terabyte are explained at once."""
    x = np.broadcast_to(np.float32(1), (1 << 20, 1 << 18))
    assert "libscanlib" in scanlib.explain(np.float32(0.5), x, axis=0).path


def test_kernel_follows_the_layout() -> None:
    """Channels next to each other, time next to itself, and few long sequences are told apart."""
    kernels = {
        scanlib.explain(0.5, np.ones(shape, np.float32), axis=axis).kernel
        for shape, axis in (((4, 100, 64), 1), ((64, 100), 1), ((1 << 20,), 0))
    }
    assert len(kernels) == 3


def test_copies_are_named() -> None:
    """A note for every array that has to be copied, and none where nothing is."""
    a, x = decay(rng_for(1), (8, 33), "float32"), normal(rng_for(2), (8, 33), "float32")
    swapped = x.astype(x.dtype.newbyteorder())
    for backward in (False, True):
        for awkward in awkward_arrays(x):
            assert scanlib.explain(a, awkward, axis=1, backward=backward).notes == ()
        tangled = np.ones((3,) * 9)[(slice(0, 2),) * 9]  # no two axes are one
        assert scanlib.explain(tangled, tangled, axis=0, backward=backward).notes == ()
        # h is of the machine's byte order, whichever x has.
        notes = scanlib.explain(swapped, x, axis=1, backward=backward).notes
        assert notes == ("a is copied: its byte order is not the machine's",)


def awkward_arrays(x: Array) -> list[Array]:
    """The same numbers at odd addresses, in a packed record, and on axes that do not merge."""
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    packed = np.zeros(x.shape, np.dtype([("flag", np.uint8), ("value", x.dtype)]))["value"]
    return [
        odd,
        packed,
        np.ones((9, 34), x.dtype)[:8, :33],
    ]


@pytest.mark.parametrize("backward", [False, True])
def test_it_allocates_next_to_nothing(backward: bool) -> None:
    """Arrays of megabytes, unaligned, swapped or strided: not even those that a call copies are copied."""
    x = normal(rng_for(3), (1000, 1050), "float32")
    swapped = x.astype(x.dtype.newbyteorder())
    for array in (x, x[:, ::2], swapped, *awkward_arrays(x)[:2]):
        scanlib.explain(0.5, array, axis=0, backward=backward)
        tracemalloc.start()
        scanlib.explain(0.5, array, axis=1, backward=backward)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000


@pytest.mark.parametrize("backward", [False, True])
def test_it_allocates_no_tensors(backward: bool) -> None:
    """The same in torch, whose allocations are seen by watching what its operators give."""
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counted(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            is_new = (
                isinstance(made, torch.Tensor)
                and made.device.type != "meta"
                and not made._is_view()
            )
            Counted.count += made.nbytes if is_new else 0
            return made

    x = normal(rng_for(3), (1000, 1050), "float32")
    complex_x = torch.complex(torch.ones(40, 1000), torch.ones(40, 1000))
    unaligned = torch.from_numpy(awkward_arrays(x)[0])
    for tensor in (torch.from_numpy(x), unaligned, unaligned.T, complex_x.conj()):
        with Counted():
            scanlib.explain(0.5, tensor, axis=1, backward=backward)
    assert Counted.count < 100_000


def test_the_gradient_is_explained() -> None:
    """As what `linear_recurrence_vjp` runs, sums of a repeated `a` included."""
    for a in (np.ones((4, 100)), np.float64(0.5)):
        forward = scanlib.explain(a, np.ones((4, 100)), np.ones(4), axis=1)
        backward = scanlib.explain(a, np.ones((4, 100)), np.ones(4), axis=1, backward=True)
        assert forward.kernel.startswith("forward")
        assert backward.kernel.startswith("backward")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_views_need_no_note(axis: int) -> None:
    big = normal(rng_for(axis), (6, 40, 34), "float32")
    for x in (
        big[..., :17],
        big[:, ::-1],
        big.transpose(2, 0, 1),
        big[::2, ::3],
        np.broadcast_to(big[:1], big.shape),
    ):
        assert scanlib.explain(np.float32(0.5), x, axis=axis).notes == ()
