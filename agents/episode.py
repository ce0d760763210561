"""Turn, Episode and Group: what was seen and said, and why an episode stopped.

Tokens are exact. A turn stores the prompt ids that are new since the previous response, and whether
they extend the previous prompt and response verbatim; the whole prompt is never stored twice and
never re-tokenised::

    episode.prompt(t)        # the ids the engine saw before turn t
    episode.turns[t].response_ids, episode.turns[t].logprobs

Rewards stay named (`Turn.rewards`) until credit is assigned.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from ..envs import Artifact, Task
from ..foundation.files import new_file

FinishReason = Literal["stop", "length"]


class StopReason(StrEnum):
    """The reason why an episode ended. Failures are a type of their own, never a reward."""

    WON = "won"
    LOST = "lost"
    TURN_LIMIT = "turn_limit"
    """The task's own: the recipe's, or the world's."""
    CURRICULUM_LIMIT = "curriculum_limit"
    """A turn limit below the task's own: a player would have been allowed to go on."""
    CONTEXT_LIMIT = "context_limit"
    ENV_ERROR = "env_error"
    ENV_TIMEOUT = "env_timeout"
    ENGINE_ERROR = "engine_error"
    UNPLAYABLE = "unplayable"
    """The world does not tell a baseline what it needs, such as an expert's action; other tasks may
    be played.
    """
    BUDGET = "budget"
    """The budget of the server that plays was spent before the episode ended, or began."""

    @property
    def failed(self) -> bool:
        """Tell whether the infrastructure failed, so that the episode counts nowhere."""
        return self in _FAILED

    @property
    def truncated(self) -> bool:
        """Tell whether a limit ended the episode, and not the world."""
        return self.at_turn_limit or self is StopReason.CONTEXT_LIMIT

    @property
    def at_turn_limit(self) -> bool:
        """Tell whether a limit of turns ended the episode, the task's own or a curriculum's."""
        return self in (StopReason.TURN_LIMIT, StopReason.CURRICULUM_LIMIT)


_FAILED = frozenset(
    {
        StopReason.ENV_ERROR,
        StopReason.ENV_TIMEOUT,
        StopReason.ENGINE_ERROR,
        StopReason.UNPLAYABLE,
        StopReason.BUDGET,
    }
)


@dataclass(slots=True)
class Turn:
    """One exchange: what was new in the prompt, what the model wrote, what the world answered."""

    prompt_ids: list[int]
    """New prompt token ids; the whole prompt if `extends` is False."""
    extends: bool
    """The prompt is the previous prompt + the previous response + `prompt_ids`, verbatim."""
    response_ids: list[int]
    """Sampled ids, the stop token included."""
    logprobs: list[float]
    """Log-probability (nats) of each response id at sampling time, under the sampling temperature.
    """
    repeated: int = 0
    """So many first ids of `prompt_ids` repeat, or may repeat, what was said before, the player's
    words included.
    """
    text: str = ""
    """The response as text, without the stop token."""
    action: str | None = None
    """What the parser made of it; None if it made nothing."""
    tag: str | None = None
    """The kind of reasoning it named, in a format that does: 'planning', 'explore', ..."""
    observation: str = ""
    """What the world answered."""
    env_reward: float = 0.0
    valid_action: bool = True
    """Parsed, and accepted by the world."""
    invalid_reason: str | None = None
    """'unparsable', a key of `turnrl.envs.sanitise.REASONS`, 'rejected', or None."""
    finish_reason: FinishReason = "stop"
    version: int = 0
    """Version of the weights that sampled its first token."""
    trained: bool = True
    """False for a turn that is context only, such as the noise in a demonstration."""
    score: float | None = None
    progress: float | None = None
    """The world's potential after this turn, if it was asked for."""
    milestones: list[str] = field(default_factory=list)
    rewards: dict[str, float] = field(default_factory=dict)
    """Named rewards, unweighted; filled in after the group was played."""
    counted: int = 0
    """Tokens of a response whose ids nobody told, as a server counted them."""
    signals: dict[str, float] = field(default_factory=dict)
    """Numbers about the turn that are no rewards, by name: what a world, an agent or a reward notes
    for those who learn from it. A batch has them as ``NAME_ET``.
    """
    advantage: float | None = None
    """Mean advantage of its tokens, for reports; filled in by the trainer."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """What the world attached to the observation, by name."""

    @property
    def answered(self) -> bool:
        """Tell whether the observation is the world's own.

        It is a sentence of ours where the world never saw the response.
        """
        return self.invalid_reason in (None, "rejected")


@dataclass(slots=True)
class Episode:
    """A Task as one player played it."""

    task: Task
    opening: str = ""
    """The first observation."""
    turns: list[Turn] = field(default_factory=list)
    stop: StopReason = StopReason.TURN_LIMIT
    success: bool = False
    """The world's own verdict."""
    start_progress: float | None = None
    """The potential before the first turn, if it was asked for."""
    answer: list[str] | None = None
    """Gold answers, where the world has them."""
    expert: list[str] = field(default_factory=list)
    """The plan by which the world's expert wins from the start, if it was asked for; empty where it
    does not win.
    """
    id: str = ""
    """Unique among the episodes played at once; its conversation with an engine has the same."""
    renaming: dict[str, str] = field(default_factory=dict)
    """The symmetry of the world under which the player saw it; actions and observations here are
    the world's own.
    """
    closing_ids: list[int] = field(default_factory=list)
    """Prompt ids that would have come next in an episode that a turn limit cut, for a critic that
    bootstraps.
    """
    closing_extends: bool = True
    """The same as `Turn.extends`, for `closing_ids`."""
    hint: str = ""
    """What the player was told after the opening, in the world's own words; "" for nothing."""
    error: str | None = None
    """What failed, if `stop.failed`."""
    seconds: float = 0.0
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """What the world attached to the opening, by name."""

    def prompt(self, turn: int) -> list[int]:
        """Return all token ids that the engine saw before the response of `turn`."""
        first = turn
        while self.turns[first].extends:
            first -= 1
        ids: list[int] = []
        for t in range(first, turn):
            ids += self.turns[t].prompt_ids + self.turns[t].response_ids
        return ids + self.turns[turn].prompt_ids

    def states(self) -> list[str]:
        """List what the world had said last before each turn.

        Our own sentences about bad responses are no state of the world.
        """
        states, last = [], self.opening
        for turn in self.turns:
            states.append(last)
            last = turn.observation if turn.answered else last
        return states

    @property
    def response_tokens(self) -> int:
        """Count the tokens that the player wrote."""
        return sum(len(turn.response_ids) or turn.counted for turn in self.turns)

    def to_json(self, *, artifacts: bool = False) -> dict[str, Any]:
        """Return a JSON-serialisable form, for `from_json`; with `artifacts` those too."""
        data = asdict(self) | {"task": self.task.model_dump(), "stop": self.stop.value}
        parts: list[Episode | Turn] = [self, *self.turns]
        for seen, told in zip(parts, [data, *data["turns"]], strict=True):
            del told["artifacts"]
            if isinstance(seen, Turn) and not seen.signals:
                del told["signals"]
            if artifacts and seen.artifacts:
                told["artifacts"] = {name: one.to_json() for name, one in seen.artifacts.items()}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Episode:
        """Restore the Episode that `to_json` was called on."""
        fields = dict(data)
        fields.pop("policy_version", None)  # written before turns had a version; it was always 0
        fields["task"] = Task.model_validate(fields["task"])
        fields["stop"] = StopReason(fields["stop"])
        fields["turns"] = [Turn(**turn | _attached(turn)) for turn in fields["turns"]]
        return cls(**fields | _attached(fields))


def _attached(data: dict[str, Any]) -> dict[str, Any]:
    """Read the artifacts of a turn, or of an opening, from its JSON."""
    told = data.get("artifacts", {})
    return {"artifacts": {name: Artifact.from_json(one) for name, one in told.items()}}


def save_episodes(path: Path, episodes: Iterable[Episode], *, artifacts: bool = False) -> None:
    """Write episodes as compressed JSON lines, all or nothing; with `artifacts` those too.

    Raises UserError.
    """
    with new_file(path) as beside, gzip.open(beside, "wt", encoding="utf-8") as file:
        for episode in episodes:
            file.write(json.dumps(episode.to_json(artifacts=artifacts)) + "\n")


@dataclass(slots=True)
class Group:
    """The Episodes of one Task in one training step, without those that failed.

    `lost` says why episodes are missing.
    """

    task: Task
    episodes: list[Episode]
    lost: list[StopReason] = field(default_factory=list)

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.episodes)

    def __len__(self) -> int:
        return len(self.episodes)


def episodes_of(groups: Iterable[Group]) -> list[Episode]:
    """List all episodes of the groups, in order: the axis E of every tensor."""
    return [episode for group in groups for episode in group.episodes]
