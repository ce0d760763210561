"""train: a Recipe from the front door to the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..agents.models.devices import device_of
from ..agents.models.load import Loaded, load
from ..envs import TextEnv, make
from ..envs.closing import close_worlds
from ..envs.pool.pool import EnvPool
from ..envs.registry import import_worlds
from ..foundation.errors import RunFailed, UserError
from ..foundation.logs import shown_on_stderr
from ..foundation.manifest import check_manifest
from .clock import Clock
from .corpus import marks, world_text
from .interrupt import Asked, Interrupted, Interrupts
from .objections import fits
from .plan import completed, env_extras, wanted_tasks
from .recipe import Recipe
from .run_folder import checkpoint
from .run_folder.checkpoint import Saved, TrainerState
from .run_folder.console import RunNarrator
from .run_folder.folder import BEST, LAST
from .run_folder.log import Record, RunLog
from .run_folder.resume import MEASURE, changes
from .session import Session
from .stages.base import Stage

OnRecord = Callable[[Record], None]


def train(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_record: OnRecord | None = None,
) -> dict[str, Any]:
    """Run every stage of a recipe.

    Ctrl-C and SIGTERM stop it at the next place that loses nothing, with a checkpoint; a second one
    stops it at once.

    Args:
        recipe: a Recipe, the path of one, or its data.
        run_dir: default ``runs/<name>``.
        resume: go on from the last checkpoint of that folder. The recipe may differ in what
            `training.resume` lists.
        progress: say on stderr how far it is, and what goes wrong.
        on_record: called with each line of the metrics.

    Returns:
        What ``result.json`` holds: ``before`` and ``after`` (test success around the last stage, if
        test tasks are configured), ``seconds`` by phase, ``seed``, and the ``device`` at the end.
        The seconds are those of all processes of the run, without what was done after the last
        checkpoint of one that was killed.

    Raises:
        UserError: the recipe, the folder or the world cannot be used, or the run cannot go on.
        RunFailed: it learns nothing, its weights are not finite any more, or nothing was measured
            at the end.
        Interrupted: a signal stopped it.
    """
    recipe = Recipe.of(recipe)
    device_of(recipe.model.device)  # before anything is made or written
    narrator = RunNarrator({stage.label: stage.length for stage in recipe.stages})

    def tell(record: Record) -> None:
        if progress:
            narrator(record)
        if on_record is not None:
            on_record(record)

    with shown_on_stderr(progress), Interrupts() as interrupts:
        with interrupts.at_once():
            recipe = _completed(recipe)
            log = RunLog(Path(run_dir or Path("runs") / recipe.name), resume=resume)
        try:
            with interrupts.at_once():
                saved = _saved(log) if resume else None
                new = {} if saved is None else changes(saved.state.recipe, recipe, saved.state)
                if saved is None:
                    log.recipe(recipe)
                if resume and progress:
                    narrator.say(_going_on(recipe, saved, new))
            torch.manual_seed(recipe.seed)
            torch.set_num_threads(recipe.threads)
            return asyncio.run(_train(recipe, log, interrupts, saved, new, progress, tell))
        finally:
            log.close()


def _completed(recipe: Recipe) -> Recipe:
    import_worlds(*recipe.pool.imports)
    world = make(recipe.env_id, **recipe.env_params)
    try:
        return completed(recipe, world)
    finally:
        close_worlds([world])


def _saved(log: RunLog) -> Saved | None:
    """Read the checkpoint to go on from; None where nothing was saved yet.

    Raises UserError if it was, and is lost.
    """
    last = log.folder.checkpoint(LAST)
    if last.is_dir():
        return checkpoint.read(last)
    if log.folder.empty:
        return None
    raise UserError(f"'{last}' is missing: {checkpoint.NEEDED}")


def _going_on(recipe: Recipe, saved: Saved | None, new: dict[str, str]) -> str:
    if saved is None:
        return "nothing was saved yet: the run begins anew"
    at = f"going on after {recipe.stages[saved.state.stage].label} {saved.state.step}"
    return f"{at} with {', '.join(new.values())}" if new else at


async def _train(
    recipe: Recipe,
    log: RunLog,
    interrupts: Interrupts,
    saved: Saved | None,
    new: dict[str, str],
    progress: bool,
    on_record: OnRecord,
) -> dict[str, Any]:
    prototype = make(recipe.env_id, **recipe.env_params)
    pool = recipe.pool.build(_slots(recipe), env_extras(recipe))
    clock = Clock()
    try:
        with interrupts.at_once(), clock.phase("prepare"):
            loaded = await _load(recipe, prototype, saved, log, progress)
            session = _session(recipe, loaded, prototype, pool, log, progress)
            session.interrupts, session.clock = interrupts, clock
            session.on_record = on_record
            if saved is not None:
                _go_on(session, saved, new)
        try:
            for index, stage in enumerate(recipe.stages):
                if saved is None or index > saved.state.stage:
                    await _run_stage(session, stage, index, None)
                elif index == saved.state.stage:
                    await _run_stage(session, stage, index, saved.state)
        except Asked:
            raise Interrupted(session.where, interrupts.signum) from None
        finally:
            await session.engine.aclose()
    finally:
        await pool.aclose()
        close_worlds([prototype])
    return _finish(session)


async def _load(
    recipe: Recipe, prototype: TextEnv, saved: Saved | None, log: RunLog, progress: bool
) -> Loaded:
    """Load the model to begin or to go on with, after making all files that the worlds need."""
    # Whatever they need is made before the processor is busy with anything else.
    prototype.prepare(wanted_tasks(recipe, prototype), progress=progress)
    if saved is None:
        texts = await world_text(recipe, prototype, progress) if recipe.model.name == "tiny" else []
        return load(recipe.model, corpus=lambda: texts, marks=marks(recipe, prototype))
    loaded = load(recipe.model.model_copy(update={"name": str(log.folder.checkpoint(LAST))}))
    loaded.model.load_state_dict(saved.weights)
    return loaded


def _go_on(session: Session, saved: Saved, new: dict[str, str]) -> None:
    """Make the folder and the session what they were when the checkpoint was written."""
    state, log = saved.state, session.log
    at = session.recipe.stages[state.stage].label
    session.best, session.best_step = state.best, state.best_step
    if state.best_step:
        folder = log.folder.checkpoint(BEST)
        about = check_manifest(folder, checkpoint.NEEDED)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"'{folder}' is missing, the best weights of this run: {checkpoint.NEEDED}"
            )
        # Weights of a later step will be found again; those of another measure are not comparable.
        if (about or {}).get("progress") != [state.stage, state.best_step] or any(
            key in MEASURE for key in new
        ):
            session.best, session.best_step = -1.0, 0
    session.changes = [
        *state.changes,
        *(f"after {at} {state.step}: {text}" for text in new.values()),
    ]
    session.clock.add(state.seconds)
    log.go_on(saved.metrics, at, state.step)
    log.recipe(session.recipe, session.changes)


async def _run_stage(
    session: Session, stage: Stage, index: int, state: TrainerState | None
) -> None:
    """Run one stage and the test after it."""
    with session.clock.phase(stage.label):
        done = await stage.run(session, index, state)
    if session.recipe.evaluate.test_tasks:
        session.where = f"in the test after {stage.label}"
        with session.clock.phase(f"test-{stage.label}"):
            test = session.evaluate(
                "test", session.recipe.evaluate.test_tasks, stage.label, keep=done
            )
            result = await session.interrupts.cancel_for(test)
        session.record(stage.label, done, "test", result.record())


def _finish(session: Session) -> dict[str, Any]:
    tests = [record for record in session.log.records() if record["kind"] == "test"]
    rates = [{key: test[key] for key in ("success", "low", "high", "n")} for test in tests]
    result: dict[str, Any] = {
        "name": session.recipe.name,
        "seed": session.recipe.seed,
        "device": str(next(session.model.parameters()).device),
        "seconds": session.clock.read(),
    }
    if rates:
        result |= {"before": rates[-2] if len(rates) > 1 else None, "after": rates[-1]}
    session.log.result(result)
    if rates and not rates[-1]["n"]:
        raise RunFailed(
            "the run is trained and saved, but its test measured nothing: every episode of it was"
            " lost"
        )
    return result


def _session(
    recipe: Recipe, loaded: Loaded, prototype: TextEnv, pool: EnvPool, log: RunLog, progress: bool
) -> Session:
    engine = recipe.engine.make(loaded, loaded.max_context)
    agent = recipe.agent.build(engine, loaded.tokenizer)
    fits(agent, prototype)
    return Session(
        recipe, loaded.model, loaded.tokenizer, engine, agent, prototype, pool, log, progress
    )


def _slots(recipe: Recipe) -> int:
    return max(64, *(stage.episodes_at_once for stage in recipe.stages))
