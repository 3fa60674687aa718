"""Layers of one cell on top of each other, in one or both directions: what every library's layers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from scanlib.cells import Cell, forget_bias
from scanlib.cells.functions import delay, namespace
from scanlib.cells.starts import offsets_of
from scanlib.errors import ShapeError
from scanlib.layers.packing import packing_of

Params = Mapping[str, Any]
States = tuple[Any, ...]
Base = TypeVar("Base")


class Place(NamedTuple):
    """One cell of a stack: its layer, its direction, what it takes in, and its parameters as (own name, full name)."""

    cell: Cell
    layer: int
    reverse: bool
    input_size: int
    names: tuple[tuple[str, str], ...]


def make_cells(cell_type: type[Cell], layers: int, options: Mapping[str, Any]) -> tuple[Cell, ...]:
    """The cell of every layer.

    An option may be a list with a value for each layer. `sequence_length` stands for the bias with which a cell
    remembers so many steps. A cell that asks for its place in the stack (`layer`, `layers`) is told.
    """
    options = dict(options)
    names = {field.name for field in dataclasses.fields(cell_type)}
    if (length := options.pop("sequence_length", None)) is not None:
        biases = [name for name in ("forget_bias", "gate_bias") if name in names]
        if not biases:
            raise TypeError(
                f"sequence_length was given, but a {cell_type.__name__} has no bias that follows from it."
            )
        options = {biases[0]: forget_bias(length)} | options
    if unknown := sorted(options.keys() - names):
        raise TypeError(
            f"A {cell_type.__name__} layer has no option {', '.join(unknown)}; those of its cell are "
            f"{', '.join(sorted(names)) or 'none'}."
        )
    for name, value in options.items():
        if isinstance(value, (list, tuple)) and len(value) != layers:
            raise ShapeError(
                f"{name} has {len(value)} values; one for each of the {layers} layers is expected, or a single one."
            )
    return tuple(
        cell_type(
            **{name: n for name, n in (("layer", layer), ("layers", layers)) if name in names}
            | {
                name: value[layer] if isinstance(value, (list, tuple)) else value
                for name, value in options.items()
            }
        )
        for layer in range(layers)
    )


def lstm_options(
    cell_type: type[Cell], bias: Any, proj_size: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The cell's options, with what torch.nn.LSTM's `bias` and `proj_size` say to it; raise where it has no such thing.

    A cell with an option `bias` is told. For any other True, torch's default, asks for what the cell has.
    """
    name = cell_type.__name__
    if proj_size:
        raise TypeError(
            f"proj_size is {proj_size!r}, but a {name} layer has no projection of its outputs: leave it at 0 and put a "
            "linear layer behind."
        )
    if bias is None:
        return dict(options)
    if not isinstance(bias, (bool, list, tuple)):
        raise TypeError(
            f"bias is {bias!r}; True, False or None is expected. The order of arguments is torch.nn.LSTM's: "
            "input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional."
        )
    if "bias" in {field.name for field in dataclasses.fields(cell_type)}:
        return {**options, "bias": bias}
    if bias is True:
        return dict(options)
    if bias is not False or any("bias" in own for own in cell_type().shapes(1, 1)):
        raise TypeError(
            f"bias is {bias!r}, but a {name} layer's biases are those of its cell and no option: leave bias out."
        )
    return dict(options)


class Stack:
    """The shape of a stack and how it runs; arguments are those of every library's layer.

    Parameters of all cells are one flat dictionary, as torch.nn.LSTM names them: a cell's own name, then `_l0`,
    `_l0_reverse`, `_l1` and so on. States are a tuple with what each cell carries, layer by layer, forward before
    reverse.
    """

    def __init__(
        self,
        cell_type: type[Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: Any,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        options: Mapping[str, Any],
    ) -> None:
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ShapeError(f"{name} is {value!r}; a whole number of at least 1 is expected.")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.num_layers, self.bidirectional = num_layers, bidirectional
        if not 0 <= dropout < 1:
            raise ShapeError(
                f"dropout is {dropout}; a share of at least 0 and less than 1 is expected."
            )
        options = lstm_options(cell_type, bias, proj_size, options)
        self.cells = make_cells(cell_type, num_layers, options)
        self.places = tuple(self._places())

    def _places(self) -> Iterator[Place]:
        size = self.input_size
        directions = (False, True) if self.bidirectional else (False,)
        for layer, cell in enumerate(self.cells):
            for reverse in directions:
                suffix = f"_l{layer}" + "_reverse" * reverse
                own = cell.shapes(size, self.hidden_size)
                names = tuple((name, name + suffix) for name in own)
                yield Place(cell, layer, reverse, size, names)
            size = len(directions) * cell.output_size(size, self.hidden_size)
        self.output_size = size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter."""
        shapes = {}
        for place in self.places:
            own = place.cell.shapes(place.input_size, self.hidden_size)
            shapes.update({full: own[name] for name, full in place.names})
        return shapes

    def init(self, rng: np.random.Generator) -> dict[str, Any]:
        """Initial values of every parameter as NumPy arrays: those the cell's authors published."""
        values = {}
        for place in self.places:
            own = place.cell.init(rng, place.input_size, self.hidden_size)
            values.update({full: own[name] for name, full in place.names})
        return values

    def run(
        self,
        params: Params,
        x: Any,
        states: States | None,
        reset: Any,
        axis: int,
        between: Callable[[Any], Any],
        offsets: Any = None,
        lengths: Any = None,
    ) -> tuple[Any, States]:
        """The stack over a whole sequence: its output, and what each cell carries on.

        `axis` counts from the front. `between` is applied to the output of every layer but the last: dropout. `offsets`
        are those of sequences one after the other, `lengths` those of a padded batch.
        """
        states = self._check(x, states)
        if lengths is not None:
            return self._run_padded(params, x, states, reset, axis, between, offsets, lengths)
        offsets = offsets_of(x, axis, reset, offsets)
        xp = namespace(x)
        outputs: list[Any] = []
        final = []
        for place, state in zip(self.places, states, strict=True):
            if place.layer and not place.reverse:
                x, outputs = between(self._joined(outputs)), []
            own = self._own(params, place)
            if place.reverse:
                starts = _starts_from_the_end(x, axis, reset, offsets)
                if offsets is not None and state is not None:
                    state = tuple(xp.flip(array, axis=axis) for array in state)
                output, state = place.cell(own, xp.flip(x, axis=axis), state, axis=axis, **starts)
                output = xp.flip(output, axis=axis)
                if offsets is not None:
                    state = tuple(xp.flip(array, axis=axis) for array in state)
            else:
                output, state = place.cell(own, x, state, axis=axis, reset=reset, offsets=offsets)
            outputs.append(output)
            final.append(state)
        return self._joined(outputs), tuple(final)

    def _run_padded(
        self,
        params: Params,
        x: Any,
        states: States,
        reset: Any,
        axis: int,
        between: Callable[[Any], Any],
        offsets: Any,
        lengths: Any,
    ) -> tuple[Any, States]:
        """The same for a padded batch, of which nothing but the sequences is run."""
        if reset is not None or offsets is not None:
            raise ShapeError(
                "lengths say where sequences end, each in a row of its own: leave out reset and offsets."
            )
        packing = packing_of(lengths, x, axis)
        states = tuple(None if state is None else packing.states(state) for state in states)
        y, final = self.run(params, packing.pack(x), states, None, 0, between, packing.offsets)
        batch = x.shape[1 - axis]
        return packing.unpack(y), tuple(tuple(v[:batch, ...] for v in state) for state in final)

    def step(
        self, params: Params, x_t: Any, states: States | None, reset: Any
    ) -> tuple[Any, States]:
        """One step of time through all layers, without dropout."""
        if self.bidirectional:
            raise ShapeError(
                "A bidirectional layer cannot go step by step: its reverse half starts from the end of the sequence."
            )
        states = self._check(x_t, states)
        final = []
        for place, state in zip(self.places, states, strict=True):
            x_t, state = place.cell.step(self._own(params, place), x_t, state, reset=reset)
            final.append(state)
        return x_t, tuple(final)

    def _own(self, params: Params, place: Place) -> dict[str, Any]:
        return {name: params[full] for name, full in place.names}

    def _joined(self, outputs: list[Any]) -> Any:
        if len(outputs) == 1:
            return outputs[0]
        return namespace(outputs[0]).concat(outputs, axis=-1)

    def _check(self, x: Any, states: States | None) -> States:
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"The input has {x.shape[-1]} features in its last axis; this layer was made for input_size="
                f"{self.input_size}."
            )
        if states is None:
            return (None,) * len(self.places)
        if not isinstance(states, (tuple, list)) or len(states) != len(self.places):
            raise ShapeError(
                f"The state is {type(states).__name__} of {len(states)}; a tuple of {len(self.places)} is expected, "
                "one for each layer and direction, as this layer returned it."
            )
        return tuple(states)


def _starts_from_the_end(x: Any, axis: int, reset: Any, offsets: Any) -> dict[str, Any]:
    """Where sequences of x (..., T, ..., m) start when time is reversed: where they ended.

    The first step needs no reset.
    """
    xp = namespace(x)
    if offsets is not None:
        return {"offsets": x.shape[axis] - xp.flip(offsets, axis=0)}
    if reset is None:
        return {}
    whole = xp.broadcast_to(reset, x.shape[:-1])
    return {"reset": delay(xp.flip(whole, axis=axis), None, axis)}


def classes_for(base: type[Base], attribute: str, kinds: Iterable[type]) -> dict[str, type[Base]]:
    """A subclass of `base` for each of `kinds`, which are cells or layers of cells, by name.

    `attribute` of the class is the kind. Its description is the first line of the kind's.
    """
    found = {}
    for kind in kinds:
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        if issubclass(kind, Cell):
            summary += f" Layers of `scanlib.cells.{kind.__name__}`."
        body = {attribute: kind, "__doc__": summary, "__module__": base.__module__}
        found[kind.__name__] = type(base)(kind.__name__, (base,), body)  # type: ignore[misc]
    return found
