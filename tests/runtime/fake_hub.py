"""The part of the Hub's API that its client uses to fetch and to push, on this machine."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class FakeHub:
    """Repositories by id and revision: files by path.

    Attributes:
        repositories: what can be fetched.
        url: where it listens.
        requests: method and path of each request.
        private: ids that answer 401.
        cut: paths of which the first answer ends half-way.
    """

    repositories: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)

    def add(self, hub_id: str, folder: Path, revision: str = "main") -> None:
        """Put a folder's files into a repository."""
        self.repositories[hub_id, revision] = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def fetched(self) -> set[str]:
        """Return the paths of the files whose content was asked for."""
        return {
            path.split("/resolve/")[1].partition("/")[2]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        }


def commit_of(hub_id: str, revision: str) -> str:
    return hashlib.sha1(f"{hub_id} {revision}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.hub.requests.append(("POST", self.path))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.hub.repositories.setdefault((name, "main"), {})
            self._json({"url": f"{self.hub.url}/{name}", "name": name})
            return
        if self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
            return
        name, _, rest = self.path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            files = [
                {"path": entry["path"], "uploadMode": "regular", "shouldIgnore": False}
                for entry in json.loads(body)["files"]
            ]
            self._json({"files": files})
            return
        name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.hub.repositories[name, "main"][entry["value"]["path"]] = content
        self._json(
            {
                "commitUrl": f"{self.hub.url}/{name}/commit/{commit_of(name, 'main')}",
                "commitOid": commit_of(name, "main"),
                "hookOutput": "",
                "success": True,
            }
        )

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path))
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/models/"):
            hub_id, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            if "/tree/" in path:
                hub_id, _, revision = path.removeprefix("/api/models/").partition("/tree/")
            files = self._files(hub_id, revision or "main")
            if files is None:
                return
            if "/tree/" in path:
                self._json(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                        for name, data in files.items()
                    ]
                )
                return
            self._json(
                {
                    "id": hub_id,
                    "sha": self._commit(hub_id, revision or "main"),
                    "siblings": [{"rfilename": name} for name in files],
                }
            )
            return
        hub_id, _, rest = path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self._files(hub_id, revision)
        if files is None:
            return
        if name not in files:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        data = files[name]
        start = int(self.headers.get("range", "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(data)}"')
        self.send_header("X-Repo-Commit", self._commit(hub_id, revision))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            rest_of = data[start:]
            if name in self.hub.cut:
                self.hub.cut.discard(name)
                rest_of = rest_of[: len(rest_of) // 2]
                self.close_connection = True
            self.wfile.write(rest_of)

    def _commit(self, hub_id: str, revision: str) -> str:
        commits = {commit_of(name, r) for name, r in self.hub.repositories if name == hub_id}
        return revision if revision in commits else commit_of(hub_id, revision)

    def _files(self, hub_id: str, revision: str) -> dict[str, bytes] | None:
        if hub_id in self.hub.private:
            self._fail(401, "GatedRepo", "Access to this repository is restricted")
            return None
        if not any(name == hub_id for name, _ in self.hub.repositories):
            self._fail(404, "RepoNotFound", "Repository not found")
            return None
        for (name, known), files in self.hub.repositories.items():
            if name == hub_id and revision in (known, commit_of(name, known)):
                return files
        self._fail(404, "RevisionNotFound", "Invalid rev id")
        return None

    def _fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Run a server for a hub; its URL is set meanwhile."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
