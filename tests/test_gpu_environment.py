"""Where scanlib is not installed, `make gpu-check` puts it together: the package, the library, wheels of others."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from native_build import ROOT

sys.path.insert(0, str(ROOT))
from bench.gpu import environment as gpu_environment


def test_not_installed_it_puts_the_package_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_environment, "installed", lambda environment, work: False)
    monkeypatch.setattr(gpu_environment, "build", lambda log, work: Path("/some/libscanlib.so"))
    monkeypatch.delenv("SCANLIB_LIBRARY", raising=False)
    environment = gpu_environment.prepare(None, None, tmp_path / "prepared", tmp_path / "work")  # type: ignore[arg-type]
    assert environment["SCANLIB_LIBRARY"] == "/some/libscanlib.so"
    package = tmp_path / "work" / "site" / "scanlib"
    assert (package / "backends" / "cupy.py").exists()
    assert (package / "cuda" / "scanlib.cu").exists()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import scanlib.backends as b; print(b.__file__)"
    done = subprocess.run(  # without the import hooks of an editable install
        [sys.executable, "-S", "-P", "-c", code, str(package.parent)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_site_packages())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(package / "backends" / "__init__.py"), done.stderr


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def test_a_library_of_other_sources_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "built.so"
    library.write_bytes(b"a library")
    assert gpu_environment.built(tmp_path) is None
    gpu_environment.keep(library, tmp_path)
    assert gpu_environment.built(tmp_path) == tmp_path / "libscanlib.so"
    monkeypatch.setattr(gpu_environment, "sources", lambda: "others")
    assert gpu_environment.built(tmp_path) is None


def test_wheels_are_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "peer-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("peer/__init__.py", "")
    assert (gpu_environment.unpacked(tmp_path, tmp_path / "work") / "peer" / "__init__.py").exists()
