"""Recurrent cells that train in parallel over time, as pure functions of (parameters, inputs, state).

Written once against the array API: each works on NumPy, CuPy, PyTorch, JAX and other array-API arrays alike, with the
library's own autodiff, because everything between a projection and the output is element by element or
`scanlib.linear_recurrence`.

    cell = cells.GILRLSTM(forget_bias=cells.forget_bias(1024))   # options are fields; cells are frozen and hashable
    cell.shapes(m, n)                     {name: shape} of its parameters
    cell.init(rng, m, n)                  {name: NumPy array}, as its authors initialise it; convert to your library
    cell.output_size(m, n)                features of the output; n for most

    output, state = cell(params, x)                       all steps at once: x (..., T, m), output (..., T, n)
    output, state = cell(params, x, state, axis=1)        time at any axis but the last; the next chunk of a sequence
    output, state = cell(params, x, reset=starts)         starts (..., T), True where nothing before is to be seen
    output, state = cell.step(params, x_t, state)         one step: x_t (..., m), output (..., n)

`state` is a flat tuple of arrays, named by `cell.state`; None is the zero state, and `cell.initial_state(params, x_t)`
the same as arrays. However a sequence is cut into chunks and steps, the outputs are the same.

Inputs of 16 bits: projections run in them, gates and states are float32, the output is of x's dtype again.

`CELLS` has each class by its name, such as "gilr_lstm". `LinearSurrogate` makes the parallel cell of any transition.
"""

from scanlib.cells.base import Cell, CellError, Surrogate
from scanlib.cells.gates import Gated, Gates, Update
from scanlib.cells.gilr import GILR, GILRLSTM
from scanlib.cells.griffin import RGLRU
from scanlib.cells.hgrn import HGRN
from scanlib.cells.initial import forget_bias
from scanlib.cells.minimal import MinGRU, MinLSTM
from scanlib.cells.qrnn import QRNN
from scanlib.cells.rwkv import WKV, wkv, wkv_step
from scanlib.cells.sru import SRU
from scanlib.cells.state_space import LRU, S5
from scanlib.cells.strongly_typed import TGRU, TLSTM, TRNN
from scanlib.cells.surrogate import LinearSurrogate, Recurrent, Window

#: Each cell's class by its name.
CELLS: dict[str, type[Cell]] = {
    cell.name: cell
    for cell in (
        *(GILR, GILRLSTM, SRU, QRNN, TRNN, TGRU, TLSTM, RGLRU, WKV),
        *(MinGRU, MinLSTM, LRU, S5, HGRN),
    )
}

__all__ = [
    "CELLS",
    "GILR",
    "GILRLSTM",
    "HGRN",
    "LRU",
    "QRNN",
    "RGLRU",
    "S5",
    "SRU",
    "TGRU",
    "TLSTM",
    "TRNN",
    "WKV",
    "Cell",
    "CellError",
    "Gated",
    "Gates",
    "LinearSurrogate",
    "MinGRU",
    "MinLSTM",
    "Recurrent",
    "Surrogate",
    "Update",
    "Window",
    "forget_bias",
    "wkv",
    "wkv_step",
]
