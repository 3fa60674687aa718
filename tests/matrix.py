"""The libraries of the test matrix: how each makes an array, runs the recurrence and takes its gradient.

A test asks for the fixture `lib`, one of the members here, and is written once. Gradients follow one convention in
every test, the conjugated one (steepest ascent); JAX's are converted here. It is one file, long as it is, because it is
one table: a member is read, and written, beside the others.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Sequence
from typing import Any, TypeVar

import array_api_compat
import emulated
import ml_dtypes
import numpy as np
from capabilities import CAPABILITIES, Backend, Capability

import scanlib
from scanlib import compiler
from scanlib.overlap import Memory
from scanlib.roles import STARTS

# Several libraries share one GPU in one process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

Item = TypeVar("Item")
Array = np.ndarray[Any, np.dtype[Any]]


def numpy_memory(array: Array) -> Memory:
    """Where a NumPy array lies."""
    writable = array.flags.writeable
    address = array.ctypes.data
    return Memory(address, array.shape, array.strides, array.itemsize, array.dtype.name, writable)


def np_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


@functools.cache
def missing(backend: Backend) -> str:
    """Why a member cannot run here; empty if it can."""
    capability = CAPABILITIES[backend]
    absent = [name for name in capability.modules if importlib.util.find_spec(name) is None]
    if capability.missing or absent:
        return capability.missing or f"{', '.join(absent)} not installed"
    if backend is Backend.EMULATED and shutil.which("g++") is None:
        return "g++, which compiles the kernels, not found"
    if not capability.gpu:
        return ""
    return _gpu_missing(capability.modules[0]) or compiler.unavailable()


def _gpu_missing(library: str) -> str:
    """Why an array library has no GPU here; empty if it has one."""
    try:
        if library == "torch":
            import torch

            found = torch.version.cuda is not None and torch.cuda.is_available()
        elif library == "cupy":
            import cupy

            found = cupy.cuda.runtime.getDeviceCount() > 0
        else:
            import jax

            found = bool(jax.devices("cuda"))
    except Exception as error:  # each library has its own
        return f"no GPU for {library}: {str(error).splitlines()[0]}"
    return "" if found else f"no GPU for {library}"


def _spread(cases: Sequence[Item], limit: int) -> list[Item]:
    count = min(len(cases), limit)
    return [cases[len(cases) - 1 - (i * len(cases)) // count] for i in range(count)][::-1]


class Member:
    """One library, in one way of calling it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def __repr__(self) -> str:
        return self.backend.value

    @property
    def capability(self) -> Capability:
        return CAPABILITIES[self.backend]

    def pick(self, cases: Sequence[Item]) -> list[Item]:
        """As many of the cases as this member is given, evenly spread, the last among them."""
        return _spread(cases, self.capability.cases)

    def large(self, cases: Sequence[Item]) -> list[Item]:
        """The same for cases of a million elements."""
        return _spread(cases, self.capability.large)

    def array(self, values: Array) -> Any:
        """The library's array of these values."""
        raise NotImplementedError

    def numpy(self, array: Any) -> Array:
        """The values of one of the library's arrays."""
        raise NotImplementedError

    def owns(self, array: Any) -> bool:
        """Whether `array` is what this library's users call an array."""
        raise NotImplementedError

    def scan(self, a: Any, x: Any, h0: Any = None, **options: Any) -> Any:
        """`scanlib.linear_recurrence` on the library's arrays, as this member calls it."""
        return scanlib.linear_recurrence(a, x, h0, **options)

    def gradients(
        self, a: Any, x: Any, h0: Any, grad_h: Any, grad_final: Any, **options: Any
    ) -> tuple[Any, Any, Any]:
        """The gradient in a, x, h0 of <grad_h, h> + <grad_final, final>, as the library's users get it."""
        h = self.scan(a, x, h0, **options)
        return scanlib.linear_recurrence_vjp(grad_h, a, h, h0, grad_final=grad_final, **options)

    def dtype_beside(self, scalar: Any, array: Any) -> str:
        """The dtype of the product of a NumPy scalar and `array`, as the library has it."""
        return self.dtype_name(array * scalar)

    def namespace(self, array: Any) -> Any:
        return array_api_compat.array_namespace(array)

    def device(self, array: Any) -> Any:
        return array_api_compat.device(array)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype).rpartition(".")[2]

    def memory(self, array: Any) -> Memory:
        """Where an array's values lie on its device: what `numpy` gives may be a copy of them."""
        raise NotImplementedError


class NumPy(Member):
    def dtype_beside(self, scalar: Any, array: Any) -> str:
        return np.result_type(
            scalar.dtype, array.dtype
        ).name  # as NumPy 2 has it, whichever this is

    def array(self, values: Array) -> Any:
        return np.asarray(values)

    def numpy(self, array: Any) -> Array:
        return np.asarray(array)

    def owns(self, array: Any) -> bool:
        return type(array) is np.ndarray

    def memory(self, array: Any) -> Memory:
        return numpy_memory(array)


class NumPyReadOnly(NumPy):
    def array(self, values: Array) -> Any:
        values = np.asarray(values).view()
        values.flags.writeable = False
        return values


class Strict(Member):
    def dtype_beside(self, scalar: Any, array: Any) -> str:
        return self.dtype_name(array * scalar.item())  # the standard has Python's numbers only

    def array(self, values: Array) -> Any:
        import array_api_strict

        return array_api_strict.asarray(np.asarray(values))

    def numpy(self, array: Any) -> Array:
        try:
            return np.from_dlpack(array)
        except BufferError:  # read-only, which NumPy before 2.1 cannot hand over
            import array_api_strict

            return np.from_dlpack(array_api_strict.asarray(array, copy=True))

    def owns(self, array: Any) -> bool:
        import array_api_strict

        return isinstance(array, type(array_api_strict.empty(0)))

    def memory(self, array: Any) -> Memory:
        return numpy_memory(np.from_dlpack(array))


class Torch(Member):
    def array(self, values: Array) -> Any:
        import torch

        values = np.array(values, order="C")
        if values.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)

    def numpy(self, array: Any) -> Array:
        import torch

        array = array.detach().resolve_conj().resolve_neg()
        if array.dtype == torch.bfloat16:
            return array.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array.numpy()

    def owns(self, array: Any) -> bool:
        import torch

        return type(array) is torch.Tensor

    def memory(self, array: Any) -> Memory:
        strides = tuple(step * array.itemsize for step in array.stride())
        return Memory(array.data_ptr(), tuple(array.shape), strides, array.itemsize)

    def gradients(
        self, a: Any, x: Any, h0: Any, grad_h: Any, grad_final: Any, **options: Any
    ) -> tuple[Any, Any, Any]:
        import torch

        inputs = [None if v is None else v.detach().clone().requires_grad_() for v in (a, x, h0)]
        h, final = self.scan(*inputs, return_final=True, **options)
        outputs, grads = [h], [grad_h]
        if grad_final is not None:
            outputs, grads = [h, final], [grad_h, grad_final]
        wanted = [v for v in inputs if v is not None]
        found = torch.autograd.grad(outputs, wanted, grads)
        return (*found, None) if h0 is None else found


class TorchCompile(Torch):
    """torch.compile without a graph break; inductor itself is left to test_torch_compile.py."""

    def scan(self, a: Any, x: Any, h0: Any = None, **options: Any) -> Any:
        starts = [options.pop(name, None) for name in STARTS]
        return _compiled(tuple(sorted(options.items())))(a, x, h0, *starts)


@functools.cache
def _compiled(options: tuple[tuple[str, Any], ...]) -> Any:
    from torch_cases import compile_each_shape

    def call(a: Any, x: Any, h0: Any, reset: Any, offsets: Any) -> Any:
        starts = {"reset": reset, "offsets": offsets}
        return scanlib.linear_recurrence(a, x, h0, **starts, **dict(options))

    return compile_each_shape(call)


class Jax(Member):
    platform = "cpu"

    def array(self, values: Array) -> Any:
        import jax
        import jax.numpy as jnp

        if jax.default_backend() == self.platform:
            return jnp.asarray(np.asarray(values))
        return jax.device_put(np.asarray(values), jax.devices(self.platform)[0])

    def numpy(self, array: Any) -> Array:
        return np.asarray(array)

    def owns(self, array: Any) -> bool:
        import jax

        return isinstance(array, jax.Array)

    def memory(self, array: Any) -> Memory:
        return Memory(array.unsafe_buffer_pointer(), (array.nbytes,), (1,), 1)

    def gradients(
        self, a: Any, x: Any, h0: Any, grad_h: Any, grad_final: Any, **options: Any
    ) -> tuple[Any, Any, Any]:
        import jax

        def call(*inputs: Any) -> Any:
            h, final = self.scan(*inputs, return_final=True, **options)
            return h if grad_final is None else (h, final)

        inputs = (a, x) if h0 is None else (a, x, h0)
        grads = grad_h.conj() if grad_final is None else (grad_h.conj(), grad_final.conj())
        found = tuple(grad.conj() for grad in jax.vjp(call, *inputs)[1](grads))
        return (*found, None) if h0 is None else found


class JaxJit(Jax):
    def scan(self, a: Any, x: Any, h0: Any = None, **options: Any) -> Any:
        starts = {name: options.pop(name, None) for name in STARTS}
        return _jitted(tuple(sorted(options.items())))(a, x, h0, **starts)


@functools.cache
def _jitted(options: tuple[tuple[str, Any], ...]) -> Any:
    import jax

    return jax.jit(functools.partial(scanlib.linear_recurrence, **dict(options)))


class CuPy(Member):
    dtype_beside = NumPy.dtype_beside  # type: ignore[assignment]

    def array(self, values: Array) -> Any:
        import cupy

        return cupy.asarray(np.asarray(values))

    def numpy(self, array: Any) -> Array:
        import cupy

        return cupy.asnumpy(array)

    def owns(self, array: Any) -> bool:
        import cupy

        return type(array) is cupy.ndarray

    def memory(self, array: Any) -> Memory:
        return Memory(array.data.ptr, array.shape, array.strides, array.itemsize)


class TorchCuda(Torch):
    def array(self, values: Array) -> Any:
        return super().array(values).cuda()

    def numpy(self, array: Any) -> Array:
        return super().numpy(array.detach().cpu())


class JaxCuda(Jax):
    platform = "cuda"


class Emulated(NumPy):
    """The CUDA kernels on the CPU, on NumPy arrays of a type of their own; NumPy's functions give plain ones back."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        emulated.adapter()

    def array(self, values: Array) -> Any:
        return np.asarray(values).view(emulated.EmulatedArray)

    def owns(self, array: Any) -> bool:
        return type(array) is emulated.EmulatedArray

    def scan(self, a: Any, x: Any, h0: Any = None, **options: Any) -> Any:
        given = (self.array(v) if type(v) is np.ndarray else v for v in (a, x, h0))
        if type(options.get("reset")) is np.ndarray:
            options["reset"] = self.array(options["reset"])
        return super().scan(*given, **options)


MEMBERS = {
    Backend.NUMPY: NumPy,
    Backend.NUMPY_READONLY: NumPyReadOnly,
    Backend.STRICT: Strict,
    Backend.TORCH: Torch,
    Backend.TORCH_COMPILE: TorchCompile,
    Backend.JAX: Jax,
    Backend.JAX_JIT: JaxJit,
    Backend.CUPY: CuPy,
    Backend.TORCH_CUDA: TorchCuda,
    Backend.JAX_CUDA: JaxCuda,
    Backend.EMULATED: Emulated,
}
