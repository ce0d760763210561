"""A world of your own, checked, learnt and measured: ``python examples/custom_env.py``."""

import random
from pathlib import Path

import turnrl

DOORS = ("left", "middle", "right")
FIRST = {"train": 0, "valid": 100_000, "test": 200_000}


class DoorsEnv(turnrl.TextEnv):
    """Six rooms in a row, each with one open door; trying another one sets off the alarm."""

    instructions = "Answer with the door that is open: left, middle or right."

    def _tasks(self, split):  # fixed tasks; splits share none
        return self.seeded(range(FIRST[split], FIRST[split] + 1000), split)

    def _begin(self, task):  # everything follows from the task
        rng = random.Random(task.seed)
        self.rooms = [(rng.choice(DOORS), rng.randrange(100)) for _ in range(6)]
        return self._said("You are in")

    def _act(self, action):  # any string
        if action not in DOORS:
            return turnrl.Outcome("There is no such door.", valid=False, progress=self.progress)
        if action != self.expert_action():
            return turnrl.Outcome("An alarm goes off.", ended=True, progress=self.progress)
        self.rooms.pop(0)
        if not self.rooms:
            return turnrl.Outcome(
                "You are outside.", reward=1.0, ended=True, success=True, progress=1.0
            )
        return self._said("You come to")

    def expert_action(self):  # optional: demonstrations, and the world's own check
        return self.rooms[0][0] if self.rooms else None

    @property
    def progress(self):  # optional: dense rewards
        return 1 - len(self.rooms) / 6

    def _said(self, verb):
        free, number = self.rooms[0]
        doors = [f"the {door} door is {'open' if door == free else 'locked'}" for door in DOORS]
        text = f"{verb} room {number}: {', '.join(doors)}."
        return turnrl.Outcome(text, progress=self.progress, admissible=list(DOORS))


turnrl.register("corridor/doors-v0", DoorsEnv)

if __name__ == "__main__":
    print(turnrl.check_env("corridor/doors-v0", imports=[__file__]))
    turnrl.train(turnrl.Recipe.load(Path(__file__).with_suffix(".yaml")), run_dir="runs/corridor")
    for agent in ("random", "expert", "runs/corridor"):
        print(agent, turnrl.evaluate("corridor/doors-v0", agent, tasks=200).success)
