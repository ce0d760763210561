"""A Gymnasium environment as a text world, checked and played: ``python examples/wrap_env.py``."""

import gymnasium
import turnrl

Lake = turnrl.wrap(
    lambda: gymnasium.make("FrozenLake-v1", render_mode="ansi", max_episode_steps=-1),
    instructions=(
        "Cross the ice from S to G without stepping into H. Answer with left, down, right or up."
    ),
    text=lambda env, observation: env.render(),
    actions={"left": 0, "down": 1, "right": 2, "up": 3},
    success=lambda reward, info: reward == 1,
)
turnrl.register("lake/walk-v0", Lake)

if __name__ == "__main__":
    print(turnrl.check_env("lake/walk-v0", imports=[__file__]))
    print(turnrl.evaluate("lake/walk-v0", "random", tasks=200, max_turns=20).success)
