"""Write the pages of methods, of recipes and of worlds' parameters: ``python docs/generate.py``.

A test holds that the pages are what this script prints.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from turnrl.agents.config import AgentConfig
from turnrl.agents.engines.base import Sampling
from turnrl.agents.models.config import LoraConfig, ModelConfig
from turnrl.cli.catalogue import (
    describe_fields,
    describe_method,
    limits,
    plain,
    settings_of,
    slots,
    type_name,
)
from turnrl.envs import EnvSettings, env_ids
from turnrl.envs.registry import creator_of
from turnrl.training.learner.critic import CriticConfig
from turnrl.training.learner.optim import OptimConfig
from turnrl.training.learner.reference import ReferenceConfig
from turnrl.training.recipe import EvaluateConfig, PoolConfig, Recipe
from turnrl.training.stages.rl import Rl
from turnrl.training.stages.sft import Sft

INTRODUCTION = """# Methods

Every plug-in by slot, as its code documents it (`python docs/generate.py` writes this page). A
recipe names one by its key: `credit: {name: turn_return, gamma: 0.9}`. `turnrl methods NAME` prints
the same in a terminal.

## Where a method comes from

Each method names its paper, if it has one, and its source, which is what we worked from:

- "the code of X": that code was read, and the method computes what it computes;
- "the paper": the paper was read, and no code of its authors;
- "a description of the paper": somebody's account of it was read, neither the paper nor its code;
- "inspired by": the idea is the paper's, the method was written from general knowledge of it, and
  its details may differ;
- "standard in the field", "general knowledge": textbooks and many public trainers have it, and no
  single one was followed;
- "ours": we chose it, and no source stands behind it.
"""


def page() -> str:
    """Write the page of all methods."""
    parts = [INTRODUCTION]
    for slot, registry in slots().items():
        parts.append(f"## {registry.title} (`{slot}`)\n")
        for name in registry.names():
            cls = registry.get(name)
            if not cls.__module__.startswith("turnrl."):
                continue
            own = cls.__doc__ if "__doc__" in vars(cls) else inspect.getmodule(cls).__doc__
            parts.append(f"### `{name}`\n\n{inspect.cleandoc(own or '')}\n")
            method = describe_method(slot, name, cls)
            if method["requires"]:
                parts.append(
                    f"Requires: {', '.join(f'`{need}`' for need in method['requires'])}.\n"
                )
            if method["fields"]:
                rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
                for field in method["fields"]:
                    kind = field["type"].replace("|", "\\|")
                    rows.append(
                        f"| `{field['name']}` | {kind} | `{field['default']}` |"
                        f" {field['description']} |"
                    )
                parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


RECIPE = """# The keys of a recipe

Every key that a recipe may have, as the code documents it (`python docs/generate.py` writes this
page). A key without a default must be given; any other key is refused. On the command line a key is
named with dots, a stage by its name:
`turnrl train recipe.yaml seed=3 model.width=128 rl.optim.lr=0.001`. `--dry-run` prints the whole
recipe.

Methods are named by their key, with their fields beside it:
`credit: {name: turn_return, gamma: 0.9}`. [methods.md](methods.md) lists them. A class of your own
is named by its file or module: `name: mine.py:MyReward`. The file is relative to the recipe.
"""
BLOCKS: dict[str, tuple[type[BaseModel], str]] = {
    "": (Recipe, "The recipe"),
    "model": (ModelConfig, "Which model plays and learns. The sizes shape a tiny model only."),
    "model.lora": (LoraConfig, "Low-rank adapters, through peft: only they are trained."),
    "agent": (AgentConfig, "How the model plays."),
    "agent.sampling": (Sampling, "How a response is sampled."),
    "pool": (PoolConfig, "Where the worlds run."),
    "stages: sft": (Sft, "Supervised warm start on the expert's episodes."),
    "stages: rl": (Rl, "Reinforcement learning: play, reward, credit, update."),
    "optim": (OptimConfig, "AdamW and its learning rate, in either stage."),
    "critic": (
        CriticConfig,
        "The critic of a reinforcement learning stage, where the credit needs values.",
    ),
    "reference": (
        ReferenceConfig,
        "The policy that the one that learns is compared with, where something needs it.",
    ),
    "evaluate": (EvaluateConfig, "Success during the run, and on test tasks after every stage."),
}


def recipe_page() -> str:
    """Write the page about the keys of a recipe."""
    parts = [RECIPE]
    for name, (model, about) in BLOCKS.items():
        parts.append(f"## `{name}`\n\n{about}\n" if name else f"## {about}\n")
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        rows += [row(key, field) for key, field in model.model_fields.items()]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def row(key: str, field: FieldInfo) -> str:
    """Write one key as a line of a table."""
    default = (
        ""
        if field.is_required()
        else field.get_default(call_default_factory=True, validated_data={})
    )
    kind = type_name(field.annotation)
    for name, (model, _) in BLOCKS.items():
        kind = kind.replace(model.__name__, f"block `{name}`")
    kind = ", ".join([kind, *limits(field)]).replace("|", "\\|")
    shown = (
        "" if default == "" or isinstance(default, BaseModel) else f"`{json.dumps(plain(default))}`"
    )
    if isinstance(default, BaseModel) and (
        own := default.model_dump(mode="json", exclude_unset=True)
    ):
        shown = f"`{json.dumps(own)}`"
    return f"| `{key}` | {kind} | {shown} | {field.description or ''} |"


WORLDS = """# The parameters of the worlds

Every parameter of every world, as the code documents it (`python docs/generate.py` writes this
page). They are keys of the `env` block of a recipe, arguments of `turnrl.make(id, ...)` and, as
`key=value`, of the command line; any other is refused. `turnrl envs ID` prints those of one world,
also of one of your own.
"""


def ships(id: str) -> bool:
    """Tell whether a world comes with turnrl, rather than from a test or a wrapped class."""
    module = creator_of(id).__module__
    return module.startswith("turnrl.envs.") and not module.startswith("turnrl.envs.bridges.")


def worlds_page() -> str:
    """Write the page about the parameters of the worlds that ship with turnrl."""
    ids: dict[type[EnvSettings], list[str]] = {}
    for id in env_ids():
        if ships(id):
            ids.setdefault(settings_of(id), []).append(id)
    parts = [WORLDS]
    for model, names in ids.items():
        parts.append(f"## {', '.join(f'`{name}`' for name in names)}\n")
        rows = ["| parameter | type | default | meaning |", "|---|---|---|---|"]
        for field in describe_fields(model):
            kind = ", ".join([field["type"], *field["limits"]]).replace("|", "\\|")
            meaning = field["description"].replace("|", "\\|")
            default = json.dumps(field["default"])
            rows.append(f"| `{field['name']}` | {kind} | `{default}` | {meaning} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    pages = {
        "methods.md": page,
        "recipe.md": recipe_page,
        "environments/parameters.md": worlds_page,
    }
    for name, text in ((name, write()) for name, write in pages.items()):
        (Path(__file__).parent / name).write_text(text, "utf-8")
