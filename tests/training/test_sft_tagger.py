"""The warm start with a teacher model: what it says is learnt, the rest never shown without."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from turnrl import Recipe, UserError, train
from turnrl.agents.symmetry import rename
from turnrl.agents.tagger.base import KINDS
from turnrl.training.run_folder.log import Record
from turnrl.training.supervised import SupervisedTrainer, expert_episodes

from ..agents.fake_server import Reply, Server, direct, says, serving  # noqa: F401
from ..logged import logged
from ..toy_world import LightsEnv, recipe
from .test_trainer import session_of

SWAP = LightsEnv.symmetries[0]


def acted(body: dict[str, Any]) -> list[str]:
    """The actions of the episode that is asked about."""
    return re.findall(r"<action>(.*?)</action>", body["messages"][1]["content"])


def teacher(body: dict[str, Any]) -> Reply:
    """Monitors, in words that a symmetry renames."""
    entries = [{"kind": "monitor", "thought": f"It is {colour}."} for colour in acted(body)]
    return says(json.dumps({"turns": entries}))


def taught(server: Server, **endpoint: Any) -> dict[str, Any]:
    where = {"url": server.url, "model": "m", "retries": 0} | endpoint
    data = recipe(
        sft={"tagger": {"name": "endpoint", "endpoint": where}, "symmetries": 2, "epochs": 2}
    )
    data["model"] |= {"max_context": 512}
    parser = {"name": "tags", "thoughts": list(KINDS), "require_think": True}
    data["agent"] |= {"parser": parser, "sampling": {"max_tokens": 40}}
    data["stages"] = data["stages"][:1]
    return data


def test_a_stage_learns_what_the_teacher_says_and_asks_nothing_twice(tmp_path: Path) -> None:
    runs: list[list[Record]] = []
    with serving(teacher) as server:
        data = taught(server, cache=str(tmp_path / "answers.sqlite"))
        for name in ("first", "second"):
            lines: list[Record] = []
            train(
                Recipe.parse(data), run_dir=tmp_path / name, progress=False, on_record=lines.append
            )
            runs.append(
                [
                    {key: value for key, value in line.items() if "second" not in key}
                    for line in lines
                ]
            )
            assert len(server.requests) == 7
        with session_of(tmp_path / "third", data) as session:
            made = SupervisedTrainer(session, session.recipe.stages[0], 0)  # type: ignore[arg-type]
            told, valid = asyncio.run(made.demonstrate())
    assert len(server.requests) == 7
    assert runs[0] == runs[1]
    assert not any("lost/tagger" in line for line in runs[0])
    assert LightsEnv.instructions in server.requests[0]["messages"][1]["content"]
    assert (len(told), len(valid)) == (8, 3)
    for e, episode in enumerate(told):
        for turn in episode.turns:
            colour = rename(turn.action or "", SWAP if e % 2 else {})
            assert turn.text == f"<monitor>It is {colour}.</monitor><action>{colour}</action>"


def test_an_episode_without_thoughts_is_left_out_and_counted(tmp_path: Path) -> None:
    lines: list[Record] = []
    bad: list[list[str]] = []
    with (
        serving(lambda body: says("I forgot.") if acted(body) in bad else teacher(body)) as server,
        session_of(tmp_path / "run", taught(server)) as session,
    ):
        played = asyncio.run(expert_episodes(session, session.choose("train", 4), 0.0))
        bad.append([turn.action or "" for turn in played[1].turns])
        made = SupervisedTrainer(session, session.recipe.stages[0], 0)  # type: ignore[arg-type]
        with logged(r"tagger") as said:
            session.on_record = lines.append
            asyncio.run(made.run())
        told, valid = asyncio.run(made.demonstrate())
    assert [episode.task for episode in told[::2]] == [played[e].task for e in (0, 2, 3)]
    assert len(valid) == 3
    assert all(turn.tag == "monitor" for episode in (*told, *valid) for turn in episode.turns)
    assert [line.get("lost/tagger") for line in lines] == [1.0, *[None] * (len(lines) - 1)]
    assert len(said) == 2
    assert re.search(
        r"the tagger 'm' at .* gave no usable answer \(unparsable: 'I forgot\.'\)", said[0]
    )
    assert (
        said[1]
        == "sft: tagger 'endpoint' failed at 1 of 7 demonstrations (unparsable): they are left out"
    )


@pytest.mark.parametrize("split", ["training", "validation"])
def test_nothing_is_learnt_without_a_teacher(tmp_path: Path, split: str) -> None:
    good: list[list[str]] = []
    with (
        serving(lambda body: teacher(body) if acted(body) in good else Reply(503)) as server,
        session_of(tmp_path / "run", taught(server)) as session,
    ):
        other = session.choose("valid", 3) if split == "training" else session.choose("train", 4)
        good += [
            [turn.action or "" for turn in e.turns]
            for e in asyncio.run(expert_episodes(session, other, 0.0))
        ]
        made = SupervisedTrainer(session, session.recipe.stages[0], 0)  # type: ignore[arg-type]
        with pytest.raises(UserError) as error:
            asyncio.run(made.demonstrate())
    expected = (
        f"sft: tagger 'endpoint' failed at every {split} episode (unavailable): there is nothing to"
        " show"
    )
    assert str(error.value) == expected


def test_a_wrong_model_is_said_before_anything_is_learnt(tmp_path: Path) -> None:
    with serving(lambda body: Reply(404, '{"message": "no such model"}')) as server:
        made = Recipe.parse(taught(server, cache=str(tmp_path / "answers.sqlite")))
        with (
            pytest.raises(
                UserError,
                match=r"the tagger at .* refused the first request: status 404: no such model",
            ),
            logged("refused"),
        ):
            train(made, run_dir=tmp_path / "run", progress=False)
