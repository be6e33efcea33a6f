"""A stand-in for W&B's server on loopback: it keeps runs and artifacts as the real one would, and fails on demand.

It speaks what wandb 0.31 asks: GraphQL (/graphql), the file stream (/files/.../file_stream), and uploads (/upload/...).
"""

import base64
import contextlib
import json
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

KEY = "a" * 40
HANG_UP = -1
Before = Callable[[int, str], int | None]


@dataclass
class Run:
    """What the server knows of a run."""

    info: dict[str, Any] = field(default_factory=dict)  # variables of its UpsertBuckets: groupName, jobType, tags, ...
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    logged: list[str] = field(default_factory=list)  # names of artifacts
    used: list[str] = field(default_factory=list)
    exit_code: int | None = None
    upserts: int = 0


@dataclass
class Artifact:
    """One version of an artifact."""

    name: str
    type: str
    digest: str
    metadata: dict[str, Any]
    client_id: str
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class Server:
    """`url`, `runs` by id, `artifacts` by server id, and the names of requests in order of arrival.

    before: called with the number of the request and its name, before it is answered; it may wait, or return the HTTP
    status to refuse it with, or HANG_UP.
    """

    def __init__(self, before: Before = lambda number, name: None) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.requests: list[str] = []
        self.problems: list[str] = []  # what this stand-in could not do
        self.before = before
        self.lock = threading.RLock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                try:
                    status, answer = server.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
                except Exception:
                    server.problems.append(traceback.format_exc())
                    raise
                if status == HANG_UP:
                    self.close_connection = True
                    return
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = handle_one  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None  # type: ignore[method-assign] # clients hang up as they like
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, Any]:
        request = json.loads(body) if path == "/graphql" else None
        name = _operation(request) if request else f"{method} {path}"
        with self.lock:
            self.requests.append(name)
            number = len(self.requests)
        refused = self.before(number, name)
        if refused:
            return refused, {"error": "refused"}
        given = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")[2]
        if given != KEY and not path.startswith("/upload/"):
            return 401, {"error": "no such key"}
        with self.lock:
            if request:
                known = getattr(self, name, None)
                if known is None:
                    self.problems.append(f"{name} is not known here: {request}")
                    return 200, {"errors": [{"message": f"{name} is not known here"}]}
                return 200, {"data": known(_given(request))}
            if path.startswith("/upload/"):
                kind, owner, file = path.removeprefix("/upload/").split("/", 2)
                self.upload(kind, owner, unquote(file), body)
                return 200, {}
            if path.endswith("/file_stream"):
                self.stream(self.runs[path.split("/")[-2]], json.loads(body))
                return 200, {"exitcode": None}
        return 404, {}

    def upload(self, kind: str, owner: str, file: str, body: bytes) -> None:
        if kind == "run":
            self.runs[owner].files[file] = body
        elif kind == "manifest":
            self.artifacts[owner].manifest = json.loads(body)
        else:
            self.artifacts[owner].files[file] = body

    def stream(self, run: Run, told: dict[str, Any]) -> None:
        for name, part in (told.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.history[part["offset"] :] = [json.loads(line) for line in part["content"]]
            elif name == "wandb-summary.json":
                run.summary |= json.loads(part["content"][-1])
        if told.get("complete"):
            run.exit_code = told["exitcode"]

    # GraphQL, by operation name

    def Viewer(self, given: dict) -> dict:  # noqa: N802
        return {"viewer": {"id": "V", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": _edges()}}

    def ServerFeaturesQuery(self, given: dict) -> dict:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def ArtifactType(self, given: dict) -> dict:  # noqa: N802
        named = next((found for found in self.artifacts.values() if found.name == given["name"]), None)
        return {"project": {"artifact": named and {"artifactType": {"name": named.type}}}}

    def RunResumeStatus(self, given: dict) -> dict:  # noqa: N802
        run = self.runs.get(given["name"])
        place = {"id": "P", "name": given["project"], "entity": {"id": "E", "name": "me"}}
        if run is None:
            return {"model": {**place, "bucket": None}}
        last = [json.dumps(run.history[-1])] if run.history else []
        bucket = {
            "id": given["name"],
            "name": given["name"],
            "displayName": given["name"],
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(last),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": run.info.get("tags") or [],
            "notes": "",
            "wandbConfig": '{"t": 1}',
        }
        return {"model": {**place, "bucket": bucket}}

    def UpsertBucket(self, given: dict) -> dict:  # noqa: N802
        inserted = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], Run())
        run.upserts += 1
        run.info |= {name: value for name, value in given.items() if value is not None}
        if given.get("config"):
            run.config = json.loads(given["config"])
        if given.get("summaryMetrics"):
            run.summary |= json.loads(given["summaryMetrics"])
        bucket = {
            "id": given["name"],
            "name": given["name"],
            "displayName": given.get("displayName") or given["name"],
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": given.get("sweep"),
            "project": {"id": "P", "name": given["project"], "entity": {"id": "E", "name": "me"}},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def CreateRunFiles(self, given: dict) -> dict:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/run/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def CreateArtifact(self, given: dict) -> dict:  # noqa: N802
        name, digest = given["artifactCollectionName"], given["digest"]
        versions = {id_: found for id_, found in self.artifacts.items() if found.name == name and found.committed}
        id_ = next((id_ for id_, found in versions.items() if found.digest == digest), None)
        if id_ is None:
            id_ = f"A{len(self.artifacts)}"
            metadata = json.loads(given.get("metadata") or "{}")
            self.artifacts[id_] = Artifact(name, given["artifactTypeName"], digest, metadata, given.get("clientID", ""))
        if given.get("runName"):
            self.runs[given["runName"]].logged.append(name)
        latest = {"id": list(versions)[-1]} if versions else None
        state = "COMMITTED" if self.artifacts[id_].committed else "PENDING"
        return {
            "createArtifact": {"artifact": {"id": id_, "state": state, "artifactSequence": {"latestArtifact": latest}}}
        }

    def CreateArtifactManifest(self, given: dict) -> dict:  # noqa: N802
        id_ = given["artifactID"]
        upload = f"{self.url}/upload/manifest/{id_}/manifest" if given["includeUpload"] else None
        file = {"id": f"F{id_}", "uploadUrl": upload, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"M{id_}", "file": file}}}

    def CreateArtifactFiles(self, given: dict) -> dict:  # noqa: N802
        nodes = [
            {
                "storagePath": f"{file['artifactID']}/{file['name']}",
                "uploadUrl": f"{self.url}/upload/artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in given["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": _edges(*nodes)}}

    def CommitArtifact(self, given: dict) -> dict:  # noqa: N802
        found = self.artifacts[given["artifactID"]]
        found.committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": found.digest}}}

    def ArtifactByID(self, given: dict) -> dict:  # noqa: N802
        found = self.artifacts[given["id"]]
        project = {"id": "P", "internalId": "P", "name": "ours", "entity": {"name": "me"}}
        return {
            "artifact": {
                "__typename": "Artifact",
                "id": given["id"],
                "artifactSequence": {"__typename": "ArtifactSequence", "name": found.name, "project": project},
                "versionIndex": 0,
                "artifactType": {"name": found.type},
                "description": None,
                "metadata": json.dumps(found.metadata),
                "ttlDurationSeconds": -2,
                "ttlIsInherited": False,
                "tags": [],
                "historyStep": None,
                "state": "COMMITTED" if found.committed else "PENDING",
                "size": sum(map(len, found.files.values())),
                "digest": found.digest,
                "digestAlgorithm": "MANIFEST_MD5",
                "commitHash": "c",
                "fileCount": len(found.files),
                "createdAt": "2026-01-01T00:00:00",
                "updatedAt": None,
                "aliases": [],
            }
        }

    def UseArtifact(self, given: dict) -> dict:  # noqa: N802
        self.runs[given["runName"]].used.append(self.artifacts[given["artifactID"]].name)
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}


def _operation(request: dict[str, Any]) -> str:
    """Some clients name an operation only in the query."""
    return request.get("operationName") or re.split(r"[^A-Za-z]+", request["query"].strip())[1]


def _given(request: dict[str, Any]) -> dict[str, Any]:
    variables = request.get("variables") or {}
    return variables.get("input", variables)


def _edges(*nodes: Any) -> dict[str, list]:
    return {"edges": [{"node": node} for node in nodes]}


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """The server answers while the context lasts."""
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
