"""Every wrong call: the right exception, and a message that says what to do; test_bad_out.py has `out`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from capabilities import Backend
from matrix import MEMBERS, Member, missing
from refusals import ones, refused

import scanlib
from scanlib import (
    ArrayKindError,
    AxisError,
    AxisTypeError,
    DeviceError,
    DTypeError,
    OutputError,
    ScanlibError,
    ShapeError,
    cells,
)

pytestmark = pytest.mark.thorough  # torch.compile wraps every exception in one of its own

BUILTINS = {
    ArrayKindError: TypeError,
    AxisError: (ValueError, IndexError),
    AxisTypeError: TypeError,
    DTypeError: TypeError,
    DeviceError: ValueError,
    OutputError: ValueError,
    ShapeError: ValueError,
    scanlib.MissingLibraryError: ImportError,
    scanlib.NativeError: RuntimeError,
    scanlib.OffsetsError: ValueError,
}


def test_every_error_is_scanlibs_and_a_builtin() -> None:
    for error, builtins in BUILTINS.items():
        assert issubclass(error, ScanlibError)
        for builtin in builtins if isinstance(builtins, tuple) else (builtins,):
            assert issubclass(error, builtin)
    assert BUILTINS.keys() | {ScanlibError} == {
        error for name in scanlib.__all__ if isinstance(error := getattr(scanlib, name), type)
    }


def test_shapes_that_do_not_broadcast(lib: Member) -> None:
    with refused(ShapeError, r"\(3, 4\)", r"\(2, 4\)", "3 and 2", "length"):
        lib.scan(ones(lib, 3, 4), ones(lib, 2, 4), axis=1)
    with refused(ShapeError, r"\(5,\)", r"\(3, 4\)"):
        lib.scan(ones(lib, 5), ones(lib, 3, 4), axis=1)
    with refused(ShapeError, "no axes"):
        lib.scan(ones(lib), ones(lib))


def test_wrong_h0(lib: Member) -> None:
    for shape in ((3, 4), (3,), (1, 1, 3), (2, 0)):
        with refused(ShapeError, "h0", str(shape[0]), r"\(2, 4\)", "axis 1"):
            lib.scan(ones(lib, 2, 3, 4), ones(lib, 2, 3, 4), ones(lib, *shape), axis=1)


def along_any_axis(lib: Member) -> dict[str, Any]:
    """Every public function with an axis of time, as one of that axis alone; all on arrays of 3 axes."""
    v = ones(lib, 2, 3, 4)
    functions: dict[str, Any] = {
        "linear_recurrence": lambda axis: scanlib.linear_recurrence(v, v, axis=axis),
        "linear_recurrence_vjp": lambda axis: scanlib.linear_recurrence_vjp(v, v, v, axis=axis),
        "explain": lambda axis: scanlib.explain(v, v, axis=axis),
    }
    if lib.capability.functions:
        w, cell = ones(lib, 4), cells.GILR()
        params = {
            name: ones(lib, *shape)
            for name, shape in cell.shapes(input_size=4, hidden_size=5).items()
        }
        functions["cells.wkv"] = lambda axis: cells.wkv(w, w, v, v, axis=axis)
        functions["cells.Cell"] = lambda axis: cell(params, v, axis=axis)
    return functions


@pytest.mark.parametrize("axis", [3, -4, 7, 2**31, 2**63, -(2**200)])
def test_axis_out_of_range(lib: Member, axis: int) -> None:
    for function in along_any_axis(lib).values():
        with refused(AxisError, "out of range", "3 axes", "-3 to 2"):
            function(axis)


@pytest.mark.parametrize("axis", [1.0, "1", True, (1,), [0], np.float64(1)])
def test_axis_of_another_kind(lib: Member, axis: Any) -> None:
    for function in along_any_axis(lib).values():
        with refused(AxisTypeError, "integer"):
            function(axis)


def test_axis_that_is_missing_or_that_of_features(lib: Member) -> None:
    for name, function in along_any_axis(lib).items():
        with refused(AxisError, "missing", "3 axes", "axis=1"):
            function(None)
        if name.startswith("cells"):
            for axis in (2, -1):
                with refused(AxisError, "features"):
                    function(axis)


def test_missing_axis(lib: Member) -> None:
    with refused(AxisError, "missing", "2 axes", "axis=1"):
        lib.scan(ones(lib, 2, 3), ones(lib, 2, 3))


def test_axis_may_be_any_integer_type(lib: Member) -> None:
    h = scanlib.linear_recurrence(ones(lib, 2, 3), ones(lib, 2, 3), axis=np.int8(-1))
    assert lib.numpy(h)[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", ["int32", "uint8", "bool", "int64"])
def test_integers_and_booleans(lib: Member, name: str) -> None:
    good, bad = ones(lib, 4), lib.array(np.ones(4, name))
    for operands, who in (((bad, good), "a"), ((good, bad), "x"), ((bad, bad), "a")):
        with refused(DTypeError, f"{who} has dtype", name, "float32"):
            lib.scan(*operands, axis=0)
    with refused(DTypeError, "h0 has dtype", name):
        lib.scan(good, good, lib.array(np.ones((), name)), axis=0)
    with refused(DTypeError, name):
        lib.scan(0.5, bad, axis=0)


class Impostor:
    """Says it is an array and is not."""

    shape = (4,)
    ndim = 1
    dtype = np.dtype(np.float32)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return np


class ImpostorOfNothing(Impostor):
    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return object()


class FailingImpostor(Impostor):
    def __array_namespace__(self, api_version: str | None = None) -> Any:
        raise RuntimeError("no")


class Lazy:
    """An array of a library that computes when asked, as dask's: it is not asked."""

    shape = (4,)
    ndim = 1
    dtype = np.dtype(np.float32)

    def __array_function__(self, *_: Any) -> Any:
        raise AssertionError("computed")

    __array__ = compute = __array_ufunc__ = __array_function__


class Wider(np.ndarray):
    """A NumPy array that says it is longer than it is."""

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (10**9,)

    @property
    def strides(self) -> tuple[int, ...]:  # type: ignore[override]
        return (4,)


NOT_ARRAYS = [
    [1.0, 2.0],
    (1.0,),
    "ones",
    {1.0},
    object(),
    Impostor(),
    ImpostorOfNothing(),
    FailingImpostor(),
    Lazy(),
    np.ndarray,
]


@pytest.mark.parametrize("thing", NOT_ARRAYS, ids=lambda thing: type(thing).__name__)
def test_not_an_array(lib: Member, thing: Any) -> None:
    good = ones(lib, 4)
    for operands in (
        (thing, good),
        (good, thing),
        (thing, thing),
        (0.5, thing),
        (good, good, thing),
    ):
        with pytest.raises(ScanlibError) as caught:
            scanlib.linear_recurrence(*operands, axis=0)
        assert isinstance(caught.value, (ArrayKindError, DTypeError)), repr(caught.value)
        assert len(str(caught.value)) > 20
    with pytest.raises((ArrayKindError, DTypeError)):
        scanlib.explain(good, thing, axis=0)


def test_a_lazy_array_is_not_to_be_loaded_whole(lib: Member) -> None:
    """Nor is one in a file: the advice for lists, numpy.asarray, would fetch all of it."""
    good, lazy = ones(lib, 4), Lazy()
    calls = [(lazy, good), (good, lazy), (0.5, lazy), (good, good, lazy)]
    for operands in calls:
        with refused(ArrayKindError, "Lazy", "stretch by stretch", "h0") as caught:
            scanlib.linear_recurrence(*operands, axis=0)
        assert "asarray" not in str(caught.value)
    with refused(ArrayKindError, "list", "asarray"):
        scanlib.linear_recurrence(good, [1.0], axis=0)


def test_what_is_missing(lib: Member) -> None:
    good = ones(lib, 4)
    for operands in ((None, good), (good, None), (True, good), (good, False)):
        with refused(ArrayKindError, "NoneType|bool", "NumPy"):
            scanlib.linear_recurrence(*operands, axis=0)
    with refused(ArrayKindError, "scalars", "array"):
        scanlib.linear_recurrence(0.5, 1.0)


def test_an_array_that_lies_about_its_shape() -> None:
    """Memory is only read where the array has it: a subclass is taken as np.asarray sees it."""
    liar = np.ones(4, np.float32).view(Wider)
    assert liar.shape == (10**9,)
    h = scanlib.linear_recurrence(0.5, liar)
    assert h.tolist() == [1, 1.5, 1.75, 1.875]
    h = scanlib.linear_recurrence(liar, np.ones(4, np.float32), axis=0)
    assert h.tolist() == [1, 2, 3, 4]
    plain = np.ones(4, np.float32)
    assert scanlib.linear_recurrence_vjp(plain, liar, liar, axis=0)[1].tolist() == [4, 3, 2, 1]
    out = np.zeros(4, np.float32).view(Wider)
    try:
        scanlib.linear_recurrence(plain, plain, out=out)
    except ScanlibError:
        assert np.asarray(out).tolist() == [0, 0, 0, 0]
    else:
        assert np.asarray(out).tolist() == [1, 2, 3, 4]


def test_dtypes_of_numpy_that_are_none_of_ours() -> None:
    record = np.ones(3, [("a", np.float32), ("b", np.float32)])
    with refused(DTypeError, "dtype"):
        scanlib.linear_recurrence(0.5, record)
    for values in (np.array([1.0, None], object), np.array(["a"]), np.ones(2, np.longdouble)):
        with refused(DTypeError, "dtype"):
            scanlib.linear_recurrence(0.5, values)


def test_two_libraries(lib: Member) -> None:
    here = ones(lib, 4)
    others: list[Any] = [np.ones(4, np.float32)]
    if not missing(Backend.STRICT):
        others.append(MEMBERS[Backend.STRICT](Backend.STRICT).array(others[0]))
    for other in others:
        if lib.owns(other):
            continue
        for operands in ((here, other), (other, here), (here, here, other)):
            with refused(ArrayKindError, "one library", "Convert"):
                scanlib.linear_recurrence(*operands, axis=0)
        with refused(ArrayKindError, "one library"):
            scanlib.linear_recurrence(here, here, axis=0, out=other)
        with refused(ArrayKindError, "one library"):
            scanlib.linear_recurrence_vjp(here, other, here, axis=0)
        with refused(ArrayKindError, "one library"):
            scanlib.linear_recurrence_vjp(here, here, other, axis=0)
        with refused(ArrayKindError, "one library", "grad_h is", "h is"):
            scanlib.linear_recurrence_vjp(here, 0.5, other, axis=0)


def test_two_devices_of_the_standard() -> None:
    xp = pytest.importorskip("array_api_strict")
    here, there = xp.ones(4), xp.ones(4, device=xp.Device("device1"))
    state = xp.ones((), device=xp.Device("device1"))
    for operands in ((here, there), (there, here), (here, here, state)):
        with refused(DeviceError, "one device", "device1"):
            scanlib.linear_recurrence(*operands)
    with refused(DeviceError, "out", "device1"):
        scanlib.linear_recurrence(here, here, out=there)
    with refused(DeviceError, "one device"):
        scanlib.linear_recurrence_vjp(here, here, there)
    h, final = scanlib.linear_recurrence(there, there, 1, return_final=True)
    assert h.device == final.device == there.device
    assert all(
        grad.device == there.device for grad in scanlib.linear_recurrence_vjp(h, there, h)[:2]
    )


def test_bad_gradients(lib: Member) -> None:
    h = ones(lib, 2, 3, 4)
    call = scanlib.linear_recurrence_vjp
    with refused(ShapeError, "grad_h", "h"):
        call(ones(lib, 2, 3), h, h, axis=1)
    with refused(ShapeError, "a has shape", "h's shape"):
        call(ones(lib, 2, 3, 1), h, ones(lib, 2, 3, 1), axis=1)
    with refused(ShapeError, "grad_final", r"\(2, 4\)"):
        call(h, h, h, axis=1, grad_final=ones(lib, 3, 4))
    with refused(ShapeError, "h0"):
        call(h, h, h, ones(lib, 3), axis=1)
    with refused(AxisError, "missing"):
        call(h, h, h)
    with refused(AxisError, "out of range"):
        call(h, h, h, axis=3)
    with refused(DTypeError, "int32"):
        call(lib.array(np.ones((2, 3, 4), np.int32)), h, h, axis=1)
    with refused(DTypeError, "int32"):
        call(h, h, lib.array(np.ones((2, 3, 4), np.int32)), axis=1)
    with pytest.raises(ScanlibError):
        call(h, h, None, axis=1)


def test_explain_refuses_what_the_call_refuses(lib: Member) -> None:
    with refused(ShapeError, "broadcast"):
        scanlib.explain(ones(lib, 3), ones(lib, 2))
    with refused(AxisError, "missing"):
        scanlib.explain(ones(lib, 3, 2), ones(lib, 3, 2))
    with refused(DTypeError, "int32"):
        scanlib.explain(0.5, lib.array(np.ones(3, np.int32)))
    with refused(ShapeError, "h0"):
        scanlib.explain(ones(lib, 3), ones(lib, 3), ones(lib, 3))


def test_sizes_no_memory_holds() -> None:
    """Shapes that multiply to more than 2^63: an error, not a crash."""
    a = np.broadcast_to(np.float32(0.5), (1 << 20, 1, 1, 1))
    x = np.broadcast_to(np.float32(1), (1, 1 << 20, 1 << 20, 1 << 10))
    with pytest.raises((ScanlibError, MemoryError, ValueError)):
        scanlib.linear_recurrence(a, x, axis=0)


def test_too_many_axes() -> None:
    most = 62 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32  # of NumPy itself
    x = np.ones((1,) * (most - 2) + (2, 2))
    assert scanlib.linear_recurrence(0.5, x, axis=-1).shape == x.shape
