"""Objections: why a recipe cannot learn, or would learn from something else than was played, in one
sentence.

What stands here is known from the recipe alone. `fits` needs the model: it is asked before the
first episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..agents.agent import LanguageAgent
from ..agents.parsers.base import write_action
from ..envs import TextEnv
from ..foundation.errors import UserError
from ..foundation.plugins import Need

if TYPE_CHECKING:
    from .recipe import Recipe
    from .stages.rl import Rl

COLDEST = 0.01
"""Smallest temperature of play that is learnt from: rounding of the logits is divided by it."""


def objections(recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with a recipe as a whole; stages know what is wrong with them."""
    if recipe.model.dtype == "float16":
        yield (
            "model.dtype=float16 cannot be trained: most gradients are smaller than any number of"
            " it; use float32, and bf16: true in a stage for half the memory of an update"
        )
    lora = recipe.model.lora
    if lora is not None and lora.dropout and not any(s.uses_dropout for s in recipe.stages):
        yield (
            f"model.lora.dropout={lora.dropout} would never act: dropout is off in rl, and in sft"
            " unless it has dropout: true"
        )
    yield from _engine(recipe)


def reinforcement(stage: Rl, recipe: Recipe) -> Iterator[str]:
    """Yield why an rl stage cannot learn, one sentence each; nothing for one that can."""
    yield from _sampling(recipe)
    yield from _groups(stage)
    yield from _updates(stage, recipe.agent.max_turns)
    yield from _steered(stage)
    yield from _compared(stage, recipe)
    yield from _returns(recipe, stage)


def _engine(recipe: Recipe) -> Iterator[str]:
    """Yield what a run asks of an engine that this one cannot do."""
    name, can = recipe.engine.recipe_key, recipe.engine.capabilities
    if not can.takes_weights:
        yield (
            f"engine '{name}' takes no weights, so what is learnt would never be played; a run"
            " needs one that does, such as torch"
        )
    paid = [reward for stage in recipe.stages for reward in stage.rewards_paid(recipe.rewards)]
    for reward in paid:
        if Need.SCORER in reward.needs() and not can.scores:
            yield (
                f"reward '{reward.name}' needs log-probabilities of given tokens, which engine"
                f" '{name}' cannot tell; leave it out, or use an engine that can, such as torch"
            )


def _sampling(recipe: Recipe) -> Iterator[str]:
    """Yield why play would not come from the distribution that the trainer computes.

    That is softmax(logits / temperature).
    """
    sampling = recipe.agent.sampling
    for name, neutral in (("min_tokens", 0), ("top_p", 1.0), ("top_k", 0)):
        value = getattr(sampling, name)
        if value != neutral:
            yield (
                f"agent.sampling.{name}={value} leaves tokens out when sampling, which the trainer"
                " cannot know: importance ratios would be wrong from the first update on; in a"
                f" recipe with an rl stage it must be {neutral}"
            )
    if sampling.temperature < COLDEST:
        yield (
            f"agent.sampling.temperature={sampling.temperature} plays greedily, so rl has nothing"
            f" to compare: it must be {COLDEST} or more (evaluate.temperature may be 0)"
        )


def _groups(stage: Rl) -> Iterator[str]:
    size, credit = stage.group_size, stage.credit
    episodes = stage.tasks_per_step * size
    peers = credit.peers()
    if (peers == "group" and size < 2) or (peers == "batch" and episodes < 2):
        key, least = (
            ("group_size", size) if peers == "group" else ("tasks_per_step x group_size", episodes)
        )
        yield (
            f"{stage.label}.{key}={least}: credit '{credit.name}' compares the episodes of a"
            f" {peers}, and a {peers} of one has nothing to compare with, so nothing is learnt; it"
            " must be 2 or more"
        )
    for each in stage.selection:
        if not each.possible(size):
            yield (
                f"{stage.label}.group_size={size}: selection '{each.name}' would drop every group,"
                " so nothing would be learnt"
            )


def _updates(stage: Rl, most_turns: int) -> Iterator[str]:
    episodes = stage.tasks_per_step * stage.group_size
    if stage.minibatches > episodes:
        yield (
            f"{stage.label}.minibatches={stage.minibatches}: a step has {episodes} episodes"
            " (tasks_per_step x group_size), and a minibatch needs one at least"
        )
    grouped = [term for term in (stage.loss, *stage.regularizers) if term.whole == "group"]
    if grouped and stage.minibatches > stage.tasks_per_step:
        yield (
            f"{stage.label}.minibatches={stage.minibatches}: '{grouped[0].name}' is a loss of whole"
            f" groups, and a step has {stage.tasks_per_step} (tasks_per_step)"
        )
    rows = episodes * most_turns
    if stage.rows_multiple_of > rows:
        yield (
            f"{stage.label}.rows_multiple_of={stage.rows_multiple_of}: a step has {rows} sequences"
            " at most (one a turn), so all would be dropped"
        )
    warm = stage.critic.warmup_steps
    if Need.VALUES in stage.credit.needs() and warm >= stage.steps:
        yield (
            f"{stage.label}.critic.warmup_steps={warm}: all {stage.steps} steps would train the"
            " critic and none the policy"
        )


def _compared(stage: Rl, recipe: Recipe) -> Iterator[str]:
    asking = stage.asking(recipe.rewards)
    needed = any(Need.REF_LOGPROBS in plugin.needs() for plugin in asking)
    if stage.reference.kind != "start" and not needed:
        yield (
            f"{stage.label}.reference.kind={stage.reference.kind}: nothing in this stage needs a"
            " reference, so it would never be looked at; add regularizer 'kl', or leave it out"
        )


def _steered(stage: Rl) -> Iterator[str]:
    there = {term.name for term in (stage.loss, *stage.regularizers) if term.coefficient}
    for controller in stage.controllers:
        for name in sorted(controller.steers() - there):
            yield (
                f"{stage.label}: controller '{controller.name}' steers '{name}', which this stage"
                f" does not have with a coefficient above 0; it has {', '.join(sorted(there))}"
            )


def _returns(recipe: Recipe, stage: Rl) -> Iterator[str]:
    paid = [reward for reward in stage.rewards_paid(recipe.rewards) if reward.weight]
    if any(term.coefficient for term in stage.regularizers) or stage.auxiliary:
        return
    if not paid:
        yield (
            "rewards: every weight is 0, so no return ever differs and rl learns nothing; give one"
            " a weight"
        )
    elif stage.group_size < 2 and all(reward.compares for reward in paid):
        names = ", ".join(f"'{reward.name}'" for reward in paid)
        yield (
            f"{stage.label}.group_size=1: {names} compares the episodes of a group, and pays a"
            " group of one the same whatever it did; it must be 2 or more"
        )


def fits(agent: LanguageAgent, world: TextEnv) -> None:
    """Check that a model can read a world's instructions and write an action.

    Raises UserError if the context or `max_tokens` is too short for any episode.
    """
    chat, most = agent.chat(world.instructions, world.tools), agent.sampling.max_tokens
    prompt, limit = len(chat.observe("a").new_ids), agent.engine.max_context
    if prompt >= limit:
        raise UserError(
            f"model.max_context: the prompt takes {prompt} tokens before the world says more than a"
            f" letter, and the model reads {limit}: no episode can begin"
        )
    answers = (write_action(agent.parser, "a"), write_action(agent.parser, "a", "a"))
    shortest = min(len(chat.encode_response(text)) for text in answers) - len(
        chat.stop_token_ids[:1]
    )
    if shortest > most:
        raise UserError(
            f"agent.sampling.max_tokens={most}: with parser '{agent.parser.name}' a command of one"
            f" letter takes {shortest} tokens, so no action could ever be read"
        )
