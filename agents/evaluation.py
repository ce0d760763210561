"""Evaluation: the measured result of playing tasks, with its conditions and its intervals.

Success is the world's own verdict. Episodes that failed for reasons of the infrastructure are in no
denominator and are counted by name. Rates come with n and a 95 % Wilson interval (Wilson, 1927).
"""

from __future__ import annotations

import contextlib
import logging
import math
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, computed_field

from .. import __version__
from .episode import Episode, StopReason
from .play import PlayStats
from .teachers.meter import ServerUse

if TYPE_CHECKING:
    from rich.table import Table

logger = logging.getLogger(__name__)


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, inside [0, 1]; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


MOST_FAILED = 0.1
"""Share of an evaluation's episodes that may fail. Of what fails at random, long episodes fail more
often than short ones, so the survivors of more than this say little about the player."""


class Rate(BaseModel):
    """A success rate with its 95 % Wilson interval; None where nothing was measured."""

    success: float | None
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, outcomes: Sequence[bool]) -> Rate:
        """Return the rate of True in `outcomes`; success None for none."""
        low, high = wilson(sum(outcomes), len(outcomes))
        return cls(success=_mean(sum(outcomes), len(outcomes)), low=low, high=high, n=len(outcomes))

    @property
    def text(self) -> str:
        """Write the rate in percent, or '-' where nothing was measured."""
        return "-" if self.success is None else f"{self.success:.1%}"


def _mean(total: float, count: int) -> float | None:
    """Return the mean of `count` things, None of none: what was not measured is not zero."""
    return total / count if count else None


class TaskResult(BaseModel):
    """The result of one task."""

    task: str = Field(description="id of the task")
    success: bool | None = Field(description="the world's verdict; null if the episode failed")
    stop: str = Field(description="why the episode ended")
    turns: int
    tokens: int = Field(description="tokens that the player wrote")
    error: str | None = Field(None, description="what failed")

    @classmethod
    def of(cls, episode: Episode) -> TaskResult:
        """Return the result of an episode."""
        return cls(
            task=episode.task.id,
            success=None if episode.stop.failed else episode.success,
            stop=episode.stop.value,
            turns=len(episode.turns),
            tokens=episode.response_tokens,
            error=episode.error,
        )


def versions() -> dict[str, str]:
    """List the releases of Python, turnrl and the libraries that a language model plays through."""
    found = {"python": platform.python_version(), "turnrl": __version__}
    for name in ("torch", "transformers", "tokenizers", "gymnasium"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class Evaluation(Rate):
    """The result of `evaluate`. `n` counts finished episodes; `failed` those that count nowhere.

    Failed is not lost: a game that is lost was measured, an episode whose world or engine broke was
    not.
    """

    env: str
    agent: str
    split: str
    families: dict[str, Rate] = Field(
        description="rates by task family (environment and parameters)"
    )
    turns: float | None = Field(description="mean turns per episode")
    turns_when_won: float | None = Field(description="mean turns of the successful episodes")
    invalid_rate: float | None = Field(description="share of actions refused or not understood")
    repeated_rate: float | None = Field(
        description="share of actions given before in the same episode after the same observation"
    )
    tokens: float | None = Field(description="mean tokens the player wrote per episode")
    stops: dict[str, int] = Field(description="finished episodes by StopReason")
    failed: dict[str, int] = Field(
        description="episodes that failed and count nowhere, by StopReason"
    )
    seed: int
    temperature: float | None = Field(
        None, description="sampling temperature of a language model; 0 is greedy"
    )
    max_turns: int | None = Field(None, description="turns after which an episode was cut")
    max_context: int | None = Field(
        None, description="longest prompt plus response of a language model, in tokens"
    )
    params: dict[str, Any] = Field({}, description="parameters of the environment")
    split_size: int | None = Field(None, description="tasks that the split has")
    checkpoint: str | None = Field(
        None, description="SHA-256 over the weights, tokenizer and configuration that played"
    )
    seconds: float
    tokens_per_second: float | None
    cut: int = Field(0, description="episodes that the end of a budget cut, which count nowhere")
    unplayed: int = Field(0, description="tasks that were not begun, because a budget was spent")
    server: ServerUse | None = Field(
        None, description="requests, tokens, cost and time of a model behind a server"
    )
    tasks: list[TaskResult] = Field([], description="how each task went, in the order of the split")
    versions: dict[str, str] = Field({}, description="releases of the software that played")

    @computed_field(  # type: ignore[prop-decorator]
        description=f"at most {MOST_FAILED:.0%} of the episodes failed: the rate is of the tasks"
    )
    @property
    def whole(self) -> bool:
        """Tell whether an episode was finished, and at most `MOST_FAILED` of all failed."""
        return self.n > 0 and self.failed_share <= MOST_FAILED

    @property
    def failed_share(self) -> float:
        """Return the share of failed and cut episodes among all that this agent could play."""
        failed = sum(count for name, count in self.failed.items() if name != StopReason.UNPLAYABLE)
        failed += self.cut
        return failed / max(self.n + failed, 1)

    @property
    def trouble(self) -> str | None:
        """Say what was not measured, and what that does to the rate; None if all was."""
        reasons = [f"{count} {name}" for name, count in self.failed.items()]
        reasons += [f"{self.cut} cut by the end of the budget"] if self.cut else []
        failed = sum(self.failed.values()) + self.cut
        all_ = self.n + failed
        said = []
        if self.unplayed:
            said.append(
                f"the budget was spent: {self.unplayed} of {all_ + self.unplayed} tasks were not"
                " played"
            )
        if self.success is None and failed:
            said.append(
                f"nothing was measured: {failed} of {all_} episodes failed ({', '.join(reasons)})"
            )
        elif self.success is None:
            said.append("nothing was measured")
        elif failed:
            won = round(self.success * self.n)
            said.append(
                f"{failed} of {all_} episodes failed ({', '.join(reasons)}): had they all been"
                f" played, the success rate would be between {won / all_:.1%} and"
                f" {(won + failed) / all_:.1%}"
            )
        return "; ".join(said) or None

    @property
    def title(self) -> str:
        """Say who played what, and how much of it."""
        played = self.n + sum(self.failed.values()) + self.cut
        share = f", {played} of {self.split_size} tasks" if self.split_size is not None else ""
        return f"{self.agent} on {self.env} ({self.split}{share})"

    def record(self) -> dict[str, Any]:
        """Return the numbers for a line of a run's metrics.

        Left out are the fields that are the same for a whole run, those of servers, and the single
        tasks.
        """
        single = {"tasks", "versions", "params", "checkpoint", "cut", "unplayed", "server"}
        return self.model_dump(exclude=single)

    def table(self) -> Table:
        """Show the numbers as a rich table."""
        from rich.table import Table

        table = Table("", "success", "95 % interval", "n", title=self.title)
        rows: dict[str, Rate] = {"all": self} | (self.families if len(self.families) > 1 else {})
        for name, rate in rows.items():
            table.add_row(name, rate.text, f"{rate.low:.1%} to {rate.high:.1%}", str(rate.n))
        said = {
            "{:.1f} turns": self.turns,
            "{:.1%} invalid": self.invalid_rate,
            "{:.1%} repeated actions": self.repeated_rate,
            "{:.0f} tokens per episode": self.tokens,
        }
        means = [form.format(value) for form, value in said.items() if value is not None]
        parts = [", ".join(means), self.trouble or "no episode failed", f"{self.seconds:.1f} s"]
        parts += [self.server.text] if self.server is not None else []
        table.caption = "; ".join(part for part in parts if part)
        return table


def summarise(
    episodes: Sequence[Episode],
    stats: PlayStats,
    *,
    env: str,
    agent: str,
    split: str,
    seed: int,
    temperature: float | None,
    **conditions: Any,
) -> Evaluation:
    """Count finished episodes, and warn where too many failed.

    Episodes that failed are in `failed` only.

    `conditions` are further fields of the Evaluation.
    """
    finished = [e for e in episodes if not e.stop.failed]
    over_budget = [e for e in episodes if e.stop is StopReason.BUDGET]
    failed = [e for e in episodes if e.stop.failed and e.stop is not StopReason.BUDGET]
    families: dict[str, list[bool]] = {episode.task.family: [] for episode in episodes}
    for episode in finished:
        families[episode.task.family].append(episode.success)
    turns = [turn for episode in finished for turn in episode.turns]
    won = [len(e.turns) for e in finished if e.success]
    tokens = sum(e.response_tokens for e in finished)
    result = Evaluation(
        **Rate.of([e.success for e in finished]).model_dump(),
        env=env,
        agent=agent,
        split=split,
        families={name: Rate.of(outcomes) for name, outcomes in sorted(families.items())},
        turns=_mean(len(turns), len(finished)),
        turns_when_won=_mean(sum(won), len(won)),
        invalid_rate=_mean(sum(not t.valid_action for t in turns), len(turns)),
        repeated_rate=_mean(sum(map(_repeated, finished)), len(turns)),
        tokens=_mean(tokens, len(finished)),
        stops=dict(Counter(e.stop.value for e in finished)),
        failed=dict(Counter(e.stop.value for e in failed)),
        cut=sum(bool(e.turns) for e in over_budget),
        unplayed=sum(not e.turns for e in over_budget),
        seed=seed,
        temperature=temperature,
        seconds=stats.seconds,
        tokens_per_second=tokens / stats.seconds if finished and stats.seconds else None,
        tasks=[TaskResult.of(episode) for episode in episodes],
        versions=versions(),
        **conditions,
    )
    if not result.whole and result.trouble:
        logger.warning("%s", result.trouble)
    return result


def _repeated(episode: Episode) -> int:
    """Count actions that were given before in this episode after the same observation."""
    given = zip(episode.states(), (turn.action for turn in episode.turns), strict=True)
    return len(episode.turns) - len(set(given))
