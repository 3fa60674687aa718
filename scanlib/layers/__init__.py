"""Recurrent layers to drop into a model: `scanlib.layers.torch`, `scanlib.layers.jax` and `scanlib.layers.flax`.

Each module has the same layers, made from the cells of `scanlib.cells` and with the manners of `torch.nn.LSTM`; import
the one of your library. This package imports none of them.
"""
