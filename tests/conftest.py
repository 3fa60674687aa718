"""The test matrix in pytest: which members run, the fixtures `lib` and `dtype`, the report's header."""

from __future__ import annotations

import importlib.util

import pytest
from capabilities import CAPABILITIES, Backend
from fake_driver import driver, driver_path  # noqa: F401, fixtures
from gpu_members import cupy, torch  # noqa: F401, fixtures
from matrix import MEMBERS, Member, missing

from scanlib import native


def pytest_addoption(parser: pytest.Parser) -> None:
    names = ",".join(backend.value for backend in Backend)
    parser.addoption("--backends", default=names, help=f"members of the test matrix: {names}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(name): runs for members whose capability has `name`")
    config.addinivalue_line("markers", "slow_for(*members): marks these members' tests slow")
    config.addinivalue_line("markers", "thorough: too much for members that compile every case")
    # How long an example takes says nothing about it: deadlines fail on a busy machine.
    if importlib.util.find_spec("hypothesis"):
        from hypothesis import HealthCheck, settings

        health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
        options = {"deadline": None, "suppress_health_check": health}
        settings.register_profile("scanlib", derandomize=True, database=None, **options)
        settings.load_profile("scanlib")
    if not missing(Backend.JAX):
        import jax

        jax.config.update("jax_enable_x64", True)


def chosen(config: pytest.Config) -> list[Backend]:
    names = [name.strip() for name in config.getoption("--backends").split(",")]
    unknown = set(names) - {backend.value for backend in Backend}
    if unknown:
        raise pytest.UsageError(f"--backends: {', '.join(sorted(unknown))} is not in the matrix")
    return [backend for backend in Backend if backend.value in names]


def lacking(backend: Backend, members: list[Backend]) -> str:
    """Why a member does not run beside these; empty if it does."""
    on_gpu = any(CAPABILITIES[other].gpu and not missing(other) for other in members)
    if backend is Backend.EMULATED and on_gpu:
        return (
            "a process has one CUDA driver, and the GPU's is in use; run it by --backends emulated"
        )
    return missing(backend)


def pytest_report_header(config: pytest.Config) -> list[str]:
    members = chosen(config)
    reasons = {backend: lacking(backend, members) for backend in members}
    runs = [backend.value for backend, reason in reasons.items() if not reason]
    skipped = [f"{backend.value} ({reason})" for backend, reason in reasons.items() if reason]
    left = [backend.value for backend in Backend if backend not in members]
    isa = native.library().scanlib_cpu_isa().decode()
    return [
        f"scanlib: {native.library_path()}, {isa}",
        f"matrix: {', '.join(runs) or 'nothing'} run",
        f"skipped: {', '.join(skipped) or 'none'}",
        *([f"not asked for: {', '.join(left)}"] if left else []),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lib" not in metafunc.fixturenames:
        return
    needs = [mark.args[0] for mark in metafunc.definition.iter_markers("needs")]
    slow_for = [b for m in metafunc.definition.iter_markers("slow_for") for b in m.args]
    thorough = metafunc.definition.get_closest_marker("thorough") is not None
    params = []
    members = chosen(metafunc.config)
    for backend in members:
        capability = CAPABILITIES[backend]
        if thorough and not capability.thorough:
            continue
        absent = [name for name in needs if not getattr(capability, name)]
        reason = lacking(backend, members)
        reason = reason or (f"{backend.value} has no {absent[0]}" if absent else "")
        # A member that cannot run shows up once, in test_member, rather than in every test.
        if reason and metafunc.function.__name__ != "test_member":
            continue
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        marks += [pytest.mark.gpu] if capability.gpu else []
        marks += [pytest.mark.slow] if backend in slow_for else []
        if "dtype" in metafunc.fixturenames:
            params += [
                pytest.param(
                    backend,
                    name,
                    marks=marks if name in capability.everyday else [*marks, pytest.mark.slow],
                    id=f"{backend.value}-{name}",
                )
                for name in capability.dtypes
            ]
        else:
            params.append(pytest.param(backend, marks=marks, id=backend.value))
    names = ["lib", "dtype"] if "dtype" in metafunc.fixturenames else ["lib"]
    metafunc.parametrize(names, params, indirect=["lib"])


@pytest.fixture
def lib(request: pytest.FixtureRequest) -> Member:
    """A member of the matrix."""
    return MEMBERS[request.param](request.param)


@pytest.fixture
def numpy() -> Member:
    """The NumPy member, for tests of libscanlib that one library is enough for."""
    return MEMBERS[Backend.NUMPY](Backend.NUMPY)


@pytest.fixture(scope="session")
def member(request: pytest.FixtureRequest) -> Member:
    """The EMULATED member, for tests of the CUDA kernels alone; skips where it cannot run."""
    if reason := lacking(Backend.EMULATED, chosen(request.config)):
        pytest.skip(reason)
    return MEMBERS[Backend.EMULATED](Backend.EMULATED)
