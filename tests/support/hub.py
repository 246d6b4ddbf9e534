"""A small Hugging Face hub of our own: its HTTP interface, as far as models are pushed and pulled.

It stores commits in memory. `faults` maps a part of a request's path to the status that it answers there instead, or to
"cut", where it breaks the connection off in the middle of the answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_OnlyForThisTest0123456789"


class Hub(ThreadingHTTPServer):
    """The server, and what it holds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        # by name: the files of the newest commit, and its number
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[dict[str, Any]]] = {}
        self.large: dict[str, bytes] = {}
        self.faults: dict[str, int | str] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit_of(self, repo_id: str) -> str:
        """The newest commit's name."""
        return hashlib.sha1(f"{repo_id} {len(self.commits[repo_id])}".encode()).hexdigest()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Sends an answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value: Any, status: int = 200) -> None:
        """Sends JSON."""
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def is_faulty(self) -> bool:
        """Whether the request is answered by a fault."""
        self.server.requests.append((self.command, self.path))
        fault = next((fault for part, fault in self.server.faults.items() if part in self.path), None)
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"{")
            self.close_connection = True
        elif isinstance(fault, int):
            # a hub would not, but some proxy may say what it was asked with
            self.answer(fault, str(self.headers).encode(), X_Error_Message=str(self.headers["Authorization"]))
        return fault is not None

    def body(self) -> bytes:
        """What was sent."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        """As GET."""
        self.do_GET()

    def do_GET(self) -> None:
        """/OWNER/NAME/resolve/REVISION/FILE."""
        if self.is_faulty():
            return
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo_id = "/".join(parts[2:4])
            if repo_id not in self.server.commits:
                return self.answer(404, X_Error_Code="RepoNotFound")
            return self.json({"id": repo_id, "sha": self.server.commit_of(repo_id), "siblings": []})
        if len(parts) < 5 or parts[2] != "resolve":
            return self.answer(200)
        repo_id, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if repo_id not in self.server.commits:
            return self.answer(404, X_Error_Code="RepoNotFound")
        commit = self.server.commit_of(repo_id)
        if revision not in ("main", commit):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        content = self.server.repositories[repo_id].get(name)
        if content is None:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        return self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)

    def do_POST(self) -> None:
        """Makes repositories, says how files are sent, and takes commits."""
        body = self.body()
        if self.is_faulty():
            return None
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.json({"warnings": [], "errors": []})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = f"{asked['organization']}/{asked['name']}"
            known = repo_id in self.server.commits
            self.server.commits.setdefault(repo_id, [])
            self.server.repositories.setdefault(repo_id, {})
            return self.json({"url": f"{self.server.address}/{repo_id}"}, 409 if known else 200)
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.address}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.json({"transfer": "basic", "objects": objects})
        repo_id = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [
                {**each, "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False} for each in json.loads(body)["files"]
            ]  # fmt: skip
            return self.json({"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        files = dict(self.server.repositories[repo_id])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        self.server.repositories[repo_id] = files
        self.server.commits[repo_id].append(lines[0]["value"])
        commit = self.server.commit_of(repo_id)
        return self.json({"commitUrl": f"{self.server.address}/{repo_id}/commit/{commit}", "commitOid": commit})

    def do_PUT(self) -> None:
        """A large file."""
        content = self.body()
        if self.is_faulty():
            return
        self.server.large[self.path.rpartition("/")[2]] = content
        self.answer(200)


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers during the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
