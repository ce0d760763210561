"""Servers that do not behave: each question ends in an answer or a typed failure, no secrets."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from turnrl.agents.teachers import endpoint
from turnrl.agents.teachers.endpoint_config import TeacherConfig

BENCHMARK: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[2] / "benchmarks" / "endpoints.py")
)
WORLD = BENCHMARK["attempt"].__globals__

ENDS: dict[str, str] = {
    "answers": "'Fine.'",
    "answers by HTTP/1.0 without a length": "'Fine.'",
    "answers packed by gzip": "'Fine.'",
    "answers packed by deflate": "'Fine.'",
    "answers with an empty text": "''",
    "answers with half a surrogate pair": "'Fine.?'",
    "answers with bytes that are no UTF-8": "'\ufffdine.'",
    "is busy once": "'Fine.'",
    "asks to wait for a day": "unavailable: status 429",
    "stays broken": "unavailable: status 500: oops",
    "stays broken and quotes the request": "unavailable: status 503: You sent",
    "refuses and quotes the request": "error of the user",
    "refuses and quotes the key in JSON": "error of the user",
    "answers with the key": "'You are [secret].'",
    "answers something else with the key": "unreadable: not a chat completion",
    "redirects": "error of the user",
    "sends no content": "unreadable",
    "was cut before the first word": "cut: nothing was written before max_tokens",
    "was cut and says null": "cut: nothing was written before max_tokens",
    "filters the answer": "unreadable: not a chat completion",
    "answers with a number": "unreadable",
    "answers with a list of parts": "unreadable",
    "answers in HTML": "unreadable: not a chat completion: '<html>",
    "answers null": "unreadable",
    "answers in 100,000 brackets": "unreadable",
    "answers with a number of a million digits": "unreadable",
    "answers with 5 MB": "unreadable: more than 1,000,000 bytes",
    "sends for ever": "unreadable: more than 1,000,000 bytes",
    "sends for ever, slowly": "timeout",
    "sends 300 MB packed in 0.3 MB": "unreadable: more than 1,000,000 bytes",
    "packs in a way that was not asked for": "unreadable: packed as 'br'",
    "sends a damaged package": "unreadable: its packing is damaged",
    "sends headers for ever": "unavailable",
    "sends headers for ever, slowly": "timeout",
    "says 'continue' for ever": "timeout",
    "hangs up": "unavailable",
    "hangs up in the middle": "unavailable",
    "speaks another protocol": "unavailable",
    "sends damaged chunks": "unavailable",
    "says nothing": "timeout",
}
ADDRESSES: dict[str, str] = {
    "with a query": "'/v1/chat/completions?version=2&token=[secret]'",
    "with user and password": "'/v1/chat/completions'",
    "with a slash at the end": "'/v1/chat/completions'",
    "with the whole path": "'/v1/chat/completions'",
    "with a password, and a server that quotes the request": "error of the user",
    "of a port where nobody listens": "unavailable: ConnectError",
    "of a name that nobody has": "unavailable: ConnectError",
    "https where http is spoken": "",
    "with port 99999": "refused in the recipe",
    "with port 0": "refused in the recipe",
    "with a port of letters": "refused in the recipe",
    "with a space": "refused in the recipe",
    "with an empty label": "refused in the recipe",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(endpoint, "BACKOFF", 0.0)
    monkeypatch.setitem(WORLD, "TIMEOUT", 0.5)


def test_the_tables_are_whole() -> None:
    assert ENDS.keys() == BENCHMARK["SERVERS"].keys()
    assert ADDRESSES.keys() == BENCHMARK["ADDRESSES"].keys()


@pytest.mark.parametrize("name", ENDS)
def test_a_question_to_a_strange_server_ends(name: str) -> None:
    tried = BENCHMARK["attempt"](BENCHMARK["SERVERS"][name])
    assert tried.outcome.startswith(ENDS[name])
    assert not tried.secret
    assert tried.megabytes < 100


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_question_to_a_strange_address_ends(name: str) -> None:
    server = BENCHMARK["echo"]("400 Bad Request") if "quotes" in name else BENCHMARK["path_of"]
    tried = BENCHMARK["attempt"](server, BENCHMARK["ADDRESSES"][name])
    assert tried.outcome.startswith(ADDRESSES[name])
    assert not tried.secret


KEYS = (
    *(
        "sk-abc",
        "sk-proj-Ab1_cd",
        "hf_AbCdEfGhIjKlMnOp12",
        "gsk_0123456789abcdef",
        "AIzaSyA1234567890abcdefghij",
    ),
    *("AKIAIOSFODNN7EXAMPLE", "a1b2c3d4e5f6a7b8c9d0e1f2", "1KEY", "MY KEY", "", "$KEY"),
)


@pytest.mark.parametrize("value", KEYS)
def test_a_key_in_the_place_of_its_variables_name_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ValueError, match="never the key itself") as caught:
        TeacherConfig(url="http://localhost/v1", model="m", api_key_env=value)
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    "value", ["OPENAI_API_KEY", "MY_KEY", "key", "HF_TOKEN", "SK_LIVE_KEY_2", "AzureOpenAIKey"]
)
def test_names_of_variables_are_taken(value: str) -> None:
    assert (
        TeacherConfig(url="http://localhost/v1", model="m", api_key_env=value).api_key_env == value
    )
