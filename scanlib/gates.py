"""What a gated recurrence is, and the same written out in a library's own functions.

    f = sigmoid(column),  i = sigmoid(column) or 1 - f,  z = candidate(column),  o = sigmoid(column) or 1

    h_t = f_t h_{t-1} + i_t z_t,   y_t = o_t h_t

The columns lie side by side on the last axis, before any activation: what one multiplication of matrices gives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Array = Any

#: Candidates by their number in native/scanlib.h: functions of `scanlib.backends.array_functions`.
CANDIDATES = ("identity", "tanh", "elu", "positive")
#: What is read: the state after each step, the one before it, or y.
AFTER, BEFORE, GATED = 0, 1, 2


class GateForm(NamedTuple):
    """What a gated recurrence is, apart from its sizes: where its gates' columns start, and what they go through."""

    width: int
    at_decay: int
    at_input: int  # -1: the complement of the decay
    at_output: int  # -1: none
    at_candidate: int
    candidate: int  # an index of CANDIDATES
    reading: int  # AFTER, BEFORE or GATED
    complement: int  # 1: f is the complement of what its column says


class Opened(NamedTuple):
    """Decay, what enters, and the output gate or None: (..., n) each."""

    decay: Array
    entering: Array
    output: Array | None


def opened(
    columns: Array, blocks: tuple[str, ...], activation: str, complement: bool, functions: Any
) -> Opened:
    """The gates of columns (..., k n), of which `blocks` names each of the k blocks, in order.

    The candidate is the first or the last. `functions` has those of `scanlib.backends.array_functions`.
    """
    n = columns.shape[-1] // len(blocks)
    others = (len(blocks) - 1) * n
    if blocks[0] == "candidate":
        z, gates = functions.parts(columns, n, others)
    else:
        gates, z = functions.parts(columns, others, n)
    names = [name for name in blocks if name != "candidate"]
    if complement and len(names) > 1:
        raise ValueError(f"complement is for cells whose only gate is the decay, not {names}.")
    gates = functions.sigmoid(-gates if complement else gates)
    gate = dict(zip(names, functions.parts(gates, *[n] * len(names)), strict=True))
    f, z = gate["decay"], getattr(functions, activation)(z)
    entering = gate["input"] * z if "input" in gate else functions.convex(f, z)
    return Opened(f, entering, gate.get("output"))


def form_of(
    size: int, blocks: tuple[str, ...], activation: str, complement: bool, reading: int
) -> GateForm | None:
    """The form of `size` columns; None where no kernel has such a candidate."""
    if activation not in CANDIDATES:
        return None
    width = size // len(blocks)
    at = {name: block * width for block, name in enumerate(blocks)}
    return GateForm(
        width,
        at["decay"],
        at.get("input", -1),
        at.get("output", -1),
        at["candidate"],
        CANDIDATES.index(activation),
        AFTER if reading == GATED and "output" not in at else reading,
        int(complement),
    )


def opened_by(columns: Array, form: GateForm, functions: Any) -> Opened:
    """`opened` for columns of a form: all blocks of it, and no others."""
    at = {"decay": form.at_decay, "input": form.at_input, "output": form.at_output}
    at = {name: start for name, start in at.items() if start >= 0} | {
        "candidate": form.at_candidate
    }
    blocks = tuple(sorted(at, key=at.__getitem__))
    return opened(columns, blocks, CANDIDATES[form.candidate], bool(form.complement), functions)
