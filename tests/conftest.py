"""Shared by all tests: one thread per process, no network, no deadline of a property test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("turnrl", deadline=None)  # a busy machine is no failure
settings.load_profile("turnrl")

# Before torch is imported anywhere: results are compared bit by bit, and pytest-xdist already uses
# every core.
os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
)


def pytest_configure(config: pytest.Config) -> None:
    """Hide every GPU from the tests that need none: what they compare is the CPU's arithmetic."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Find a program of the system. Without it a test is skipped, and fails where CI=true."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
                f"the program '{name}' is not installed"
            )
            raise AssertionError
        return path

    return find
