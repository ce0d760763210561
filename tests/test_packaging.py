"""The wheel holds every room, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("foundation", "containers", "envs", "agents", "rewards", "training", "cli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]


def tracked() -> list[Path]:
    """Files of the repository, relative to its root; what is new but not ignored counts."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for line in listing.stdout.splitlines() if (ROOT / (path := Path(line))).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tree as git knows it, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in tracked():
        (folder / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / "tree" / path)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(folder / "tree"),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_every_folder_is_declared() -> None:
    folders = {p.parent for p in tracked() if p.name == "__init__.py" and p.parts[0] in ROOMS}
    assert {f"turnrl.{'.'.join(folder.parts)}" for folder in folders} | {"turnrl"} == set(PACKAGES)


def test_the_wheel_is_the_tree(wheel: Path) -> None:
    rooms = (*ROOMS, "examples")
    expected = {
        p for p in tracked() if p.suffix == ".py" and (p.parts[0] in rooms or len(p.parts) == 1)
    }
    held = {p.relative_to(wheel / "turnrl") for p in (wheel / "turnrl").rglob("*.py")}
    assert held == expected
    assert {path.name for path in wheel.iterdir()} == {
        "turnrl",
        f"turnrl-{PROJECT['project']['version']}.dist-info",
    }


def test_the_wheel_holds_the_data_it_needs(wheel: Path) -> None:
    data = {
        p.relative_to(wheel / "turnrl").as_posix()
        for p in (wheel / "turnrl").rglob("*")
        if p.is_file()
    }
    others = {path for path in data if not path.endswith(".py")}
    kept = (*ROOMS, "examples", "recipes")
    tree = {p.as_posix() for p in tracked() if p.parts[0] in kept and p.suffix != ".py"}
    assert others == tree | {"py.typed"}


def test_every_room_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    code = "import importlib, sys; sys.path.insert(0, sys.argv[1])\n"
    code += "modules = [importlib.import_module(name) for name in sys.argv[2:]]\n"
    code += (
        "assert all(m.__file__.startswith(sys.argv[1]) for m in modules), [m.__file__ for m in"
        " modules]"
    )
    arguments = [sys.executable, "-c", code, str(wheel), *PACKAGES, "turnrl.cli.main"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_init_writes_comes_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from turnrl.cli.main import run;"
        " sys.exit(run(sys.argv[2:]))"
    )
    arguments = [sys.executable, "-c", code, str(wheel), "init", str(tmp_path / "mine")]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "custom_env.py").is_file()
    assert (tmp_path / "mine" / "recipes" / "quickstart.yaml").is_file()


def test_constraints_pin_every_direct_dependency() -> None:
    pins = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    extras = [
        line for group in PROJECT["project"]["optional-dependencies"].values() for line in group
    ]
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(line for line in extras if not line.startswith("turnrl[")),
    ]
    names = {line.partition(">")[0].lower().replace("_", "-") for line in wanted}
    assert names <= pins
