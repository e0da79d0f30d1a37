"""A stand-in for a cluster's API, as much of it as `kubectl apply`, `rollout` and `get --raw` speak.

It keeps what is applied, and calls every Deployment rolled out, as its second revision. It checks no schema:
`tests/deploy` does.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Cluster", "running_cluster"]

_KINDS = {
    ("v1", "configmaps"): "ConfigMap",
    ("v1", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("v1", "services"): "Service",
    ("apps/v1", "deployments"): "Deployment",
    ("apps/v1", "replicasets"): "ReplicaSet",
    ("autoscaling/v2", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
    ("policy/v1", "poddisruptionbudgets"): "PodDisruptionBudget",
    ("networking.k8s.io/v1", "networkpolicies"): "NetworkPolicy",
    ("serving.kserve.io/v1beta1", "inferenceservices"): "InferenceService",
}
_VERBS = ["create", "get", "list", "patch", "watch"]
_REVISION = "deployment.kubernetes.io/revision"


class Cluster(ThreadingHTTPServer):
    """The stand-in; `objects` are those applied, by plural and name, `raw` the paths asked for besides."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.raw: list[str] = []
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, plural: str, given: dict[str, Any]) -> dict[str, Any]:
        """Store an object as a cluster would, a Deployment with the ReplicaSets of two revisions."""
        name = given["metadata"]["name"]
        given["metadata"] |= {"uid": f"{plural}-{name}", "resourceVersion": "1", "generation": 1}
        self.objects[plural, name] = given
        if plural == "deployments":
            replicas = given["spec"].get("replicas", 1)
            counts = dict.fromkeys(
                ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas
            )
            given["status"] = {"observedGeneration": 1, **counts}
            given["metadata"].setdefault("annotations", {})[_REVISION] = "2"
            for revision in ("1", "2"):
                self.objects["replicasets", f"{name}-{revision}"] = _replica_set(given, revision)
        return given


def _replica_set(deployment: dict[str, Any], revision: str) -> dict[str, Any]:
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
        "uid": deployment["metadata"]["uid"],
        "controller": True,
    }
    template = copy.deepcopy(deployment["spec"]["template"])
    template["metadata"].setdefault("labels", {})["pod-template-hash"] = revision
    template["metadata"].setdefault("annotations", {})["release"] = revision
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{owner['name']}-{revision}",
            "namespace": deployment["metadata"].get("namespace", "default"),
            "uid": revision,
            "labels": template["metadata"]["labels"],
            "annotations": {_REVISION: revision},
            "ownerReferences": [owner],
        },
        "spec": {"replicas": 1, "selector": deployment["spec"]["selector"], "template": template},
    }


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """The stand-in on a free port."""
    with Cluster() as cluster:
        thread = threading.Thread(target=cluster.serve_forever, daemon=True)
        thread.start()
        try:
            yield cluster
        finally:
            cluster.stopped.set()
            cluster.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        found = self._discovered(address.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if "watch" in query:  # nothing ever changes
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.server.stopped.wait()
            return
        self._answer(*(found or self._found(address.path, query)))

    def do_POST(self) -> None:
        version, plural, _ = _place(urlsplit(self.path).path)
        given = self._given()
        if (given["apiVersion"], given["kind"]) != (version, _KINDS.get((version, plural))):
            self._answer(400, _status(400, f"{given['kind']} at {self.path}"))
            return
        self._answer(201, self.server.add(plural, given))

    def do_PATCH(self) -> None:
        _, plural, name = _place(urlsplit(self.path).path)
        stored = self.server.objects[plural, name]
        given = self._given()
        if self.headers["Content-Type"] == "application/json-patch+json":
            _replace(stored, given)
        else:
            _merge(stored, given)
        self._answer(200, stored)

    def _given(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _discovered(self, path: str) -> tuple[int, dict[str, Any]] | None:
        versions = dict.fromkeys(version for version, _ in _KINDS)
        if path == "/version":
            return 200, {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            groups = [_group(version) for version in versions if "/" in version]
            return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version not in versions:
            return None
        resources = [
            {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": _VERBS}
            for (where, plural), kind in _KINDS.items()
            if where == version
        ]
        return 200, {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

    def _found(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        version, plural, name = _place(path)
        if (version, plural) not in _KINDS:
            self.server.raw.append(self.path)
            return 200, {}
        if name:
            stored = self.server.objects.get((plural, name))
            return (200, stored) if stored else (404, _status(404, f"{plural} {name} is not there"))
        wanted = query.get("fieldSelector", "").removeprefix("metadata.name=")
        items = [item for (kind, name), item in self.server.objects.items() if kind == plural]
        items = [item for item in items if wanted in ("", item["metadata"]["name"])]
        kind = f"{_KINDS[version, plural]}List"
        return 200, {
            "kind": kind,
            "apiVersion": version,
            "metadata": {"resourceVersion": "1"},
            "items": items,
        }


def _replace(stored: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    """Apply a JSON patch that replaces."""
    for step in steps:
        *way, last = step["path"].strip("/").split("/")
        place = stored
        for key in way:
            place = place[key]
        assert step["op"] == "replace" and last in place
        place[last] = step["value"]


def _merge(stored: dict[str, Any], given: dict[str, Any]) -> None:
    """Apply a merge patch."""
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(stored.get(key), dict):
            _merge(stored[key], value)
        else:
            stored[key] = value


def _place(path: str) -> tuple[str, str, str]:
    """Version, plural and name ("" for the list) that a path of the API speaks of."""
    head, _, tail = path.partition("/namespaces/")
    _, plural, name, *_ = (*tail.split("/"), "", "")
    return head.removeprefix("/apis/").removeprefix("/api/"), plural, name


def _group(version: str) -> dict[str, Any]:
    one = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [one], "preferredVersion": one}


def _status(code: int, message: str) -> dict[str, Any]:
    reason = {400: "BadRequest", 404: "NotFound"}[code]
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
