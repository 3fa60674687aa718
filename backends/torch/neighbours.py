"""Which steps of an axis are neighbours, for derivatives written out in torch's functions.

Everywhere a step takes from the one before it, but where a sequence starts (`reset`, `offsets`) only from that
sequence's own initial state. A step that takes nothing is cut off by a selection, of values and of all their
derivatives: a product with 0 would let NaN and infinity through. Nothing here reads values or makes shapes of them,
so compilers and transforms see all of it. Tensors are at full size, `reset` alone may be repeated.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scanlib.backends.torch.plans import state_shape

State = Tensor | None


class Neighbours(NamedTuple):
    """The axis, its direction, and where sequences start inside it."""

    axis: int
    reverse: bool
    reset: State = None
    offsets: State = None

    def cut(self, v: Tensor) -> Tensor:
        """v_t, with zeros where the state before does not matter to step t: a factor of that state."""
        return v if self.reset is None else v.masked_fill(self.reset, 0)

    def previous(self, h: Tensor, initial: State) -> Tensor:
        """h_{t-1}, with the initial state (or zeros) before the first step."""
        if self.offsets is None:
            return self.cut(self._shifted(h, initial, self.reverse))
        number, starts = self._segments(h)
        before = self._shifted(h, None, self.reverse)
        if initial is None or initial.shape[self.axis] == 0:
            return before.masked_fill(starts, 0)
        return torch.where(starts, initial.index_select(self.axis, number), before)

    def following(self, g: Tensor) -> Tensor:
        """g_{t+1}, with zeros after the last step; of a `cut` g."""
        if self.offsets is not None:
            g = g.masked_fill(self._segments(g)[1], 0)
        return self._shifted(g, None, not self.reverse)

    def first(self, g: Tensor) -> Tensor:
        """g_0, or zeros where there are no steps; of a `cut` g."""
        axis, steps = self.axis, g.shape[self.axis]
        if self.offsets is None:
            return g.sum(axis) if steps == 0 else g.select(axis, -1 if self.reverse else 0)
        begin, end = self.offsets[:-1], self.offsets[1:]
        if steps == 0:
            return g.new_zeros(state_shape(g.shape, axis, self.offsets))
        # Of an empty sequence some step is taken; nothing depends on which, but there has to be one.
        steps_first = (end - 1 if self.reverse else begin).clamp(0, steps - 1)
        return g.index_select(axis, steps_first).masked_fill(self._along(begin >= end, g), 0)

    def _shifted(self, h: Tensor, start: State, reverse: bool) -> Tensor:
        """The same for one sequence."""
        axis, steps = self.axis, h.shape[self.axis]
        if start is None:
            start = h.new_zeros((*h.shape[:axis], *h.shape[axis + 1 :]))
        start = start.unsqueeze(axis)
        # Cut after joining: no tensor of T - 1 steps, of which compilers would have to know whether there are any.
        joined = torch.cat([h, start] if reverse else [start, h], axis)
        return joined.narrow(axis, 1 if reverse else 0, steps)

    def _segments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The number of each step's sequence; and whether the step is its first, to be broadcast with `like`."""
        assert self.offsets is not None
        offsets = self.offsets.contiguous()
        step = torch.arange(like.shape[self.axis], dtype=offsets.dtype, device=offsets.device)
        # Sequences begun up to a step: of those that begin at one step the last has it, and the others have none.
        begun = torch.bucketize(step, offsets, right=True)
        before = torch.bucketize(step + 1 if self.reverse else step - 1, offsets, right=True)
        # Offsets that lie, which a GPU's kernels do not see, must not lead outside of tensors here either.
        number = (begun - 1).clamp(0, max(offsets.shape[0] - 2, 0))
        return number, self._along(begun != before, like)

    def _along(self, v: Tensor, like: Tensor) -> Tensor:
        """A tensor of one axis, that of time, to be broadcast with `like`."""
        return v.reshape(-1, *(1,) * (like.ndim - self.axis - 1))
