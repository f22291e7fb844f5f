"""mlx-lm's server in a process of its own, on a model of ours."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen


@contextmanager
def served(model: Path, log: Path, *options: str, launcher: Callable[..., list[str]] | None = None) -> Iterator[str]:
    """The server's address, when it answers. A launcher makes a command of Python's arguments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "mlx_dequant", "serve", str(model), "--port", str(port), *options]
    with log.open("w") as output:
        process = subprocess.Popen(
            launcher(*command) if launcher else [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        limit = time.monotonic() + 300
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < limit, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a launcher's processes too
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=5):
            return True
    except URLError:
        return False


def post(address: str, path: str, body: dict[str, Any]) -> bytes:
    request = Request(f"{address}/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=300) as answer:
        return answer.read()


def ask(address: str, text: str, **settings: Any) -> dict[str, Any]:
    """The answer to a user's message."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0.0, **settings}
    return json.loads(post(address, "chat/completions", body))


def streamed(address: str, text: str, **settings: Any) -> list[dict[str, Any]]:
    """The same in pieces."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0.0, **settings}
    lines = post(address, "chat/completions", body | {"stream": True}).decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(line) for line in data[:-1]]
