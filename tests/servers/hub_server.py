"""A Hugging Face Hub for tests: repositories, branches, commits, gated access and large files on another host.

As a process of its own: ``python -m tests.servers.hub_server PORT``. Its client needs ``HF_ENDPOINT`` (what it prints),
``HF_TOKEN`` (`WRITE_TOKEN`) and ``HF_HUB_DISABLE_XET=1`` in its environment.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from werkzeug.wrappers import Request, Response

from tests.servers.faults import Faults, cut, damage, start, stop

WRITE_TOKEN, READ_TOKEN = "token-that-may-write", "token-that-may-read"
PART_SIZE = 5 * 2**20  # bytes; larger files are uploaded in parts of this size
PAGE_SIZE = 100  # entries of a tree listing per page
_LARGE = re.compile(r".*\.(safetensors|bin|parquet|arrow|pt)")

Tree = dict[str, bytes]


@dataclass
class Repository:
    private: bool
    gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    made_by: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)

    def commit(self, branch: str, tree: Tree, title: str) -> str:
        sha = hashlib.sha1(f"{branch} {len(self.commits)} {title}".encode()).hexdigest()
        parent = self.branches.get(branch, "")
        before = self.commits.get(parent, {})
        mine = {"id": sha, "title": title, "date": "2026-01-01T00:00:00.000Z"}
        changed = {path: mine for path, data in tree.items() if before.get(path) != data}
        self.commits[sha], self.branches[branch] = tree, sha
        self.made_by[sha] = self.made_by.get(parent, {}) | changed
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound")
        return sha


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message or code)
        self.status, self.code = status, code


class HubServer(AbstractContextManager["HubServer"]):
    """``with HubServer() as server: server.add("org/name", {"config.json": b"{}"})``; the endpoint is ``server.url``.

    *large* holds the large files by SHA-256, served from another host and port. *leaked* lists tokens that arrived
    there. ``server.faults.plan(...)`` makes requests fail.
    """

    def __init__(self, port: int = 0) -> None:
        self.faults = Faults()
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.leaked: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self._parts: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()
        self._hub = start(_wsgi(self._on_hub, self.faults), port)
        self._storage = start(_wsgi(self._on_storage, self.faults))
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.storage_url = f"http://localhost:{self._storage.server_port}"

    def __exit__(self, *_: object) -> None:
        stop(self._hub)
        stop(self._storage)

    def reset(self) -> None:
        """Forget everything."""
        for held in (self.faults, self.repositories, self.large, self.leaked, self.requests):
            held.clear()

    def add(self, name: str, files: Tree, *, private: bool = False, gated: bool = False) -> str:
        """Make a repository (``org/name`` or ``datasets/org/name``) of one commit; returns its id."""
        self.repositories[name] = Repository(private, gated)
        return self.repositories[name].commit("main", dict(files), "initial commit")

    def files(self, name: str, revision: str = "main") -> Tree:
        repository = self.repositories[name]
        return repository.commits[repository.resolve(revision)]

    def _on_hub(self, request: Request) -> Response | Iterable[bytes]:
        path = request.environ["RAW_URI"].partition("?")[0]
        self.requests.append((request.method, unquote(path)))
        if fault := self.faults.take(request.method, unquote(path)):
            match fault.kind:
                case "status":
                    raise Refused(fault.status, message=fault.code)
                case "slow" if self.faults.held(fault.seconds):
                    return cut(request.environ)
                case "reset":
                    return cut(request.environ)
        answer = self._answer(request, path, damaged=fault is not None and fault.kind == "damaged")
        if fault and fault.kind == "lost":
            return cut(request.environ)
        if fault and fault.kind == "truncated":
            length, answer.response = answer.content_length, [answer.get_data()[: (answer.content_length or 0) // 2]]
            answer.content_length = length
        return answer

    def _answer(self, request: Request, path: str, *, damaged: bool) -> Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", WRITE_TOKEN, READ_TOKEN):
            raise Refused(401, message="Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return _json({"name": "tester", "type": "user", "orgs": []})
        if path == "/api/repos/create":
            return self._create_repository(request, token)
        if form := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?", path):
            name = ("datasets/" if form[1] == "datasets" else "") + form[2]
            repository = self._visible(name, token)
            writes = form[3] in ("preupload", "commit", "branch")
            if writes and token != WRITE_TOKEN:
                raise Refused(403, message="You don't have the right to write here")
            revision, *below = [unquote(part) for part in (form[4] or "main").split("/")]
            with self._lock:
                return self._api(request, name, repository, form[3] or "revision", revision, "/".join(below), damaged)
        if form := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._visible(form[1], token)
            return _json(
                {"transfer": "basic", "objects": [self._offer(item) for item in request.get_json()["objects"]]}
            )
        if form := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(request, self._visible(form[1], token), token, unquote(form[2]), unquote(form[3]))
        if form := re.fullmatch(r"/storage/(verify|complete)/(\w+)", path):
            return self._finish(form[1], form[2])
        raise Refused(404)

    def _visible(self, name: str, token: str) -> Repository:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not token):
            raise Refused(404, "RepoNotFound") if token else Refused(401, message="Invalid username or password.")
        return repository

    def _create_repository(self, request: Request, token: str) -> Response:
        if not token:
            raise Refused(401, message="Invalid username or password.")
        if token != WRITE_TOKEN:
            raise Refused(403, message="You don't have the rights to create a model under this namespace")
        wanted = request.get_json()
        prefix = "datasets/" if wanted.get("type") == "dataset" else ""
        name = f"{prefix}{wanted['organization']}/{wanted['name']}"
        if name in self.repositories:
            raise Refused(409, message="You already created this repo")
        self.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=wanted.get("visibility") == "private")
        return _json({"url": f"{self.url}/{name}"})

    def _api(
        self, request: Request, name: str, repository: Repository, verb: str, revision: str, below: str, damaged: bool
    ) -> Response:
        match request.method, verb:
            case "GET", "revision":
                sha = repository.resolve(revision)
                return _json({"id": name.removeprefix("datasets/"), "sha": sha, "private": repository.private})
            case "GET", "refs":
                branches = [
                    {"name": b, "ref": f"refs/heads/{b}", "targetCommit": c} for b, c in repository.branches.items()
                ]
                return _json({"branches": branches, "converts": [], "tags": []})
            case "GET", "tree":
                return self._tree(request, repository.commits[repository.resolve(revision)], below)
            case "POST", "paths-info":
                sha = repository.resolve(revision)
                tree, made_by = repository.commits[sha], repository.made_by[sha]
                found = [path for path in request.form.getlist("paths") if _exists(tree, path)]
                return _json([_entry(tree, path) | {"lastCommit": made_by.get(path)} for path in found])
            case "POST", "preupload":
                tree = repository.commits[repository.resolve(revision)]
                return _json({"files": [_mode(tree, file) for file in request.get_json()["files"]]})
            case "POST", "commit":
                return self._commit(request, name, repository, revision, damaged=damaged)
            case "POST", "branch" if revision not in repository.branches:
                repository.branches[revision] = repository.branches["main"]
                return _json({})
            case "POST", "branch":
                raise Refused(409, message="Reference already exists")
            case "DELETE", "branch":
                repository.resolve(revision)
                del repository.branches[revision]
                return _json({})
        raise Refused(404)

    def _tree(self, request: Request, tree: Tree, below: str) -> Response:
        if below and not _exists(tree, below):
            raise Refused(404, "EntryNotFound")
        paths = sorted(path for path in tree if path.startswith(f"{below}/" if below else ""))
        begin = int(request.args.get("cursor", 0))
        answer = _json([_entry(tree, path) for path in paths[begin : begin + PAGE_SIZE]])
        if begin + PAGE_SIZE < len(paths):
            answer.headers["Link"] = f'<{request.base_url}?recursive=True&cursor={begin + PAGE_SIZE}>; rel="next"'
        return answer

    def _commit(self, request: Request, name: str, repository: Repository, branch: str, *, damaged: bool) -> Response:
        lines = [json.loads(line) for line in request.get_data().splitlines()]
        header = lines[0]["value"]
        head = repository.resolve(branch)
        if header.get("parentCommit") not in (None, head):
            raise Refused(412, message="A commit has happened since. Please refresh and try again.")
        tree = dict(repository.commits[head])
        for line in lines[1:]:
            value = line["value"]
            match line["key"]:
                case "file":
                    tree[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile" if value["oid"] in self.large:
                    tree[value["path"]] = self.large[value["oid"]]
                case "deletedFile" if value["path"] in tree:
                    del tree[value["path"]]
                case "deletedFolder" if _exists(tree, value["path"].rstrip("/")):
                    folder = value["path"].rstrip("/") + "/"
                    tree = {path: data for path, data in tree.items() if not path.startswith(folder)}
                case "deletedFile" | "deletedFolder":
                    raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
                case _:
                    raise Refused(400, message=f"cannot commit {value['path']}")
        if damaged:
            tree[lines[1]["value"]["path"]] = damage(tree[lines[1]["value"]["path"]])
        sha = repository.commit(branch, tree, header["summary"])
        return _json({"commitOid": sha, "commitUrl": f"{self.url}/{name}/commit/{sha}"})

    def _offer(self, item: dict[str, Any]) -> dict[str, Any]:
        """Where to upload a large file, or nothing if it is here already."""
        oid, size = item["oid"], item["size"]
        if oid in self.large:
            return {"oid": oid, "size": size}
        upload: dict[str, Any] = {"href": f"{self.storage_url}/{oid}?X-Amz-Signature=secret"}
        if size > PART_SIZE:
            parts = range(1, -(-size // PART_SIZE) + 1)
            header = {f"{n:05}": f"{self.storage_url}/{oid}?part={n}&X-Amz-Signature=secret" for n in parts}
            upload = {"href": f"{self.url}/storage/complete/{oid}", "header": {"chunk_size": str(PART_SIZE), **header}}
        return {
            "oid": oid,
            "size": size,
            "actions": {"upload": upload, "verify": {"href": f"{self.url}/storage/verify/{oid}"}},
        }

    def _finish(self, verb: str, oid: str) -> Response:
        if verb == "complete":
            parts = self._parts.pop(oid)
            self._keep(oid, b"".join(parts[n] for n in sorted(parts)))
        if oid not in self.large:
            raise Refused(404)
        return _json({})

    def _keep(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, message="SHA-256 mismatch")
        self.large[oid] = data

    def _resolve(self, request: Request, repository: Repository, token: str, revision: str, path: str) -> Response:
        if repository.gated:
            raise Refused(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        sha = repository.resolve(revision)
        tree = repository.commits[sha]
        if path not in tree:
            raise Refused(404, "EntryNotFound")
        entry, data = _entry(tree, path), tree[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry["oid"]}"'}
        if "lfs" not in entry:
            return _ranged(request, data, headers)
        oid = entry["lfs"]["oid"]
        self.large[oid] = data
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        return Response(status=302, headers={**headers, "Location": f"{self.storage_url}/{oid}?X-Amz-Signature=secret"})

    def _on_storage(self, request: Request) -> Response | Iterable[bytes]:
        self.requests.append((request.method, f"storage{request.path}"))
        if "Authorization" in request.headers:
            self.leaked.append(request.headers["Authorization"])
        fault = self.faults.take(request.method, f"storage{request.path}")
        oid, data = request.path.strip("/"), request.get_data()
        if fault and fault.kind == "status":
            raise Refused(fault.status)
        forgotten = fault is not None and fault.kind == "slow" and self.faults.held(fault.seconds)
        if forgotten or (fault and fault.kind == "reset"):
            return cut(request.environ)
        if request.method == "PUT":
            if "part" in request.args:
                self._parts.setdefault(oid, {})[int(request.args["part"])] = data
            else:
                self._keep(oid, data)
            return Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})
        answer = _ranged(request, self.large[oid], {})
        if fault and fault.kind == "truncated":
            length = answer.content_length
            answer.response, answer.content_length = [answer.get_data()[: (length or 0) // 2]], length
        return answer


def _wsgi(handle: Callable[[Request], Response | Iterable[bytes]], faults: Faults) -> Callable[..., Iterable[bytes]]:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        faults.receive(environ)
        try:
            answer = handle(Request(environ))
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
            answer = Response(
                json.dumps({"error": str(refused)}), refused.status, {k: v for k, v in headers.items() if v}
            )
        if not isinstance(answer, Response):
            return answer
        return (piece for part in answer(environ, start_response) for piece in faults.send(part))

    return app


def _json(value: Any) -> Response:
    return Response(json.dumps(value), mimetype="application/json")


def _ranged(request: Request, data: bytes, headers: dict[str, str]) -> Response:
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not wanted:
        return Response(data, headers=headers)
    begin, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
    if begin >= len(data):
        return Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
    return Response(data[begin : end + 1], 206, {**headers, "Content-Range": f"bytes {begin}-{end}/{len(data)}"})


def _exists(tree: Tree, path: str) -> bool:
    return path in tree or any(name.startswith(f"{path}/") for name in tree)


def _entry(tree: Tree, path: str) -> dict[str, Any]:
    if path not in tree:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    data = tree[path]
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_blob(data)}
    if data and _LARGE.fullmatch(path):
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(data).hexdigest()}\n".encode()
        )
        entry["oid"] = _git_blob(pointer)
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": len(pointer)}
    return entry


def _mode(tree: Tree, file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if _LARGE.fullmatch(file["path"]) else "regular"
    answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
    if file["path"] in tree:
        entry = _entry(tree, file["path"])
        answer["oid"] = entry.get("lfs", entry)["oid"]
    return answer


def _git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def main(port: int) -> None:
    with HubServer(port) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
