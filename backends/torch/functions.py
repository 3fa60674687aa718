"""PyTorch's own ways of `scanlib.backends.array_functions`."""

from __future__ import annotations

from typing import Any

import torch
from array_api_compat import torch as _namespace
from torch import Tensor

from scanlib.backends.array_functions import identity  # noqa: F401
from scanlib.backends.torch import maximum

silu = torch.nn.functional.silu
elu = torch.nn.functional.elu
tanh = torch.tanh
complex_of = torch.complex


def namespace(array: Tensor) -> Any:
    # As array_api_compat.array_namespace, in a way that torch.compile can trace, and in a fraction of the time.
    return _namespace


def device_of(v: Tensor) -> torch.device:
    return v.device  # torch.compile cannot trace array_api_compat's


def sigmoid(v: Tensor) -> Tensor:
    return v.sigmoid()


def positive(v: Tensor) -> Tensor:
    return torch.where(v >= 0, v + 0.5, v.sigmoid())


def softplus(v: Tensor) -> Tensor:
    # The default threshold of 20 is off by 2e-9, which float64 sees.
    return torch.nn.functional.softplus(v, threshold=40)


def convex(decay: Tensor, candidate: Tensor) -> Tensor:
    if decay.dtype == candidate.dtype:
        # From 1/2 up the same product, in one pass.
        return candidate.lerp(candidate.new_zeros(()), decay)
    return (1 - decay) * candidate


def sqrt_capped(v: Tensor) -> Tensor:
    steep = v <= 2.5e-7
    root = torch.sqrt(torch.where(steep, torch.ones_like(v), v))
    line = torch.sqrt(v.detach()) + 1000 * (v - v.detach())
    return torch.where(steep, line, root)


def stop_gradient(v: Tensor) -> Tensor:
    return v.detach()


def parts(v: Tensor, *sizes: int) -> list[Tensor]:
    return list(v.split(sizes, -1))  # one pass backward; slices would take one each, over all of v


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.nn.functional.linear(x, weight.mT, bias)


def project_pair(s: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    size = s.shape[-1]
    if s.shape[:-1] == x.shape[:-1]:
        above, below = weight.split([size, x.shape[-1]])  # one pass backward, as in `parts`
        y = project(x.reshape(-1, x.shape[-1]), below, bias)
        if y.dtype == s.dtype == weight.dtype:  # not so under autocast
            # The second product is added to the first in place, which nothing else reads; on matrices, because
            # autograd copies where a view is written to. Compilers see to that themselves, and vmap has no rule for it.
            watched = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
            add = y.addmm if watched else y.addmm_
            y = add(s.reshape(-1, size), above)
            return y.reshape(*x.shape[:-1], y.shape[-1])
    return project(x, weight[size:, :], bias) + project(s, weight[:size, :])


def project_to_complex(x: Tensor, weight: Tensor) -> Tensor:
    # Pairs of real numbers are seen as complex ones, and nothing is copied.
    m, n, _ = weight.shape
    y = project(x, weight.reshape(m, 2 * n))
    if y.dtype.itemsize == 2:
        y = y.to(torch.float32)
    return torch.view_as_complex(y.unflatten(-1, (n, 2)))


def project_to_real(h: Tensor, weight: Tensor) -> Tensor:
    n, _, m = weight.shape
    rows = torch.stack([weight[:, 0, :], -weight[:, 1, :]], 1).reshape(2 * n, m)
    return project(torch.view_as_real(h).flatten(-2), rows)


def part(v: Tensor, axis: int, start: int, stop: int) -> Tensor:
    # An index would slice the other axes too, to the largest integer.
    return v.narrow(axis, start, stop - start)


def at(v: Tensor, axis: int, t: int) -> Tensor:
    return v.select(axis, t)


def running_maximum(v: Tensor, axis: int, start: Tensor | None = None) -> Tensor:
    v = v.detach()
    if v.shape[axis] == 0:
        return v
    if start is None:
        return v.cummax(axis).values
    return maximum.running_maximum(v, start, axis)
