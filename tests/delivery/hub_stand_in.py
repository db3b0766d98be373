"""A stand-in for the hub's HTTP API: what huggingface_hub asks for when a folder is pushed."""

import base64
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_of_the_owner"
OID = "0" * 40


@dataclass
class StandIn:
    """Repositories by name, and every request."""

    repos: dict = field(default_factory=dict)  # name -> {"private": bool, "files": {path: bytes}}
    requests: list = field(default_factory=list)
    mine: str = "owner"
    url: str = ""


@contextmanager
def hub_stand_in():
    """Serve one on loopback."""
    hub = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def do_GET(self):
            self.handle_with(None)

        def do_POST(self):
            self.handle_with(self.rfile.read(int(self.headers["Content-Length"] or 0)))

        def handle_with(self, body):
            hub.requests.append((self.command, self.path))
            status, answer = 401, {"error": "Invalid username or password."}
            if self.headers["Authorization"] == f"Bearer {TOKEN}":
                status, answer = answer_to(hub, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def answer_to(hub, path, body):  # noqa: PLR0911 (an answer for each kind of request)
    """Return the status and the JSON of an answer."""
    if path == "/api/repos/create":
        return create(hub, json.loads(body))
    if path == "/api/validate-yaml":
        bad = b"license: nonsense" in body
        errors = [{"message": '"license" must be one of the known'}] if bad else []
        return (400 if bad else 200), {"errors": errors, "warnings": []}
    name, _, rest = re.fullmatch(r"/api/models/([^/]+/[^/?]+)(/([^?]*))?.*", path).groups()
    repo = hub.repos.get(name)
    if repo is None:
        return 404, {"error": "Repository not found"}
    if not rest:
        return 200, {"id": name, "private": repo["private"], "sha": OID, "siblings": []}
    if rest.startswith("tree/"):
        return 200, [
            {"type": "file", "path": file, "size": len(content), "oid": OID}
            for file, content in repo["files"].items()
        ]
    if not name.startswith(f"{hub.mine}/"):
        return 403, {"error": "You are not allowed to write here."}
    if rest.startswith("preupload/"):
        files = json.loads(body)["files"]
        sent = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
        return 200, {"files": sent}
    return commit(hub, name, body)


def create(hub, asked):
    name = f"{asked['organization']}/{asked['name']}"
    url = f"{hub.url}/{name}"
    if name in hub.repos:
        return 409, {"error": "You already created this model repo", "url": url}
    if asked["organization"] != hub.mine:
        return 403, {"error": "You don't have the rights to create a model under this namespace"}
    hub.repos[name] = {"private": asked.get("visibility") == "private", "files": {}}
    return 200, {"url": url}


def commit(hub, name, body):
    files = hub.repos[name]["files"]
    for line in body.splitlines():
        change = json.loads(line)
        value = change["value"]
        if change["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif change["key"] == "deletedFile":
            del files[value["path"]]
    url = f"{hub.url}/{name}/commit/{OID}"
    return 200, {"commitUrl": url, "commitOid": OID, "pullRequestUrl": None}
