"""The CUDA kernels on torch's tensors: on the current stream, with scratch memory from torch's allocator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scanlib import gpu, native
from scanlib.errors import DeviceError


def launch(
    run: Callable[..., None], problem: native.NativeProblem, *tensors: Tensor | None
) -> None:
    """Call `gpu.forward` or `gpu.backward` with these tensors, all of one GPU; None for what is absent."""
    first = tensors[0]
    assert first is not None
    if torch.version.hip is not None:
        raise DeviceError(
            f"The tensors are on {first.device} of a PyTorch built for ROCm, and scanlib's kernels are for CUDA. "
            "Move them with .to('cpu')."
        )
    index = first.get_device()
    if index != torch.cuda.current_device():
        with torch.cuda.device(index):
            return launch(run, problem, *tensors)
    size = gpu.scratch_bytes(problem)
    # Freed at once: torch's allocator gives it out again only to what follows on the same stream.
    scratch = torch.empty(size, dtype=torch.uint8, device=first.device) if size else None
    pointers = (0 if tensor is None else tensor.data_ptr() for tensor in tensors)
    run(problem, _stream(index), 0 if scratch is None else scratch.data_ptr(), *pointers)
    return None


def _current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


#: The handle of the current stream; torch's own, without the object around it, where this torch has that.
_stream: Callable[[int], Any] = getattr(torch._C, "_cuda_getCurrentRawStream", _current_stream)
