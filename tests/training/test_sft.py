"""The warm start: loss on the expert's own words, early stopping, the best weights kept."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from turnrl import UserError
from turnrl.agents.symmetry import rename
from turnrl.training.run_folder.log import Record
from turnrl.training.supervised import SupervisedTrainer

from ..logged import logged
from ..toy_world import COLOURS, LightsEnv, recipe
from .test_trainer import session_of

SWAP = LightsEnv.symmetries[0]


def trainer_in(session: Any) -> SupervisedTrainer:
    return SupervisedTrainer(session, session.recipe.stages[0], 0)


def test_only_the_experts_turns_carry_loss(tmp_path: Path) -> None:
    data = recipe(
        sft={"noise": 0.5, "observation_weight": 0.0, "demonstrations": 12}, agent={"max_turns": 10}
    )
    data["env"] = {"id": "toy/lights-v0", "length": 3, "forgiving": True}
    with session_of(tmp_path / "run", data) as session:
        made = trainer_in(session)
        train, valid = asyncio.run(made.demonstrate())
        batch, weights_BL = made.pack(train)
    trained = [turn for episode in train for turn in episode.turns if turn.trained]
    assert 0 < len(trained) < sum(len(episode.turns) for episode in train)
    assert int((weights_BL > 0).sum()) == sum(len(turn.response_ids) for turn in trained)
    assert float(weights_BL.sum()) == pytest.approx(1)
    assert torch.equal(weights_BL > 0, batch.mask_BL)
    assert all(turn.trained for episode in valid for turn in episode.turns)


CONTEXTS: list[dict[str, Any]] = [
    {"context": {"name": "full_history"}},
    {"context": {"name": "sliding_window", "turns": 1}},
    {"context": {"name": "sliding_window", "turns": 3}},
    {"context": {"name": "workspace"}, "parser": {"name": "report"}},
]


@pytest.mark.parametrize(
    "agent", CONTEXTS, ids=lambda agent: "/".join(map(str, agent["context"].values()))
)
def test_random_actions_carry_no_loss_wherever_they_stand(
    tmp_path: Path, agent: dict[str, Any]
) -> None:
    """Not as actions, not as observations, and not where a later prompt repeats them."""
    data = recipe(
        sft={"noise": 0.5, "observation_weight": 0.7, "demonstrations": 12},
        agent=agent | {"max_turns": 10},
    )
    data["env"] = {"id": "toy/lights-v0", "length": 3, "forgiving": True}
    data["model"] |= {"max_context": 1024}
    with session_of(tmp_path / "run", data) as session:
        made = trainer_in(session)
        train, _ = asyncio.run(made.demonstrate())
        _, weights_BL = made.pack(train)
        # The model's own words are told from the world's by ids that no text has: each random
        # action gets one.
        noise = 10**6
        for episode in train:
            for t, turn in enumerate(episode.turns):
                if turn.trained:
                    continue
                said = turn.response_ids
                for later in episode.turns[t + 1 :]:
                    ids = later.prompt_ids
                    for at in range(len(ids) - len(said) + 1):
                        if ids[at : at + len(said)] == said:
                            ids[at : at + len(said)] = [noise] * len(said)
                turn.response_ids = [noise] * len(said)
        marked, again_BL = made.pack(train)
    assert torch.equal(weights_BL, again_BL)
    noise_BL = marked.tokens_BL == noise
    assert int(noise_BL.sum()) > 50
    assert not weights_BL[noise_BL].any()
    assert float(weights_BL.sum()) == pytest.approx(1.7)


def test_untrained_turns_of_any_origin_carry_no_loss(tmp_path: Path) -> None:
    data = recipe(sft={"observation_weight": 0.5})
    with session_of(tmp_path / "run", data) as session:
        made = trainer_in(session)
        train, _ = asyncio.run(made.demonstrate())
        train[0].turns[1].trained = False
        _, weights_BL = made.pack(train[:1])
        prompts = sum(len(turn.prompt_ids) for turn in train[0].turns)
        answers = sum(len(turn.response_ids) for turn in train[0].turns if turn.trained)
    assert int((weights_BL > 0).sum()) == prompts - 1 + answers


def test_untrained_turns_and_observations_have_no_gradient(tmp_path: Path) -> None:
    with session_of(tmp_path / "run", recipe(sft={"observation_weight": 0.0})) as session:
        made = trainer_in(session)
        train, _ = asyncio.run(made.demonstrate())
        train[0].turns[1].trained = False
        batch, weights_BL = made.pack(train[:1])
        said = [t for t, turn in enumerate(train[0].turns) if turn.trained]
        assert sorted(set(batch.turn_BL[weights_BL > 0].tolist())) == said == [0, 2]
        loss = made.learn(train[:1])
        expected = float(made.nll(batch, weights_BL).detach())
    assert loss == pytest.approx(expected, rel=1e-5)


def test_observations_weigh_what_the_recipe_says(tmp_path: Path) -> None:
    with session_of(tmp_path / "run", recipe(sft={"observation_weight": 0.3})) as session:
        made = trainer_in(session)
        train, _ = asyncio.run(made.demonstrate())
        batch, weights_BL = made.pack(train)
    assert float(weights_BL[batch.mask_BL].sum()) == pytest.approx(1)
    assert float(weights_BL[~batch.mask_BL].sum()) == pytest.approx(0.3)
    assert not weights_BL[:, 0].any()
    padding_BL = torch.arange(batch.tokens_BL.shape[1])[None] >= batch.lengths_B[:, None]
    assert not weights_BL[padding_BL].any()


def test_micro_batches_do_not_change_the_gradient(tmp_path: Path) -> None:
    found = []
    for budget in (10**6, 1):
        with session_of(tmp_path / str(budget), recipe(sft={"token_budget": budget})) as session:
            made = trainer_in(session)
            train, _ = asyncio.run(made.demonstrate())
            loss = made.learn(train)
            found.append((loss, [p.grad.clone() for p in session.model.parameters()]))  # type: ignore[union-attr]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_symmetries_retell_each_demonstration(tmp_path: Path) -> None:
    with session_of(tmp_path / "run", recipe(sft={"symmetries": 2})) as session:
        train, valid = asyncio.run(trainer_in(session).demonstrate())
    assert (len(train), len(valid)) == (8, 3)
    swap = {"red": "blue", "blue": "red"}
    for plain, told in zip(train[::2], train[1::2], strict=True):
        assert plain.task == told.task
        assert [turn.text for turn in told.turns] == [
            swap.get(turn.text, turn.text) for turn in plain.turns
        ]
        assert all(turn.text in COLOURS for turn in told.turns)
    with (
        session_of(tmp_path / "more", recipe(sft={"symmetries": 3})) as session,
        pytest.raises(UserError, match="symmetries=3"),
    ):
        asyncio.run(trainer_in(session).demonstrate())


def test_demonstrations_take_turns_with_the_symmetries(tmp_path: Path) -> None:
    shown = {}
    for views in (1, None):
        with session_of(
            tmp_path / str(views), recipe(sft={"symmetries": 2, "views": views})
        ) as session:
            shown[views], _ = asyncio.run(trainer_in(session).demonstrate())
    texts = {
        views: [[turn.text for turn in told.turns] for told in episodes]
        for views, episodes in shown.items()
    }
    plain, swapped = texts[None][::2], texts[None][1::2]
    assert texts[1] == [plain[0], swapped[1], plain[2], swapped[3]]


def test_early_stop_restores_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Record] = []
    script = iter([3.0, 1.0, 2.0, 2.5, 0.1])
    with session_of(
        tmp_path / "run", recipe(sft={"epochs": 50, "validate_every": 1, "patience": 2})
    ) as session:
        made = trainer_in(session)
        snapshots: list[torch.Tensor] = []

        def look(episodes: Any) -> float:
            snapshots.append(session.model.get_input_embeddings().weight.detach().clone())  # type: ignore[operator]
            return next(script)

        monkeypatch.setattr(made, "loss_of", look)
        session.on_record = lines.append
        asyncio.run(made.run())
        final = session.model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    assert [line["valid_loss"] for line in lines] == [3.0, 1.0, 2.0, 2.5]
    assert torch.equal(final, snapshots[1])
    assert not torch.equal(final, snapshots[3])


def test_it_stops_at_the_validation_loss_it_was_asked_for(tmp_path: Path) -> None:
    lines: list[Record] = []
    sft = {
        "epochs": 200,
        "validate_every": 5,
        "until_loss": 0.5,
        "patience": 99,
        "demonstrations": 12,
    }
    with session_of(tmp_path / "run", recipe(sft=sft)) as session:
        session.on_record = lines.append
        asyncio.run(trainer_in(session).run())
    losses = [line["valid_loss"] for line in lines if "valid_loss" in line]
    assert losses[-1] <= 0.5 < min(losses[:-1], default=math.inf)
    assert "valid_loss" in lines[-1]


def test_an_expert_that_does_not_win_is_no_teacher(tmp_path: Path) -> None:
    data = recipe(env={"id": "toy/lying_lights-v0"})
    with (
        session_of(tmp_path / "run", data) as session,
        pytest.raises(UserError, match="does not win 4 of 4 tasks"),
    ):
        asyncio.run(trainer_in(session).demonstrate())


def test_what_the_expert_does_not_win_is_not_shown(tmp_path: Path) -> None:
    data = recipe(env={"id": "toy/faulty_lights-v0", "broken": [1, 2]})
    with (
        session_of(tmp_path / "run", data) as session,
        logged(
            r"does not win 2 of 4 tasks, such as .*#1 \(ValueError: the lamp burst\)",
        ),
    ):
        train, valid = asyncio.run(trainer_in(session).demonstrate())
    assert [episode.task.seed for episode in train] == [0, 3]
    assert len(valid) == 3


def test_the_tagger_adds_thoughts_to_what_is_trained(tmp_path: Path) -> None:
    parser = {
        "name": "tags",
        "thoughts": ["planning", "explore", "reflection", "monitor"],
        "require_think": True,
    }
    data = recipe(sft={"tagger": {"name": "rules"}, "symmetries": 2, "observation_weight": 0.0})
    data["model"] |= {"max_context": 512}
    data["agent"] |= {"parser": parser}
    with session_of(tmp_path / "run", data) as session:
        made = trainer_in(session)
        train, _ = asyncio.run(made.demonstrate())
        batch, weights_BL = made.pack(train)
        learnt = [
            session.tokenizer.decode(row[w > 0])
            for row, w in zip(batch.tokens_BL, weights_BL, strict=True)
        ]
        for e, episode in enumerate(train):
            said = [rename(turn.action or "", SWAP if e % 2 else {}) for turn in episode.turns]
            kinds = ["planning", *["monitor"] * (len(said) - 1)]
            for turn, kind, colour in zip(episode.turns, kinds, said, strict=True):
                parsed = session.agent.parser.parse(turn.text)
                assert (turn.tag, parsed.tag, parsed.action) == (kind, kind, colour)
                assert turn.text.startswith(f"<{kind}>")
                assert turn.text in learnt[e]
            assert learnt[e].startswith(
                f"<planning>Plan: {said[0]}.</planning><action>{said[0]}</action>"
            )
        assert made.learn(train) > 0
