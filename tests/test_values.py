"""The right numbers, for every shape, axis, broadcast and dtype, on every member of the matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from capabilities import Backend
from helpers import (
    LENGTHS,
    assert_kind,
    check_forward,
    decay,
    normal,
    rng_for,
    state_shape,
    subsets,
)
from matrix import Member, np_dtype
from oracle import recurrence

import scanlib
from scanlib.overlap import shares_memory

#: Shapes that reach every regime of the CPU kernels: (shape, axis).
REGIMES = [
    ((8, 4096, 64), 1),
    ((65536, 32), 0),
    ((1 << 17, 16), 0),
    ((1 << 17, 3), 0),
    ((64, 8192), 1),
    ((3, 1 << 18), 1),
    ((1 << 20,), 0),
]


def test_member(lib: Member) -> None:
    """Each member is there, or is skipped here with its reason."""
    a, x = lib.array(np.array([0.5, 0.5])), lib.array(np.array([1.0, 1.0]))
    h = lib.scan(a, x)
    assert_kind(lib, h, x, "float64", (2,))
    assert lib.numpy(h).tolist() == [1.0, 1.5]


def test_lengths(lib: Member, dtype: str) -> None:
    """Every length, with time contiguous, between other axes, and as the slowest axis."""
    layouts = [((), ()), ((3,), ()), ((2,), (5,)), ((), (33,)), ((17,), ()), ((), (4, 16))]
    cases = list(itertools.product(LENGTHS, layouts))
    for T, (before, after) in lib.pick(cases):
        rng = rng_for(T, before, after, dtype)
        shape, axis, reverse = (*before, T, *after), len(before), bool(rng.integers(2))
        h0 = normal(rng, before + after, dtype) if rng.integers(2) else None
        check_forward(
            lib, decay(rng, shape, dtype), normal(rng, shape, dtype), h0, axis=axis, reverse=reverse
        )


@pytest.mark.parametrize("reverse", [False, True])
def test_every_axis(lib: Member, reverse: bool) -> None:
    shape = (2, 3, 5, 7)
    for axis in lib.pick(range(-4, 4)):
        rng = rng_for(axis, reverse)
        h0 = normal(rng, state_shape(shape, axis), "float32")
        a, x = decay(rng, shape, "float32"), normal(rng, shape, "float32")
        check_forward(lib, a, x, h0, axis=axis, reverse=reverse)


def test_every_broadcast(lib: Member) -> None:
    """a, x and h0 repeated along any axes, time included."""
    shape = (3, 4, 5)
    pairs = [(s, shape) for s in subsets(shape)] + [(shape, s) for s in subsets(shape)]
    pairs += [((3, 1, 5), (4, 1)), ((1, 4, 1), (3, 1, 5)), ((4, 5), (3, 1, 1)), ((1, 1), (3, 4, 5))]
    for index, (a_shape, x_shape) in enumerate(lib.pick(pairs)):
        axis, reverse = index % 3, bool(index % 2)
        rng = rng_for(a_shape, x_shape)
        states = subsets(state_shape(shape, axis))
        h0 = normal(rng, states[index % len(states)], "float64")
        a, x = decay(rng, a_shape, "float64"), normal(rng, x_shape, "float64")
        check_forward(lib, a, x, h0, axis=axis, reverse=reverse)


def test_python_scalars_take_the_arrays_dtype(lib: Member, dtype: str) -> None:
    x = normal(rng_for(dtype), (2, 6), dtype)
    coefficient = np.array(0.5).astype(x.dtype)
    for a, b, values in (
        (0.5, lib.array(x), (coefficient, x)),
        (lib.array(x), 1, (x, np.array(1).astype(x.dtype))),
        (1, lib.array(x), (np.array(1).astype(x.dtype), x)),
    ):
        h = lib.scan(a, b, axis=1)
        assert_kind(lib, h, lib.array(x), dtype, (2, 6))
        expected = recurrence(*values, axis=1)[0]
        size = recurrence(*(np.abs(v.astype(complex)) for v in values), axis=1)[0]
        error = np.abs(lib.numpy(h).astype(complex) - expected)
        assert np.all(error <= 0.02 * size.real if dtype.endswith("16") else 1e-5 * size.real)
    h, final = lib.scan(lib.array(x), lib.array(x), 1, axis=1, return_final=True)
    assert_kind(lib, final, lib.array(x), dtype, (2,))


def test_complex_scalar_makes_the_result_complex(lib: Member) -> None:
    h = lib.scan(0.5j, lib.array(np.ones(3, np.float32)), axis=0)
    assert_kind(lib, h, h, "complex64", (3,))
    assert lib.numpy(h).tolist() == [1, 1 + 0.5j, 0.75 + 0.5j]


@pytest.mark.thorough  # torch.compile makes arrays of NumPy scalars
@pytest.mark.slow_for(Backend.EMULATED)
def test_numpy_scalars_promote_as_the_library_has_it(lib: Member) -> None:
    """NumPy's have a dtype, although float64 is a Python float and complex128 a Python complex; torch's are numbers."""
    names = [name for name in ("float32", "bfloat16") if name in lib.capability.dtypes]
    scalars = [np.float64(0.5), np.float32(0.5), np.complex128(0.5j)]
    for name, scalar in itertools.product(names, scalars):
        x = normal(rng_for(name), (2, 6), name)
        given = lib.array(x)
        expected = lib.dtype_beside(scalar, given)
        want, _ = recurrence(np.array(scalar), x, axis=1)
        h = lib.scan(scalar, given, axis=1)
        assert_kind(lib, h, given, expected, (2, 6))
        tolerance = 0.02 if expected == "bfloat16" else 1e-5
        assert np.allclose(lib.numpy(h).astype(complex), want, rtol=tolerance, atol=tolerance)
        kinds = [lib.scan(given, given, scalar, axis=1), lib.scan(given, scalar, axis=1)]
        assert [lib.dtype_name(kind) for kind in kinds] == [expected] * 2
        grads = scanlib.linear_recurrence_vjp(h, scalar, h, scalar, axis=1)
        assert [tuple(grad.shape) for grad in grads] == [(), (2, 6), ()]
        assert scanlib.explain(scalar, given, axis=1).path
    with pytest.raises(scanlib.ArrayKindError, match="array"):
        scanlib.linear_recurrence(scalars[0], scalars[1])


@pytest.mark.thorough
@pytest.mark.slow_for(Backend.EMULATED)
def test_promotion_is_the_librarys(lib: Member) -> None:
    """Mixed dtypes give what the library promotes them to, or a DTypeError where it does not."""
    names = lib.capability.dtypes
    for a_name, x_name in lib.pick([(m, n) for m in names for n in names if m != n]):
        rng = rng_for(a_name, x_name)
        a, x = decay(rng, (40, 3), a_name), normal(rng, (40, 3), x_name)
        given = lib.array(a), lib.array(x)
        try:
            expected = str(lib.namespace(given[0]).result_type(*given)).rpartition(".")[2]
        except (TypeError, ValueError):
            with pytest.raises(scanlib.DTypeError, match="dtype"):
                lib.scan(*given, axis=0)
            continue
        h = lib.scan(*given, axis=0)
        assert_kind(lib, h, given[1], expected, (40, 3))
        want, _ = recurrence(a, x)
        size, _ = recurrence(np.abs(a.astype(complex)).real, np.abs(x.astype(complex)).real)
        tolerance = 0.02 if expected.endswith("16") else 1e-5
        assert np.all(np.abs(lib.numpy(h).astype(complex) - want) <= tolerance * size)


@pytest.mark.slow_for(Backend.TORCH_COMPILE)
def test_empty(lib: Member) -> None:
    """No steps: the final state is h0. No sequences: nothing, of the right shape."""
    h0 = np.arange(6, dtype=np.float32).reshape(2, 3)
    for reverse in (False, True):
        a = x = lib.array(np.empty((2, 0, 3), np.float32))
        options = {"axis": 1, "reverse": reverse, "return_final": True}
        h, final = lib.scan(a, x, lib.array(h0), **options)
        assert_kind(lib, h, x, "float32", (2, 0, 3))
        assert_kind(lib, final, x, "float32", (2, 3))
        assert np.array_equal(lib.numpy(final), h0)
        h, final = lib.scan(a, x, lib.array(h0[:1]), **options)
        assert np.array_equal(lib.numpy(final), np.broadcast_to(h0[:1], (2, 3)))
        _, final = lib.scan(a, x, **options)
        assert np.array_equal(lib.numpy(final), np.zeros((2, 3)))
        for shape in ((0, 5, 3), (2, 5, 0), (0, 0, 0)):
            a = x = lib.array(np.empty(shape, np.float32))
            h, final = lib.scan(a, x, **options)
            assert tuple(h.shape) == shape
            assert tuple(final.shape) == (shape[0], shape[2])


def test_final_state_is_the_last_step(lib: Member, dtype: str) -> None:
    rng = rng_for(dtype)
    a, x = (lib.array(make(rng, (3, 37, 4), dtype)) for make in (decay, normal))
    for reverse in (False, True):
        h, final = lib.scan(a, x, axis=1, reverse=reverse, return_final=True)
        last = lib.numpy(h)[:, 0 if reverse else -1]
        assert np.array_equal(lib.numpy(final), last)


def test_results_share_no_memory(lib: Member) -> None:
    """Nothing that comes back changes when something else does."""
    h0 = np.ones((1, 4))
    for T in (0, 3):
        given = lib.array(h0)
        h, final = lib.scan(
            lib.array(np.ones((2, T, 4))),
            lib.array(np.ones((2, T, 4))),
            given,
            axis=1,
            return_final=True,
        )
        memories = [lib.memory(v) for v in (h, final, given)]
        for one, other in itertools.combinations(memories, 2):
            assert not shares_memory(one, other)
        assert shares_memory(lib.memory(given), lib.memory(given))


@pytest.mark.needs("out")
def test_out(lib: Member, dtype: str) -> None:
    """`out` is filled completely, returned itself, and may be x."""
    rng = rng_for(dtype)
    for shape, axis in (((3, 65, 4), 1), ((5, 33), 1), ((129, 20), 0), ((2, 0, 4), 1)):
        a, x = decay(rng, shape, dtype), normal(rng, shape, dtype)
        expected = lib.numpy(lib.scan(lib.array(a), lib.array(x), axis=axis))
        out = lib.array(np.full(shape, np.nan).astype(np_dtype(dtype)))
        result = lib.scan(lib.array(a), lib.array(x), axis=axis, out=out)
        assert result is out
        assert lib.numpy(out).tobytes() == expected.tobytes()
        in_place = lib.array(x.copy())
        result = lib.scan(lib.array(a), in_place, axis=axis, out=in_place, reverse=False)
        assert result is in_place
        assert lib.numpy(in_place).tobytes() == expected.tobytes()
        final_out = lib.array(np.full(shape, np.nan).astype(np_dtype(dtype)))
        result, final = lib.scan(
            lib.array(a), lib.array(x), axis=axis, out=final_out, return_final=True
        )
        assert result is final_out
        assert tuple(final.shape) == state_shape(shape, axis)


@pytest.mark.needs("large")
def test_regimes(lib: Member) -> None:
    """The shapes at which the kernels change their way of working, each forward or in reverse."""
    for index, (shape, axis) in enumerate(lib.large(REGIMES)):
        rng = rng_for(shape)
        dtype = ("float32", "complex64", "float64", "bfloat16")[index % 4]
        a, x = decay(rng, shape, dtype), normal(rng, shape, dtype)
        h0 = normal(rng, state_shape(shape, axis), dtype)
        check_forward(lib, a, x, h0, axis=axis, reverse=bool(index % 2))


@pytest.mark.thorough
def test_float32_error_is_a_serial_loops(lib: Member) -> None:
    """At most twice the error of the same loop in float32, in the mean and at worst, with long memory."""
    for shape, axis in lib.pick([((2, 1 << 16), 1), ((1 << 14, 3), 0), ((1025, 64), 0)]):
        if not lib.capability.native:
            shape = tuple(min(n, 1000) for n in shape)
        rng = rng_for(shape)
        a = (1 - rng.uniform(0, 2e-3, shape)).astype(np.float32)
        x = normal(rng, shape, "float32")
        expected, _ = recurrence(a, x, axis=axis)
        serial, _ = recurrence(a, x, axis=axis, dtype=np.float32)
        actual = lib.numpy(lib.scan(lib.array(a), lib.array(x), axis=axis))
        ours, theirs = np.abs(actual - expected), np.abs(serial - expected)
        assert ours.max() <= 2 * theirs.max()
        assert ours.mean() <= 2 * theirs.mean()
