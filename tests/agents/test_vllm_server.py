"""The engine `vllm` and its server process: what holds whichever program the server is.

A fake one answers here; `test_vllm_engine.py` asks vLLM itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from turnrl.agents.engines.base import ENGINES, Completion, EngineError, Sampling
from turnrl.agents.engines.vllm import VllmEngineConfig
from turnrl.agents.engines.vllm.engine import VllmEngine
from turnrl.agents.engines.vllm.push_gate import PushGate
from turnrl.agents.engines.vllm.server import VARIABLE, cause, interpreter
from turnrl.agents.engines.vllm.shelf import Shelf
from turnrl.agents.models import tiny
from turnrl.agents.models.load import Loaded
from turnrl.foundation.errors import RunFailed, UserError
from turnrl.foundation.processes import is_alive

FAKE = Path(__file__).parent / "fake_vllm_process.py"
CONTEXT = 64


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    tokenizer = tiny.train_tokenizer(["go north and take the coin"], 300)
    model = tiny.build(tokenizer, layers=1, width=32, heads=1, max_context=CONTEXT)
    return Loaded(model, tokenizer, {"max_context": CONTEXT})


class Fake:
    """An interpreter that runs the fake server, and the marks that make it fail."""

    def __init__(self, folder: Path) -> None:
        self.marks = folder / "marks"
        self.marks.mkdir()
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {self.marks} "$@"\n')
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)

    def mark(self, name: str, text: str = "") -> None:
        (self.marks / name).write_text(text)

    def config(self, **fields: Any) -> VllmEngineConfig:
        return VllmEngineConfig(python=str(self.python), **fields)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def of(engine: Any) -> VllmEngine:
    assert isinstance(engine, VllmEngine)
    return engine


async def ask(engine: VllmEngine, name: str, seed: int = 0) -> Completion:
    async with engine.conversation(name) as talk:
        return await talk.generate([1, 2, 3], Sampling(max_tokens=5, seed=seed))


async def ask_all(engine: VllmEngine, count: int) -> list[list[int]]:
    said = await asyncio.gather(*(ask(engine, f"{i}", seed=i) for i in range(count)))
    return [completion.token_ids for completion in said]


def other(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {name: tensor + 1 for name, tensor in loaded.model.state_dict().items()}


def test_an_engine_may_be_made_inside_and_outside_of_an_event_loop(
    fake: Fake, loaded: Loaded
) -> None:
    async def inside() -> list[int]:
        engine = of(fake.config().make(loaded, None))
        said = await ask(engine, "a")
        await engine.aclose()
        return said.token_ids

    engine = of(fake.config().make(loaded, None))
    assert engine.max_context == CONTEXT
    assert asyncio.run(ask(engine, "a")).token_ids == asyncio.run(inside())
    asyncio.run(engine.aclose())


def test_nothing_is_left_of_an_engine_that_was_closed(fake: Fake, loaded: Loaded) -> None:
    engine = of(fake.config().make(loaded, None))
    assert engine.server is not None
    folder, process = engine.server.folder, engine.server.process
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "others could give it weights"
    assert folder.parent == Path("/dev/shm")
    assert is_alive(process)
    asyncio.run(engine.aclose())
    asyncio.run(engine.aclose())
    assert not is_alive(process)
    assert not folder.exists()


def test_a_server_that_does_not_start_ends_with_its_own_words(fake: Fake, loaded: Loaded) -> None:
    fake.mark("broken", "ValueError: No such type\nRuntimeError: a process ended\nbye")
    with pytest.raises(UserError, match=r"ended before it answered: ValueError: No such type$"):
        fake.config().make(loaded, None)
    assert not list(Path("/dev/shm").glob(f"turnrl-vllm-{os.getpid()}-*"))


def test_a_server_that_does_not_answer_is_given_up(fake: Fake, loaded: Loaded) -> None:
    fake.mark("deaf")
    with pytest.raises(UserError, match=r"did not answer within 0\.5 s \(engine\.start_seconds\)"):
        fake.config(start_seconds=0.5).make(loaded, None)


def test_a_lost_server_is_started_again_with_the_weights_that_were_pushed_last(
    fake: Fake, loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> tuple[list[list[int]], ...]:
        engine = of(fake.config().make(loaded, None))
        first = await ask_all(engine, 8)
        await engine.push(other(loaded), 1)
        pushed = await ask_all(engine, 8)
        fake.mark("die")
        again = await ask_all(engine, 8)
        assert engine.server is not None
        assert engine.server.starts == 2
        assert (await ask(engine, "late")).version == 1
        await engine.aclose()
        return first, pushed, again

    with caplog.at_level(logging.WARNING, "turnrl"):
        first, pushed, again = asyncio.run(play())
    assert again == pushed
    assert pushed != first
    assert "lost (DeathError: it was time): it is started again" in caplog.text


def test_a_server_that_is_lost_too_often_ends_the_run(fake: Fake, loaded: Loaded) -> None:
    async def play() -> list[BaseException]:
        engine = of(fake.config(restarts=0).make(loaded, None))
        fake.mark("die")
        found = await asyncio.gather(
            *(ask(engine, f"{i}") for i in range(4)), return_exceptions=True
        )
        with pytest.raises(RunFailed):  # and no later request waits for a server that is gone
            await ask(engine, "later")
        await engine.aclose()
        return [error for error in found if isinstance(error, BaseException)]

    errors = asyncio.run(play())
    assert {type(error) for error in errors} == {RunFailed}
    assert "lost 1 times (engine.restarts allows 0)" in str(errors[0])
    assert "DeathError: it was time" in str(errors[0])


def test_a_server_that_does_not_come_up_again_ends_the_run(fake: Fake, loaded: Loaded) -> None:
    async def play() -> None:
        engine = of(fake.config().make(loaded, None))
        fake.mark("die")
        fake.mark("broken", "no more")
        try:
            await ask(engine, "a")
        finally:
            await engine.aclose()

    with pytest.raises(RunFailed, match=r"cannot be started again: .*: no more"):
        asyncio.run(play())


def test_a_push_to_a_server_that_is_gone_brings_it_up_with_those_weights(
    fake: Fake, loaded: Loaded
) -> None:
    async def play(kill: bool) -> list[list[int]]:
        engine = of(fake.config().make(loaded, None))
        assert engine.server is not None
        if kill:
            os.kill(engine.server.process, signal.SIGKILL)
        await engine.push(other(loaded), 7)
        assert engine.server.starts == 1 + kill
        said = await ask_all(engine, 3)
        await engine.aclose()
        return said

    assert asyncio.run(play(True)) == asyncio.run(play(False))


def test_a_push_and_responses_do_not_meet(fake: Fake, loaded: Loaded) -> None:
    fake.mark("slow")

    async def play() -> tuple[list[int], ...]:
        engine = of(fake.config().make(loaded, None))
        early = [asyncio.ensure_future(ask(engine, f"early {i}")) for i in range(3)]
        await asyncio.sleep(0.1)
        push = asyncio.ensure_future(engine.push(other(loaded), 1))
        await asyncio.sleep(0.1)
        late = [asyncio.ensure_future(ask(engine, f"late {i}")) for i in range(3)]
        await push
        said = await asyncio.gather(*early, *late)
        await engine.aclose()
        assert [completion.version for completion in said] == [0, 0, 0, 1, 1, 1]
        return said[0].token_ids, said[-1].token_ids

    before, after = asyncio.run(play())
    assert before != after


def test_a_request_that_a_healthy_server_refuses_fails_alone(fake: Fake, loaded: Loaded) -> None:
    async def play() -> None:
        engine = of(fake.config().make(loaded, None))
        await ask(engine, "well")
        try:
            with pytest.raises(EngineError):
                await engine.score([1, 2, 3], 1)  # the fake tells no log-probabilities of prompts
            await ask(engine, "well again")
            assert engine.server is not None
            assert engine.server.starts == 1
        finally:
            await engine.aclose()

    asyncio.run(play())


def test_a_server_ends_with_a_parent_that_is_killed_and_the_next_one_tidies_up(
    fake: Fake, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    code = f"""
import sys, time
from pathlib import Path
from turnrl.agents.engines.vllm import VllmEngineConfig
from turnrl.agents.models import tiny
from turnrl.agents.models.load import Loaded
tokenizer = tiny.train_tokenizer(["go north"], 300)
model = tiny.build(tokenizer, layers=1, width=32, heads=1, max_context=64)
engine = VllmEngineConfig(python={str(fake.python)!r}).make(Loaded(model, tokenizer, {{}}), 64)
Path({str(told)!r}).write_text(f"{{engine.server.process}} {{engine.server.folder}}")
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not told.exists() or not told.read_text():
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.05)
    process, folder = told.read_text().split()
    parent.kill()
    parent.wait()
    while is_alive(int(process)):
        assert time.monotonic() < deadline, "the server outlives its parent"
        time.sleep(0.05)
    assert Path(folder).exists(), "what a killed process cannot remove"
    tokenizer = tiny.train_tokenizer(["go north"], 300)
    model = tiny.build(tokenizer, layers=1, width=32, heads=1, max_context=64)
    shelf = Shelf(Loaded(model, tokenizer, {}))
    assert not Path(folder).exists()
    shelf.close()


# -- servers that are given ------------------------------------------------------------------------


class Given:
    """A server that runs already, on a port."""

    def __init__(self, fake: Fake, model: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [str(fake.python), "-m", "server", "--model", str(model)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([*self.command, "--port", str(self.port)])
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionError:
                assert self.process.poll() is None
                time.sleep(0.02)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def given(
    fake: Fake, loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Given]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shelf = Shelf(loaded, tmp_path)
    server = Given(fake, shelf.current)
    yield server
    server.end()


def test_a_given_server_plays_and_takes_weights_and_is_not_ended(
    given: Given, loaded: Loaded
) -> None:
    async def play() -> tuple[list[list[int]], ...]:
        engine = of(VllmEngineConfig(url=given.url).make(loaded, None))
        first = await ask_all(engine, 2)
        await engine.push(other(loaded), 1)
        second = await ask_all(engine, 2)
        await engine.aclose()
        return first, second

    first, second = asyncio.run(play())
    assert first != second
    assert given.process.poll() is None


def test_a_given_server_that_was_started_anew_is_found_at_the_next_push(
    given: Given, loaded: Loaded
) -> None:
    async def play() -> None:
        engine = of(VllmEngineConfig(url=given.url).make(loaded, None))
        await engine.push(other(loaded), 1)
        given.end()
        given.start()
        try:
            with pytest.raises(RunFailed, match="was started anew since the last push"):
                await engine.push(other(loaded), 2)
        finally:
            await engine.aclose()

    asyncio.run(play())


def test_a_given_server_that_is_gone_ends_the_run(given: Given, loaded: Loaded) -> None:
    async def play() -> None:
        engine = of(VllmEngineConfig(url=given.url).make(loaded, None))
        given.end()
        try:
            with pytest.raises(RunFailed, match="a server that was given is not started again"):
                await ask(engine, "a")
        finally:
            await engine.aclose()

    asyncio.run(play())


def test_a_given_server_on_a_gpu_is_refused_by_its_device(
    fake: Fake, given: Given, loaded: Loaded
) -> None:
    fake.mark("cuda")
    with pytest.raises(UserError, match="computes on 'cuda': weights are pushed to servers on a"):
        VllmEngineConfig(url=given.url).make(loaded, None)


def test_a_given_server_with_too_short_a_context_is_refused(given: Given, loaded: Loaded) -> None:
    with pytest.raises(UserError, match="holds 65 tokens, and a context of 65 needs one more"):
        VllmEngineConfig(url=given.url).make(loaded, 65)


# -- the parts -------------------------------------------------------------------------------------


def test_without_an_environment_it_is_said_how_one_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded: Loaded
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError, match="run make setup-vllm, or name its interpreter"):
        VllmEngineConfig().make(loaded, None)
    with pytest.raises(UserError, match=r"engine\.python is '/no/python', and that is no inter"):
        interpreter("/no/python")
    monkeypatch.setenv(VARIABLE, "/none")
    with pytest.raises(UserError, match=f"{VARIABLE} is '/none'"):
        interpreter(None)
    monkeypatch.setenv(VARIABLE, sys.executable)
    assert interpreter(None) == sys.executable
    assert interpreter("/bin/sh") == "/bin/sh"
    monkeypatch.delenv(VARIABLE)
    (tmp_path / ".venv-vllm" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-vllm" / "bin" / "python").symlink_to(sys.executable)
    assert interpreter(None) == str(tmp_path / ".venv-vllm" / "bin" / "python")


def test_heads_that_vllm_has_no_kernels_for_are_refused_by_their_size(
    fake: Fake, loaded: Loaded
) -> None:
    model = tiny.build(loaded.tokenizer, layers=1, width=96, heads=4, max_context=CONTEXT)
    with pytest.raises(UserError, match=r"those of this model have 24: choose model\.width"):
        fake.config().make(Loaded(model, loaded.tokenizer, {}), CONTEXT)


def test_the_cause_of_an_end_is_the_first_error() -> None:
    log = """
(APIServer pid=1) WARNING 11-27 [a.py:1] An Error of one kind may follow
(EngineCore pid=2) ERROR 11-27 [core.py:9] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-27 [core.py:9] ValueError: Head size 24 is not supported
RuntimeError: Engine core initialization failed. See root cause above.
"""
    assert cause(log) == "ValueError: Head size 24 is not supported"
    assert cause("torch.OutOfMemoryError: too much\nlast") == "torch.OutOfMemoryError: too much"
    assert cause("one line\nKilled\n") == "Killed"
    assert cause("") == "it said nothing"


def test_a_shelf_holds_one_model_and_writes_what_is_pushed(loaded: Loaded, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shelf = Shelf(loaded, tmp_path)
    first = shelf.current
    weights = other(loaded)
    folder = shelf.put(weights)
    assert not first.exists()
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == loaded.tokenizer.get_vocab()
    own = AutoModelForCausalLM.from_pretrained(shelf.put(loaded.model.state_dict())).state_dict()
    assert all(torch.equal(own[n], tensor) for n, tensor in loaded.model.state_dict().items())
    with pytest.raises(ValueError, match="no weight called 'nothing'"):
        shelf.put({"nothing": torch.zeros(1)})
    shelf.close()
    assert list(tmp_path.iterdir()) == []


def test_a_gate_lets_requests_in_together_and_a_push_alone() -> None:
    async def play() -> list[str]:
        gate, said = PushGate(), list[str]()

        async def request(name: str) -> None:
            async with gate.one_of_many():
                said.append(f"{name} in")
                await asyncio.sleep(0.01)
                said.append(f"{name} out")

        async def push(name: str) -> None:
            async with gate.alone():
                said.append(f"{name} in")
                await asyncio.sleep(0.01)
                said.append(f"{name} out")

        work = [request("a"), request("b"), push("c"), request("d"), push("e")]
        await asyncio.gather(*work)
        return said

    said = asyncio.run(play())
    assert said[:4] == ["a in", "b in", "a out", "b out"]
    for push in ("c", "e"):
        at = said.index(f"{push} in")
        assert said[at + 1] == f"{push} out", said
    assert sorted(said) == sorted(f"{name} {way}" for name in "abcde" for way in ("in", "out"))


def test_the_rule_of_sampling_is_one_file_that_needs_nothing_of_ours(tmp_path: Path) -> None:
    import turnrl.agents.engines.torch.sampling as rule

    code = f"""
import importlib.util, json, sys, types
spec = importlib.util.spec_from_file_location("rule", {rule.__file__!r})
module = importlib.util.module_from_spec(spec)
sys.modules["rule"] = module
spec.loader.exec_module(module)
import torch
torch.manual_seed(0)
asked = types.SimpleNamespace(
    temperature=0.7, top_p=0.9, top_k=20, min_tokens=2, stop_token_ids=[3], seed=5
)
drawn = module.SamplingBatch([asked], torch.device("cpu")).sample(torch.randn(1, 50), [1])
print(json.dumps([drawn, [name for name in sys.modules if name.startswith("turnrl")]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    drawn, ours = json.loads(done.stdout)
    assert ours == []
    torch.manual_seed(0)
    sampling = Sampling(
        temperature=0.7, top_p=0.9, top_k=20, min_tokens=2, stop_token_ids=(3,), seed=5
    )
    ids, logprobs = rule.SamplingBatch([sampling], torch.device("cpu")).sample(
        torch.randn(1, 50), [1]
    )
    assert drawn == [ids, logprobs]


def test_a_recipe_s_block_makes_it() -> None:
    config = ENGINES.build({"name": "vllm", "memory": 4, "arguments": ["--seed", "1"]})
    assert isinstance(config, VllmEngineConfig)
    assert config.capabilities.takes_weights
    assert config.capabilities.scores
    assert not config.capabilities.shares_module
