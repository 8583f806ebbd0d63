"""The version of this package, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("kvbatch")
except PackageNotFoundError:  # run from a source tree
    __version__ = "0.0.0"
