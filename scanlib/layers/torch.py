"""Recurrent layers for PyTorch, which follow `torch.nn.LSTM`'s conventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from scanlib import cells
from scanlib.errors import ShapeError
from scanlib.layers.stack import Stack, States, classes_for


class Layer(torch.nn.Module):
    """Layers of a cell over a sequence, all time steps at once.

    Parameters
    ----------
    input_size, hidden_size
        Features of the input and of each cell.
    num_layers
        Cells on top of each other.
    bias
        Whether projections have biases: an option of MinGRU and MinLSTM. The other cells have theirs or none, as their
        authors publish them; True is taken for whatever that is, False is an error where there are biases.
    batch_first
        Whether inputs are (batch, T, input_size) rather than (T, batch, input_size).
    dropout
        Share of the outputs of every layer but the last that is set to zero in training.
    bidirectional
        Whether a second cell of each layer runs from the end; outputs are concatenated, forward first.
    proj_size
        0: no layer here has torch.nn.LSTM's projection of its outputs.
    device, dtype
        Of the parameters: torch's defaults if not given.
    **options
        The cell's own, described in `scanlib.cells`, or for each a list with one value a layer. `sequence_length` in
        the place of a forget bias sets that for memories which have to last so many steps.

    Notes
    -----
    Arguments up to `dtype` are torch.nn.LSTM's in its order.

    Call with `input` of shape (T, batch, input_size), or (batch, T, input_size) with `batch_first`, or unbatched
    (T, input_size), and optionally with a state returned by an earlier call, to go on from there. Returns
    `(output, state)`. The state is a tuple with one entry for each layer and direction in torch.nn.LSTM's order, each
    what the cell carries; tensors in it are differentiable.

    Sequences of different lengths are run without their padding:

    - a `torch.nn.utils.rnn.PackedSequence`, as torch.nn.LSTM takes it, gives one back; states are in the order of the
      batch before it was sorted
    - a nested tensor of layout jagged, (batch, ragged T, input_size), gives one back
    - `lengths`, integers (batch,) that are best on the CPU, says how long the sequences of a padded batch are; the
      output is zero behind them, and states are those after each sequence's last step
    - `offsets`, integers (N + 1,), says where sequences start that lie one after the other along the axis of time;
      tensors of the state have N in the place of T
    - `reset`, a boolean tensor without the axis of features, is true where a new sequence starts from nothing

    Parameters are named after the cell's own as in torch.nn.LSTM: `NAME_l0`, `NAME_l0_reverse`, `NAME_l1`. Initial
    values are those the cell's authors published, drawn from torch's default generator, so `torch.manual_seed` fixes
    them.
    """

    cell_type: ClassVar[type[cells.Cell]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool | None = None,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        # fmt: off
        self.stack = Stack(
            self.cell_type, input_size, hidden_size, num_layers, bias, dropout, bidirectional, proj_size, options
        )
        # fmt: on
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        for name, shape in self.stack.shapes().items():
            data = torch.empty(shape, dtype=dtype, device=device)
            self.register_parameter(name, torch.nn.Parameter(data))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values from torch's default generator."""
        seed = int(torch.randint(2**62, (), device="cpu"))
        with torch.no_grad():
            for name, value in self.stack.init(np.random.default_rng(seed)).items():
                getattr(self, name).copy_(torch.from_numpy(np.asarray(value)))

    def forward(
        self,
        input: Any,  # noqa: A002
        state: States | None = None,
        *,
        reset: Tensor | None = None,
        offsets: Any = None,
        lengths: Any = None,
    ) -> tuple[Any, States]:
        starts = {"reset": reset, "offsets": offsets, "lengths": lengths}
        if isinstance(input, PackedSequence):
            _refuse("a PackedSequence", starts)
            return self._run_packed(input, state)
        if input.is_nested:
            _refuse("a nested tensor", starts)
            return self._run_jagged(input, state)
        if input.ndim < 2:
            raise ShapeError(
                f"The input has shape {tuple(input.shape)}; at least (T, input_size) is expected."
            )
        axis = input.ndim - 2 if self.batch_first else 0
        return self._run(input, state, axis, **starts)

    def _run(
        self,
        x: Tensor,
        state: States | None,
        axis: int,
        *,
        reset: Tensor | None = None,
        offsets: Any = None,
        lengths: Any = None,
    ) -> tuple[Tensor, States]:
        weights = self._weights()
        return self.stack.run(weights, x, state, reset, axis, self._drop, offsets, lengths)

    def _run_packed(
        self, packed: PackedSequence, state: States | None
    ) -> tuple[PackedSequence, States]:
        """A PackedSequence has the first steps of all sequences, longest first, then the second ones, and so on."""
        sizes = packed.batch_sizes
        number = torch.arange(int(sizes[0]))
        there = number < sizes[:, None]  # (T, batch)
        place = torch.cumsum(sizes, 0) - sizes
        by_sequence = (place[:, None] + number).T[there.T]
        offsets = torch.cat([sizes.new_zeros(1), torch.cumsum(there.sum(0), 0)])
        device = packed.data.device
        taken, offsets = by_sequence.to(device), offsets.to(device)
        order, back = packed.sorted_indices, packed.unsorted_indices
        y, final = self._run(packed.data[taken], _reordered(state, order), 0, offsets=offsets)
        y = y[torch.argsort(taken)]
        # Not _replace(), which torch.compile loses the fields of.
        return PackedSequence(y, sizes, order, back), _reordered(final, back)

    def _run_jagged(self, nested: Any, state: States | None) -> tuple[Tensor, States]:
        if nested.layout is not torch.jagged or nested.ndim != 3 or nested._ragged_idx != 1:
            raise ShapeError(
                "A nested input must be jagged, (batch, ragged T, input_size): make it with "
                "torch.nested.nested_tensor(tensors, layout=torch.jagged)."
            )
        nested = nested.contiguous()
        offsets = nested.offsets()
        y, final = self._run(nested.values(), state, 0, offsets=offsets)
        return torch.nested.nested_tensor_from_jagged(y, offsets), final

    def step(
        self,
        input: Tensor,  # noqa: A002
        state: States | None = None,
        *,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, States]:
        """One step of time: `input` of shape (batch, input_size) or (input_size,); without dropout."""
        return self.stack.step(self._weights(), input, state, reset)

    def extra_repr(self) -> str:
        stack = self.stack
        parts = [f"{stack.input_size}, {stack.hidden_size}", f"num_layers={stack.num_layers}"]
        parts += ["batch_first=True"] * self.batch_first
        parts += [f"dropout={self.dropout}"] * (self.dropout > 0)
        parts += ["bidirectional=True"] * stack.bidirectional
        return f"{', '.join(parts)}, cell={stack.cells[0]}"

    def _weights(self) -> dict[str, Tensor]:
        # Looked up one by one: a parametrization replaces the attribute, not the entry in _parameters.
        names = (name for place in self.stack.places for _, name in place.names)
        return {name: getattr(self, name) for name in names}

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


def _refuse(what: str, starts: dict[str, Any]) -> None:
    if given := [name for name, value in starts.items() if value is not None]:
        raise ShapeError(
            f"{what} says itself where sequences are: leave out {' and '.join(given)}."
        )


def _reordered(states: States | None, order: Tensor | None) -> Any:
    if states is None or order is None:
        return states
    return tuple(
        None if state is None else tuple(array[order] for array in state) for state in states
    )


#: A layer for each cell of `scanlib.cells.CELLS`, under the cell's name; each an attribute of this module.
LAYERS: dict[str, type[Layer]] = classes_for(Layer, "cell_type", cells.CELLS.values())
globals().update(LAYERS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[Layer]: ...
