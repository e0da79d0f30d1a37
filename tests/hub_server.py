"""A stand-in for the Hugging Face hub: repositories in memory, behind the part of its API that we use."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "Hub", "hub_environment", "running_hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The only commit there is."""


class Hub(ThreadingHTTPServer):
    """Model repositories by name, their files by path. Every file is sent within the commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path.strip("/").split("/")
        if path == ["api", "repos", "create"]:
            fields = json.loads(body)
            name = "/".join(filter(None, (fields.get("organization") or "me", fields["name"])))
            if name in self.server.repositories:
                return self.reply({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
            self.server.repositories[name] = {}
            return self.reply({"url": f"{self.server.url}/{name}", "name": name})
        if path == ["api", "validate-yaml"]:
            return self.reply({"errors": [], "warnings": []})
        name, what = "/".join(path[2:4]), path[4]
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            return self.reply({"files": modes})
        if what == "commit":
            self.commit(self.server.repositories[name], body)
            return self.reply({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        if what == "paths-info":
            return self.reply([])
        return self.reply({"error": f"no {self.path}"}, 404)

    def commit(self, files: dict[str, bytes], body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                self.server.messages.append(entry["value"]["summary"])
            elif entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del files[entry["value"]["path"]]

    def do_GET(self) -> None:
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if path[:2] == ["api", "models"]:
            name = "/".join(path[2:4])
            files = self.server.repositories.get(name)
            if files is None:
                return self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            if path[4:5] == ["tree"]:
                return self.reply(
                    [
                        {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                        for p, c in files.items()
                    ]
                )
            siblings = [{"rfilename": p, "size": len(c)} for p, c in files.items()]
            return self.reply({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []})
        files = self.server.repositories.get("/".join(path[:2]))
        if files is None:
            return self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        content = files.get("/".join(path[4:]))
        if content is None:
            return self.reply({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.send(content, 200, {"ETag": etag, "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815

    def reply(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


def hub_environment(hub: Hub, home: object) -> dict[str, str]:
    """Variables with which a process speaks to the stand-in, and keeps its cache in `home`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_test",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def running_hub() -> Iterator[Hub]:
    """An empty hub that answers until the end of the block."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()
