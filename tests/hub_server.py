"""A server that answers huggingface_hub's requests for repositories on this disk."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serves folder/OWNER/NAME as repositories: the address for HF_ENDPOINT, and the files it sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[0] == "api":
                self._describe(folder.joinpath(*parts[2:4]), parts[4] if len(parts) > 4 else "")
            else:
                self._send(folder.joinpath(*parts[:2], *parts[4:]))

        do_HEAD = do_GET

        def _describe(self, repo: Path, what: str) -> None:
            if not repo.is_dir():
                return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = sorted(path for path in repo.rglob("*") if path.is_file())
            if what == "tree":
                body = [
                    {"type": "file", "path": str(path.relative_to(repo)), "size": path.stat().st_size, "oid": "0"}
                    for path in files
                ]
            else:
                name = f"{repo.parent.name}/{repo.name}"
                siblings = [{"rfilename": str(path.relative_to(repo))} for path in files]
                body = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            return self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _send(self, path: Path) -> None:
            if not path.is_file():
                return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            data = path.read_bytes()
            if self.command == "GET":
                sent.append(str(path.relative_to(folder)))
            tag = hashlib.sha256(data).hexdigest()
            return self._answer(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
