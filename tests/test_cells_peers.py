"""Published implementations: the same weights and inputs give the same outputs.

They want older releases of what the other tests use, so `make test-peers` gives them an environment of their own; a
test whose package is not installed is skipped.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import numpy as np
import peers
import pytest
from cell_cases import inputs, random_params, starts
from cell_references import Array
from peers import Peer

from scanlib import cells

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages, not of scanlib
BATCH, STEPS = 2, 50


def need(module: str, peer: Peer) -> Any:
    """The module of a package. One that is installed has to be importable."""
    try:
        release = importlib.metadata.version(peer.package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{peer.package} is not installed; `make test-peers` installs it")
    assert release == peers.releases()[peer.package]
    return importlib.import_module(module)


def tensors(params: dict[str, Array]) -> dict[str, Any]:
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in params.items()}


def close(actual: Any, wanted: Any, peer: Peer) -> None:
    error = float((actual - wanted).abs().max() / wanted.abs().max())
    print(f"{peer.package}, {peer.what}: largest error {error:.1e}")  # shown with -s
    assert error < peer.error


def test_min_gru_pytorch() -> None:
    """Its scan runs in the logarithm, which costs it digits; its cell by cell path agrees to a rounding."""
    gru = need("minGRU_pytorch.minGRU", peers.MINIMAL)
    lstm = need("minGRU_pytorch.minLSTM", peers.MINIMAL)
    for cell, peer, name in (
        (cells.MinGRU(), gru.minGRU, "to_hidden_and_gate"),
        (cells.MinLSTM(), lstm.minLSTM, "to_hidden_and_f_i_gate"),
    ):
        params = tensors(random_params(cell, 6, 6))
        layer = peer(6)
        getattr(layer, name).weight.data = params["weight"].mT
        x = torch.tensor(inputs(6, (BATCH, STEPS)), dtype=torch.float32)
        output, _ = cell(params, x)
        close(output, layer(x), peers.MINIMAL_SCAN)
        state, steps = None, []
        for t in range(STEPS):
            step, state = layer(x[:, t : t + 1], state, return_next_prev_hidden=True)
            steps.append(step)
        close(output, torch.cat(steps, 1), peers.MINIMAL)


def test_torchrecurrent() -> None:
    package = need("torchrecurrent", peers.THREE)
    m, n = 4, 5
    x = torch.tensor(inputs(m, (BATCH, STEPS)), dtype=torch.float32)
    for cell, peer in (
        (cells.TRNN(), package.TRNNCell),
        (cells.TGRU(), package.TGRUCell),
        (cells.TLSTM(), package.TLSTMCell),
    ):
        params, layer = tensors(random_params(cell, m, n)), peer(m, n)
        layer.weight_ih.data = params["weight"][-m:].mT
        layer.bias_ih.data = params["bias"]
        if hasattr(layer, "weight_hh"):
            layer.weight_hh.data = params["weight"][:m].mT
            layer.bias_hh.data.zero_()
        state, steps = None, []
        for t in range(STEPS):
            state = layer(x[:, t], state)
            steps.append(state[0] if isinstance(state, tuple) else state)
            if peer is package.TLSTMCell:  # (h, (c, input)); of the T-GRU (h, input)
                state = state[1]
        close(cell(params, x)[0], torch.stack(steps, 1), peers.THREE)


@pytest.mark.parametrize("heads", [1, 3])
def test_recurrentgemma(heads: int) -> None:
    """With resets, as its first step always is one; and with a state handed on."""
    layers = need("recurrentgemma.torch.layers", peers.RG_LRU)
    cell, width = cells.RGLRU(heads=heads), 6
    params, layer = tensors(random_params(cell, width, width)), layers.RGLRU(width, heads)
    layer.a_param.data = params["decay"]
    each = width // heads
    for gate, part in ((layer.a_gate, slice(None, each)), (layer.input_gate, slice(each, None))):
        gate.w.data, gate.b.data = params["weight"][:, :, part], params["bias"][:, part]
    x = torch.tensor(inputs(width, (BATCH, STEPS)), dtype=torch.float32)
    reset = starts((BATCH, STEPS))
    reset[:, 0], reset[0, 30:] = True, False
    position = torch.tensor(positions(reset))
    wanted, _ = layer(x, position)
    output, _ = cell(params, x, reset=torch.tensor(reset))
    close(output, wanted, peers.RG_LRU)
    first, cache = layer(x[:, :20], position[:, :20])
    second, last = layer(x[:, 20:], position[:, 20:], cache)
    head, state = cell(params, x[:, :20], reset=torch.tensor(reset[:, :20]))
    tail, state = cell(params, x[:, 20:], state, reset=torch.tensor(reset[:, 20:]))
    close(torch.cat([head, tail], 1), torch.cat([first, second], 1), peers.RG_LRU)
    close(state[0], last, peers.RG_LRU)


def positions(reset: Array) -> Array:
    """Steps since a segment's start."""
    found = np.zeros(reset.shape, np.int64)
    for t in range(1, reset.shape[1]):
        found[:, t] = np.where(reset[:, t], 0, found[:, t - 1] + 1)
    return found


def test_recurrentgemma_starts_alike() -> None:
    """The same distribution of initial decays: quantiles of many."""
    layers = need("recurrentgemma.torch.layers", peers.RG_LRU)
    torch.manual_seed(0)
    theirs = layers.RGLRU(20_000, 200).a_param.detach().numpy()
    ours = cells.RGLRU(heads=200).init(np.random.default_rng(0), 20_000, 20_000)["decay"]
    share = np.linspace(0.05, 0.95, 10)
    assert np.allclose(np.quantile(ours, share), np.quantile(theirs, share), atol=0.05)


@pytest.mark.parametrize("scale", [1, 20])
def test_transformers_rwkv(scale: int) -> None:
    """The operator in all of its parts, and the whole of the time mixing with a state handed on."""
    rwkv = need("transformers.models.rwkv.modeling_rwkv", peers.WKV)
    cell, C = cells.WKV(), 4
    params = tensors(random_params(cell, C, C))
    k, v = (torch.tensor(inputs(C, (BATCH, STEPS), i), dtype=torch.float32) for i in range(2))
    k *= scale
    wanted, last = rwkv.rwkv_linear_attention_cpu(
        params["decay"], params["first"], k, v, return_state=True
    )
    output, state = cells.wkv(-params["decay"].exp(), params["first"], k, v)
    close(output, wanted, peers.WKV)
    for one, same in zip(state, last, strict=True):
        close(one, same, peers.WKV_STATE)
    config = rwkv.RwkvConfig(hidden_size=C, attention_hidden_size=C, num_hidden_layers=1)
    layer = rwkv.RwkvSelfAttention(config)
    layer.time_decay.data, layer.time_first.data = params["decay"], params["first"]
    matrices = (layer.key, layer.value, layer.receptance)
    mixes = (layer.time_mix_key, layer.time_mix_value, layer.time_mix_receptance)
    for i, (matrix, mix) in enumerate(zip(matrices, mixes, strict=True)):
        matrix.weight.data, mix.data = params["weight"][i].mT, params["mix"][i].reshape(1, 1, C)
    layer.output.weight.data = params["output"].mT
    with torch.no_grad():
        wanted, _ = layer(scale * k)
    close(cell(params, scale * k)[0], wanted, peers.WKV)


def test_transformers_rg_lru() -> None:
    module = "transformers.models.recurrent_gemma.modeling_recurrent_gemma"
    gemma = need(module, peers.RG_LRU_TRANSFORMERS)
    width, heads = 6, 3
    config = gemma.RecurrentGemmaConfig(lru_width=width, num_attention_heads=heads)
    layer, cell = gemma.RecurrentGemmaRglru(config), cells.RGLRU(heads=heads)
    params = tensors(random_params(cell, width, width))
    layer.recurrent_param.data = params["decay"]
    each = width // heads
    layer.recurrent_gate_weight.data = params["weight"][:, :, :each]
    layer.input_gate_weight.data = params["weight"][:, :, each:]
    layer.recurrent_gate_bias.data = params["bias"][:, :each]
    layer.input_gate_bias.data = params["bias"][:, each:]
    x = torch.tensor(inputs(width, (BATCH, STEPS)), dtype=torch.float32)
    wanted = layer(x, torch.arange(STEPS)[None].repeat(BATCH, 1))
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    reset[:, 0] = True
    close(cell(params, x, reset=reset)[0], wanted.float(), peers.RG_LRU_TRANSFORMERS)


def test_s5_pytorch() -> None:
    """All eigenvalues, no conjugate pairs, as that package has it."""
    package = need("s5.s5_model", peers.S5)
    m, n = 4, 6
    cell, layer = cells.S5(conjugate=False), package.S5(4, 6, bcInit="dense").seq
    with torch.no_grad():
        params = {
            "eigenvalues": torch.stack([layer.Lambda.real, layer.Lambda.imag]),
            "log_step": layer.log_step.reshape(-1),
            "input": layer.B.transpose(0, 1).contiguous(),
            "output": torch.stack([layer.C.real.mT, layer.C.imag.mT], 1),
            "skip": layer.D,
        }
        assert cell.sizes(params) == (m, n)
        x = torch.tensor(inputs(m, (STEPS,)), dtype=torch.float32)
        close(cell(params, x)[0], layer(x), peers.S5)
    ours = cell.init(np.random.default_rng(0), m, n)["eigenvalues"]
    theirs = params["eigenvalues"].numpy()
    assert np.allclose(np.sort(ours[1]), np.sort(theirs[1]), atol=1e-5)
    assert np.allclose(ours[0], theirs[0], atol=1e-5)
