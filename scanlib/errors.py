"""Exceptions. Each is a `ScanlibError` and the builtin exception a caller would expect."""

from __future__ import annotations


class ScanlibError(Exception):
    """Base class of every error scanlib raises on purpose."""


class ShapeError(ScanlibError, ValueError):
    """Shapes that do not fit together."""


class AxisError(ScanlibError, ValueError, IndexError):
    """A missing axis, or one out of range: what `numpy.exceptions.AxisError` is."""


class AxisTypeError(ScanlibError, TypeError):
    """An axis that is no integer."""


class OffsetsError(ScanlibError, ValueError):
    """Offsets that are not those of sequences one after the other."""


class DTypeError(ScanlibError, TypeError):
    """A dtype scanlib does not compute in, or an output of the wrong one."""


class ArrayKindError(ScanlibError, TypeError):
    """Something that is not an array, or arrays of more than one library."""


class DeviceError(ScanlibError, ValueError):
    """Arrays on different devices, or on one that cannot be used."""


class OutputError(ScanlibError, ValueError):
    """An `out` that cannot be written, or that overlaps an input."""


class MissingLibraryError(ScanlibError, ImportError):
    """Something that has to be installed first."""


class NativeError(ScanlibError, RuntimeError):
    """libscanlib refused a call."""
