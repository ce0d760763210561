"""The report: one self-contained file from a finished, a young and a damaged run."""

from __future__ import annotations

import gzip
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import turnrl
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from turnrl.agents.episode import Episode, StopReason, Turn, save_episodes
from turnrl.envs import Task
from turnrl.foundation.errors import UserError
from turnrl.training.run_folder.report import write_report
from turnrl.training.run_folder.report.chart import MOST_POINTS, Series, draw, thin, ticks
from turnrl.training.run_folder.report.run_files import RunFiles
from turnrl.training.run_folder.report.samples import MOST_CHARACTERS, split_tokens

TEXT = (
    "You are in the kitchen. go east take coin <script>alert('x')</script> naïve café 🍎 You win!"
)
HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x> & \"quoted\" {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def episode(tokenizer: Tokenizer, success: bool, *, turns: int = 3, seed: int = 0) -> Episode:
    played = Episode(Task(env="textworld/coin-v0", params={"level": 5}, seed=seed), opening=HOSTILE)
    for t in range(turns):
        said = "take coin 🍎" if success and t == turns - 1 else "go east"
        ids = [*tokenizer.encode(said).ids, 0]
        played.turns.append(
            Turn(
                prompt_ids=tokenizer.encode("You are in the kitchen.").ids,
                extends=t != 1,
                response_ids=ids,
                logprobs=[-0.25] * len(ids),
                text=said,
                action=said if t else None,
                observation="You win!" if success and t == turns - 1 else f"Kitchen {t}. {HOSTILE}",
                valid_action=t != 1,
                invalid_reason=None if t != 1 else "rejected",
                rewards={"outcome": float(success and t == turns - 1), "step_cost": -1.0},
                advantage=0.5 if success else -0.5,
                trained=t != 2,
            )
        )
    played.success, played.stop = success, StopReason.WON if success else StopReason.TURN_LIMIT
    return played


def make_run(folder: Path, tokenizer: Tokenizer, *, steps: int = 30) -> Path:
    """A small realistic run directory."""
    for name in ("episodes", "checkpoints/best"):
        (folder / name).mkdir(parents=True)
    recipe = {
        "name": "quick<b>start",
        "seed": 3,
        "env": {"id": "textworld/coin-v0", "level": 5},
        "model": {"name": "tiny"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    lines = [
        {"stage": "sft", "step": s, "kind": "train", "loss": 2 / (s + 1), "valid_loss": 3 / (s + 1)}
        for s in range(9)
    ]
    for step in range(steps):
        share = step / steps
        lines.append(
            {
                "stage": "rl",
                "step": step,
                "kind": "train",
                "success": share,
                "return": share - 0.1,
                "reward/outcome": share,
                "reward/step_cost": -5 + share,
                "kl": 0.01 * step,
                "approx_kl": 0.0,
                "clip_fraction_low": 0.02,
                "entropy": 1 - share,
                "grad_norm": math.nan if step == 4 else 0.7,
                "zero_variance_groups": 0.25,
                "engine_gap": 1e-6,
                "lost/env_error": 0,
                "seconds/play": 1.2,
                "seconds/update": 2.5,
                "seconds/tokens_per_second": 900.0,
                "tokens": 1e6,
            }
        )
        if step % 10 == 0:
            row: dict[str, object] = {
                "split": "valid",
                "success": share,
                "low": max(0, share - 0.1),
                "high": share + 0.1,
                "n": 60,
            }
            lines.append({"stage": "rl", "step": step, "kind": "eval", **row})
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), "utf-8"
    )
    for step in (0, 10, 20):
        with gzip.open(
            folder / "episodes" / f"rl-{step:06d}.jsonl.gz", "wt", encoding="utf-8"
        ) as file:
            for won in (False, True, False):
                file.write(json.dumps(episode(tokenizer, won, seed=step).to_json()) + "\n")
    result = {
        "before": {"success": 0.25, "low": 0.16, "high": 0.37, "n": 60},
        "after": {"success": 0.95, "low": 0.86, "high": 0.98, "n": 60},
        "seconds": {"setup": 1.0, "rl": 300.0},
        "seed": 3,
    }
    (folder / "result.json").write_text(json.dumps(result), "utf-8")
    tokenizer.save(str(folder / "checkpoints" / "best" / "tokenizer.json"))
    return folder


class Page(HTMLParser):
    """Tags and text; fails on unbalanced tags."""

    VOID = frozenset({"meta", "br", "line", "path", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.classes: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert not {"src", "href", "onload", "onerror"} & set(given)
        self.classes += (given.get("class") or "").split()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.classes += (dict(attrs).get("class") or "").split()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    return make_run(tmp_path / "run", tokenizer)


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text("utf-8"))


def test_a_finished_run(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text("utf-8"))
    for words in (
        "quick<b>start",
        "25.0 %",
        "95.0 %",
        "86.0 to 98.0 %",
        "Stage sft",
        "Stage rl",
        "clip_fraction",
    ):
        assert words in page.text
    for words in (
        "outcome",
        "step_cost",
        "95 % Wilson",
        "seconds per step",
        "advantage -0.500",
        "refused: rejected",
    ):
        assert words in page.text
    assert page.tags.count("svg") == page.tags.count("figure") > 10
    assert "band" in page.classes
    assert not list(run.glob(".report*"))


def test_it_is_self_contained_and_hostile_text_stays_text(run: Path) -> None:
    html = write_report(run).read_text("utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert HOSTILE in page.text
    assert "url(" not in html
    assert "<link" not in html
    assert "default-src 'none'" in html


def test_samples_are_a_success_and_a_failure_of_first_middle_and_last(run: Path) -> None:
    text = page_of(run).text
    for step in (0, 10, 20):
        assert text.count(f"rl step {step}\n") == 2
    assert text.count("turn_limit") == 3


def test_tokens_are_coloured_by_whether_they_are_trained(run: Path) -> None:
    page = page_of(run)
    assert {"trained", "shown", "context"} <= set(page.classes)
    assert "a new sequence begins" in page.text
    assert "take coin 🍎<|end|>" in page.text
    (run / "checkpoints" / "best" / "tokenizer.json").unlink()
    without = page_of(run)
    assert "context" not in without.classes
    assert "take coin 🍎" in without.text


def test_tokens_that_are_parts_of_a_character_stay_together(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("café 🦜!").ids
    pieces = list(split_tokens(tokenizer, ids))
    assert "".join(text for text, _, _ in pieces) == "café 🦜!"
    assert [first for _, first, _ in pieces[1:]] == [last for _, _, last in pieces[:-1]]
    assert pieces[-1][2] == len(ids)
    assert not any("\ufffd" in text for text, _, _ in pieces)
    assert list(split_tokens(tokenizer, [])) == []


@pytest.mark.parametrize("missing", ["metrics.jsonl", "result.json", "episodes", "checkpoints"])
def test_missing_parts(run: Path, missing: str) -> None:
    target = run / missing
    target.rename(run / "gone")
    page = page_of(run)
    assert "quick<b>start" in page.text
    if missing == "result.json":
        assert "rl valid, last (step 20)" in page.text
    if missing == "episodes":
        assert "No episodes have been written yet." in page.text
    if missing == "metrics.jsonl":
        assert "No metrics have been written yet." in page.text


def test_an_empty_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: young\n")
    (tmp_path / "metrics.jsonl").write_text("")
    assert "young" in page_of(tmp_path).text


def test_a_half_written_last_line_is_waited_for(run: Path) -> None:
    whole = (run / "metrics.jsonl").read_text("utf-8")
    (run / "metrics.jsonl").write_text(whole + '{"stage": "rl", "step": 3', "utf-8")
    files = RunFiles.read(run)
    assert not files.notes
    assert len(files.records) == len(whole.splitlines())


def test_damaged_files_are_named(run: Path) -> None:
    whole = (run / "metrics.jsonl").read_text("utf-8")
    (run / "metrics.jsonl").write_text("{broken\n[1]\n" + whole, "utf-8")
    (run / "result.json").write_text("{", "utf-8")
    file = run / "episodes" / "rl-000010.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-40])
    text = page_of(run).text
    assert "2 lines of metrics.jsonl cannot be read" in text
    assert "result.json cannot be read" in text
    assert "episodes/rl-000010.jsonl.gz is damaged" in text


def test_a_damaged_tokenizer_is_named_and_the_next_one_read(
    run: Path, tokenizer: Tokenizer
) -> None:
    (run / "checkpoints" / "best" / "tokenizer.json").write_text('{"version": "1.0", "mod')
    page = page_of(run)
    assert "checkpoints/best/tokenizer.json is damaged" in page.text
    assert "trained" not in page.classes
    (run / "checkpoints" / "last").mkdir()
    tokenizer.save(str(run / "checkpoints" / "last" / "tokenizer.json"))
    page = page_of(run)
    assert "checkpoints/best/tokenizer.json is damaged" in page.text
    assert "trained" in page.classes


def test_it_says_when_where_and_by_what_it_was_made(run: Path) -> None:
    text = page_of(run).text
    assert f"turnrl {turnrl.__version__}" in text
    assert "last written" in text
    assert re.search(r"reported\s*\d{4}-\d\d-\d\d", text)


def test_every_line_answers_the_pointer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for steps in (30, 400):
        html = write_report(make_run(tmp_path / f"{steps}", tokenizer, steps=steps)).read_text(
            "utf-8"
        )
        values = re.findall(r"<title>entropy at step (\d+): [\d.e-]+</title>", html)
        assert 20 <= len(values) <= 60
        assert int(values[0]) < steps / 10 < steps * 0.9 < int(values[-1])


def test_test_plays_are_shown(run: Path, tokenizer: Tokenizer) -> None:
    save_episodes(run / "episodes" / "test-rl-000030.jsonl.gz", [episode(tokenizer, True, seed=7)])
    assert "test-rl step 30" in " ".join(page_of(run).text.split())


def test_repeated_steps_of_a_resumed_run_count_once(run: Path) -> None:
    line = {"stage": "rl", "step": 5, "kind": "train", "success": 0.123}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    (kept,) = [
        r for r in RunFiles.read(run).of_stage("rl") if r["step"] == 5 and r["kind"] == "train"
    ]
    assert kept["success"] == 0.123


def test_the_size_is_bounded(run: Path, tokenizer: Tokenizer) -> None:
    long = episode(tokenizer, False, turns=400)
    long.opening = "x" * 100_000
    with gzip.open(run / "episodes" / "rl-000030.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(long.to_json()) + "\n" for _ in range(50))
    path = write_report(run)
    assert path.stat().st_size < 2_000_000
    text = path.read_text("utf-8")
    assert f"{100_000 - MOST_CHARACTERS} more characters" in text
    assert "360 more turns" in text


def test_output_elsewhere(run: Path, tmp_path: Path) -> None:
    assert write_report(run, tmp_path / "out.html").is_file()
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: p / "none", "there is no such folder"),
        (lambda p: p, "holds no recipe.yaml"),
        (lambda p: (p / "recipe.yaml").write_text("- 1\n") and p, "is not a mapping"),
        (lambda p: (p / "recipe.yaml").write_text("a: [\n") and p, "is not a mapping"),
    ],
)
def test_not_a_run(tmp_path: Path, prepare: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_report(prepare(tmp_path))  # type: ignore[operator]


def test_output_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_report(run, tmp_path / "no" / "out.html")
    with pytest.raises(UserError, match="it is a folder"):
        write_report(run, tmp_path)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-5.0, -4.9), (0, 1e-6), (3, 30_000), (-1e9, 1e9)]
)
def test_ticks_are_few_and_span_the_data(low: float, high: float) -> None:
    values = ticks(low, high)
    assert 2 <= len(values) <= 7
    assert values[0] <= low + 1e-12
    assert values[-1] >= high - 1e-12


def test_charts_of_strange_data() -> None:
    assert draw("empty", [Series("a", [])]) is None
    for points in ([(0.0, 0.0)], [(5.0, 3.0), (6.0, 3.0)], [(0.0, -1e-9), (1000.0, 1e-9)]):
        chart = draw("x", [Series("a", points)])
        assert chart is not None
        assert all(
            0 <= x <= chart.width and 0 <= y <= chart.height for x, y, _ in chart.lines[0].dots
        )
    thinned, size = thin([(float(i), 1.0) for i in range(10_000)])
    assert len(thinned) <= MOST_POINTS
    assert size > 1
