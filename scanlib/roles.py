"""The operands of a recurrence and of its gradient, in one table: the one of native/scanlib.h.

Everything that has to know them goes by this table: which operands are states, what a pass reads and writes, and in
which order they stand wherever they are listed. A new operand is a row here and there, its meaning in the kernels, and
its place in the public signature.
"""

from __future__ import annotations

from typing import NamedTuple

UNUSED, READ, WRITTEN, OPTIONAL = 0, 1, 2, 4


class Role(NamedTuple):
    """One operand: whether it is a state, which has no time axis, and how each pass uses it, gated or not."""

    name: str
    state: bool
    forward: int
    backward: int
    gated_forward: int
    gated_backward: int


ROLES = (
    Role("a", False, READ, READ, READ, READ),
    Role("x", False, READ, UNUSED, UNUSED, UNUSED),
    Role("h", False, WRITTEN, READ, WRITTEN, READ),
    Role("h0", True, *(READ | OPTIONAL,) * 4),
    Role("final", True, WRITTEN | OPTIONAL, UNUSED, WRITTEN | OPTIONAL, UNUSED),
    Role("grad_h", False, UNUSED, READ, UNUSED, READ),
    Role("grad_final", True, UNUSED, READ | OPTIONAL, UNUSED, READ | OPTIONAL),
    Role("grad_a", False, UNUSED, WRITTEN, UNUSED, WRITTEN),
    Role("grad_x", False, UNUSED, WRITTEN, UNUSED, UNUSED),
    Role("grad_h0", True, UNUSED, WRITTEN | OPTIONAL, UNUSED, WRITTEN | OPTIONAL),
    Role("y", False, UNUSED, UNUSED, WRITTEN | OPTIONAL, UNUSED),
    Role("reset", False, *(READ | OPTIONAL,) * 4),
    Role("offsets", False, *(READ | OPTIONAL,) * 4),
)

#: name -> its number in the C interface
NUMBERS = {role.name: number for number, role in enumerate(ROLES)}
NAMES = tuple(NUMBERS)
#: The state before the first step.
INITIAL = "h0"
#: Those without a time axis; where there are offsets, with one of segments in its place.
STATES = frozenset(role.name for role in ROLES if role.state)


def names(use: int, *, backward: bool) -> tuple[str, ...]:
    """What a pass reads (`READ`), writes (`WRITTEN`) or may do without (`OPTIONAL`), in the order of the table."""
    return tuple(role.name for role in ROLES if (role.backward if backward else role.forward) & use)


def states_last(use: int, *, backward: bool) -> tuple[str, ...]:
    """The same, states after all others."""
    return tuple(sorted(names(use, backward=backward), key=lambda name: name in STATES))


def written(*, backward: bool) -> tuple[str, ...]:
    """What a pass writes."""
    return names(WRITTEN, backward=backward)


#: Where sequences start inside the time axis: no numbers to compute with, and without gradients.
STARTS = ("reset", "offsets")
#: Those of each pass but `STARTS`.
FORWARD = tuple(name for name in names(READ | WRITTEN, backward=False) if name not in STARTS)
BACKWARD = tuple(name for name in names(READ | WRITTEN, backward=True) if name not in STARTS)
#: What the gradient of each operand that has one is called.
GRADIENTS = {name.removeprefix("grad_"): name for name in written(backward=True)}
