"""What a GPU gives: parity with the CPU, tokens and seconds, utilisation, memory, a learning run.

    python benchmarks/gpu.py --output gpu.json
    python benchmarks/gpu.py --device cpu --quick       # a rehearsal, a minute of CPU

It needs Python, torch, transformers and a copy of this tree, which may have any name, and takes
less than 8 minutes. Each part runs in a process of its own with a time of its own: what a part has
printed before it failed or was stopped is kept, and the next begins. The result, one JSON object,
is written after every part and printed at the end.

What else turnrl imports can travel as wheels. Where there is a network, for Python 3.12 on x86-64
(`filelock`, `jinja2`, `rich` and `typer` come with torch and transformers):

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
      --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels \\
      annotated-types cloudpickle farama-notifications gymnasium platformdirs \\
      pydantic==2.14.3 pydantic-core==2.50.4 typing-inspection

and on the machine, with the folder beside the tree:

    pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site python benchmarks/gpu.py --output gpu.json

`gpu_parts.py` says what each part measures, `gpu_shapes.py` of which models and episodes. The steps
are of synthetic episodes with the shape of the recipes `household` and `search`, on every machine
the same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LONGEST = {
    "machine": 40,
    "parity": 70,
    "engine": 100,
    "update": 90,
    "tricks": 60,
    "steps": 110,
    "learning": 60,
}
"""Seconds of each part, at most."""


def lines_of(output: bytes | str | None) -> list[dict[str, Any]]:
    """Read the figures that a part has printed; a line that was cut off is none."""
    text = output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""
    found = []
    for line in text.splitlines():
        try:
            figures = json.loads(line)
        except ValueError:
            continue
        if isinstance(figures, dict):
            found.append(figures)
    return found


def run(part: str, options: Sequence[str], limit: float, paths: Sequence[str]) -> dict[str, Any]:
    """Run a part; what goes wrong is told in its result."""
    command = [sys.executable, str(HERE / "gpu_parts.py"), part, *options]
    known = [*paths, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(known),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    began = time.perf_counter()
    result: dict[str, Any] = {}
    try:
        done = subprocess.run(command, env=env, capture_output=True, timeout=limit, check=False)
        result["figures"] = lines_of(done.stdout)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            result["failed"] = said[-12:] or [f"exit code {done.returncode}"]
    except subprocess.TimeoutExpired as late:
        result = {"figures": lines_of(late.stdout), "failed": [f"stopped after {limit:.0f} s"]}
    return {"seconds": round(time.perf_counter() - began, 1), **result}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="the smallest model, few tokens")
    parser.add_argument("--parts", nargs="+", choices=list(LONGEST), default=list(LONGEST))
    parser.add_argument("--seconds", type=float, default=450, help="of all parts together, at most")
    parser.add_argument("--output", type=Path, help="write the JSON to this file too")
    options = parser.parse_args(arguments)
    asked = ["--device", options.device, *(["--quick"] if options.quick else [])]
    began, parts = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        # The repository's root is the package: it is found under its name through a link.
        (Path(folder) / "turnrl").symlink_to(HERE.parent)
        for part in options.parts:
            left = options.seconds - (time.perf_counter() - began)
            limit = min(left, LONGEST[part])
            if limit < 5:
                parts[part] = {"failed": ["there was no time left"]}
                continue
            parts[part] = run(part, asked, limit, [folder, str(HERE)])
            if options.output is not None:
                options.output.write_text(json.dumps(parts, indent=1) + "\n", "utf-8")
    print(json.dumps(parts, indent=1))
    return int(any("failed" in result for result in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
