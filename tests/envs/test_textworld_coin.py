"""Coin routes: computed without making games, and no held-out route occurs in training."""

from __future__ import annotations

import pytest
from turnrl.envs import make
from turnrl.foundation.errors import UserError

pytest.importorskip("textworld", reason="needs the extra: pip install 'turnrl[textworld]'")

from turnrl.envs.textworld.coin import (
    BACK,
    COMPASS,
    count_routes,
    images,
    route_of,
    shape_of,
    split_of_route,
)
from turnrl.envs.textworld.env import route


@pytest.mark.parametrize("level", [5, 6, 105])
def test_routes_of_splits_are_disjoint(level: int) -> None:
    env = make("textworld/coin-v0", level=level)
    train = {route(task) for task in env.tasks("train")[:600]}
    valid = [route(task) for task in env.tasks("valid")]
    test = [route(task) for task in env.tasks("test")]
    assert not train & set(valid)
    assert not train & set(test)
    assert not set(valid) & set(test)
    assert len(set(valid)) == len(valid) <= 200
    assert len(set(test)) == len(test) <= 200
    assert len(train | set(valid) | set(test)) <= count_routes((level - 1) % 100 + 1)


@pytest.mark.parametrize(("level", "valid", "test"), [(5, 8, 16), (6, 80, 80)])
def test_no_image_of_a_held_out_route_is_in_training(level: int, valid: int, test: int) -> None:
    env = make("textworld/coin-v0", level=level)
    assert (len(env.tasks("valid")), len(env.tasks("test"))) == (valid, test)
    train = {route(task) for task in env.tasks("train")[:600]}
    for split in ("valid", "test"):
        turned = {image for task in env.tasks(split) for image in images(route(task))}
        assert {split_of_route(image) for image in turned} == {split}
        assert not turned & train


def test_images_are_the_turns_and_mirrors_of_a_map() -> None:
    path = ("north", "north", "east")
    assert len(COMPASS) == 7
    assert len(set(images(path))) == 8
    assert set(images(path)) == set(images(images(path)[3]))
    for image in images(path):
        assert image[0] == image[1]
        assert image[2] not in (image[0], BACK[image[0]])


def test_every_route_has_one_owner_whatever_the_seed() -> None:
    env = make("textworld/coin-v0", level=6)
    assert {split_of_route(route(task)) for task in env.tasks("train")[:300]} == {"train"}
    assert {split_of_route(route(task)) for task in env.tasks("test")} == {"test"}
    assert len(env.tasks("test")) >= 60


def test_routes_are_those_textworld_draws() -> None:
    import textworld
    from textworld.challenges.tw_coin_collector import coin_collector

    moves: list[str] = []

    class Stop(Exception):
        pass

    def spy(maker: object, commands: list[str]) -> None:
        moves[:] = commands
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textworld.GameMaker, "set_walkthrough", spy)
        for seed in (0, 7, 11, 2_000_003):
            for level in (4, 9):
                options = textworld.GameOptions()
                options.seeds = seed
                with pytest.raises(Stop):
                    coin_collector.make({"level": level}, options)
                assert moves == [*(f"go {d}" for d in route_of(level, seed)), "take coin"]


def test_a_level_without_held_out_routes_says_so() -> None:
    with pytest.raises(UserError, match="use level 4 or more"):
        make("textworld/coin-v0", level=1).tasks("valid")
    with pytest.raises(UserError, match="use level 4 or more"):
        make("textworld/coin-v0", level=3).tasks("test")


@pytest.mark.parametrize(("level", "shapes"), [(5, 11), (6, 16), (9, 16), (120, 16)])
def test_a_round_of_training_tasks_shows_as_many_shapes_as_there_are(
    level: int, shapes: int
) -> None:
    tasks = make("textworld/coin-v0", level=level).tasks("train")
    for first in (0, 32):
        assert len({shape_of(route(task)) for task in tasks[first : first + 16]}) == shapes


@pytest.mark.parametrize("level", range(1, 5))
def test_short_routes_leave_some_for_training(level: int) -> None:
    assert (
        split_of_route(route(make("textworld/coin-v0", level=level).tasks("train")[0])) == "train"
    )


def test_only_coin_tasks_have_routes() -> None:
    with pytest.raises(UserError):
        route(make("textworld/quest-v0").tasks("test")[0])
