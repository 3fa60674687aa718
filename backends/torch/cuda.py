"""The CUDA kernels on torch's tensors: on the current stream, with scratch memory from torch's allocator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scanlib import gpu, native
from scanlib.errors import DeviceError


@functools.cache
def architectures(index: int) -> tuple[int, ...]:
    """That of a GPU, (90,) for sm_90: its programs are compiled with a plan."""
    if torch.version.hip is not None:
        raise DeviceError(
            f"The tensors are on GPU {index} of a PyTorch built for ROCm, and scanlib's kernels are for CUDA. "
            "Move them with .to('cpu')."
        )
    major, minor = torch.cuda.get_device_capability(index)
    return (10 * major + minor,)


def target_of(tensor: Tensor) -> gpu.Target:
    """For which a plan of tensors beside this one is made."""
    return gpu.target(architectures(tensor.get_device()))


def launch(problem: native.NativeProblem, pointers: bytes, beside: Tensor) -> None:
    """Run a problem on packed pointers to tensors of one GPU, of which one is `beside`."""
    index = beside.get_device()
    if index != torch.cuda.current_device():
        with torch.cuda.device(index):
            return launch(problem, pointers, beside)
    size = gpu.scratch_bytes(problem)
    # Freed at once: torch's allocator gives it out again only to what follows on the same stream.
    scratch = torch.empty(size, dtype=torch.uint8, device=beside.device) if size else None
    address = 0 if scratch is None else scratch.data_ptr()
    gpu.run(problem, _stream(index), address, pointers)
    return None


def is_aligned(*tensors: Tensor | None) -> bool:
    """Whether the kernels, which access an element at once, can read these; only what is imported may lie otherwise."""
    for tensor in tensors:
        if tensor is not None:
            place = tensor.data_ptr()
            if place % _LARGEST and place % tensor.element_size():
                return False
    return True


#: Bytes of the largest element, to which most tensors are aligned.
_LARGEST = torch.complex128.itemsize


def aligned(tensor: Any) -> Any:
    """A tensor, copied if it is not aligned; None stays None."""
    if is_aligned(tensor):
        return tensor
    copy = bytes_of(tensor).clone(memory_format=torch.contiguous_format)
    return copy.view(tensor.dtype).squeeze(-1)


def bytes_of(tensor: Tensor) -> Tensor:
    """A view of a tensor's bytes, on one more axis at the end."""
    size = tensor.element_size()
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
    strides = (*(stride * size for stride in tensor.stride()), 1)
    return flat.as_strided((*tensor.shape, size), strides, tensor.storage_offset() * size)


def _current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


#: The handle of the current stream; torch's own, without the object around it, where this torch has that.
_stream: Callable[[int], Any] = getattr(torch._C, "_cuda_getCurrentRawStream", _current_stream)
