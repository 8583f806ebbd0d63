#!/usr/bin/env python3
"""Prints what pyproject.toml asks for to build, run and develop the package, one requirement a line.

pip can install a package's extras only together with the package, and the package is built without isolation, so its
requirements have to be there first.
"""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
print(
    *project["build-system"]["requires"],
    *project["project"]["dependencies"],
    *(requirement for extra in project["project"]["optional-dependencies"].values() for requirement in extra),
    sep="\n",
)
