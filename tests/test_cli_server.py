"""turnrl eval of a model behind a server: its options, its answer, and no key in any of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from turnrl.cli import main

from .agents.fake_model import Body, text
from .agents.fake_server import Reply, direct, serving  # noqa: F401

WORLD = str(Path(__file__).with_name("guess_world.py"))
GUESS = ["eval", "guess/number-v0", "--import", WORLD, "--agent", "openai:m"]
KEY = "sk-live-0123456789abcdef"


def right(body: Body) -> Reply:
    """The number of the task that begins the test split, then that of the other."""
    return text("8" if not any(m["role"] == "assistant" for m in body["messages"]) else "9")


def test_a_server_is_measured_and_what_it_cost_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    out, episodes = tmp_path / "out.json", tmp_path / "episodes.jsonl.gz"
    options: list[Any] = [*("--api-key-env", "MY_KEY", "--output", out, "--episodes", episodes)]
    options += ["--price-in", 2, "--price-out", 10, "--max-tokens", 50, "--concurrency", 1]
    with serving(right) as server:
        command = [*GUESS, "--base-url", server.url, *map(str, options)]
        assert main.run([*command, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert main.run(command) == 0
        shown = " ".join(capsys.readouterr().out.split())
    assert (answer["success"], answer["n"], answer["agent"]) == (1.0, 2, "openai:m")
    assert answer["server"]["cost_usd"] == pytest.approx(3 * (100 * 2 + 10 * 10) / 1e6)
    assert json.loads(out.read_text("utf-8")).keys() == answer.keys()
    assert "3 requests (0 failed), 300 tokens in, 30 out, $0.0009" in shown
    assert {request["max_tokens"] for request in server.requests} == {50}
    assert set(server.keys) == {f"Bearer {KEY}"}
    kept = gzip.decompress(episodes.read_bytes()).decode()
    assert len(kept.splitlines()) == 2
    assert KEY not in f"{answer} {shown} {kept} {out.read_text('utf-8')}"


def test_a_budget_is_told_and_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(right) as server:
        limits = ["--base-url", server.url, "--budget-tokens", "110", "--concurrency", "1"]
        assert main.run([*GUESS, *limits, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert main.run([*GUESS, *limits]) == 0
    assert (answer["n"], answer["cut"], answer["unplayed"]) == (1, 0, 1)
    shown = " ".join(capsys.readouterr().out.split())
    assert "the budget was spent: 1 of 2 tasks were not played" in shown


def test_too_many_failed_episodes_are_no_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda body: Reply(500, "out of order")) as server:
        assert main.run([*GUESS, "--base-url", server.url, "--retries", "0"]) == 1
    assert "2 of 2 episodes failed (2 engine_error)" in capsys.readouterr().err
    assert len(server.requests) == 6, "each episode is tried three times"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "--base-url URL"),
        (["--base-url", "localhost:8000"], "url"),
        (["--base-url", "http://h/v1", "--budget-usd", "1"], "both prices"),
        (["--base-url", "http://h/v1", "--budget-tokens", "0"], "budget_tokens"),
        (["--base-url", "http://h/v1", "--api-key-env", KEY], "never the key itself"),
        (["--base-url", "http://h/v1", "--tokenizer", "none"], "holds no tokenizer"),
        (["--base-url", "http://h/v1", "--max-context", "64"], "max_context"),
    ],
)
def test_a_mistake_is_one_sentence(
    options: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*GUESS, *options]) == 2
    said = capsys.readouterr()
    assert part in said.err
    assert said.err.count("\n") == 1
    assert KEY not in said.err + said.out


def test_a_server_belongs_to_a_model_behind_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "guess/number-v0", "--import", WORLD, "--base-url", "http://h/v1"]
    assert main.run(words) == 2
    assert "'random' has none" in capsys.readouterr().err
