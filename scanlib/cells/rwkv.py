"""RWKV-4's time mixing (Peng et al. 2023, arXiv 2305.13048), stable at any size of its exponents.

The operator is a weighted average whose weights are exponentials,

    y_t = (sum_{i<t} e^{(t-1-i) w + k_i} v_i + e^{u + k_t} v_t) / (the same sums without v).

With m_t the largest exponent so far, m_t = max(m_{t-1} + w, k_t), both sums divided by e^{m_t} are linear recurrences
whose coefficients a_t = e^{m_{t-1} + w - m_t} are at most 1. And m_t - t w is a running maximum, of k_t - t w. So the
operator is one running maximum and two linear recurrences, all parallel over time. Whatever m is rounded to cancels,
because numerator and denominator use the same; for gradients it is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from scanlib.call import Shape, call_of, time_axis
from scanlib.cells.base import Cell, Params, State, Surrogate, check_library
from scanlib.cells.functions import (
    device_of,
    identity,
    namespace,
    part,
    project,
    running_maximum,
    sigmoid,
    stop_gradient,
    wide,
    zeros,
)
from scanlib.cells.gates import Update, states
from scanlib.cells.initial import orthogonal
from scanlib.cells.starts import Starts, starts_of
from scanlib.cells.surrogate import Window
from scanlib.kinds import kind_of

Array = Any
#: The largest exponent of nothing: a finite stand-in for minus infinity, whose differences are never NaN.
NOTHING = -1e38


def wkv(
    w: Array,
    u: Array,
    k: Array,
    v: Array,
    state: State | None = None,
    *,
    axis: int = -2,
    reset: Array | None = None,
    offsets: Array | None = None,
) -> tuple[Array, State]:
    """The WKV operator over all steps.

    Parameters
    ----------
    w, u : arrays, shape (C,)
        The logarithm of the decay of a step (negative), and what the present step's exponent gets on top.
    k, v : arrays, shape (..., T, ..., C)
    state : (num, den, max), each (..., C), optional
        Both sums divided by e^max, and the largest exponent.
    axis : int
        The axis of time.
    reset : boolean array, shape of k without its last axis, optional
        True where a sequence starts.
    offsets : integers, shape (N + 1,), optional
        Sequences one after the other with states of their own, as in `scanlib.linear_recurrence`.

    Returns
    -------
    y : array, shape of v
    state : (num, den, max)

    Raises
    ------
    AxisError (ValueError), AxisTypeError (TypeError)
    """
    _check(w, u, k, v, state, reset)
    axis = time_axis(axis, tuple(k.shape), "k")
    return _wkv(w, u, k, v, state, starts_of(k, axis, reset, offsets))


def _wkv(
    w: Array, u: Array, k: Array, v: Array, state: State | None, starts: Starts
) -> tuple[Array, State]:
    xp, axis = namespace(k), starts.axis
    steps = k.shape[axis]
    num, den, largest = _nothing(k, starts) if state is None else state
    if steps == 0:
        return v, (num, den, largest)
    count = xp.astype(xp.arange(1, steps + 1, device=device_of(w)), w.dtype)
    drift = w * xp.reshape(count, (steps,) + (1,) * (k.ndim - axis - 1))
    relative = stop_gradient(k - drift)
    if starts.offsets is not None:
        # What a sequence begins with has drifted with all steps before it.
        first = starts.spread(stop_gradient(largest)) - stop_gradient(drift - w)
        here = xp.broadcast_to(starts.first_steps(k.ndim), k.shape)
        relative = xp.where(here, xp.maximum(relative, first), relative)
        top = running_maximum(relative, axis, here)
        return _sums(w, u, k, v, stop_gradient(drift) + top, (num, den, largest), starts)
    first = xp.expand_dims(stop_gradient(largest), axis=axis)
    if starts.reset is None:
        top = xp.maximum(running_maximum(relative, axis), first)
    else:
        relative = xp.concat([first, relative], axis=axis)
        here = xp.broadcast_to(starts.first_steps(k.ndim), k.shape)
        here = xp.concat([xp.zeros_like(part(here, axis, 0, 1)), here], axis=axis)
        top = part(running_maximum(relative, axis, here), axis, 1, steps + 1)
    return _sums(w, u, k, v, stop_gradient(drift) + top, (num, den, largest), starts)


def _sums(
    w: Array, u: Array, k: Array, v: Array, m: Array, state: State, starts: Starts
) -> tuple[Array, State]:
    """The operator from the largest exponents m so far."""
    num, den, largest = state
    before = starts.delay(m, largest, NOTHING)
    decay, entering = _weights(w, k, before, m)
    sums, finals = [], []
    for b, initial in ((entering * v, num), (entering, den)):
        sum_before, final = states(Update(decay, b, identity), initial, starts, before=True)
        sums.append(sum_before)
        finals.append(final)
    return _average(u, k, v, before, *sums), (*finals, starts.last(m, largest))


def wkv_step(
    w: Array, u: Array, k: Array, v: Array, state: State, reset: Array | None = None
) -> tuple[Array, State]:
    """The WKV operator for one step; k and v have shape (..., C)."""
    _check(w, u, k, v, state, reset)
    num, den, largest = state
    before = _before(largest, reset)
    m = stop_gradient(namespace(k).maximum(before + w, k))
    decay, entering = _weights(w, k, before, m)
    y = _average(u, k, v, before, num, den)
    return y, (decay * num + entering * v, decay * den + entering, m)


def _check(
    w: Array, u: Array, k: Array, v: Array, state: State | None, reset: Array | None
) -> None:
    kind, given = kind_of(k, "k"), {"w": w, "u": u, "v": v}
    for name, value in (given if reset is None else {**given, "reset": reset}).items():
        check_library(kind, name, value)
    check_library(kind, "state", *(state or ()))


def _before(largest: Array, reset: Array | None) -> Array:
    """The largest exponent before a step, of nothing where a segment starts."""
    if reset is None:
        return largest
    xp = namespace(largest)
    return xp.where(xp.expand_dims(reset, axis=-1), NOTHING + zeros((), largest), largest)


def _weights(w: Array, k: Array, before: Array, m: Array) -> tuple[Array, Array]:
    """What a sum over e^before is multiplied with to be one over e^m, a step later, and the step's own weight.

    The difference of the large numbers comes first: it is exact where they are close, so that no error of their size
    enters the decay, where it would add up over the steps a channel remembers.
    """
    xp = namespace(k)
    return xp.exp((before - m) + w), xp.exp(k - m)


def _average(u: Array, k: Array, v: Array, before: Array, num: Array, den: Array) -> Array:
    """The sums so far and the present step, its exponent raised by u, over the larger of both exponents."""
    xp = namespace(k)
    q = stop_gradient(xp.maximum(before, u + k))
    past, present = xp.exp(before - q), xp.exp((k - q) + u)
    return (past * num + present * v) / (past * den + present)


def _nothing(k: Array, starts: Starts | None = None) -> State:
    shape = tuple(k.shape)
    if starts is not None:
        shape = call_of(shape, starts.axis, starts.states()).state_shape
    nothing = zeros(shape, k)
    return nothing, nothing, NOTHING + nothing


class _Update(NamedTuple):
    w: Array
    u: Array
    k: Array
    v: Array
    receptance: Array
    output: Array

    def read(self, y: Array) -> Array:
        return project(self.receptance * y, self.output)


@dataclass(frozen=True)
class WKV(Cell):
    r"""RWKV-4's time mixing: the WKV operator between projections of this input and the one before.

    .. math::
        k = (\mu_k x_t + (1 - \mu_k) x_{t-1}) W_k, \quad v, r \text{ alike}, \quad
        y = (\sigma(r) \odot \text{wkv}(w, u, k, v)) W_o, \quad w = -e^{\text{decay}}, \; u = \text{first}

    Parameters: `mix` (3, m) = mu of k, v and r; `weight` (3, m, n) = W_k, W_v, W_r; `output` (n, n) = W_o; `decay` and
    `first` (n,). State: the last input, then num, den and max of `wkv`. The authors have m = n, which a residual stream
    wants.

    Attributes
    ----------
    layer, layers : int
        Which layer of how many: on this depend the initial decay and mix. Matrices start as in the authors' code: W_v
        orthogonal, the others zero, so that a fresh layer adds nothing to a residual stream.
    """

    layer: int = 0
    layers: int = 1
    name: ClassVar[str] = "wkv"

    def stand_in(self) -> Surrogate:
        return Window(1)

    @property
    def memory(self) -> tuple[str, ...]:
        return ("num", "den", "max")

    def shapes(self, input_size: int, hidden_size: int) -> dict[str, Shape]:
        m, n = input_size, hidden_size
        return {
            "mix": (3, m),
            "weight": (3, m, n),
            "output": (n, n),
            "decay": (n,),
            "first": (n,),
        }

    def init(
        self, rng: np.random.Generator, input_size: int, hidden_size: int
    ) -> dict[str, np.ndarray]:
        m, n = input_size, hidden_size
        feature, channel = np.arange(m), np.arange(n)
        rising = self.layer / max(self.layers - 1, 1)
        falling = 1 - self.layer / self.layers
        mix = (feature / m) ** falling
        weight = np.zeros((3, m, n))
        weight[1] = orthogonal(rng, m, n)
        return {
            "mix": np.stack([mix, mix + 0.3 * rising, (feature / m) ** (0.5 * falling)]),
            "weight": weight,
            "output": np.zeros((n, n)),
            "decay": -5 + 8 * (channel / max(n - 1, 1)) ** (0.7 + 1.3 * rising),
            "first": np.log(0.3) + 0.5 * ((channel + 1) % 3 - 1),
        }

    def sizes(self, params: Params) -> tuple[int, int]:
        return params["mix"].shape[1], params["decay"].shape[0]

    def update(self, params: Params, s: Array | None, x: Array, reset: Array | None) -> Any:
        mix, weight = params["mix"], params["weight"]
        change = x - s
        k, v, r = (wide(project(s + mix[i, :] * change, weight[i, :, :])) for i in range(3))
        w = -namespace(x).exp(wide(params["decay"]))
        return _Update(w, wide(params["first"]), k, v, sigmoid(r), wide(params["output"]))

    def scan(self, update: Any, memory: State | None, starts: Starts) -> tuple[Array, State]:
        y, final = _wkv(update.w, update.u, update.k, update.v, memory, starts)
        return update.read(y), final

    def scan_step(
        self, update: Any, memory: State | None, reset: Array | None
    ) -> tuple[Array, State]:
        memory = _nothing(update.k) if memory is None else memory
        y, final = wkv_step(update.w, update.u, update.k, update.v, memory, reset)
        return update.read(y), final

    def initial_memory(self, x: Array, input_size: int, hidden_size: int) -> State:
        return _nothing(zeros((*x.shape[:-1], hidden_size), wide(x[..., :0])))
