"""train and plan: a Recipe from the front door to the result."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..agents.agent import Agent, Unplayable
from ..agents.baselines import ExpertAgent, RandomAgent
from ..agents.engines.torch import TorchEngine
from ..agents.episode import Episode
from ..agents.evaluate import choose_tasks, play_tasks
from ..agents.models import Loaded, load, settle_folder
from ..agents.symmetry import rename
from ..envs import Task, TextEnv, make
from ..envs.closing import close_worlds
from ..envs.pool import EnvPool
from ..envs.registry import import_worlds
from ..plugins import RunFailed, UserError
from . import checkpoint
from .console import Narrator
from .log import Record, RunLog
from .objections import fits
from .patience import Patience, enough_memory
from .recipe import Recipe, RlStage, SftStage
from .session import Session, known_renamings
from .sft import SupervisedTrainer, parameter_count
from .trainer import Trainer

OnRecord = Callable[[Record], None]
ENV_EXTRAS = frozenset({"progress", "admissible_actions", "expert"})


def train(
    recipe: Recipe,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_record: OnRecord | None = None,
) -> dict[str, Any]:
    """Run every stage of a recipe.

    Args:
        run_dir: default ``runs/<name>``.
        resume: go on from the last checkpoint of that folder.
        progress: say on stderr how far it is.
        on_record: called with each line of the metrics.

    Returns:
        What ``result.json`` holds: ``before`` and ``after`` (test success around the last stage, if test tasks are
        configured), ``seconds`` by phase, ``seed``.

    Raises:
        UserError: the recipe, the folder or the world cannot be used.
        RunFailed: it learns nothing, its weights are not finite any more, or nothing was measured at the end.
    """
    log = RunLog(Path(run_dir or Path("runs") / recipe.name), recipe, resume=resume)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    narrate = Narrator(sum(_length(stage) for stage in recipe.stages if isinstance(stage, RlStage)))

    def both(record: Record) -> None:
        if progress:
            narrate(record)
        if on_record is not None:
            on_record(record)

    return asyncio.run(_train(recipe, log, resume, progress, both))


async def _train(recipe: Recipe, log: RunLog, resume: bool, progress: bool, on_record: OnRecord) -> dict[str, Any]:
    started = time.perf_counter()
    import_worlds(*recipe.pool.imports)
    prototype = make(recipe.env_id, **recipe.env_params)
    last = log.folder / "checkpoints" / "last"
    if resume:
        for name in ("last", "best"):
            settle_folder(last.with_name(name))
    going_on = resume and (last / checkpoint.STATE_FILE).is_file()
    pool = recipe.pool.build(_slots(recipe), _env_extras(recipe))
    try:
        # Whatever they need is made before the processor is busy with anything else.
        prototype.prepare(_wanted(recipe, prototype), progress=progress)
        if going_on:
            loaded = load(recipe.model.model_copy(update={"name": str(last)}))
        else:
            texts = await world_text(recipe, prototype, progress) if recipe.model.name == "tiny" else []
            loaded = load(recipe.model, corpus=lambda: texts, marks=_marks(recipe, prototype))
        session = _session(recipe, loaded, prototype, pool, log, progress)
        state = checkpoint.read(last, loaded.model) if going_on else None
        names = [stage.name for stage in recipe.stages]
        if resume:
            log.forget_after(names, names[state.stage] if state else names[0], state.step if state else -1)
        seconds = {"prepare": time.perf_counter() - started}
        for index, stage in enumerate(recipe.stages):
            if state is not None and index < state.stage:
                continue
            begun = time.perf_counter()
            await _run_stage(session, stage, index, state if state and state.stage == index else None, on_record)
            seconds[stage.name] = time.perf_counter() - begun
            begun = time.perf_counter()
            if recipe.evaluate.test_tasks:
                result = await session.evaluate("test", recipe.evaluate.test_tasks, stage.name)
                on_record(log.record(stage.name, _length(stage), "test", result.model_dump()))
            seconds[f"test-{stage.name}"] = time.perf_counter() - begun
    finally:
        await pool.aclose()
        close_worlds([prototype])
    return _finish(session, seconds)


def _wanted(recipe: Recipe, prototype: TextEnv) -> list[Task]:
    """The tasks of the whole run. Raises UserError if the world lacks tasks, symmetries or an expert it needs."""
    if "expert" in _env_extras(recipe) and type(prototype).expert_action is TextEnv.expert_action:
        asking = next(reward.name for reward in recipe.build_rewards() if "expert" in reward.needs())
        raise UserError(
            f"reward '{asking}' asks for the plan of the world's expert, and {prototype.id} has no expert: "
            "set target: answer, or target: goal with a text"
        )
    wanted = {"train": 0, "valid": 0, "test": recipe.evaluate.test_tasks}
    for stage in recipe.stages:
        known_renamings(prototype, stage.symmetries)
        if isinstance(stage, SftStage):
            wanted["train"] = max(wanted["train"], stage.demonstrations)
            wanted["valid"] = max(wanted["valid"], stage.validation)
        else:
            wanted["train"] = max(wanted["train"], stage.tasks or 0)
    if recipe.evaluate.every:
        wanted[recipe.evaluate.split] = max(wanted[recipe.evaluate.split], recipe.evaluate.tasks or 0)
    return [
        task
        for split, count in wanted.items()
        if count
        for task in choose_tasks(prototype.tasks(split), count, f"the {split} split of {prototype.id}")
    ]


async def _run_stage(
    session: Session, stage: SftStage | RlStage, index: int, state: checkpoint.TrainerState | None, on_record: OnRecord
) -> None:
    if isinstance(stage, SftStage):
        with enough_memory("the warm start", "sft.token_budget (tokens of a micro-batch) or the size of the model"):
            await SupervisedTrainer(session, stage).run(on_record)
        session.save("sft")
        return
    trainer = Trainer(session, stage, index)
    first = 0
    if state is not None:
        trainer.restore(state)
        session.best, first = state.best, state.step
    else:
        session.best = -1.0
        session.save("last", trainer.state(0))
    patience = Patience(stage.give_up_after, stage.steps)
    for number in range(first, stage.steps):
        metrics = await trainer.step(number)
        on_record(session.log.record("rl", number + 1, "train", metrics))
        patience.after(number + 1, trainer.cause)
        if trainer.due(number, session.recipe.evaluate.every):
            with trainer.averaged(number + 1):
                await _validate(session, number + 1, on_record)
        if trainer.due(number, stage.checkpoint_every):
            session.save("last", trainer.state(number + 1))
    with trainer.averaged(stage.steps):
        session.save("rl")
    saved = session.log.folder / "checkpoints"
    seen = session.recipe.evaluate.every and (saved / "best").is_dir()
    checkpoint.restore(saved / ("best" if seen else "rl"), session.model)
    session.engine.load_weights(session.model.state_dict(), stage.steps + 1)


async def _validate(session: Session, step: int, on_record: OnRecord) -> None:
    """Periodic evaluation; the best checkpoint is the latest of those that did best.

    An evaluation that lost more than a share of its episodes (`Evaluation.whole`) is logged and decides nothing.
    """
    result = await session.evaluate(session.recipe.evaluate.split, session.recipe.evaluate.tasks, "rl")
    on_record(session.log.record("rl", step, "eval", result.model_dump()))
    if result.whole and result.success is not None and result.success >= session.best:
        session.best = result.success
        session.save("best")


def _finish(session: Session, seconds: dict[str, float]) -> dict[str, Any]:
    tests = [record for record in session.log.records() if record["kind"] == "test"]
    rates = [{key: test[key] for key in ("success", "low", "high", "n")} for test in tests]
    result: dict[str, Any] = {"name": session.recipe.name, "seed": session.recipe.seed, "seconds": seconds}
    if rates:
        result |= {"before": rates[-2] if len(rates) > 1 else None, "after": rates[-1]}
    session.log.text("result.json", json.dumps(result, indent=1) + "\n")
    if rates and not rates[-1]["n"]:
        raise RunFailed("the run is trained and saved, but its test measured nothing: every episode of it was lost")
    return result


def _session(recipe: Recipe, loaded: Loaded, prototype: TextEnv, pool: EnvPool, log: RunLog, progress: bool) -> Session:
    engine = TorchEngine(
        loaded.model, loaded.tokenizer, max_batch=recipe.engine.max_batch, max_context=loaded.max_context,
        patience_ms=recipe.engine.patience_ms,
    )  # fmt: skip
    agent = recipe.agent.build(engine, loaded.tokenizer)
    fits(agent, prototype)
    return Session(recipe, loaded.model, loaded.tokenizer, engine, agent, prototype, pool, log, progress)


async def world_text(recipe: Recipe, prototype: TextEnv, progress: bool) -> list[str]:
    """What the world says in play of training tasks, under each symmetry: text for a tokenizer.

    Play is random where the world lists what can be done, else the expert's. Raises UserError if it has neither.
    """
    tasks = prototype.tasks("train")[: recipe.model.corpus]
    prototype.prepare(tasks, progress=progress)
    try:
        episodes = await _read(RandomAgent(), recipe, tasks, progress)
    except Unplayable:
        try:
            episodes = await _read(ExpertAgent(), recipe, tasks, progress)
        except Unplayable:
            raise UserError(
                f"a tiny model's tokenizer is trained on play, but {recipe.env_id} neither lists admissible actions "
                "nor has an expert: use a saved or pretrained model"
            ) from None
    parser = recipe.agent.build_parser()
    # A format that is more than the action is text too: its answers, and what a player who misses it is told.
    texts = [prototype.instructions, *([parser.expects] if parser.marks else [])]
    for episode in episodes:
        exchanges = ((parser.render(turn.text), turn.observation) for turn in episode.turns)
        parts = [episode.opening, *itertools.chain.from_iterable(exchanges)]
        texts += [rename("\n".join(parts), renaming) for renaming in ({}, *prototype.symmetries)]
    if not recipe.model.codes:
        return texts
    # Nothing is to be learnt from the spelling of what will be single tokens.
    codes = set(prototype.codes)
    return list(dict.fromkeys(re.sub(r"\w+", lambda word: "" if word[0] in codes else word[0], text) for text in texts))


async def _read(agent: Agent, recipe: Recipe, tasks: Sequence[Task], progress: bool) -> list[Episode]:
    pool = recipe.pool.build(16, agent.extras)
    try:
        episodes, _ = await play_tasks(
            agent, tasks, pool, max_turns=2 * recipe.agent.max_turns, seed=recipe.seed, concurrency=16,
            label="reading the world's text", progress=progress,
        )  # fmt: skip
    finally:
        await pool.aclose()
    return episodes


def _marks(recipe: Recipe, prototype: TextEnv) -> tuple[str, ...]:
    """Single tokens of a tiny model: what holds its format together, and the world's codes if it asks for them."""
    if recipe.model.codes and not prototype.codes:
        raise UserError(f"model.codes: {recipe.env_id} has no codes")
    return (*recipe.agent.build_parser().marks, *(prototype.codes if recipe.model.codes else ()))


def plan(recipe: Recipe) -> dict[str, Any]:
    """What `train` would do, without doing it: the resolved recipe, sizes and a memory estimate (MiB)."""
    config = recipe.model
    import_worlds(*recipe.pool.imports)
    prototype = make(recipe.env_id, **recipe.env_params)
    splits = {split: len(prototype.tasks(split)) for split in ("train", "valid", "test")}
    _wanted(recipe, prototype)
    prototype.close()
    loaded = load(config, corpus=lambda: [prototype.instructions], marks=_marks(recipe, prototype))
    parameters = parameter_count(loaded.model)
    width = int(loaded.model.get_output_embeddings().weight.shape[1])
    layers = int(loaded.model.config.num_hidden_layers)
    if config.name == "tiny":  # its tokenizer is trained on play, which a plan does not do: count it as full
        parameters += (config.vocabulary - len(loaded.tokenizer)) * width
    stages = []
    for stage in recipe.stages:
        copies = 4  # weights, gradients and AdamW's two moments
        if isinstance(stage, RlStage):
            episodes = stage.tasks_per_step * stage.group_size
            response = episodes * recipe.agent.max_turns * recipe.agent.sampling.max_tokens
            needs = stage.build_credit().needs().union(*(r.needs() for r in stage.build_regularizers()))
            copies += 4 * ("values" in needs and stage.critic.backbone == "separate") + ("ref_logprobs" in needs)
            sizes = {"episodes_per_step": episodes, "response_tokens_per_step_at_most": response}
        else:
            sizes = {"episodes_per_step": stage.batch}
        # About 16 activations of model width per layer and token are kept for the backward pass.
        activations = stage.token_budget * width * layers * 16 * (2 if stage.bf16 else 4)
        memory = (copies * parameters * 4 + activations) / 2**20
        stages.append({"stage": stage.name, **sizes, "memory_mib": round(memory)})
    return {"recipe": recipe.model_dump(mode="json"), "parameters": parameters, "tasks": splits, "stages": stages}


def _env_extras(recipe: Recipe) -> frozenset[str]:
    needed = frozenset().union(*(reward.needs() for reward in recipe.build_rewards()))
    return needed & ENV_EXTRAS


def _slots(recipe: Recipe) -> int:
    return max([64, *(stage.concurrency for stage in recipe.stages if isinstance(stage, RlStage))])


def _length(stage: SftStage | RlStage) -> int:
    return stage.steps if isinstance(stage, RlStage) else stage.epochs


__all__ = ["UserError", "plan", "train", "world_text"]
