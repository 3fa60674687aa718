"""The public functions: from the user's arrays to the adapter of their library, and back."""

from __future__ import annotations

from typing import Any

from scanlib.dispatch import adapter_for, adapter_for_two
from scanlib.plan import Explanation


def linear_recurrence(
    a: Any,
    x: Any,
    h0: Any = None,
    *,
    axis: int | None = None,
    reverse: bool = False,
    return_final: bool = False,
    out: Any = None,
    reset: Any = None,
    offsets: Any = None,
) -> Any:
    r"""First-order linear recurrence along one axis.

    .. math:: h_t = a_t \, h_{t-1} + x_t, \qquad h_{-1} = h_0

    or, with ``reverse=True``, :math:`h_t = a_t h_{t+1} + x_t` with :math:`h_T = h_0`. Also known as a decayed
    cumulative sum, an exponential moving average with varying decay, a first-order recursive (IIR) filter with
    time-varying coefficients, or, in reverse, discounted returns.

    Parameters
    ----------
    a, x : array, shapes broadcasting to (..., T, ...)
        Arrays of one library on one device: NumPy, CuPy, PyTorch, JAX or another array-API library. Either may be a
        number, and either may be repeated along any axis, time included, without being stored at full size.
        float16, bfloat16, float32, float64, complex64 or complex128; mixed dtypes promote as the library does. A
        Python number takes the dtype of the array beside it. A NumPy scalar has a dtype of its own beside arrays of
        NumPy (as NumPy 2 has it, whichever is installed), CuPy and JAX, and is a Python number beside all others.
    h0 : array, shape (..., ...) : the result's without `axis`, or broadcastable to it; optional
        The state before the first step (after the last one in reverse). Zeros if not given.
    axis : int, optional
        The axis that is time. May be left out for 1-D arrays only; negative values count from the end.
    reverse : bool
        Run from the end of the axis to its start.
    return_final : bool
        Also return the last state in the direction of the recurrence: a pair `(h, final)`.
    out : array, optional
        Where to put the result: of its shape and dtype, overlapping no other argument; it may be `x` itself. NumPy and
        CuPy arrays, and torch tensors where no gradient is recorded.
    reset : boolean array, shape broadcasting to (..., T, ...), optional
        True where a sequence starts inside the time axis: nothing enters that step, so that `h_t = x_t` whatever came
        before it, NaN and infinity included (of a zero the sign may be lost). Usually of shape (batch, T, 1), and never
        stored larger.
    offsets : integers, shape (N + 1,), optional
        Sequences of different lengths one after the other along `axis`: number i is the steps from `offsets[i]` up to
        `offsets[i + 1]`, so that 0 comes first, T last, and nothing decreases. A list, a NumPy array or an array of
        the library. Each sequence, of no steps too, has a state of its own: `h0` and `final` have N in the place of T.

    Returns
    -------
    h : array, shape (..., T, ...)
        The states, of the inputs' library, device and promoted dtype; `out` if that was given.
    final : array, shape (..., ...), or (..., N, ...) with `offsets`
        Only with ``return_final=True``.

    Raises
    ------
    ShapeError, AxisError (ValueError)
        Shapes that do not broadcast; a missing axis or one out of range, which is an IndexError too.
    DTypeError, ArrayKindError, AxisTypeError (TypeError)
        Integers, booleans and other dtypes; things that are not arrays; arrays of two libraries; an axis that is no
        integer.
    DeviceError, OutputError (ValueError)
        Arrays on two devices; an `out` that cannot be written or overlaps an input.
    OffsetsError (ValueError)
        Offsets that do not begin at 0, that decrease, or that do not end at T. Where they cannot be looked at, on a GPU
        without waiting and in a program that is traced, results are undefined then, or XLA raises its own error;
        nothing outside the arrays is read or written. `explain` looks at their shape only.

    Notes
    -----
    In reverse a sequence starts at its last step: `reset` is True there, and `final` is the state of its first.

    Gradients of every order are right for `a`, `x` and `h0`, from both outputs, in the library's own autodiff; NumPy
    and CuPy users have `linear_recurrence_vjp`. 16-bit inputs accumulate in float32. The result depends on the
    arguments and the kind of processor alone: the same bits for any number of threads, run after run. NaN and Inf
    travel along their own sequence as in a serial loop and never reach another. The parallel algorithm follows Martin
    and Cundy, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length", ICLR 2018.

    Subclasses of NumPy's and CuPy's arrays are read as the plain arrays they are views of, as `numpy.memmap` is, and
    results are plain. A subclass whose mask, unit or the like would be lost by that is refused: a masked array, and
    one that defines `__array_ufunc__`, `__array_function__`, `__array_wrap__` or `__array_finalize__`.

    Examples
    --------
    >>> import numpy as np, scanlib
    >>> scanlib.linear_recurrence(0.5, np.array([1.0, 1.0, 1.0, 1.0]))
    array([1.   , 1.5  , 1.75 , 1.875])

    A batch of two sequences of three steps and one channel, with an initial state and the final one:

    >>> a = np.full((2, 3, 1), 0.5)
    >>> x = np.ones((2, 3, 1))
    >>> h, final = scanlib.linear_recurrence(a, x, np.array([[0.0], [8.0]]), axis=1, return_final=True)
    >>> h[..., 0]
    array([[1.  , 1.5 , 1.75],
           [5.  , 3.5 , 2.75]])
    >>> final[:, 0]
    array([1.75, 2.75])

    Discounted returns of a reward per step:

    >>> scanlib.linear_recurrence(0.9, np.array([0.0, 0.0, 1.0]), reverse=True)
    array([0.81, 0.9 , 1.  ])

    A sequence of three steps and one of two, one after the other, each from a state of its own:

    >>> h, final = scanlib.linear_recurrence(
    ...     0.5, np.ones(5), np.array([0.0, 8.0]), offsets=[0, 3, 5], return_final=True
    ... )
    >>> h
    array([1.  , 1.5 , 1.75, 5.  , 3.5 ])
    >>> final
    array([1.75, 3.5 ])
    """
    if h0 is out is reset is None:
        adapter = adapter_for_two(a, x)
    else:
        adapter = adapter_for(("a", "x", "h0", "out", "reset"), a, x, h0, out, reset)
    return adapter.linear_recurrence(a, x, h0, axis, reverse, return_final, out, reset, offsets)


def linear_recurrence_vjp(
    grad_h: Any,
    a: Any,
    h: Any,
    h0: Any = None,
    *,
    axis: int | None = None,
    reverse: bool = False,
    grad_final: Any = None,
    reset: Any = None,
    offsets: Any = None,
) -> tuple[Any, Any, Any]:
    r"""Gradient of `linear_recurrence` with respect to its inputs, for those who write their own autodiff.

    .. math::
        g_t = \partial h_t + \bar a_{t+1} g_{t+1}, \quad
        \partial x_t = g_t, \quad \partial a_t = g_t \bar h_{t-1}, \quad \partial h_0 = \bar a_0 g_0

    in one pass over memory: it reads `grad_h`, `a`, `h` and writes both gradients (Martin and Cundy 2018, section 2.2).

    Parameters
    ----------
    grad_h : array, shape (..., T, ...)
        Gradient of a scalar loss with respect to `h`.
    a : array, broadcastable to (..., T, ...)
        As given to `linear_recurrence`.
    h : array, shape (..., T, ...)
        What `linear_recurrence` returned.
    h0 : array, broadcastable to (..., ...), optional
        As given to `linear_recurrence`.
    axis, reverse
        As given to `linear_recurrence`.
    grad_final : array, shape of `final`, optional
        Gradient with respect to the final state, where that was used as well.
    reset, offsets
        As given to `linear_recurrence`. Where a sequence starts by `reset`, `grad_a` is 0.

    Returns
    -------
    grad_a : array
        Of `a`'s own shape and dtype: summed over the axes along which `a` was repeated, in float32 or wider and in a
        fixed order.
    grad_x : array, shape (..., T, ...)
        Of `grad_h`'s shape and dtype.
    grad_h0 : array or None
        Of `h0`'s own shape and dtype, summed like `grad_a`; None if `h0` was not given.

    Raises
    ------
    ShapeError, AxisError, AxisTypeError, DTypeError, ArrayKindError, DeviceError, OffsetsError
        As `linear_recurrence`.

    Notes
    -----
    Complex gradients follow the library: NumPy, CuPy, torch and other array-API libraries get the conjugated
    convention above (the direction of steepest ascent, as torch has it); JAX arrays get JAX's, without conjugation.

    Examples
    --------
    >>> import numpy as np, scanlib
    >>> a, x = np.array([0.5, 0.5, 0.5]), np.array([1.0, 2.0, 3.0])
    >>> h = scanlib.linear_recurrence(a, x)
    >>> grad_a, grad_x, _ = scanlib.linear_recurrence_vjp(np.array([0.0, 0.0, 1.0]), a, h)
    >>> grad_a
    array([0. , 0.5, 2.5])
    >>> grad_x
    array([0.25, 0.5 , 1.  ])
    """
    names = "grad_h", "a", "h", "h0", "grad_final", "reset"
    adapter = adapter_for(names, grad_h, a, h, h0, grad_final, reset)
    return adapter.linear_recurrence_vjp(
        grad_h, a, h, h0, axis, reverse, grad_final, reset, offsets
    )


def explain(
    a: Any,
    x: Any,
    h0: Any = None,
    *,
    axis: int | None = None,
    reverse: bool = False,
    backward: bool = False,
    reset: Any = None,
    offsets: Any = None,
) -> Explanation:
    """Say which path `linear_recurrence` takes with these arguments, and why not a faster one.

    Parameters are those of `linear_recurrence`; nothing is computed, and no array is copied. Raises what
    `linear_recurrence` would raise.

    Parameters
    ----------
    backward : bool
        Explain the gradient in these arguments instead: `linear_recurrence_vjp`, or what the library's autodiff runs.

    Returns
    -------
    Explanation
        Library, device, kernel, and a note for every copy or fallback. `print` it.

    Examples
    --------
    >>> import numpy as np, scanlib
    >>> scanlib.explain(np.ones((4, 100)), np.ones((4, 100)), axis=1).path
    'libscanlib (cpu)'
    """
    adapter = adapter_for(("a", "x", "h0", "reset"), a, x, h0, reset)
    return adapter.explain(a, x, h0, axis, reverse, backward, reset, offsets)
