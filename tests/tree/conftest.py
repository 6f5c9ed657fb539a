# SPDX-License-Identifier: MIT
"""The finished build, for the checks that look at it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def build() -> Path:
    """The build that scripts/check.sh made."""
    folder = os.environ.get("CASCADE_BUILD")
    if not folder:
        pytest.skip("CASCADE_BUILD does not name a build directory")
    return Path(folder)
