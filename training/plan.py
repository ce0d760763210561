"""plan: what a recipe would do, and what it needs before it can begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..agents.evaluate import choose_tasks
from ..agents.models.load import load
from ..envs import Task, TextEnv, make
from ..envs.registry import import_worlds
from ..foundation.errors import UserError
from ..foundation.plugins import TOLD_BY_WORLDS, Need
from .corpus import marks
from .recipe import Recipe, RlStage, SftStage
from .session import known_renamings
from .stages.sft import parameter_count


def plan(recipe: Recipe | str | Path | dict[str, Any]) -> dict[str, Any]:
    """What `train` would do, without doing it: the resolved recipe, sizes and a memory estimate
    (MiB).
    """
    recipe = Recipe.of(recipe)
    config = recipe.model
    import_worlds(*recipe.pool.imports)
    prototype = make(recipe.env_id, **recipe.env_params)
    splits = {split: len(prototype.tasks(split)) for split in ("train", "valid", "test")}
    wanted_tasks(recipe, prototype)
    prototype.close()
    loaded = load(config, corpus=lambda: [prototype.instructions], marks=marks(recipe, prototype))
    parameters = parameter_count(loaded.model)
    width = int(loaded.model.get_output_embeddings().weight.shape[1])
    layers = int(loaded.model.config.num_hidden_layers)
    if (
        config.name == "tiny"
    ):  # its tokenizer is trained on play, which a plan does not do: count it as full
        parameters += (config.vocabulary - len(loaded.tokenizer)) * width
    stages = []
    for stage in recipe.stages:
        copies = 4  # weights, gradients and AdamW's two moments
        if isinstance(stage, RlStage):
            episodes = stage.tasks_per_step * stage.group_size
            response = episodes * recipe.agent.max_turns * recipe.agent.sampling.max_tokens
            needs = stage.credit.needs().union(*(term.needs() for term in stage.regularizers))
            copies += 4 * (Need.VALUES in needs and stage.critic.backbone == "separate") + (
                Need.REF_LOGPROBS in needs
            )
            sizes = {"episodes_per_step": episodes, "response_tokens_per_step_at_most": response}
        else:
            sizes = {"episodes_per_step": stage.batch}
        # About 16 activations of model width per layer and token are kept for the backward pass.
        activations = stage.token_budget * width * layers * 16 * (2 if stage.bf16 else 4)
        memory = (copies * parameters * 4 + activations) / 2**20
        stages.append({"stage": stage.name, **sizes, "memory_mib": round(memory)})
    return {
        "recipe": recipe.model_dump(mode="json"),
        "parameters": parameters,
        "tasks": splits,
        "stages": stages,
    }


def wanted_tasks(recipe: Recipe, prototype: TextEnv) -> list[Task]:
    """The tasks of the whole run. Raises UserError if the world lacks tasks, symmetries or an
    expert it needs.
    """
    asking = [reward.name for reward in recipe.rewards if Need.EXPERT in reward.needs()]
    if asking and type(prototype).expert_action is TextEnv.expert_action:
        raise UserError(
            f"reward '{asking[0]}' asks for the plan of the world's expert, and {prototype.id} has"
            " no expert: set target: answer, or target: goal with a text"
        )
    wanted = {"train": 0, "valid": 0, "test": recipe.evaluate.test_tasks}
    for stage in recipe.stages:
        known_renamings(prototype, stage.symmetries)
        if isinstance(stage, SftStage):
            wanted["train"] = max(wanted["train"], stage.demonstrations)
            wanted["valid"] = max(wanted["valid"], stage.validation)
        else:
            wanted["train"] = max(wanted["train"], stage.tasks or 0)
    if recipe.evaluate.every:
        wanted[recipe.evaluate.split] = max(
            wanted[recipe.evaluate.split], recipe.evaluate.tasks or 0
        )
    return [
        task
        for split, count in wanted.items()
        if count
        for task in choose_tasks(
            prototype.tasks(split), count, f"the {split} split of {prototype.id}"
        )
    ]


def env_extras(recipe: Recipe) -> frozenset[Need]:
    """What the rewards ask the worlds to tell."""
    needed = frozenset[Need]().union(*(reward.needs() for reward in recipe.rewards))
    return needed & TOLD_BY_WORLDS
