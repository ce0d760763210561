"""Write docs/methods.md from the docstrings and fields of the plug-ins: ``python docs/generate.py``.

A test holds that the page is what this script prints.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from turnrl.cli.catalogue import describe_method, slots

TITLES = {
    "rewards": "Rewards",
    "training.credit": "Credit",
    "training.losses": "Policy losses",
    "training.regularizers": "Regularizers",
    "training.modifiers": "Modifiers of advantages",
    "training.curriculum": "Curricula",
    "training.selection": "Selection",
    "agents.context": "Contexts",
    "agents.parsers": "Parsers",
    "agents.tagger": "Taggers",
}
INTRODUCTION = """# Methods

Every plug-in by slot, as its code documents it (`python docs/generate.py` writes this page). A recipe names one by its
key: `credit: {name: turn_return, gamma: 0.9}`. `turnrl methods NAME` prints the same in a terminal.

Each says where it comes from: "the code of X" was read and is followed; "the paper" was read; "a description of the
paper" was, but neither the paper nor its code; "inspired by" is written from general knowledge, with details of ours.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for slot, registry in slots().items():
        parts.append(f"## {TITLES[slot]} (`{slot}`)\n")
        for name in registry.names():
            cls = registry.get(name)
            if not cls.__module__.startswith("turnrl."):
                continue
            own = cls.__doc__ if "__doc__" in vars(cls) else inspect.getmodule(cls).__doc__
            parts.append(f"### `{name}`\n\n{inspect.cleandoc(own or '')}\n")
            method = describe_method(slot, name, cls)
            if method["requires"]:
                parts.append(f"Requires: {', '.join(f'`{need}`' for need in method['requires'])}.\n")
            if method["fields"]:
                rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
                for field in method["fields"]:
                    kind = field["type"].replace("|", "\\|")
                    rows.append(f"| `{field['name']}` | {kind} | `{field['default']}` | {field['description']} |")
                parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(page())
