"""Schemas of tools, as models that call tools are shown them."""

from __future__ import annotations

from typing import Any


def tool(name: str, description: str, **arguments: str) -> dict[str, Any]:
    """Write the JSON schema of a tool whose arguments are all text and needed.

    Each argument is given with its meaning.
    """
    properties = {
        key: {"type": "string", "description": meaning} for key, meaning in arguments.items()
    }
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }
