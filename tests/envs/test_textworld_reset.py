"""A used interpreter plays like a new one, none spins on, and no file can end the process."""

from __future__ import annotations

import asyncio
import ctypes
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from turnrl.agents.baselines import RandomAgent
from turnrl.agents.play import EpisodeJob, play_many
from turnrl.envs import make
from turnrl.envs.pool.pool import EnvPool
from turnrl.foundation.errors import UserError

pytest.importorskip("jericho", reason="needs the extra: pip install 'turnrl[textworld]'")

import jericho
from turnrl.envs.textworld import limit
from turnrl.envs.textworld.generate import generate
from turnrl.envs.textworld.world import GameWorld

from ..logged import logged

ID = "textworld/cooking-v0"
PARAMS: dict[str, Any] = {"recipe": 1, "take": 1, "cook": True}
TASKS = 3
_LOOP = bytes([0x8C, 0xFF, 0xFF])
"""Z-machine code: jump to this very instruction."""


@pytest.fixture(scope="module", autouse=True)
def paths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Path]]:
    """Cooking games in a cache that is not the user's but outlives the run."""
    cache = getattr(request.config, "cache", None)
    home = cache.mkdir("textworld") if cache is not None else tmp_path_factory.mktemp("games")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        env = make(ID, **PARAMS)
        yield generate([env._key(task) for task in env.tasks("test")[:TASKS]], progress=False)  # type: ignore[attr-defined]


def episode(world: GameWorld, seed: int, turns: int = 15) -> list[str]:
    """What a game says to commands that it lists, chosen at random."""
    rng = random.Random(seed)
    said = [world.start()]
    for _ in range(turns):
        reply = world.send(rng.choice(world.possible()))
        said.append(reply.text)
        if reply.won or reply.lost:
            break
    return said


def test_a_used_interpreter_says_what_a_new_one_says(paths: list[Path]) -> None:
    used = GameWorld(paths[0])
    rng = random.Random(0)
    for number in range(24):
        path = rng.choice(paths)
        if used.path != path:
            used.load(path)
        new = GameWorld(path)
        assert episode(used, number) == episode(new, number)
        new.close()


def test_every_start_sets_the_interpreter_up_anew(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        jericho.FrotzEnv, "set_state", lambda *_: pytest.fail("memory put into a used interpreter")
    )
    world = GameWorld(paths[0])
    for seed in range(3):
        episode(world, seed, turns=3)
    machine = world._machine
    # Of what a state of jericho's leaves out, some is visible: what the last turn moved.
    moved = ctypes.c_int.in_dll(machine.frotz_lib, "move_diff_cnt")
    moved.value = 7
    world.start()
    assert moved.value != 7


def test_cooking_games_played_again_and_again_all_end() -> None:
    """Two threads with used instances: games came to hang when memory was put back."""
    tasks = make(ID, **PARAMS).tasks("test")[:TASKS]
    jobs = [EpisodeJob(tasks[number % TASKS], f"again:{number}", number) for number in range(60)]

    async def play() -> list[str]:
        async with EnvPool(backend="thread", workers=2, slots=4) as pool:
            episodes, _ = await play_many(
                RandomAgent(), jobs, pool, max_turns=20, concurrency=4, retries=0
            )
        return [episode.stop.value for episode in episodes if episode is not None]

    stops = asyncio.run(play())
    assert len(stops) == len(jobs)
    assert not [stop for stop in stops if stop.startswith("env_")]


def test_a_game_that_never_answers_is_stopped_and_can_be_started_again(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "LIMIT_SECONDS", 0.3)
    world = GameWorld(paths[0])
    before = episode(world, 1)
    world.start()
    library = world._machine.frotz_lib
    # A place in the game's memory for the loop, which the next command enters.
    place = library.getRAMSize() - len(_LOOP)
    story = ctypes.c_void_p.in_dll(library, "zmp").value
    assert story is not None
    ctypes.memmove(story + place, _LOOP, len(_LOOP))
    library.setPC(place + 1)
    library.set_opcode(_LOOP[0])
    with pytest.raises(limit.StuckError, match="did not finish 'look' within"):
        world.send("look")
    assert episode(world, 1) == before


def test_a_quick_command_is_not_stopped(paths: list[Path]) -> None:
    world = GameWorld(paths[0])
    assert world.start()
    assert not limit._running


def damaged(path: Path, folder: Path, damage: Callable[[bytes], bytes]) -> Path:
    copy = folder / path.name
    copy.write_bytes(damage(path.read_bytes()))
    copy.with_suffix(".json").write_bytes(path.with_suffix(".json").read_bytes())
    return copy


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: held[: len(held) // 2],
        lambda held: b"",
        lambda held: held[:63],
        lambda held: held[:64],
        lambda held: b"\xff" + held[1:],
        lambda held: b"Glul" + held[4:],
        lambda held: held[:-4096],
    ],
    ids=[
        "half",
        "empty",
        "no header",
        "only a header",
        "another version",
        "another kind",
        "almost whole",
    ],
)
def test_a_damaged_game_is_one_sentence_with_its_name(
    paths: list[Path], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    copy = damaged(paths[0], tmp_path, damage)
    with pytest.raises(UserError, match=str(copy)):
        GameWorld(copy)
    world = GameWorld(paths[0])
    with pytest.raises(UserError, match=str(copy)):
        world.load(copy)
    assert episode(world, 2)


@pytest.mark.parametrize("suffix", [".z8", ".json", ".z8.sha256"])
def test_a_damaged_game_of_the_cache_is_made_anew(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    env = make(ID, **PARAMS)
    task = env.tasks("test")[0]
    opening, _ = env.reset(options={"task": task})
    [story] = tmp_path.rglob("*.z8")
    file = story.parent / f"{story.stem}{suffix}"
    held = file.read_bytes()
    file.write_bytes(held[: len(held) // 2])
    with logged("damaged or of an earlier version"):
        again, _ = make(ID, **PARAMS).reset(options={"task": task})
    assert again == opening
    assert file.read_bytes() == held
