"""The long-dependency task's model and optimiser in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from long_dependency import SYMBOLS, Array, Settings, latching
from torch import Tensor
from torch_training import Training

from scanlib.layers.torch import GILRLSTM


def device(asked: str) -> str:
    """The device a run is made on."""
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def learner(settings: Settings) -> Learner:
    return Learner(settings)


class Classifier(torch.nn.Module):
    """Two recurrent layers and the sign of a linear function of their last output."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        sizes = SYMBOLS, settings.units, settings.layers
        self.layers: torch.nn.Module
        if settings.model == "lstm":
            self.layers = torch.nn.LSTM(*sizes)
            forget = slice(settings.units, 2 * settings.units)  # of the gates i, f, g, o
            with torch.no_grad():
                for layer in range(settings.layers):
                    getattr(self.layers, f"bias_ih_l{layer}")[forget] = settings.forget_bias
                    getattr(self.layers, f"bias_hh_l{layer}")[forget] = 0
        else:
            self.layers = GILRLSTM(*sizes, **settings.options)
            if settings.latches:
                published = {k: v.numpy() for k, v in self.layers.state_dict().items()}
                values = latching(settings, published)
                self.layers.load_state_dict({k: torch.from_numpy(v) for k, v in values.items()})
        self.readout = torch.nn.Linear(settings.units, 1)
        torch.nn.init.normal_(self.readout.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layers(x)[0][-1]).squeeze(-1)


class Learner:
    """See `long_dependency.Learner`."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        self.where = torch.device(settings.device)
        model = Classifier(settings).to(self.where)
        self.training = Training(model, settings.rate, settings.clip)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.device = torch.cuda.get_device_name(self.where) if self.where.type == "cuda" else "cpu"

    def learn(self, symbols: Array, signs: Array) -> tuple[float, float]:
        x, sign = self._inputs(symbols, signs)
        logit = self.training.model(x)
        loss = torch.nn.functional.softplus(-sign * logit).mean()
        self.training.step(loss)
        return loss.item(), (sign * logit > 0).float().mean().item()

    def right(self, symbols: Array, signs: Array) -> float:
        x, sign = self._inputs(symbols, signs)
        with torch.no_grad():
            return (sign * self.training.model(x) > 0).float().mean().item()

    def state(self) -> Any:
        return self.training.state()

    def restore(self, state: Any) -> None:
        self.training.restore(state)

    def _inputs(self, symbols: Array, signs: Array) -> tuple[Tensor, Tensor]:
        """One-hot vectors, made where they are used: a million steps of them are half a gigabyte."""
        index = torch.from_numpy(symbols).to(self.where).long().unsqueeze(-1)
        sign = torch.from_numpy(signs).to(self.where)
        x = torch.zeros((*symbols.shape, SYMBOLS), device=self.where).scatter_(-1, index, 1.0)
        x[0, :, 0] = sign
        return x, sign
