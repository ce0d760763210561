"""The cached logic and interpreter of TextWorld games against TextWorld's own wrappers."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from turnrl.envs import make
from turnrl.foundation.errors import UserError

pytest.importorskip("textworld", reason="needs the extra: pip install 'turnrl[textworld]'")

import textworld
from textworld.logic import GameLogic
from turnrl.envs.textworld import logic
from turnrl.envs.textworld.generate import GameKey, generate
from turnrl.envs.textworld.world import GameReply, GameWorld, tidy

GAMES: dict[str, dict[str, Any]] = {
    "quest": {"rooms": 4, "objects": 6, "quest_length": 5},
    "coin": {"level": 5},
    "treasure": {"level": 12},
    "simple": {"rewards": "dense", "goal": "brief"},
    "cooking": {"recipe": 2, "take": 1, "go": 6, "cook": True, "cut": True, "open": True},
    "cooking-drop": {"recipe": 1, "take": 1, "cook": True, "drop": True},
}
NONSENSE = (
    "dance",
    "look",
    "wait",
    "go north",
    "examine zebra",
    "take all",
    "drop all",
    "open door",
)
Turn = tuple[list[str], list[str], GameReply | None]


@pytest.fixture(scope="module")
def games(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One game of each kind, in a cache of games that is not the user's but outlives the run."""
    cache = getattr(request.config, "cache", None)
    home = cache.mkdir("textworld") if cache is not None else tmp_path_factory.mktemp("games")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        keys = []
        for name, params in GAMES.items():
            family = name.partition("-")[0]
            env = make(f"textworld/{family}-v0", **params)
            keys.append(GameKey(family, env.params, env.tasks("test")[0].seed))
        return dict(zip(GAMES, generate(keys), strict=True))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No game is in the cache yet."""
    monkeypatch.setattr(logic, "_games", type(logic._games)())


def choose(rng: random.Random, plan: list[str], possible: list[str]) -> str:
    draw = rng.random()
    if plan and draw < 0.25:
        return plan[0]
    return rng.choice(possible) if draw < 0.9 else rng.choice(NONSENSE)


def episode(world: GameWorld, seed: int, turns: int = 25) -> list[Turn]:
    """All that one episode of random play shows."""
    rng = random.Random(seed)
    first = world.start()
    seen: list[Turn] = [(world.possible(), world.plan(), GameReply(first, True, 0, False, False))]
    for _ in range(turns):
        possible, plan = world.possible(), world.plan()
        reply = world.send(choose(rng, plan, possible))
        seen.append((world.possible(), world.plan(), reply))
        if reply.won or reply.lost:
            break
    return seen


@pytest.mark.parametrize("family", GAMES)
def test_every_step_is_that_of_textworld(games: dict[str, Path], family: str, fresh: None) -> None:
    infos = textworld.EnvInfos(
        admissible_commands=True, policy_commands=True, won=True, lost=True, score=True
    )
    theirs, ours = textworld.start(str(games[family]), infos), GameWorld(games[family])
    no_plans = GameWorld(games[family])
    ends = set()
    for number in range(4):
        rng = random.Random(number)
        # At last a won episode: where the inventory is limited TextWorld has no plan, but its
        # maker's walkthrough.
        solution = list(ours._logic.game.walkthrough) if number == 3 else []
        state = theirs.reset()
        assert ours.start() == no_plans.start() == tidy(state.feedback)
        for _ in range(30):
            possible, plan = ours.possible(), ours.plan()
            assert possible == state.admissible_commands
            # TextWorld has no plan where the inventory is limited; there ours is the walkthrough.
            assert list(state.policy_commands) == (plan if family != "cooking-drop" else [])
            assert no_plans.possible() == possible
            command = solution.pop(0) if solution else choose(rng, plan, possible)
            state, _, done = theirs.step(command)
            reply = ours.send(command)
            assert no_plans.send(command) == reply
            assert (reply.text, reply.score) == (tidy(state.feedback), state.score)
            assert (reply.won, reply.lost) == (state.won, state.lost)
            if done:
                ends.add(state.won)
                break
    assert True in ends
    for world in (ours, no_plans, theirs):
        world.close()


@pytest.mark.parametrize("family", ["quest", "cooking"])
def test_what_was_played_before_changes_nothing(
    games: dict[str, Path], family: str, fresh: None
) -> None:
    first = GameWorld(games[family])
    alone = [episode(first, seed) for seed in range(4)]
    # Now everything is cached: the same instance again, another one, and one that has played
    # another game.
    second, third = GameWorld(games[family]), GameWorld(games["coin"])
    episode(third, 0)
    third.load(games[family])
    for seed in (3, 1, 0, 2):
        for world in (first, second, third):
            assert episode(world, seed) == alone[seed]
    for world in (first, second, third):
        world.close()


def test_instances_in_step_do_not_see_each_other(games: dict[str, Path]) -> None:
    one, two, alone = (GameWorld(games["quest"]) for _ in range(3))
    expected = episode(alone, 5)
    one.start()
    two.start()
    rng, other = random.Random(5), random.Random(6)
    for possible, plan, reply in expected[1:]:
        sent = one.send(choose(rng, one.plan(), one.possible()))
        two.send(other.choice(two.possible()))
        assert (one.possible(), one.plan(), sent) == (possible, plan, reply)
        if sent.won or not two.plan():
            break
    assert one.max_score == two.max_score


def test_a_bounded_memory_gives_the_same_answers(
    games: dict[str, Path], fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {family: episode(GameWorld(games[family]), 1) for family in ("quest", "simple")}
    monkeypatch.setattr(logic, "_games", type(logic._games)())
    monkeypatch.setattr(logic, "STATES_KEPT", 3)
    monkeypatch.setattr(logic, "GAMES_KEPT", 1)
    worlds = {family: GameWorld(games[family]) for family in expected}
    for family, world in worlds.items():
        assert episode(world, 1) == expected[family]
        known = world._logic
        assert len(known._scenes) + len(known._views) <= 3 + 2
    assert len(logic._games) == 1


def test_eight_threads_play_different_games_at_once(games: dict[str, Path], fresh: None) -> None:
    expected = {family: episode(GameWorld(path), 2, turns=12) for family, path in games.items()}
    # Nothing is parsed yet: it is the parser that two threads must not use at once.
    logic._games.clear()
    GameLogic.parse.cache_clear()
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def play(number: int) -> None:
        families = list(games)
        try:
            barrier.wait()
            for turn in range(2):
                family = families[(number + turn) % len(families)]
                world = GameWorld(games[family])
                assert episode(world, 2, turns=12) == expected[family]
                world.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_command_longer_than_the_interpreter_reads(games: dict[str, Path]) -> None:
    world = GameWorld(games["coin"])
    world.start()
    for command in ("\N{GRINNING FACE}" * 60, "\xe9" * 128, "look " * 60):
        assert world.send(command).text
    world.close()


def test_a_game_that_cannot_be_loaded_leaves_the_instance_usable(
    games: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(games["coin"].parents[4]))
    env = make("textworld/coin-v0", **GAMES["coin"])
    task = env.tasks("test")[0]
    text, _ = env.reset(options={"task": task})
    with monkeypatch.context() as patch:
        patch.setattr("turnrl.envs.textworld.env.generate", lambda *_, **__: [tmp_path / "gone.z8"])
        with pytest.raises(FileNotFoundError):
            env.reset(options={"task": env.tasks("test")[1]})
    assert env.reset(options={"task": task})[0] == text
    with pytest.raises(UserError):
        env.reset(options={"task": make("textworld/quest-v0").tasks("test")[0]})
    env.close()
