"""Generated examples take as long as they take: a busy machine fails no test. Workers of xdist keep to a core each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # where only tests/gpu runs
    pass
else:
    settings.register_profile("mlc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("mlc")


@pytest.fixture(autouse=True, scope="session")
def one_process() -> Iterator[None]:
    """No compile processes beside workers of xdist, which have taken the cores: starting one costs as much as ten small models."""
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            from mlc.compiler import cpu_backend

            patch.setattr(cpu_backend, "_SMALL", sys.maxsize)
        yield
