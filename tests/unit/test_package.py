from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kvbatch
from kvbatch import _core

EXPORTS = [
    "ClosedError", "CorruptionError", "Difference", "Discarded", "Event", "GapError", "Inspection", "JobControl",
    "JobStatus", "KeyRange", "KvbatchError", "MetricsListener", "Migration", "MigrationOptions", "NoSpaceError", "Plan",
    "Progress", "ProtocolError", "Range", "Receiver", "RefusedError", "SourceError", "StoppedError", "Summary",
    "TargetError", "TransportError", "UnavailableError", "UsageError", "VerifyReport", "__version__", "control",
    "discard", "inspect", "migrate", "plan", "report", "serve", "serve_metrics", "verify",
]  # fmt: skip
CORE = ["base", "batch", "codec", "frame", "store", "wire"]


def test_the_package_exports_what_it_promises_and_no_more() -> None:
    assert kvbatch.__all__ == EXPORTS
    assert all(hasattr(kvbatch, name) for name in EXPORTS)


def test_an_export_is_imported_when_it_is_asked_for() -> None:
    """The program `kvbatch` has something to do before that."""
    script = "import sys; import kvbatch; assert set(kvbatch.__all__) <= set(dir(kvbatch)); "
    script += "assert not [name for name in sys.modules if name.startswith('kvbatch.')]; "
    script += "from kvbatch import *; migrate is kvbatch.migrate or sys.exit('another one'); kvbatch.nonsense"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip().endswith("AttributeError: module 'kvbatch' has no attribute 'nonsense'")


@pytest.mark.parametrize("name", ["control", "discard", "inspect", "migrate", "plan", "report", "serve", "verify"])
def test_a_function_is_not_hidden_by_a_module_of_its_name(name: str) -> None:
    """`import kvbatch.verify` anywhere would put the module in the function's place."""
    assert callable(getattr(kvbatch, name))
    assert not (Path(kvbatch.__file__).parent / f"{name}.py").exists()


def test_every_export_has_a_docstring() -> None:
    missing = [name for name in EXPORTS if name != "__version__" and not (getattr(kvbatch, name).__doc__ or "").strip()]
    assert missing == []


def test_the_version_is_that_of_the_distribution() -> None:
    assert kvbatch.__version__ == importlib.metadata.version("kvbatch")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", kvbatch.__version__)


def test_type_checkers_find_the_types() -> None:
    package = Path(kvbatch.__file__).parent
    assert (package / "py.typed").exists()
    assert {file.stem for file in (package / "_core").glob("*.pyi")} == {"__init__", *CORE}


@pytest.mark.parametrize("module", CORE)
def test_a_stub_names_what_its_module_has(module: str) -> None:
    stub = (Path(kvbatch.__file__).parent / "_core" / f"{module}.pyi").read_text()
    real = getattr(_core, module)
    names = {name for name in vars(real) if not name.startswith("_")}
    declared = set(re.findall(r"^(?:class|def) (\w+)|^([A-Z_]+):", stub, re.MULTILINE))
    assert {a or b for a, b in declared} == names
