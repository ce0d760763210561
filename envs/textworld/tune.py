"""Rebuild the interpreter of TextWorld's games for this machine, guided by a profile of play::

    python -m turnrl.envs.textworld.tune            # about a minute, once per environment

Jericho's interpreter spends its time in one long chain of small functions. A compiler that has seen
a game played orders them so that the same steps take two thirds of the time. The source is that of
the installed jericho; the library is exchanged only after it answered whole games exactly like the
one before it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from ...foundation.errors import UserError
from ...foundation.files import new_file
from ...foundation.processes import run
from .generate import GameKey, generate

LIBRARY = "libfrotz.so"
GAMES: dict[str, dict[str, int]] = {
    "coin": {"level": 5},
    "quest": {"rooms": 4, "objects": 6, "quest_length": 8},
}
STEPS = 120
_PLAY = """
import hashlib, sys, warnings
warnings.simplefilter("ignore")
import jericho
digest = hashlib.sha256()
for path in sys.argv[2:]:
    game = jericho.FrotzEnv(path, -1)
    game.reset()
    words = ["tw-extra-infos score", "tw-trace-actions", "go east", "go west", "look", "go north"]
    words += ["inventory", "go south", "take coin", "examine coin", "open chest", "take key"]
    words += ["drop key", "close door"]
    for step in range(int(sys.argv[1])):
        place = step if step < 2 else 2 + step * 7 % (len(words) - 2)
        digest.update(game.step(words[place])[0].encode())
    game.close()
print(digest.hexdigest())
"""


def main() -> None:
    """Rebuild the installed interpreter. Raises UserError where that cannot be done."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tuned = build(Path(folder))
        target = installed() / LIBRARY
        with new_file(target) as beside:
            shutil.copy2(tuned, beside)
    print(f"{target} was rebuilt for this machine")


def build(folder: Path) -> Path:
    """Build a tuned library inside `folder`, which answers like the installed one.

    Raises UserError: there is no gcc, no source of jericho can be had, or the result answers
    otherwise.
    """
    compiler = os.environ.get("CC", "gcc")
    macros = _run([compiler, "-dM", "-E", "-x", "c", os.devnull], folder)
    if b"__GNUC__" not in macros or b"__clang__" in macros:
        raise UserError(f"tuning needs gcc, and '{compiler}' is another compiler: set CC")
    keys = [GameKey(family, params, seed=0) for family, params in GAMES.items()]
    games = [str(path) for path in generate(keys)]
    before = play(installed(), games)
    source = fetch(folder)
    profiled = compiled(source, f"{compiler} -fno-semantic-interposition -fprofile-generate")
    shutil.copytree(
        installed(), folder / "jericho", ignore=shutil.ignore_patterns(LIBRARY, "__pycache__")
    )
    shutil.copy2(profiled, folder / "jericho" / LIBRARY)
    play(folder / "jericho", games)
    use = (
        f"{compiler} -fno-semantic-interposition -fprofile-use -fprofile-correction"
        " -Wno-missing-profile"
    )
    shutil.copy2(compiled(source, use), folder / "jericho" / LIBRARY)
    if play(folder / "jericho", games) != before:
        raise UserError(
            "the tuned interpreter answers otherwise than the installed one: nothing was changed"
        )
    return folder / "jericho" / LIBRARY


def installed() -> Path:
    """Find the folder of the installed jericho."""
    spec = importlib.util.find_spec("jericho")
    if spec is None or spec.origin is None:
        raise UserError("tuning needs jericho: pip install 'turnrl[textworld]'")
    return Path(spec.origin).parent


def fetch(folder: Path) -> Path:
    """Fetch and unpack the source of the installed version; return its folder with the Makefile."""
    wanted = f"jericho=={version('jericho')}"
    _run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary",
            ":all:",
            wanted,
        ],
        folder,
    )
    [archive] = folder.glob("jericho-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    [made] = folder.glob("jericho-*/frotz")
    return made


def compiled(source: Path, compiler: str) -> Path:
    """Compile and link the library by a command; profiles stay beside the objects."""
    for old in [*source.rglob("*.o"), *source.rglob("*.a"), *source.rglob(LIBRARY)]:
        old.unlink()
    # Profile data is written at the exit of the process that played, to where the objects were
    # compiled.
    _run(["make", "library", f"CC={compiler}", f"-j{os.cpu_count() or 1}"], source)
    return source / "src" / LIBRARY


def play(package: Path, games: list[str]) -> str:
    """Play games with this copy of jericho in a process of its own.

    Returns a digest of everything they said.
    """
    environment = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONHASHSEED": "0"}
    said = _run([sys.executable, "-c", _PLAY, str(STEPS), *games], package.parent, environment)
    return hashlib.sha256(said).hexdigest()


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> bytes:
    try:
        ended = run(command, folder=folder, environment=environment)
    except FileNotFoundError:
        raise UserError(f"tuning needs '{command[0]}', which is not installed") from None
    if ended.code:
        raise UserError(f"tuning failed at '{command[0]}': {ended.words.splitlines()[-1]}")
    return ended.output


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{error}")
