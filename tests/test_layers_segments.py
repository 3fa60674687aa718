"""Layers over sequences of different lengths: padded, packed, jagged, and one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scanlib.errors import ShapeError

LENGTHS = [4, 9, 1, 7, 0]
SIZE = 5
CASES = ["GILRLSTM", "QRNN", "WKV", "MinGRU", "RGLRU"]
torch = pytest.importorskip("torch")


def layer_of(name: str, bidirectional: bool, **options: Any) -> Any:
    from scanlib.layers import torch as layers

    torch.manual_seed(0)
    layer = getattr(layers, name)(
        SIZE, 8, num_layers=2, bidirectional=bidirectional, batch_first=True, **options
    ).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def sequences() -> list[Any]:
    torch.manual_seed(1)
    return [torch.randn(n, SIZE, dtype=torch.float64) for n in LENGTHS]


def alone(layer: Any, sequence: Any, state: Any = None) -> tuple[Any, Any]:
    y, state = layer(sequence[None], state)
    return y[0], state


def padded(given: list[Any]) -> Any:
    return torch.nn.utils.rnn.pad_sequence(given, batch_first=True)


def assert_states(state: Any, i: int, want: Any) -> None:
    for mine, theirs in zip(state, want, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one[i], other[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_padded_batches_with_lengths(name: str, bidirectional: bool) -> None:
    layer, given = layer_of(name, bidirectional), sequences()
    y, state = layer(padded(given), lengths=LENGTHS)
    again, _ = layer(padded(given), state, lengths=torch.tensor(LENGTHS))
    for i, sequence in enumerate(given):
        assert (y[i, len(sequence) :] == 0).all()
        if len(sequence):
            want, after = alone(layer, sequence)
            torch.testing.assert_close(y[i, : len(sequence)], want)
            assert_states(state, i, after)
            torch.testing.assert_close(again[i, : len(sequence)], alone(layer, sequence, after)[0])
    layer.batch_first = False
    by_time, _ = layer(padded(given).transpose(0, 1), lengths=LENGTHS)
    torch.testing.assert_close(by_time.transpose(0, 1), y)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_packed_sequences_as_torch_has_them(name: str, bidirectional: bool) -> None:
    layer, given = layer_of(name, bidirectional), [s for s in sequences() if len(s)]
    packed = torch.nn.utils.rnn.pack_sequence(given, enforce_sorted=False)
    out, state = layer(packed)
    again, _ = layer(packed, state)
    assert type(out) is type(packed)
    rows, lengths = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
    later, _ = torch.nn.utils.rnn.pad_packed_sequence(again, batch_first=True)
    assert lengths.tolist() == [len(s) for s in given]
    for i, sequence in enumerate(given):
        want, after = alone(layer, sequence)
        torch.testing.assert_close(rows[i, : len(sequence)], want)
        assert_states(state, i, after)
        torch.testing.assert_close(later[i, : len(sequence)], alone(layer, sequence, after)[0])


@pytest.mark.parametrize("name", CASES)
def test_jagged_tensors(name: str) -> None:
    layer, given = layer_of(name, True), [s for s in sequences() if len(s)]
    jagged = torch.nested.nested_tensor(given, layout=torch.jagged)
    out, state = layer(jagged)
    for i, (mine, sequence) in enumerate(zip(out.unbind(), given, strict=True)):
        want, after = alone(layer, sequence)
        torch.testing.assert_close(mine, want)
        assert_states(state, i, after)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_each_alone(name: str) -> None:
    layer, given = layer_of(name, True), sequences()
    layer(padded(given), lengths=LENGTHS)[0].square().sum().backward()
    mine = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    sum(alone(layer, s)[0].square().sum() for s in given if len(s)).backward()
    for grad, parameter in zip(mine, layer.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


def test_what_says_itself_where_sequences_are_takes_nothing_more() -> None:
    layer, given = layer_of("GILRLSTM", False), [s for s in sequences() if len(s)]
    packed = torch.nn.utils.rnn.pack_sequence(given, enforce_sorted=False)
    with pytest.raises(ShapeError, match="PackedSequence says itself"):
        layer(packed, lengths=[1])
    with pytest.raises(ShapeError, match="leave out reset and offsets"):
        layer(padded(given), lengths=[4, 9, 1, 7], offsets=[0, 9])
    with pytest.raises(ShapeError, match="one length for each of the 4"):
        layer(padded(given), lengths=[4, 9, 1])
    with pytest.raises(ShapeError, match="but the input has 9 steps"):
        layer(padded(given), lengths=[4, 10, 1, 7])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ["GILRLSTM", "QRNN"])
def test_lengths_in_jax(name: str, jit: bool) -> None:
    """Known, or traced in a compiled program."""
    jax = pytest.importorskip("jax")
    from scanlib.layers import jax as layers

    layer = getattr(layers, name)(
        SIZE, 8, num_layers=2, bidirectional=True, batch_first=True, dtype="float64"
    )
    params = layer.init(jax.random.key(0))
    x = jax.numpy.asarray(padded(sequences()).numpy())
    lengths = np.array(LENGTHS)
    run = layer.apply
    if jit:
        run = jax.jit(lambda p, x, n: layer.apply(p, x, lengths=n))
        y, state = run(params, x, lengths)
    else:
        y, state = run(params, x, lengths=lengths)
    for i, n in enumerate(LENGTHS):
        assert (np.asarray(y[i, n:]) == 0).all()
        if n:
            want, after = layer.apply(params, x[i : i + 1, :n])
            np.testing.assert_allclose(y[i, :n], want[0], rtol=1e-8, atol=1e-10)
            for mine, theirs in zip(state, after, strict=True):
                for one, other in zip(mine, theirs, strict=True):
                    np.testing.assert_allclose(one[i], other[0], rtol=1e-8, atol=1e-10)


def test_padding_in_a_compiled_jax_program_is_not_looked_at() -> None:
    """A NaN there reaches no gradient, and lengths that are not known are taken for those that there are."""
    jax = pytest.importorskip("jax")
    from scanlib.layers import jax as layers

    layer = layers.MinLSTM(SIZE, 8, batch_first=True)
    params = layer.init(jax.random.key(0))
    x = np.array(padded(sequences()).float().numpy())
    for row, n in zip(x, LENGTHS, strict=True):
        row[n:] = np.nan

    def loss(params: Any, x: Any, lengths: Any) -> Any:
        return layer.apply(params, x, lengths=lengths)[0].sum()

    known = jax.grad(loss)(params, jax.numpy.asarray(x), LENGTHS)
    traced = jax.jit(jax.grad(loss))(params, x, np.array(LENGTHS))
    for mine, theirs in zip(jax.tree.leaves(traced), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    whole = jax.numpy.asarray(np.nan_to_num(x))
    y = jax.jit(lambda n: layer.apply(params, whole, lengths=n)[0])
    far, near = np.array([99, *LENGTHS[1:-1], -5]), np.array([x.shape[1], *LENGTHS[1:-1], 0])
    np.testing.assert_array_equal(y(far), y(near))


def test_a_packed_sequence_through_a_compiled_layer() -> None:
    layer, given = layer_of("MinGRU", False), [s for s in sequences() if len(s)]
    packed = torch.nn.utils.rnn.pack_sequence(given, enforce_sorted=False)
    out, _ = torch.compile(layer, backend="eager")(packed)
    torch.testing.assert_close(out.data, layer(packed)[0].data)
