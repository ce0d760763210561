"""Scheduler: which requests an engine computes next. It knows no model, no clock, no event loop.

::

    scheduler = Scheduler(max_batch=64)
    scheduler.open("episode-3")
    scheduler.add(Request("episode-3", arrival=1))
    step = scheduler.next_step()        # None: wait for the conversations that are away
    scheduler.admit(step.requests)      # they run now; drop each of them when it is done

An engine alternates between *admission* (encode the prompts of waiting requests and sample their
first tokens) and *decoding* (one token for every running request).

**Quiescence.** A conversation that is open and has no request is *away* (in its environment).
Before a step whose batch could depend on whether they come back, the answer is to wait for all of
them. Requests are then taken in the order of (turns played, name of the conversation), so that the
batches depend on neither the timing of requests nor the speed of environments: only on which
conversations are open and on what they ask. A conversation that opens before another ends, without
an await in between, takes its place without a gap. A request of no conversation waits for nobody.

**Admission rule.** Waiting requests are admitted when nothing is decoding, or when they are at
least `ADMIT_SHARE` times as many as those that are. Decoding goes on without waiting while too few
conversations are away to reach it. The share matters little (between 0 and infinity CPU time varies
by a tenth) unless newcomers come one by one; below one, environments run while the rest decodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

ADMIT_SHARE = 0.5


@dataclass(slots=True, eq=False)
class Request:
    """What a scheduler has to know of a request."""

    conversation: str | None
    """None for a request that is done as soon as it was admitted, and takes no place in a batch."""
    arrival: int


R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True)
class Step(Generic[R]):
    """The next forward pass."""

    admits: bool
    """Encode what is new in these requests; else sample one more token for each of them."""
    requests: list[R]


class Scheduler(Generic[R]):
    """Requests that wait or run, and the conversations that they belong to.

    Args:
        max_batch: most requests of conversations that run at once.
        admit_share: see the admission rule.
    """

    def __init__(self, max_batch: int, admit_share: float = ADMIT_SHARE) -> None:
        self.max_batch, self.admit_share = max_batch, admit_share
        self.waiting: list[R] = []
        self.running: list[R] = []
        self._open: set[str] = set()
        self._turns: dict[str, int] = {}

    @property
    def requests(self) -> list[R]:
        """List all requests that wait or run."""
        return self.waiting + self.running

    def open(self, conversation: str) -> None:
        """Wait for the requests of this conversation from now on."""
        self._open.add(conversation)

    def finish(self, conversation: str) -> None:
        """Wait for this conversation no longer; its requests are served all the same."""
        self._open.discard(conversation)

    def forget(self, conversation: str) -> None:
        """Wait for this conversation no longer, and forget how many turns it played."""
        self.finish(conversation)
        self._turns.pop(conversation, None)

    def add(self, request: R) -> None:
        """Let a request wait."""
        self.waiting.append(request)

    def admit(self, requests: list[R]) -> None:
        """Let waiting requests run."""
        for request in requests:
            self.waiting.remove(request)
            self.running.append(request)
            if (name := request.conversation) is not None:
                self._turns[name] = self._turns.get(name, 0) + 1

    def drop(self, request: R) -> None:
        """Forget a request that is done, failed or cancelled."""
        for requests in (self.waiting, self.running):
            if request in requests:
                requests.remove(request)

    def recall(self) -> None:
        """Let every running request wait again, before the others."""
        self.waiting = self.running + self.waiting
        self.running = []

    def next_step(self, impatient: bool = False) -> Step[R] | None:
        """Choose the next forward pass; None if it has to wait for conversations that are away.

        Args:
            impatient: wait for nobody.
        """
        if alone := [request for request in self.waiting if request.conversation is None]:
            return Step(True, alone)
        candidates = self._candidates()
        pending = {request.conversation for request in self.requests}
        away = 0 if impatient else len(self._open - pending)
        if away and self._worth(len(candidates) + away):
            return None
        if self._worth(len(candidates)):
            return Step(True, candidates[: self.max_batch - len(self.running)])
        return Step(False, list(self.running))

    def _worth(self, waiting: int) -> bool:
        """Tell whether so many waiting requests are to be admitted now."""
        admitted = min(waiting, self.max_batch - len(self.running))
        return admitted > 0 and admitted >= self.admit_share * len(self.running)

    def _candidates(self) -> list[R]:
        """List the waiting requests that may be admitted, one per conversation, in their order."""
        taken = {request.conversation for request in self.running}
        chosen = []
        for request in sorted(self.waiting, key=self._order):
            if request.conversation not in taken:
                chosen.append(request)
                taken.add(request.conversation)
        return chosen

    def _order(self, request: R) -> tuple[int, str, int]:
        name = request.conversation or ""
        return self._turns.get(name, 0), name, request.arrival
