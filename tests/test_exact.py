"""What must hold to the last bit, in every dtype: no tolerance hides a wrong element here."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LENGTHS, decay, integers, normal, rng_for, same_bits, state_shape
from matrix import Member, np_dtype
from native_calls import run_backward, run_forward
from oracle import recurrence

#: (shape, axis): columns and rows, with time whole or cut into segments, as libscanlib does above half a megabyte
#: in few sequences.
LAYOUTS = [
    ((2100, 64), 0),
    ((37, 257), 1),
    ((2, 1031, 17), 1),
    ((45_000, 3), 0),
    ((140_001,), 0),
]


def layouts(lib: Member) -> list[tuple[tuple[int, ...], int]]:
    """The layouts this member is given, cut short where a step is a call into the library."""
    cases = lib.pick(LAYOUTS)
    if lib.capability.native:
        return cases
    return [(tuple(min(n, 600) for n in shape), axis) for shape, axis in cases]


def test_signs_and_an_impulse(lib: Member, dtype: str) -> None:
    """a in {-1, +1} and one integer impulse a sequence: exact in whatever order steps are combined."""
    for T in lib.pick(LENGTHS):
        rng = rng_for(T, dtype)
        a = rng.choice([-1.0, 1.0], (T, 5)).astype(np_dtype(dtype))
        x = np.zeros((T, 5), np_dtype(dtype))
        x[rng.integers(T, size=5), np.arange(5)] = [1, 2, 3, -4, 5]
        for reverse in (False, True):
            for order in (a, x), (a.T, x.T):
                axis = 0 if order[0] is a else 1
                h = lib.scan(*map(lib.array, order), axis=axis, reverse=reverse)
                expected, _ = recurrence(*order, axis=axis, reverse=reverse)
                assert np.array_equal(lib.numpy(h).astype(expected.dtype), expected)


def test_integers(lib: Member) -> None:
    """Sums of signed integers are exact at every shape, with h0 and the final state."""
    for shape, axis in layouts(lib):
        rng = rng_for(shape)
        a = rng.choice([-1.0, 1.0], shape)
        x, h0 = (integers(rng, s, "float64", 9) for s in (shape, state_shape(shape, axis)))
        h, final = lib.scan(*map(lib.array, (a, x, h0)), axis=axis, return_final=True)
        expected = recurrence(a, x, h0, axis=axis)
        assert np.array_equal(lib.numpy(h), expected[0])
        assert np.array_equal(lib.numpy(final), expected[1])


def test_zero_decay_copies_x(lib: Member, dtype: str) -> None:
    for shape, axis in layouts(lib)[:4]:
        x = normal(rng_for(shape), shape, dtype)
        a = np.zeros((1,) * len(shape), np_dtype(dtype))
        for coefficient in (lib.array(np.zeros_like(x)), lib.array(a), 0):
            assert same_bits(lib.numpy(lib.scan(coefficient, lib.array(x), axis=axis)), x)


@pytest.mark.needs("sixteen_bits")
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_sixteen_bits_accumulate_in_float32(lib: Member, name: str) -> None:
    """Ones added in bfloat16 alone would stop at 256, in float16 at 2048."""
    dtype = np_dtype(name)
    for shape, axis in (((4096,), 0), ((3, 4096), 1), ((4096, 40), 0)):
        ones = np.ones(shape, dtype)
        h = lib.numpy(lib.scan(lib.array(ones), lib.array(ones), axis=axis))
        steps = np.cumsum(np.ones(shape), axis=axis).astype(dtype)
        assert np.array_equal(h, steps)


def test_splitting_anywhere_and_chaining(lib: Member) -> None:
    """The final state of the first k steps as h0 of the rest gives the same, for every k."""
    for shape in lib.pick([(33, 6), (65,), (33,)]):
        rng = rng_for(shape)
        a, x = rng.choice([-1.0, 1.0], shape), integers(rng, shape, "float64", 9)
        whole = lib.numpy(lib.scan(lib.array(a), lib.array(x), axis=0))
        for k in lib.pick(range(shape[0] + 1)):
            first, state = lib.scan(lib.array(a[:k]), lib.array(x[:k]), axis=0, return_final=True)
            rest = lib.scan(lib.array(a[k:]), lib.array(x[k:]), state, axis=0)
            assert np.array_equal(np.concatenate([lib.numpy(first), lib.numpy(rest)]), whole)


def test_reverse_is_the_mirror_image(lib: Member) -> None:
    for shape, axis in layouts(lib):
        rng = rng_for(shape)
        a, x = rng.choice([-1.0, 1.0], shape), integers(rng, shape, "float64", 9)
        h = lib.numpy(lib.scan(lib.array(a), lib.array(x), axis=axis, reverse=True))
        mirrored = (lib.array(np.flip(v, axis).copy()) for v in (a, x))
        assert np.array_equal(h, np.flip(lib.numpy(lib.scan(*mirrored, axis=axis)), axis))


def test_two_runs_agree(lib: Member) -> None:
    """Run after run, forward and backward: the same bits."""
    for shape, axis in layouts(lib):
        rng = rng_for(shape)
        a, x, g = (make(rng, shape, "float32") for make in (decay, normal, normal))
        arrays = [lib.array(v) for v in (a, x, g)]
        runs = [
            [
                lib.numpy(v)
                for v in (
                    lib.scan(*arrays[:2], axis=axis),
                    *lib.gradients(*arrays[:2], None, arrays[2], None, axis=axis)[:2],
                )
            ]
            for _ in range(3)
        ]
        assert all(same_bits(*pair) for run in runs[1:] for pair in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("dtype_name", ["bfloat16", "float32", "complex128"])
def test_any_number_of_threads_gives_the_same_bits(dtype_name: str) -> None:
    """Forward, backward and the sums for a repeated a, at shapes that are cut in every way."""
    for shape, axis in [*LAYOUTS, ((64, 2048), 1), ((2048, 160), 0)]:
        rng = rng_for(shape, dtype_name)
        x, g = (normal(rng, shape, dtype_name) for _ in range(2))
        for a_shape in (shape, tuple(n if d == axis else 1 for d, n in enumerate(shape))):
            a = decay(rng, a_shape, dtype_name)
            h = run_forward(a, x, axis, threads=1)
            grads = run_backward(g, a, h[0], axis, threads=1)
            for threads in (2, 3, 8):
                again = run_forward(a, x, axis, threads=threads)
                assert all(map(same_bits, h, again))
                again = run_backward(g, a, h[0], axis, threads=threads)
                assert all(map(same_bits, grads, again))


def test_adjoint_identity_in_integers(lib: Member) -> None:
    """<g, S x> = <S' g, x>, where S' is what the gradient of x comes from."""
    for shape, axis in layouts(lib):
        for reverse in (False, True):
            rng = rng_for(shape, reverse)
            a = rng.choice([-1.0, 1.0], shape)
            x, g = (integers(rng, shape, "float64", 3) for _ in range(2))
            options = {"axis": axis, "reverse": reverse}
            arrays = [lib.array(v) for v in (a, x, g)]
            h = lib.numpy(lib.scan(*arrays[:2], **options))
            grad_x = lib.gradients(*arrays[:2], None, arrays[2], None, **options)[1]
            assert np.sum(g * h) == np.sum(lib.numpy(grad_x) * x)


def test_nan_stays_in_its_sequence(lib: Member, dtype: str) -> None:
    """One NaN or Inf changes no bit of another sequence, and of its own only what comes later."""
    for shape, axis in layouts(lib)[:4]:
        if len(shape) == 1:
            continue
        rng = rng_for(shape, dtype)
        a, x, g = (make(rng, shape, dtype) for make in (decay, normal, normal))
        at = tuple(int(rng.integers(n)) for n in shape)
        others = np.ones(state_shape(shape, axis), bool)
        others[tuple(np.delete(at, axis))] = False

        def run(x, g, axis=axis, a=a):  # type: ignore[no-untyped-def]
            arrays = [lib.array(v) for v in (a, x, g)]
            h = lib.scan(*arrays[:2], axis=axis)
            grads = lib.gradients(*arrays[:2], None, arrays[2], None, axis=axis)
            return [np.moveaxis(lib.numpy(v), axis, 0) for v in (h, *grads[:2])]

        clean = run(x, g)
        for value in (np.nan, np.inf):
            bad_x, bad_g = x.copy(), g.copy()
            bad_x[at] = bad_g[at] = value
            with np.errstate(invalid="ignore"):  # array-api-strict computes with NumPy
                dirty = run(bad_x, bad_g)
            for one, other in zip(clean, dirty, strict=True):
                assert same_bits(one[:, others], other[:, others])
            assert not np.isfinite(dirty[0][:, ~others].astype(complex)).all()
            # Earlier steps may round otherwise: a tile with such values in it is done again serially.
            earlier = (v[0][: at[axis]].astype(complex) for v in (clean, dirty))
            assert np.allclose(*earlier, rtol=0.02 if dtype.endswith("16") else 1e-4)
