"""Programs of JAX that hold a recurrence, exported with `jax.export` and run elsewhere.

`jax.export` refuses to serialise a call that it does not know to be stable, until it is told to: ``CHECKS`` is what
tells it, for all of scanlib's calls. The process that runs the program needs scanlib too, and calls `register` once::

    from scanlib import jax_export

    exported = jax.export.export(jax.jit(f), disabled_checks=jax_export.CHECKS)(x)
    blob = exported.serialize()                     # vjp_order=1 takes the gradient along

    # elsewhere, in a process of its own
    from scanlib import jax_export

    jax_export.register()
    h = jax.export.deserialize(blob).call(x)

Run a program with the version of scanlib that made it; a call that another version does not read ends in an error of
JAX. A program may be exported for several platforms at once (``platforms=["cpu", "cuda"]``) and with extents left open
(`jax.export.symbolic_shape`; on CUDA these run as JAX operations, which a warning tells). One whose arrays are sharded
over devices keeps the shards apart inside of `jax.shard_map` only, which a warning tells, too.
"""

from __future__ import annotations

from jax.export import DisabledSafetyCheck

from scanlib.backends.jax import lowering as jax_lowering
from scanlib.backends.jax import platform_of
from scanlib.errors import MissingLibraryError

__all__ = ["CHECKS", "register"]

#: For the argument `disabled_checks` of `jax.export.export`: scanlib's custom call, on all platforms.
CHECKS: tuple[DisabledSafetyCheck, ...] = (DisabledSafetyCheck.custom_call(jax_lowering.TARGET),)


def register(platform: str | None = None) -> None:
    """Make this process able to run exported programs that hold a recurrence.

    Not needed where the process has compiled a recurrence itself; calling it again does nothing.

    Parameters
    ----------
    platform
        "cpu" or "cuda"; that of JAX's default device if left out.

    Raises
    ------
    MissingLibraryError
        If libscanlib does not serve that platform, with the reason.
    """
    platform = platform or platform_of()
    if reason := jax_lowering.missing(platform):
        raise MissingLibraryError(
            f"scanlib's calls cannot be registered for {platform}: {reason}. Programs that were exported for it "
            "where this holds too consist of JAX operations, and run without."
        )
