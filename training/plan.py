"""plan: what a recipe would do, and what it needs before it can begin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..agents.evaluate import choose_tasks
from ..agents.models.devices import device_of
from ..agents.models.load import load
from ..agents.models.positions import text_config
from ..envs import Split, Task, TextEnv, make
from ..envs.registry import import_worlds
from ..foundation.errors import UserError
from ..foundation.plugins import TOLD_BY_WORLDS, Need, Plugin
from ..rewards.base import TurnReward
from .corpus import marks
from .recipe import Recipe
from .session import known_renamings
from .stages.base import ModelSize


def plan(recipe: Recipe | str | Path | dict[str, Any]) -> dict[str, Any]:
    """Say what `train` would do, without doing it: the resolved recipe, sizes and memory (MiB)."""
    recipe = Recipe.of(recipe)
    config, device = recipe.model, device_of(recipe.model.device)
    import_worlds(*recipe.pool.imports)
    prototype = make(recipe.env_id, **recipe.env_params)
    recipe = completed(recipe, prototype)
    splits = {split: len(prototype.tasks(split)) for split in ("train", "valid", "test")}
    wanted_tasks(recipe, prototype)
    prototype.close()
    loaded = load(
        config.model_copy(update={"device": "cpu"}),
        corpus=lambda: [prototype.instructions],
        marks=marks(recipe, prototype),
    )
    model = loaded.model
    size = ModelSize(
        sum(p.numel() for p in model.parameters()),  # tied ones once
        int(model.get_output_embeddings().weight.shape[1]),
        int(text_config(model.config).num_hidden_layers),
        device,
    )
    if config.name == "tiny":
        # Its tokenizer is trained on play, which a plan does not do: count it as full.
        missing = (config.vocabulary - len(loaded.tokenizer)) * size.width
        size = replace(size, parameters=size.parameters + missing)
    stages = [{"stage": stage.label, **stage.plan(recipe, size)} for stage in recipe.stages]
    return {
        "recipe": recipe.model_dump(mode="json"),
        "parameters": size.parameters,
        "device": str(device),
        "engine": recipe.engine.plan(loaded, loaded.max_context),
        "tasks": splits,
        "stages": stages,
    }


def completed(recipe: Recipe, world: TextEnv) -> Recipe:
    """Write every parameter of the world into the recipe.

    So it means the same world when a default has changed.
    """
    return recipe.model_copy(update={"env": {"id": recipe.env_id, **world.whole_params()}})


def wanted_tasks(recipe: Recipe, prototype: TextEnv) -> list[Task]:
    """List the tasks of the whole run.

    Raises UserError if the world lacks tasks, symmetries or an expert it needs.
    """
    asking = [plugin for plugin in _asking(recipe) if Need.EXPERT in plugin.needs()]
    if asking and type(prototype).expert_action is TextEnv.expert_action:
        what, way = "plug-in", ""
        if isinstance(asking[0], TurnReward):
            what, way = "reward", ": set target: answer, or target: goal with a text"
        raise UserError(
            f"{what} '{asking[0].name}' asks for the plan of the world's expert, and"
            f" {prototype.id} has no expert{way}"
        )
    wanted: dict[Split, int] = {"train": 0, "valid": 0, "test": recipe.evaluate.test_tasks}
    for stage in recipe.stages:
        known_renamings(prototype, stage.renamings_needed)
        for split, count in stage.tasks_needed().items():
            wanted[split] = max(wanted[split], count)
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
    """List what rewards, and whatever else a step is made of, ask the worlds to tell."""
    return frozenset[Need]().union(*(p.needs() for p in _asking(recipe))) & TOLD_BY_WORLDS


def _asking(recipe: Recipe) -> list[Plugin]:
    """List every plug-in that may need something in some stage."""
    return [plugin for stage in recipe.stages for plugin in stage.asking(recipe.rewards)]
