"""The worlds that ship with turnrl, by id. Nothing is imported until one is made."""

from __future__ import annotations

from .registry import register


def register_all() -> None:
    """Register every built-in world."""
    register("turnrl/mixed-v0", "turnrl.envs.mixed:MixedEnv")
    for name in ("quest", "coin", "treasure", "simple", "cooking"):
        register(
            f"textworld/{name}-v0",
            f"turnrl.envs.textworld.env:{name.title()}Env",
            extra="textworld",
        )
    register(
        "scienceworld/task-v0", "turnrl.envs.scienceworld.env:ScienceWorldEnv", extra="scienceworld"
    )
    register("search/qa-v0", "turnrl.envs.search.env:SearchEnv", extra="search")
    for name, world in (("webshop", "WebShopEnv"), ("assistant", "AssistantEnv")):
        register(f"shopping/{name}-v0", f"turnrl.envs.shopping.{name}:{world}", extra="shopping")
    for name in ("home", "place", "light", "clean", "heat", "cool", "two"):
        register(
            f"household/{name}-v0", f"turnrl.envs.household.env:{name.title()}Env", extra="alfworld"
        )
    register("alfworld/text-v0", "turnrl.envs.household.official:AlfworldEnv", extra="alfworld")
