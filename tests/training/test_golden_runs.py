"""Two short runs, recorded before the tree was rebuilt, give the same numbers to the last bit."""

from __future__ import annotations

import json
import platform

import pytest
import torch

from . import golden_run


@pytest.mark.parametrize("name", golden_run.NAMES)
def test_a_golden_run_gives_every_metric_and_every_weight_as_it_was_recorded(name: str) -> None:
    if platform.machine() != "x86_64" or not torch.__version__.startswith("2.13.0"):
        pytest.skip(
            "the golden runs were recorded on x86-64 with torch 2.13.0, whose rounding they have"
        )
    recorded = json.loads((golden_run.HERE / f"{name}.json").read_text("utf-8"))
    now = golden_run.in_a_process(name)
    for before, after in zip(recorded["records"], now["records"], strict=True):
        assert after == before
    assert now["result"] == recorded["result"]
    assert now["weights"] == recorded["weights"]
