"""Train in a process of its own, which kills itself where the test says: a resume must need nothing but the folder.

python train_and_die.py RECIPE.json FOLDER [--resume] [--die rl:3:train]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path

from turnrl import Recipe, train
from turnrl.training.log import Record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die", default="")
    options = parser.parse_args()

    def on_record(record: Record) -> None:
        if f"{record['stage']}:{record['step']}:{record['kind']}" == options.die:
            os.kill(os.getpid(), signal.SIGKILL)

    recipe = Recipe.parse(json.loads(options.recipe.read_text("utf-8")))
    train(recipe, run_dir=options.folder, resume=options.resume, progress=False, on_record=on_record)


if __name__ == "__main__":
    main()
