"""Train in a process of its own, which a signal reaches where the test says.

python train_and_die.py RECIPE.json FOLDER [--resume] [--at rl:3:train] [--signal TERM] [--after
0.05] [--times 2]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from turnrl import Recipe, UserError, train
from turnrl.training.interrupt import Interrupted
from turnrl.training.run_folder.log import Record


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--at", default="", help="the record after which the signal comes")
    parser.add_argument("--signal", default="KILL")
    parser.add_argument(
        "--after", type=float, default=0.0, help="so many seconds after it, out of another thread"
    )
    parser.add_argument("--times", type=int, default=1)
    options = parser.parse_args()

    def send() -> None:
        for _ in range(options.times):
            os.kill(os.getpid(), signal.Signals[f"SIG{options.signal}"])
            time.sleep(0.02)

    def on_record(record: Record) -> None:
        if f"{record['stage']}:{record['step']}:{record['kind']}" == options.at:
            threading.Timer(options.after, send).start() if options.after else send()

    recipe = Recipe.parse(json.loads(options.recipe.read_text("utf-8")))
    try:
        train(
            recipe,
            run_dir=options.folder,
            resume=options.resume,
            progress=False,
            on_record=on_record,
        )
    except (UserError, Interrupted) as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signum if isinstance(error, Interrupted) else 2)


if __name__ == "__main__":
    main()
