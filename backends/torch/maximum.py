"""A running maximum that begins anew, for torch.

The passes it takes depend on the length of time, which to a compiler is a symbol. So compilers see one operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scanlib.backends import array_functions
from scanlib.backends.torch.autograd import batched
from scanlib.backends.torch.ops import LIBRARY

LIBRARY.define(
    "running_maximum(Tensor v, Tensor start, int axis) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)


def running_maximum(v: Tensor, start: Tensor, axis: int) -> Tensor:
    """The largest element of `v`, a constant, since the last `start` along an axis; both of one shape."""
    if torch.compiler.is_compiling():
        return torch.ops.scanlib.running_maximum.default(v, start, axis)
    return array_functions.running_maximum(v, axis, start)


def _run(v: Tensor, start: Tensor, axis: int) -> Tensor:
    # An operator returns memory of its own, laid out as it told the compiler.
    found = array_functions.running_maximum(v, axis, start)
    return found.clone(memory_format=torch.contiguous_format) if found is v else found.contiguous()


def _vmap(info: Any, in_dims: Any, v: Tensor, start: Tensor, axis: int) -> tuple[Tensor, int]:
    v, start = batched(v, in_dims[0], info.batch_size), batched(start, in_dims[1], info.batch_size)
    return torch.ops.scanlib.running_maximum.default(v, start, axis + 1), 0


LIBRARY.impl("running_maximum", _run, "CompositeExplicitAutograd")
torch.library.register_fake(
    "scanlib::running_maximum",
    lambda v, start, axis: torch.empty(v.shape, dtype=v.dtype, device=v.device),
    lib=LIBRARY,
)
torch.library.register_vmap("scanlib::running_maximum", _vmap, lib=LIBRARY)
