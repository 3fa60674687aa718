"""Warnings that torch's own compilers and checks raise, whatever they are used on; by version where not in all."""

from __future__ import annotations

import pytest

#: Marks for tests of torch.compile, torch.export, opcheck and gradcheck.
TORCHS_OWN = [
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in (
        ".torch.jit.script",
        ".*should not be instantiated:DeprecationWarning",
        ".torch._prims_common.check. is deprecated",
        "While compiling, we found certain side effects",
        "Please use `torch.vmap` instead:FutureWarning",  # 2.6: gradcheck of batched gradients
        "Skipping serialization of",  # 2.6: inductor
        "The .grad attribute of a Tensor that is not a leaf",  # 2.14: opcheck
    )
]
