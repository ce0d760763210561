"""A process that plays vLLM's API server: ``python THIS MARKS -m MODULE --uds PATH``.

It answers at once, and knows of a model only the bytes of its weights: the tokens that it says
depend on them, on the prompt and on the seed. Files in the folder MARKS say what goes wrong:

- ``broken``: it never starts, and says what the file says;
- ``deaf``: it never answers;
- ``die``: it ends at the next request for tokens, and removes the file;
- ``cuda``: it says that it computes on another device;
- ``slow``: a request for tokens takes half a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

MARKS = Path(sys.argv[1])
VOCABULARY = 97


def marked(name: str) -> bool:
    return (MARKS / name).exists()


def digest(model: str) -> int:
    weights = b"".join(file.read_bytes() for file in sorted(Path(model).glob("*.safetensors")))
    return int.from_bytes(hashlib.sha256(weights).digest()[:4], "little")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = 0
    pushed = 0

    def do_GET(self) -> None:
        found: Any = {"data": [{"id": "policy", "max_model_len": 65}]}
        self.answer(found if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        route = self.path.split("?")[0]
        self.answer(
            {"/collective_rpc": self.call, "/v1/completions": self.complete}[route](body)
            if route != "/reset_prefix_cache"
            else {"success": True}
        )

    def call(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["method"] == "turnrl_push":
            Handler.model = digest(*body["args"])
            return {"results": [{"process": os.getpid(), "missing": []}]}
        device = "cuda" if marked("cuda") else "cpu"
        about = {"device": device, "dtype": "float32", "vllm": "0.32.0", "process": os.getpid()}
        return {"results": [about]}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        model = Handler.model
        if marked("die"):
            (MARKS / "die").unlink(missing_ok=True)
            print("DeathError: it was time", file=sys.stderr, flush=True)
            os._exit(3)
        if marked("slow"):
            time.sleep(0.5)
        seed = json.loads(body["vllm_xargs"]["turnrl"])["seed"]
        start = model + seed + sum(body["prompt"])
        ids = [(start + n) % VOCABULARY for n in range(body["max_tokens"])]
        choice = {"token_ids": ids, "finish_reason": "length"}
        return {"choices": [choice | {"logprobs": {"token_logprobs": [-1.0] * len(ids)}}]}

    def answer(self, data: dict[str, Any]) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        if self.headers["Connection"] == "close":
            self.close_connection = True
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class OnSocket(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def main() -> None:
    options = dict(zip(sys.argv[4::2], sys.argv[5::2], strict=False))
    if marked("broken"):
        sys.exit((MARKS / "broken").read_text())
    while marked("deaf"):
        time.sleep(0.05)
    Handler.model = digest(options["--model"])
    if "--port" in options:
        ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
    OnSocket(options["--uds"], Handler).serve_forever()


if __name__ == "__main__":
    main()
