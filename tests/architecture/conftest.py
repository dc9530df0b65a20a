"""Fixtures of the tests of `architecture`."""

from __future__ import annotations

import pytest

from m2f_helpers.architecture import claims


@pytest.fixture(scope="session")
def checked(evidence):
    """All claims, measured on the reference run."""
    return claims.check(evidence)
