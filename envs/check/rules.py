"""The rules of `check_env`, one function each: see `foundation.checking`.

    @rule("expert")
    def expert(play):
        for task in play.tasks:
            ...
            assert info["success"], f"{task.id}: the expert does not win"

Nearly all need tasks.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, get_args, get_origin, get_type_hints

from ...foundation.checking import Rules, Skip
from ..core import EXTRAS, TextEnv, TurnInfo
from ..registry import make_for
from ..task import SPLITS, Task
from .play import WORDS, Play, Step, hostile, same

_HOSTILE, _EXPERT_STEPS, _TASKS = 10_000, 500, 5_000
_PLAYS = 30
"""Episodes among which a success is looked for."""
_COMPARED = 40
"""Training tasks that as many tasks of each other split are compared with, at most."""
_COMPARED_SECONDS = 3.0

RULES: Rules[Play] = Rules()
rule = partial(RULES.rule, needs=("tasks",))

# -- the rules -------------------------------------------------------------------------------------


@rule("tasks", needs=())
def _tasks(play: Play) -> str:
    env = play.make()
    first = {split: list(islice(env.tasks(split), _TASKS)) for split in SPLITS}
    again = play.make()
    for split, tasks in first.items():
        assert tasks, f"the split '{split}' is empty"
        assert tasks == list(islice(env.tasks(split), _TASKS)), (
            f"two calls of tasks('{split}') differ"
        )
        assert tasks == list(islice(again.tasks(split), _TASKS)), (
            f"tasks('{split}') differ between two instances"
        )
        repeated = [id for id, count in Counter(task.id for task in tasks).items() if count > 1]
        assert not repeated, f"the split '{split}' lists {repeated[0]} more than once"
        for task in tasks:
            assert Task.model_validate_json(task.model_dump_json()) == task, (
                f"{task.id} changes on its way through JSON"
            )
            assert task.split == split, f"{task.id} says split '{task.split}' but is in '{split}'"
    ids: dict[str, set[str]] = {
        str(split): {task.id for task in tasks} for split, tasks in first.items()
    }
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not ids[a] & ids[b], f"'{a}' and '{b}' share {sorted(ids[a] & ids[b])[0]}"
    return ", ".join(
        f"{'the first ' * (len(tasks) == _TASKS)}{len(tasks)} {split}"
        for split, tasks in first.items()
    )


@rule("determinism")
def _determinism(play: Play) -> None:
    for task, seen in play.episodes().items():
        same(task, seen, play.replay(task, play.actions(task)), "between two fresh instances")


@rule("reset", needs=("tasks", "determinism"))
def _reset(play: Play) -> None:
    env = play.make()
    episodes = play.episodes()
    for other in [None, *play.tasks]:
        for task, seen in episodes.items():
            if other is not None:
                play.replay(other, play.actions(other)[:5], env)
            same(
                task,
                seen,
                play.replay(task, play.actions(task), env),
                "when an instance is used again",
            )
    env.close()


@rule("isolation", needs=("tasks", "determinism"))
def _isolation(play: Play) -> None:
    for task, seen in play.episodes().items():
        actions = play.actions(task)
        ahead, behind = play.make(), play.make()
        play.replay(task, actions[: len(actions) // 2], ahead)
        same(
            task,
            seen,
            play.replay(task, actions, behind),
            "while another instance is in an episode",
        )
        one, two = play.make(), play.make()
        first, second = play.replay(task, [], one), play.replay(task, [], two)
        for action in actions:
            first.append(one.step(action))
            second.append(two.step(action))
        same(task, seen, first, "beside an interleaved instance")
        same(task, seen, second, "beside an interleaved instance")
        for env in (ahead, behind, one, two):
            env.close()


@rule("replay", needs=("tasks", "determinism"))
def _replay(play: Play) -> None:
    for task in play.tasks:
        actions = play.actions(task)
        for length in {len(actions) // 2, len(actions)}:
            watched = play.watched[task][: length + 1]
            same(
                task,
                watched,
                play.replay(task, actions[:length]),
                "when replayed without asking the expert",
            )


@rule("other_process", needs=("tasks", "determinism", "reset", "isolation"))
def _other_process(play: Play) -> None:
    one, two, other = play.elsewhere()
    assert one == two, f"{_first(one, two)} differs between two processes"
    # Where another hash seed plays otherwise so may this process: that is for `hash_seed` to say.
    assert one != other or one == play.digests(), (
        f"{_first(one, play.digests())} differs in a fresh process"
    )


@rule("hash_seed", needs=("tasks", "determinism", "reset", "isolation", "other_process"))
def _hash_seed(play: Play) -> None:
    one, _, other = play.elsewhere()
    assert one == other, f"{_first(one, other)} depends on PYTHONHASHSEED"


def _first(one: Mapping[str, list[str]], two: Mapping[str, list[str]]) -> str:
    for id, digests in one.items():
        for turn, (a, b) in enumerate(zip(digests, two.get(id, []), strict=False)):
            if a != b:
                return f"{id}: turn {turn}"
    return "the number of turns"


@rule("task", needs=("tasks", "determinism"))
def _task(play: Play) -> None:
    """Play instances made from Tasks alone: every parameter must stand in a Task."""
    if not play.id:
        raise Skip("a factory has no id: register the world")
    for task, seen in play.episodes().items():
        copied = Task.model_validate_json(task.model_dump_json())
        again = make_for(copied, extras=EXTRAS)
        same(
            task,
            seen,
            play.replay(copied, play.actions(task), again),
            "when it is made from its task alone",
        )
        again.close()


@rule("gymnasium", needs=("tasks", "determinism", "reset"))
def _gymnasium(play: Play) -> None:
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(play.make(), skip_render_check=True)
    ours = [str(w.message) for w in caught if "gymnasium" in w.filename or "WARN" in str(w.message)]
    assert not ours, ours[0]


@rule("info")
def _info(play: Play) -> None:
    kinds = get_type_hints(TurnInfo)
    for task, seen in play.episodes().items():
        for turn, (observation, _, _, _, info) in enumerate(seen):
            where = f"{task.id}: turn {turn}"
            assert isinstance(observation, str), (
                f"{where}: the observation is a {type(observation).__name__}"
            )
            assert set(info) == set(kinds), (
                f"{where}: missing or unknown keys {sorted(set(info) ^ set(kinds))}"
            )
            for key, kind in kinds.items():
                assert _fits(info[key], kind), (
                    f"{where}: info['{key}'] is {info[key]!r}, not {kind}"
                )


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is dict:
        name, item = get_args(kind)
        return isinstance(value, dict) and all(
            _fits(key, name) and _fits(value[key], item) for key in value
        )
    if get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    options = get_args(kind)
    return any(_fits(value, option) for option in options) if options else isinstance(value, kind)


@rule("success")
def _success(play: Play) -> str:
    for task, seen in play.episodes().items():
        for turn, (_, _, terminated, _, info) in enumerate(seen):
            assert terminated or not info.get("success"), (
                f"{task.id}: success at turn {turn} but not terminated"
            )
    return _somebody_wins(play)


def _somebody_wins(play: Play) -> str:
    """Look for a success among many plays; the best reward without one is suspicious."""
    env, rng = play.make(), random.Random(play.seed)
    best, suspect = env.reward_range[1], ""
    for number in range(_PLAYS):
        task, by_expert = play.tasks[number % len(play.tasks)], number < len(play.tasks)
        step = play.wander(task, env, rng, by_expert=by_expert)
        if step[4].get("success"):
            env.close()
            return ""
        if step[2] and step[1] == best > 0:
            suspect = (
                suspect
                or f"{task.id}: an episode ends with the highest reward, {best:g}, without success"
            )
    env.close()
    assert not suspect, f"{suspect}, and none of {_PLAYS} was won: does the world say success=True?"
    return f"none of {_PLAYS} plays was won, so nothing shows that success is ever said"


@rule("splits", needs=("tasks", "determinism"))
def _splits(play: Play) -> str:
    """Compare tasks of different splits by the expert's play: they must be different problems."""
    env = play.make()
    known: dict[str, Task] = {}
    for task in _for_a_while(env.tasks("train")):
        way = play.expert_way(task, env)
        if way is None:
            raise Skip("without an expert nothing tells two problems apart")
        known.setdefault(way, task)
    copies, count, example = 0, 0, ""
    for split in SPLITS[1:]:
        for task in _for_a_while(env.tasks(split)):
            twin = known.get(play.expert_way(task, env) or "")
            count, copies = count + 1, copies + (twin is not None)
            example = example or (
                f", such as {task.id} ({split}), which plays like {twin.id} (train)" if twin else ""
            )
    env.close()
    said = f"{copies} of {count} held-out tasks are training tasks under another seed{example}"
    assert 2 * copies <= count, said
    return said


def _for_a_while(tasks: Sequence[Task]) -> Iterator[Task]:
    """Take the first tasks, fewer where each takes long: some worlds make a game for each."""
    end = time.monotonic() + _COMPARED_SECONDS
    for number, task in enumerate(islice(tasks, _COMPARED)):
        if number and time.monotonic() > end:
            return
        yield task


@rule("truncation")
def _truncation(play: Play) -> None:
    for task, seen in play.episodes().items():
        assert not any(step[3] for step in seen), f"{task.id}: truncated though max_turns is None"
    env = play.make(max_turns=2)
    for task in play.tasks:
        ends = [step[2:4] for step in play.replay(task, ["", ""], env)]
        assert ends == [(False, False), (False, False), (False, True)], (
            f"{task.id}: with max_turns=2, two refused actions must end truncated and not"
            f" terminated, got {ends[1:]}"
        )
    env.close()


@rule("latched")
def _latched(play: Play) -> str:
    ended = 0
    for task in play.tasks:
        for options, actions in (({}, play.actions(task)), ({"max_turns": 1}, [""])):
            env = play.make(**options)
            last = play.replay(task, actions, env)[-1]
            if last[2] or last[3]:
                ended += 1
                for action in (*actions[-1:], "", "look"):
                    _stays_over(task, env, action, last)
            env.close()
    return f"{ended} ends"


def _stays_over(task: Task, env: TextEnv, action: str, last: Step) -> None:
    try:
        _, reward, terminated, truncated, info = env.step(action)
    except RuntimeError:
        return
    assert terminated or truncated, f"{task.id}: a step after the end goes on"
    assert reward == 0, f"{task.id}: a step after the end is rewarded with {reward}"
    assert info.get("success") == last[4].get("success"), (
        f"{task.id}: a step after the end changes success"
    )


@rule("reward_range")
def _reward_range(play: Play) -> None:
    low, high = play.make().reward_range
    for task, seen in play.episodes().items():
        for turn, step in enumerate(seen[1:], 1):
            assert low <= step[1] <= high, (
                f"{task.id}: reward {step[1]} at turn {turn} is outside [{low}, {high}]"
            )


@rule("progress")
def _progress(play: Play) -> None:
    values = []
    for task, seen in play.episodes().items():
        for turn, step in enumerate(seen):
            value = step[4].get("progress")
            if value is not None:
                values.append(value)
                assert 0 <= value <= 1, (
                    f"{task.id}: progress {value} at turn {turn} is outside [0, 1]"
                )
    if not values:
        raise Skip("no progress is reported")


@rule("expert")
def _expert(play: Play) -> str:
    most = 0
    for task in play.tasks:
        env = play.make()
        _, info = env.reset(options={"task": task})
        action, over, steps = env.expert_action(), False, 0
        if action is None:
            raise Skip("there is no expert")
        while action is not None and not over and steps < _EXPERT_STEPS:
            _, _, terminated, truncated, info = env.step(action)
            over, steps = terminated or truncated, steps + 1
            action = None if over else env.expert_action()
        env.close()
        assert info.get("success"), (
            f"{task.id}: the expert stops after {steps} steps without success"
        )
        most = max(most, steps)
    return f"wins within {most} steps"


@rule("admissible")
def _admissible(play: Play) -> str:
    for task in play.tasks:
        play.actions(task)
    assert not play.refused, play.refused[0]
    if not play.listed:
        raise Skip("no admissible actions are listed")
    return f"{play.listed} tried"


@rule("hostile")
def _hostile(play: Play) -> str:
    env = play.make()
    rng = random.Random(play.seed)
    task = play.tasks[0]
    commands = [*play.actions(task), *WORDS]
    env.reset(options={"task": task})
    for count, text in enumerate(hostile(rng, commands, _HOSTILE)):
        try:
            observation, _, terminated, truncated, _ = env.step(text)
        except Exception as error:
            raise AssertionError(f"{text[:60]!r} raises {type(error).__name__}: {error}") from error
        assert isinstance(observation, str), (
            f"{text[:60]!r} is answered with a {type(observation).__name__}"
        )
        if terminated or truncated:
            env.reset(options={"task": play.tasks[count % len(play.tasks)]})
    env.close()
    return f"{_HOSTILE} strings"


@rule("files", needs=())
def _files(play: Play) -> None:
    assert play.folder is not None
    left = sorted(path.name for path in play.folder.iterdir())
    assert not left, f"the world wrote '{left[0]}' in the current directory"
