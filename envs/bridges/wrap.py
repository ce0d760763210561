"""wrap: any Gymnasium environment as a text environment, in one expression::

    Lake = wrap(
        lambda: gymnasium.make("FrozenLake-v1", render_mode="ansi", max_episode_steps=-1),
        instructions="Cross the lake. Answer with left, down, right or up.",
        text=lambda env, observation: env.render(),
        actions={"left": 0, "down": 1, "right": 2, "up": 3},
        success=lambda reward, info: reward == 1,
    )
    turnrl.register("lake/walk-v0", Lake)

A Task is a seed of the inner environment's reset. Put both lines into a module that workers can
import, and name it in a recipe as ``pool: {imports: [my_worlds.py]}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium

from ...foundation.errors import UserError
from ..core import Outcome, TextEnv
from ..sanitise import Grammar
from ..task import Split, Task, seeds_of

SEEDS: Mapping[Split, range] = {
    "train": seeds_of("train", 10_000),
    "valid": seeds_of("valid", 200),
    "test": seeds_of("test", 200),
}
"""Seeds of the tasks, unless others are given."""
ONE_LINE = Grammar(chaining=True, deny=frozenset())
"""What is passed on: one line of at most 256 characters."""


class WrappedEnv(TextEnv):
    """A Gymnasium environment inside a text environment; `wrap` makes classes of it."""

    inner: ClassVar[Callable[[], gymnasium.Env[Any, Any]]]
    seeds: ClassVar[Mapping[Split, Sequence[int]]]
    names: ClassVar[Mapping[str, Any] | None]
    text: ClassVar[Callable[[gymnasium.Env[Any, Any], Any], Any]]
    verdict: ClassVar[Callable[[float, Mapping[str, Any]], bool]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._inner = type(self).inner()

    def close(self) -> None:
        """Close the inner environment."""
        self._inner.close()

    def _tasks(self, split: Split) -> Sequence[Task]:
        return self.seeded(self.seeds[split], split)

    def _begin(self, task: Task) -> Outcome:
        observation, _ = self._inner.reset(seed=task.seed)
        return Outcome(self._say(observation), admissible=self._listed())

    def _act(self, action: str) -> Outcome:
        if self.names is not None and action not in self.names:
            return Outcome(
                f"Unknown action. Known are: {', '.join(self.names)}.",
                valid=False,
                admissible=self._listed(),
            )
        chosen = action if self.names is None else self.names[action]
        observation, reward, terminated, truncated, info = self._inner.step(chosen)
        ended = terminated or truncated
        success = ended and type(self).verdict(float(reward), info)
        return Outcome(
            self._say(observation),
            float(reward),
            ended=ended,
            success=success,
            admissible=self._listed(),
        )

    def _say(self, observation: Any) -> str:
        said = type(self).text(self._inner, observation)
        if not isinstance(said, str):
            raise UserError(
                f"{type(self).__name__}: the observation is no text but {type(said).__name__}: give"
                " wrap(text=...)"
            )
        return said

    def _listed(self) -> list[str] | None:
        return None if self.names is None else list(self.names)


def wrap(
    make: Callable[[], gymnasium.Env[Any, Any]],
    *,
    success: Callable[[float, Mapping[str, Any]], bool],
    instructions: str = "",
    text: Callable[[gymnasium.Env[Any, Any], Any], Any] = lambda env, observation: observation,
    actions: Mapping[str, Any] | None = None,
    seeds: Mapping[Split, Sequence[int]] = SEEDS,
    reward_range: tuple[float, float] = (0.0, 1.0),
    grammar: Grammar = ONE_LINE,
    name: str = "Wrapped",
) -> type[TextEnv]:
    """Make a class of a Gymnasium environment that speaks text, ready to be registered.

    Args:
        make: makes the inner environment. What ends it by its own time limit counts as lost: leave
            the limit to the player's ``max_turns``.
        success: whether an episode that ended with this reward and info was won; never guessed from
            the end itself.
        instructions: what a player must know.
        text: what the player reads, of the environment and its observation; as it is where that is
            a string.
        actions: word -> action of the inner environment. Without it the player's text is passed on
            as it is.
        seeds: split -> seeds of its tasks; splits must not share one.
        reward_range: bounds of the reward of one step.
        grammar: which texts are passed on at all.
        name: of the class.
    """
    members = {
        "inner": staticmethod(make),
        "text": staticmethod(text),
        "verdict": staticmethod(success),
        "names": actions,
        "seeds": seeds,
        "instructions": instructions,
        "reward_range": reward_range,
        "grammar": grammar,
    }
    return type(name, (WrappedEnv,), members)
