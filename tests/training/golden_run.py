"""Train one of `golden_runs/` and print what it measured and learnt: `python golden_run.py NAME`.

Every metric but times, and a digest of every weight of every checkpoint, as JSON.
`test_golden_runs.py` compares them bit for bit with `golden_runs/NAME.json`. After a change that is
meant to change numbers, record them again from the root of the tree, and say so in the commit::

    python tests/training/golden_run.py --record
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "golden_runs"
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.yaml")))
PORTABLE = {
    "OMP_NUM_THREADS": "1",
    # The oldest instructions: then every x86-64 processor rounds alike.
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def is_time(key: str) -> bool:
    """Whether a metric is about how long something took."""
    return "seconds" in key or key in ("tokens_per_second", "straggling")


def run(name: str) -> dict[str, Any]:
    """Train a golden recipe in a folder that goes away; return records and digests of weights."""
    import turnrl
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as folder:
        result = turnrl.train(HERE / f"{name}.yaml", run_dir=folder, progress=False)
        lines = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
        weights = {}
        for file in sorted(Path(folder).glob("checkpoints/*/model.safetensors")):
            with safe_open(file, "pt") as tensors:
                for key in sorted(tensors.keys()):
                    data = tensors.get_tensor(key).numpy().tobytes()
                    weights[f"{file.parent.name}/{key}"] = hashlib.sha256(data).hexdigest()[:16]
    records = [json.loads(line) for line in lines]
    return {
        "records": [
            {key: value for key, value in record.items() if not is_time(key)} for record in records
        ],
        "result": {key: result[key] for key in ("before", "after")},
        "weights": weights,
    }


def in_a_process(name: str) -> dict[str, Any]:
    """`run` in a process of its own whose arithmetic every x86-64 processor has."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), name],
        env={**os.environ, **PORTABLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        for each in NAMES:
            recorded = json.dumps(in_a_process(each), indent=1)
            (HERE / f"{each}.json").write_text(recorded + "\n", "utf-8")
    else:
        print(json.dumps(run(sys.argv[1])))
