"""Layers for PyTorch: against their cells on NumPy, composed by hand, and as a torch.nn.LSTM is used."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scanlib import cells
from scanlib.errors import ShapeError

torch = pytest.importorskip("torch")
from torch_layers import BATCH, LAYERS, M, N, T, inputs, make  # noqa: E402
from torch_warnings import TORCHS_OWN  # noqa: E402

from scanlib.layers import torch as layers  # noqa: E402

pytestmark = TORCHS_OWN
Array = np.ndarray[Any, np.dtype[Any]]


def own(layer: Any, suffix: str) -> dict[str, Array]:
    """The parameters of one cell of a layer, for that cell on NumPy."""
    return {
        name.removesuffix(suffix): value.numpy()
        for name, value in layer.state_dict().items()
        if name.endswith(suffix)
    }


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found).detach(), torch.as_tensor(expected).detach())


def close_states(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        for array, wanted in zip(one, other, strict=True):
            close(array, wanted)


def test_every_cell_has_a_layer() -> None:
    assert LAYERS.keys() == cells.CELLS.keys()


@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_is_its_cell(name: str) -> None:
    layer, x = make(name), inputs()
    output, (state,) = layer(x)
    expected, wanted = layer.stack.cells[0](own(layer, "_l0"), x.numpy(), axis=0)
    close(output, expected)
    close_states([state], [wanted])


@pytest.mark.parametrize("name", LAYERS)
def test_stacked_both_ways_is_cells_composed(name: str) -> None:
    layer, x = make(name, M, N, 2, bidirectional=True), inputs()
    value, states = x.numpy(), []
    for number, cell in enumerate(layer.stack.cells):
        there, first = cell(own(layer, f"_l{number}"), value, axis=0)
        back, second = cell(own(layer, f"_l{number}_reverse"), value[::-1].copy(), axis=0)
        value = np.concatenate([there, back[::-1]], axis=-1)
        states += [first, second]
    output, state = layer(x)
    close(output, value)
    close_states(state, states)
    assert output.shape[-1] == layer.stack.output_size


@pytest.mark.parametrize("name", LAYERS)
def test_goes_on_in_chunks_and_steps(name: str) -> None:
    layer, x = make(name, M, N, 2), inputs()
    whole, final = layer(x)
    first, state = layer(x[:3])
    second, state = layer(x[3:4], state)
    parts = [first, second]
    for x_t in x[4:]:
        output, state = layer.step(x_t, state)
        parts.append(output[None])
    close(torch.cat(parts), whole)
    close_states(state, final)


def test_layouts() -> None:
    layer, x = make("gilr_lstm"), inputs()
    first = make("gilr_lstm", batch_first=True)
    first.load_state_dict(layer.state_dict())
    output, _ = layer(x)
    close(first(x.transpose(0, 1))[0].transpose(0, 1), output)
    for there in (layer, first):
        close(there(x[:, 0])[0], output[:, 0])
    four = x.reshape(T, BATCH, 1, M).expand(-1, -1, 5, -1)
    close(layer(four)[0][:, :, 3], output)


def test_dropout_lies_between_layers_and_only_in_training() -> None:
    plain, layer = (make("gilr_lstm", M, N, 3, dropout=share) for share in (0.0, 0.4))
    x = inputs()
    torch.manual_seed(5)
    output, _ = layer(x)
    torch.manual_seed(5)
    value = x
    for number in range(3):
        weights = {k: torch.as_tensor(v) for k, v in own(layer, f"_l{number}").items()}
        value, _ = layer.stack.cells[number](weights, value, axis=0)
        value = torch.nn.functional.dropout(value, 0.4, number < 2)
    close(output, value)
    close(layer.eval()(x)[0], plain(x)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_resets_separate_sequences(bidirectional: bool) -> None:
    layer, x = make("gilr_lstm", M, N, 2, bidirectional=bidirectional), inputs()
    reset = torch.zeros(T, BATCH, dtype=torch.bool)
    reset[3] = True
    output, _ = layer(x, reset=reset)
    close(output, torch.cat([layer(x[:3])[0], layer(x[3:])[0]]))
    every = torch.ones(1, 1, dtype=torch.bool)
    close(layer(x, reset=every)[0], layer(x, reset=every.expand(T, BATCH))[0])


@pytest.mark.parametrize("name", ["wkv", "qrnn", "gilr_lstm"])
def test_no_steps(name: str) -> None:
    layer = make(name, M, N, 2, bidirectional=True)
    output, _ = layer(inputs(0, BATCH, M), reset=torch.zeros(0, BATCH, dtype=torch.bool))
    assert output.shape == (0, BATCH, 2 * N)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name: str) -> None:
    layer, x = make(name, 2, 2, 1, bidirectional=True), inputs(4, 1, 2).requires_grad_()
    _, state = layer(x.detach())
    state = tuple(tuple(array.detach().clone().requires_grad_() for array in one) for one in state)
    leaves = [array for one in state for array in one]
    names = list(layer.state_dict())

    def run(x: Any, *arrays: Any) -> Any:
        given, weights = iter(arrays[: len(leaves)]), arrays[len(leaves) :]
        start = tuple(tuple(next(given) for _ in one) for one in state)
        call = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, start))
        if (
            name == "wkv"
        ):  # its state's scale is a constant to derivatives, which cancels in outputs alone
            return call[0]
        return call[0], *(array for one in call[1] for array in one)

    weights = [w.detach().clone().requires_grad_() for w in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *leaves, *weights), fast_mode=True)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("gilr_lstm", "sru") else pytest.param(name, marks=pytest.mark.slow)
        for name in LAYERS
    ],
)
def test_compiles_as_one_graph(name: str) -> None:
    torch.compiler.reset()
    layer, x = make(name, M, N, 1, bidirectional=True), inputs()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found, expected = (f(x)[0] for f in (run, layer))
    close(found, expected)
    weights = list(layer.parameters())
    grads = [torch.autograd.grad(y.square().sum(), weights) for y in (found, expected)]
    torch.testing.assert_close(*grads)
    torch.compiler.reset()


@pytest.mark.parametrize("name", LAYERS)
def test_positional_arguments_are_those_of_an_lstm(name: str) -> None:
    lstm = [key for key in inspect.signature(torch.nn.RNNBase.__init__).parameters if key != "mode"]
    assert list(inspect.signature(LAYERS[name].__init__).parameters)[:-1] == lstm
    layer = LAYERS[name](6, 6, 2, True, True, 0.25, True, 0, "meta", torch.float64)
    named = {"num_layers": 2, "batch_first": True, "dropout": 0.25, "bidirectional": True}
    assert {key: getattr(layer, key) for key in named} == named
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
    other = LAYERS[name](6, 6, **named)
    if "bias" not in vars(layer.stack.cells[0]):  # where biases are an option, True asks for them
        assert list(layer.state_dict()) == list(other.state_dict())
    output, _ = LAYERS[name](6, 6, 2, True, True)(torch.randn(3, 5, 6))
    assert output.shape[:2] == (3, 5)


def test_biases_and_projections_as_far_as_a_layer_has_them() -> None:
    assert "bias_l1" in make("min_gru", M, N, 2, True).state_dict()
    assert "bias_l0" not in make("min_lstm", M, N, 1, False).state_dict()
    assert make("s5", M, N, 1, False).state_dict().keys() == make("s5").state_dict().keys()
    given = make("min_gru", M, N, 2, [True, False]).state_dict()
    assert {"bias_l0"} == {key for key in given if key.startswith("bias")}
    with pytest.raises(TypeError, match="bias is False, but a GILRLSTM layer's biases"):
        make("gilr_lstm", M, N, 1, False)
    with pytest.raises(TypeError, match=r"bias is 0.5; .* order of arguments is torch.nn.LSTM's"):
        make("gilr_lstm", M, N, 1, 0.5)
    with pytest.raises(TypeError, match="proj_size is 2, but a SRU layer has no projection"):
        make("sru", proj_size=2)


def test_parameters_are_named_saved_and_moved() -> None:
    layer = make("gilr_lstm", M, N, 2, bidirectional=True)
    assert {"weight_l0", "weight_l1_reverse", "surrogate_bias_l0"} <= set(layer.state_dict())
    assert sum(p.numel() for p in make("gilr_lstm").parameters()) == (
        4 * N * (N + M) + 4 * N + 2 * N * M + 2 * N
    )
    other = LAYERS["gilr_lstm"](M, N, 2, bidirectional=True, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    x = inputs()
    for twin in (other, copy.deepcopy(layer)):
        close(twin(x)[0], layer(x)[0])
    half = layer.to(torch.float32)
    assert half(x.float())[0].dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert layers.GILR(M, N, device="meta")(torch.empty(T, M, device="meta"))[0].shape == (T, N)
    with torch.device("meta"):
        assert layers.GILR(M, N).weight_l0.is_meta


def test_initial_values_follow_the_seed_and_the_length() -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(layers.GILRLSTM(M, N).weight_l0)
    close(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    long = layers.GILRLSTM(M, N, sequence_length=1024)
    close(long.bias_l0[:N], torch.full((N,), np.log(1024) + 1))
    assert "forget_bias=7.9" in repr(long)


def test_options_for_each_layer() -> None:
    assert [c.lower_bound for c in make("hgrn", M, N, 2, lower_bound=[0.0, 0.5]).stack.cells] == [
        0,
        0.5,
    ]
    assert [(c.layer, c.layers) for c in make("wkv", M, N, 2).stack.cells] == [(0, 2), (1, 2)]
    with pytest.raises(ShapeError, match="lower_bound has 2 values"):
        make("hgrn", M, N, 3, lower_bound=[0.0, 0.5])


def test_says_what_is_wrong() -> None:
    layer, x = make("gilr_lstm", bidirectional=True), inputs()
    with pytest.raises(ShapeError, match="input_size=3"):
        layer(x[..., :2])
    with pytest.raises(ShapeError, match="at least"):
        layer(x[0, 0])
    with pytest.raises(ShapeError, match="tuple of 2"):
        layer(x, layer(x)[1][:1])
    with pytest.raises(ShapeError, match="step by step"):
        layer.step(x[0])
    with pytest.raises(ShapeError, match="num_layers"):
        make("gilr", M, N, 0)
    with pytest.raises(ShapeError, match="dropout"):
        make("gilr", dropout=1.0)
    with pytest.raises(
        TypeError, match="no option forgetbias; those of its cell are coupled, delayed"
    ):
        make("gilr_lstm", forgetbias=1.0)
    with pytest.raises(TypeError, match="sequence_length"):
        make("min_gru", sequence_length=10)


@pytest.mark.slow
def test_documented_code_runs() -> None:
    pytest.importorskip("jax")
    page = Path(__file__).resolve().parent.parent / "docs" / "layers.md"
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        names: dict[str, Any] = {}
        exec(compile(block, str(page), "exec"), names)
        assert names["output"].shape == (4096, 8, 64)
