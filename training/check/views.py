"""A learner and its steps for the checker of plug-ins, around a tiny model of its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...agents.agent import LanguageAgent
from ...agents.config import AgentConfig
from ...agents.engines.torch.engine import TorchEngine
from ...agents.models.config import ModelConfig
from ...agents.models.load import load
from ...foundation.plugins import Need
from ..credit.base import Advantages
from ..learner.config import LearnerConfig
from ..learner.local import Learner
from ..view import StepView
from ..work import Work
from .samples import sample

TEXTS = ("You are here. A room. A door. A lamp. go north", "yes no A B")
EVERYTHING = frozenset({Need.REF_LOGPROBS, Need.OLD_LOGPROBS, Need.INITIAL_WEIGHTS})


@dataclass(slots=True)
class Bench:
    """A learner that nothing else uses, and the agent that plays with its model."""

    learner: Learner
    agent: LanguageAgent

    def view(self, seed: int, step: int = 0) -> StepView:
        """Show a step that is made up; its metrics are those of an update that was made."""
        given = sample(seed)
        batch = given.batch
        values_BL = (batch.tokens_BL.double() % 7 - 3) * batch.mask_BL
        metrics = {"kl": 0.02 + 0.01 * seed, "entropy": 1.0, "return": 0.5, "success": 0.5}
        return StepView(
            step=step,
            seed=seed,
            groups=given.groups,
            batch=batch,
            rewards=given.table,
            advantages=Advantages(values_BL, "token"),
            metrics=metrics,
            model=self.learner.model,
            initial=self.learner.initial,
            agent=self.agent,
        )

    def own(self, view: StepView) -> Work:
        """Return the work of a step of its own."""
        return self.learner.work(view.batch, view.advantages)


def bench(needs: Collection[Need] = EVERYTHING, **config: object) -> Bench:
    """Make a tiny policy with a loss, both regularizers, and what plug-ins can need."""
    tiny = ModelConfig(layers=1, width=16, heads=2, vocabulary=300, max_context=512, device="cpu")
    loaded = load(tiny, corpus=lambda: TEXTS)
    fields = {"regularizers": [{"name": "kl"}, {"name": "entropy"}], "optim": {"lr": 0.01}}
    learner = Learner(LearnerConfig.model_validate(fields | config), loaded.model, needs=needs)
    engine = TorchEngine(loaded.model, loaded.tokenizer)
    return Bench(learner, AgentConfig().build(engine, loaded.tokenizer))
