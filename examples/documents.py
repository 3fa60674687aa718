"""A small language model on documents packed end to end: no padding, and no document sees the one before it.

The layer is given the `offsets` of the documents. Each starts from a state of nothing, so what the model says of a
document does not depend on its neighbours, and a step of training costs what its characters do.

    python examples/documents.py
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from scanlib.layers.torch import GILRLSTM

DOCUMENTS = [
    "A recurrence at the price of an add.",
    "Short.",
    "Documents are of different lengths, and none of them should see another.",
    "h[t] = a[t] * h[t-1] + x[t]",
]


class CharacterModel(nn.Module):
    """Logits of the next byte, after each byte of documents one after the other."""

    def __init__(self, units: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, units)
        self.layer = GILRLSTM(units, units, num_layers=2)
        self.read = nn.Linear(units, 256)

    def forward(self, text: Tensor, offsets: Tensor) -> Tensor:
        """text: bytes (S,); offsets (N + 1,). Returns logits (S, 256)."""
        states, _ = self.layer(self.embed(text), offsets=offsets)
        return self.read(states)


def packed(documents: list[str]) -> tuple[Tensor, Tensor]:
    """The bytes of all documents, and where each begins."""
    coded = [list(document.encode()) for document in documents]
    text = torch.tensor(list(itertools.chain(*coded)))
    return text, torch.tensor([0, *itertools.accumulate(map(len, coded))])


def loss_of(model: CharacterModel, text: Tensor, offsets: Tensor) -> Tensor:
    """The mean loss of predicting each byte but the first of every document."""
    logits = model(text, offsets)
    targets = torch.roll(text, -1)
    last = torch.zeros(len(text), dtype=torch.bool)
    last[offsets[1:] - 1] = True  # what follows these is another document
    return nn.functional.cross_entropy(logits[~last], targets[~last])


def train(steps: int = 60) -> list[float]:
    """Losses of a model fitted to the documents above."""
    torch.manual_seed(0)
    model, (text, offsets) = CharacterModel(), packed(DOCUMENTS)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, text, offsets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = train()
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} nats a byte")
