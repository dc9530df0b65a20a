"""One traced run of the real model, and one of a small one, shared by the tests of notebook 03."""

from __future__ import annotations

import pytest

from m2f_helpers import reference


@pytest.fixture(scope="session")
def evidence() -> reference.Evidence:
    """Loss, backward and predict of the R50 model at 512x512: about half a minute."""
    return reference.reference_run()


@pytest.fixture(scope="session")
def small() -> reference.Evidence:
    """The demo model with random weights, two pictures of 64x64: a few seconds."""
    from m2f_helpers.config import base_config

    config = base_config("demo")
    return reference.trace_run(config, reference.build_model(config), reference.reference_batch(64, images=2))
