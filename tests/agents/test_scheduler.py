"""The scheduler against a world of pure timing: no model, no clock, no event loop."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turnrl.agents.engines.scheduler import Request, Scheduler


@dataclass(slots=True, eq=False)
class Tokens(Request):
    """A request for so many tokens; `left` counts down."""

    left: int


@dataclass
class Lane:
    """A place that one conversation after the other takes; each has a number of tokens per turn."""

    name: str = ""
    turns: list[int] = field(default_factory=list)
    asks: bool = False
    """Its request waits or runs."""


Batch = tuple[bool, list[str]]


class Playground:
    """Lanes that play a queue of conversations; what their worlds take is drawn from `timing`."""

    def __init__(
        self, queue: list[list[int]], lanes: int, scheduler: Scheduler[Tokens], timing: int
    ) -> None:
        self.queue = {f"c{i:02d}": list(turns) for i, turns in enumerate(queue)}
        self.scheduler, self.random = scheduler, random.Random(timing)
        self.lanes = [Lane() for _ in range(min(lanes, len(queue)))]
        self.arrivals = 0
        self.batches: list[Batch] = []
        for lane in self.lanes:
            self.begin(lane)

    def begin(self, lane: Lane) -> None:
        """The next conversation opens before the last one is forgotten."""
        last = lane.name
        lane.name = min(self.queue, default="")
        lane.turns = self.queue.pop(lane.name, [])
        if lane.name:
            self.scheduler.open(lane.name)
        if last:
            self.scheduler.forget(last)

    def world(self, lane: Lane) -> None:
        """A world answers: the lane asks again, or goes on to its next conversation."""
        if lane.turns:
            self.arrivals += 1
            self.scheduler.add(Tokens(lane.name, self.arrivals, lane.turns.pop(0)))
            lane.asks = True
        else:
            self.begin(lane)

    def play(self) -> list[Batch]:
        """All batches, until nothing is left to play."""
        while away := [lane for lane in self.lanes if lane.name and not lane.asks] or (
            self.scheduler.requests
        ):
            for lane in self.lanes:
                if lane.name and not lane.asks and self.random.random() < 0.3:
                    self.world(lane)
            if self.scheduler.requests and (step := self.scheduler.next_step()) is not None:
                self.compute(step.admits, step.requests)
            elif away := [lane for lane in self.lanes if lane.name and not lane.asks]:
                self.world(self.random.choice(away))
        return self.batches

    def compute(self, admits: bool, requests: list[Tokens]) -> None:
        """One token for each of the requests."""
        self.batches.append((admits, sorted(str(request.conversation) for request in requests)))
        if admits:
            self.scheduler.admit(requests)
        for request in requests:
            request.left -= 1
            if request.left == 0:
                self.scheduler.drop(request)
                next(x for x in self.lanes if x.name == request.conversation).asks = False


turns_of_conversations = st.lists(
    st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=10
)


@given(
    turns_of_conversations,
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.integers(0, 999),
)
def test_the_batches_do_not_depend_on_when_worlds_answer(
    queue: list[list[int]], lanes: int, max_batch: int, share: float, timing: int
) -> None:
    first, second = (
        Playground(queue, lanes, Scheduler(max_batch, share), seed).play()
        for seed in (timing, 1000)
    )
    assert first == second
    sampled = sum(len(names) for _, names in first)
    assert sampled == sum(map(sum, queue))
    assert sum(len(names) for admits, names in first if admits) == sum(map(len, queue))


@given(st.integers(1, 4), st.booleans(), st.lists(st.integers(0, 2**16), max_size=60))
def test_no_request_is_lost_or_doubled_and_a_conversation_has_one_row(
    max_batch: int, impatient: bool, actions: list[int]
) -> None:
    scheduler: Scheduler[Request] = Scheduler(max_batch)
    left: set[Request] = set()
    for arrival, action in enumerate(actions):
        kind, name = action % 5, f"c{action // 5 % 4}"
        if kind == 0:
            scheduler.open(name)
        elif kind == 1:
            request = Request(name if action % 7 else None, arrival)
            scheduler.add(request)
            left.add(request)
        elif kind == 2 and scheduler.requests:
            done = scheduler.requests[action % len(scheduler.requests)]
            scheduler.drop(done)
            left.remove(done)
        elif kind == 3:
            scheduler.recall()
        elif scheduler.requests and (step := scheduler.next_step(impatient)) is not None:
            assert step.requests
            if step.admits:
                assert set(step.requests) <= set(scheduler.waiting)
                scheduler.admit(step.requests)
                for request in step.requests:
                    if request.conversation is None:  # done at once
                        scheduler.drop(request)
                        left.remove(request)
            else:
                assert step.requests == scheduler.running
        assert len(scheduler.requests) == len(left)
        assert set(scheduler.requests) == left
        names = [request.conversation for request in scheduler.running]
        assert len(set(names)) == len(names) <= max_batch


@given(turns_of_conversations, st.integers(1, 6), st.integers(0, 99))
def test_never_more_than_max_batch_are_computed_at_once(
    queue: list[list[int]], max_batch: int, timing: int
) -> None:
    for _, names in Playground(queue, 10, Scheduler(max_batch), timing).play():
        assert len(set(names)) == len(names) <= max_batch


def scheduler_with(*waiting: str, away: str = "", **options: int) -> Scheduler[Request]:
    scheduler: Scheduler[Request] = Scheduler(**{"max_batch": 8, **options})
    for name in (*waiting, *away):
        scheduler.open(name)
    for arrival, name in enumerate(waiting):
        scheduler.add(Request(name, arrival))
    return scheduler


def test_a_request_waits_for_conversations_that_are_away() -> None:
    scheduler = scheduler_with("b", "a", away="c")
    assert scheduler.next_step() is None
    step = scheduler.next_step(impatient=True)
    assert step is not None
    assert [request.conversation for request in step.requests] == ["a", "b"]
    scheduler.finish("c")
    assert scheduler.next_step() == step


def test_a_request_of_no_conversation_waits_for_nobody() -> None:
    scheduler = scheduler_with("a", away="b")
    alone = Request(None, 7)
    scheduler.add(alone)
    step = scheduler.next_step()
    assert step is not None
    assert (step.admits, step.requests) == (True, [alone])


def test_conversations_that_played_fewer_turns_come_first() -> None:
    scheduler = scheduler_with("a", "b", max_batch=1)
    for expected in ("a", "b", "a", "b"):
        step = scheduler.next_step()
        assert step is not None
        [request] = step.requests
        assert request.conversation == expected
        scheduler.admit([request])
        scheduler.drop(request)
        scheduler.add(Request(expected, 9))


@pytest.mark.parametrize(("newcomers", "admits"), [(1, False), (2, True)])
def test_newcomers_are_admitted_when_they_are_half_as_many_as_those_that_run(
    newcomers: int, admits: bool
) -> None:
    scheduler = scheduler_with("a", "b", "c", "d")
    step = scheduler.next_step()
    assert step is not None
    scheduler.admit(step.requests)
    for name in "ef"[:newcomers]:
        scheduler.open(name)
        scheduler.add(Request(name, 9))
    step = scheduler.next_step()
    assert step is not None
    assert step.admits == admits
