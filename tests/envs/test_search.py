"""search/qa-v0 over the generated encyclopedia: the contract, what questions give away, a game."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import turnrl
from turnrl.envs import SPLITS, Task, TextEnv
from turnrl.envs.check.check import check_env
from turnrl.envs.pool.pool import EnvPool
from turnrl.foundation.errors import UserError

pytest.importorskip("bm25s", reason="needs the extra: pip install 'turnrl[search]'")

from turnrl.envs.search.relations import RELATIONS
from turnrl.envs.search.score import normalise
from turnrl.envs.search.store import Question
from turnrl.envs.search.world import HOPS, SIZES, Encyclopedia

ID = "search/qa-v0"
SMALL = {"pages": 300}


@pytest.fixture(scope="module", autouse=True)
def home(cache: Path) -> Path:
    """A cache of its own."""
    return cache


@pytest.fixture(scope="module")
def world() -> Encyclopedia:
    return Encyclopedia(3000, 0)


def finish(env: TextEnv) -> tuple[list[str], float, Any]:
    actions: list[str] = []
    total, info, over = 0.0, None, False
    while not over:
        action = env.expert_action()
        assert action is not None, actions
        actions.append(action)
        _, reward, over, _, info = env.step(action)
        total += reward
    return actions, total, info


# -- the contract ----------------------------------------------------------------------------------


def test_it_passes_the_checker() -> None:
    report = check_env(ID, params=SMALL, tasks=6)
    assert {result.status for result in report.results} == {"ok"}, str(report)


def test_importing_worlds_brings_no_engine() -> None:
    code = (
        "import sys, turnrl, turnrl.envs; print(*{'bm25s', 'Stemmer', 'httpx2', 'torch'} &"
        " set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_missing_extra_is_one_sentence(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["Stemmer"] = None
from turnrl.envs import make
from turnrl.foundation.errors import UserError
try:
    make("search/qa-v0")
except UserError as error:
    print(error)
make("search/qa-v0", data=sys.argv[1], retriever={"name": "http", "url": "http://localhost/retrieve"})
"""
    (tmp_path / "q.jsonl").write_text("")
    command = [sys.executable, "-c", code, str(tmp_path / "q.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'turnrl[search]'" in done.stdout
    assert done.stdout.count("\n") == 1


def test_ids_of_tasks_say_only_what_was_asked_for() -> None:
    assert turnrl.make(ID, **SMALL).tasks("test")[0].id == "search/qa-v0?pages=300#20000000"
    env = turnrl.make(ID, **SMALL, retriever={"name": "bm25", "k1": 1.2}, hops=2)
    again = turnrl.make_for(env.tasks("valid")[0])
    assert (
        again.params
        == env.params
        == {
            "pages": 300,
            "retriever": {"name": "bm25", "k1": 1.2},
            "hops": 2,
        }
    )


# -- the questions ---------------------------------------------------------------------------------


def test_sizes_hops_and_splits(world: Encyclopedia) -> None:
    for split in SPLITS:
        questions = world.questions[split]
        assert Counter(question.hops for question in questions) == dict.fromkeys(
            HOPS, SIZES[split] // 3
        )
        assert len({normalise(question.text) for question in questions}) == len(questions)
        for question in questions:
            assert len({support.id for support in question.supports}) == question.hops
    pages = {split: {s.id for q in world.questions[split] for s in q.supports} for split in SPLITS}
    answers = {
        split: {q.answers for q in world.questions[split] if not q.answers[0].isdigit()}
        for split in SPLITS
    }
    for a, b in itertools.combinations(SPLITS, 2):
        assert not pages[a] & pages[b]
        assert not answers[a] & answers[b]


def test_titles_are_unique_and_share_words(world: Encyclopedia) -> None:
    titles = [normalise(thing.title) for thing in world.things]
    assert len(set(titles)) == len(titles) == 3000
    words = Counter(word for title in titles for word in title.split())
    assert sum(any(words[word] > 1 for word in title.split()) for title in titles) > 2000


def test_each_page_of_a_chain_names_the_next_and_only_the_last_the_answer(
    world: Encyclopedia,
) -> None:
    texts = {f"page-{n}": text for n, text in enumerate(world.texts)}
    for split in SPLITS:
        for question in world.questions[split][:300]:
            *before, last = question.supports
            assert question.answers[0] in texts[last.id or ""]
            for page, following in zip(before, question.supports[1:], strict=True):
                assert following.title in texts[page.id or ""]
                assert question.answers[-1] not in texts[page.id or ""]
            assert question.supports[0].title in question.text
            assert not any(
                support.title in question.text
                for support in question.supports[1:]
                if " " in support.title
            )


def relation(world: Encyclopedia, question: Question) -> str:
    """What is asked for in the end."""
    thing = world.things[int((question.supports[-1].id or "").removeprefix("page-"))]
    for name, value in thing.facts.items():
        said = world.things[int(value)].title if RELATIONS[name].to else str(value)
        if said == question.answers[0]:
            return name
    raise AssertionError(question)


def frequent(world: Encyclopedia, seen: list[Question]) -> Callable[[Question, list[str]], str]:
    """Says what was most often right when the same was asked for."""
    best: dict[str, Counter[str]] = {}
    for question in seen:
        best.setdefault(relation(world, question), Counter())[question.answers[0]] += 1
    return lambda question, options: best[relation(world, question)].most_common(1)[0][0]


def nearest(world: Encyclopedia, seen: list[Question]) -> Callable[[Question, list[str]], str]:
    """Says what was right for the question that shares most words."""
    known = [(set(q.text.split()), q.answers[0]) for q in seen[::4]]
    return lambda question, options: max(
        known, key=lambda pair: len(pair[0] & set(question.text.split()))
    )[1]


def alike(world: Encyclopedia, seen: list[Question]) -> Callable[[Question, list[str]], str]:
    """Says that answer of the split, of those for this, which is spelled most like the question."""

    def grams(text: str) -> set[str]:
        return {text[i : i + 3].lower() for i in range(len(text) - 2)}

    return lambda question, options: max(
        options, key=lambda o: len(grams(o) & grams(question.text)) / len(grams(o))
    )


def dice(world: Encyclopedia, seen: list[Question]) -> Callable[[Question, list[str]], str]:
    """Knows them too, and throws dice."""
    rng = random.Random(0)
    return lambda question, options: rng.choice(options)


@pytest.mark.parametrize("make_reader", [frequent, nearest, alike, dice])
def test_who_reads_only_the_question_is_at_chance(world: Encyclopedia, make_reader: Any) -> None:
    """No reader of the question alone does better than four standard deviations above chance.

    Chance is exact: what the reader's answers would score if answers were shuffled among questions
    that ask for the same. It has to be small.
    """
    questions = world.questions["test"]
    groups: dict[str, list[str]] = {}
    for question in questions:
        groups.setdefault(relation(world, question), []).append(question.answers[0])
    reader = make_reader(world, world.questions["train"])
    right, chance, variance = 0, 0.0, 0.0
    for question in questions:
        group = groups[relation(world, question)]
        said = reader(question, sorted(set(group)))
        right += said == question.answers[0]
        share = group.count(said) / len(group)
        chance, variance = chance + share, variance + share * (1 - share)
    assert chance / len(questions) < 0.06
    assert right <= chance + 4 * math.sqrt(variance) + 1


MAKE = """
import hashlib, json, sys
from pathlib import Path
import turnrl
env = turnrl.make("search/qa-v0", pages=300)
env.prepare(env.tasks("train"), progress=False)
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.is_file():
        print(path.relative_to(sys.argv[1]), hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_same_bytes_from_racing_processes_and_other_hash_seeds(tmp_path: Path) -> None:
    def begin(name: str, hash_seed: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path / name),
            "PYTHONHASHSEED": hash_seed,
        }
        return subprocess.Popen(
            [sys.executable, "-c", MAKE, str(tmp_path / name)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    racing = [begin("one", "1"), begin("one", "2")]
    for process in racing:
        process.communicate()
        assert process.returncode == 0
    again, third = begin("one", "4").communicate()[0], begin("two", "3").communicate()[0]
    assert again == third
    assert again.count("\n") > 10
    assert "tmp-" not in again


def test_worlds_of_other_seeds_are_others() -> None:
    one, two = Encyclopedia(300, 0), Encyclopedia(300, 1)
    assert not {thing.title for thing in one.things} & {
        thing.title for thing in two.things if " " not in thing.title
    }
    assert list(Encyclopedia(300, 0).passages()) == list(one.passages())
    assert Encyclopedia(300, 0).questions == one.questions


# -- a game ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("hops", HOPS)
def test_the_oracle_wins(split: str, hops: int) -> None:
    env = turnrl.make(ID, hops=hops, extras=("progress",))
    for task in env.tasks(split)[:25]:
        env.reset(options={"task": task})
        actions, total, info = finish(env)
        assert info["success"]
        assert (total, info["score"], info["progress"]) == (1, 1, 1)
        assert sorted(info["milestones"]) == [
            "answer",
            *(f"support {n}" for n in range(1, hops + 1)),
        ]
        assert len(actions) <= 2 * hops + 1
        assert actions[0] == f"search[{env._question.supports[0].title}]"  # type: ignore[attr-defined]


def test_the_oracle_goes_on_from_any_state() -> None:
    env = turnrl.make(ID, extras=("admissible_actions",))
    rng = random.Random(0)
    for task in env.tasks("valid")[:20]:
        _, info = env.reset(options={"task": task})
        for _ in range(4):
            listed = [
                action
                for action in info["admissible_actions"] or []
                if not action.startswith("answer")
            ]
            *_, info = env.step(rng.choice(listed))
            assert info["valid_action"]
        assert finish(env)[2]["success"]


def first(**options: Any) -> tuple[TextEnv, Question]:
    env = turnrl.make(ID, extras=("progress", "admissible_actions"), **options)
    task = env.tasks("test")[2]
    env.reset(options={"task": task})
    question = env._library.question("test", 2)  # type: ignore[attr-defined]
    assert question is not None
    return env, question


def test_progress_and_milestones_count_a_support_once_and_name_no_title() -> None:
    env, question = first()
    title = question.supports[0].title
    for _ in range(2):
        text, reward, over, _, info = env.step(f"search[{title}]")
        assert f"(Title: {title})" in text
        assert (reward, over) == (0, False)
        assert info["progress"] == pytest.approx(1 / 5)
        assert info["milestones"] == ["support 1"]
    *_, info = env.step(f"read[{question.supports[2].title}]")
    assert info["milestones"] == ["support 1", "support 3"]
    assert info["progress"] == pytest.approx(2 / 5)
    *_, info = env.step("nonsense")
    assert not info["valid_action"]
    assert info["milestones"] == ["support 1", "support 3"]
    *_, info = env.step("read[No such page]")
    assert not info["valid_action"]
    assert info["answer"] == list(question.answers)


@pytest.mark.parametrize(("reward", "paid"), [("em", 0.0), ("f1", 2 / 3)])
def test_a_wrong_answer_ends_it_and_f1_pays_for_its_words(reward: str, paid: float) -> None:
    env, question = first(reward=reward)
    said = f"{question.answers[0]} {'x ' * len(question.answers[0].split())}"
    _, earned, over, _, info = env.step(f"answer[{said}]")
    assert earned == pytest.approx(paid)
    assert (over, info["success"]) == (True, False)
    assert info["score"] == pytest.approx(2 / 3)
    assert info["progress"] == 0
    assert env.expert_action() is None


@pytest.mark.parametrize(
    "form",
    [
        "answer[{}]",
        "so <answer>The {}!</answer>",
        '{{"name": "answer", "arguments": {{"answer": "{}"}}}}',
    ],
)
def test_all_forms_of_an_action_arrive(form: str) -> None:
    env, question = first()
    _, reward, over, _, info = env.step(form.format(question.answers[0]))
    assert (reward, over, info["success"]) == (1, True, True)


def test_a_search_shares_its_room_and_reading_shows_all() -> None:
    env, question = first(observation_chars=300, topk=3)
    title = question.supports[0].title
    text = env.step(f"search[{title}]")[0]
    assert text.count("\nDoc ") == 2
    assert all(len(line.partition(") ")[2]) <= 100 for line in text.splitlines())
    assert env.expert_action() == f"read[{title}]"
    assert env.step("search[zzzz the of]")[0] == "Nothing was found."
    whole = turnrl.make(ID, observation_chars=1000, topk=1)
    whole.reset(options={"task": whole.tasks("test")[2]})
    shown = whole.step(f"read[{title.upper()}]")[0]
    assert shown.startswith(f"{title}\n")
    assert question.supports[1].title in shown
    assert len(whole.step(f"search[{title}]")[0]) > 100


def test_a_task_from_elsewhere_is_said() -> None:
    env = turnrl.make(ID, **SMALL)
    for seed in (9_999_999, 30_000_000):
        with pytest.raises(UserError, match=f"there is no question for the seed {seed}"):
            env.reset(options={"task": Task(env=ID, params=SMALL, seed=seed)})


def test_episodes_in_threads_and_processes_see_the_same() -> None:
    env = turnrl.make(ID, **SMALL)
    tasks = env.tasks("valid")[:16]

    async def play(pool: EnvPool, task: Task) -> list[str]:
        async with pool.episode(task) as session:
            seen = [(await session.reset())[0]]
            over = False
            while not over:
                action = await session.expert_action()
                assert action is not None
                text, _, over, _, _ = await session.step(action)
                seen.append(text)
            return seen

    async def all_of(backend: Any) -> list[list[str]]:
        async with EnvPool(
            backend=backend, workers=2 if backend == "process" else 8, slots=16
        ) as pool:
            return list(await asyncio.gather(*(play(pool, task) for task in tasks)))

    assert asyncio.run(all_of("thread")) == asyncio.run(all_of("process"))
