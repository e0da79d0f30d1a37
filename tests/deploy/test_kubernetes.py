"""The manifests are what Kubernetes takes, and say what the server does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from manifests import DEPLOY, adapter_rules, documents, parse_ready, parse_serve, seconds_to_stop
from promql import selectors

from longserve.serving.server import Ports
from longserve.serving.server.questions import SECONDS_PER_QUESTION

KUBERNETES = DEPLOY / "kubernetes"
KSERVE = DEPLOY / "kserve" / "inference-service.yaml"
FILES = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
YAML = sorted(path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".yml"))
VERSIONS = ("1.33", "1.37")
"""The oldest that takes everything as it stands, and the newest whose schema there is."""
OUR_MODELS = 2
OWN_FIELDS = {"minReplicas": int, "timeout": int}
"""Of KServe's own fields of a predictor (config/crd/full/serving.kserve.io_inferenceservices.yaml in
kserve/kserve, August 2026: v1beta1, minReplicas int32, timeout int64), those that are used. The others are a
pod's."""


def the(kind: str) -> dict[str, Any]:
    """The first manifest of a kind."""
    return next(d for path in FILES for d in documents(path) if d["kind"] == kind)


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    spec: dict[str, Any] = the("Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return dict(container)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_manifest_fits_its_schema(path: Path, version: str) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_what_is_wrong(container: dict[str, Any]) -> None:
    for spoil in ({"readnessProbe": {}}, {"ports": [{"containerPort": "8000"}]}):
        document = the("Deployment")
        document["spec"]["template"]["spec"]["containers"] = [{**container, **spoil}]
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_the_kustomization_applies_what_is_there() -> None:
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    others = {"prometheus-adapter.yaml"}  # it belongs to the adapter's namespace
    assert set(kustomization["resources"]) == {path.name for path in FILES} - others
    (image,) = kustomization["images"]
    assert image["name"] == the("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]


def test_the_server_gets_options_that_it_has(container: dict[str, Any]) -> None:
    serve = parse_serve(container["args"])
    assert (serve["host"], serve["public"], serve["log_format"]) == ("0.0.0.0", True, "json")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == dict(Ports().items())
    assert {name: serve[f"{name}_port"] for name in ports} == ports


def test_the_pod_outlives_the_drain(pod: dict[str, Any], container: dict[str, Any]) -> None:
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = before + seconds_to_stop(parse_serve(container["args"]))
    assert needed < pod["terminationGracePeriodSeconds"] <= needed + 10


def test_the_probes_ask_and_have_time_for_the_answer(container: dict[str, Any]) -> None:
    startup, readiness, liveness = (
        container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")
    )
    ready = parse_ready(startup["exec"]["command"])
    assert (ready["url"], ready["models"], ready["allow_busy"]) == ("grpc://127.0.0.1:8001", (), False)
    assert startup["timeoutSeconds"] > OUR_MODELS * ready["timeout"]
    assert readiness["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert readiness["timeoutSeconds"] > OUR_MODELS * SECONDS_PER_QUESTION
    serve = parse_serve(container["args"])
    assert startup["periodSeconds"] * startup["failureThreshold"] >= serve["ready_timeout"]
    assert liveness["httpGet"] == {"path": "/v2/health/live", "port": "http"}
    # Triton is started anew meanwhile, which must not end the pod
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 120


def test_nothing_runs_with_more_rights_than_it_needs(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    limits = container["resources"]["limits"]
    assert limits == container["resources"]["requests"] and set(limits) == {"cpu", "memory"}


def test_what_is_written_has_a_place(pod: dict[str, Any], container: dict[str, Any]) -> None:
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {"/models", "/tmp", "/dev/shm"}
    assert mounts["/models"]["readOnly"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    claim = volumes["models"]["persistentVolumeClaim"]
    assert claim["claimName"] == the("PersistentVolumeClaim")["metadata"]["name"]
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert all("sizeLimit" in volumes[name]["emptyDir"] for name in ("tmp", "shm"))


def test_everything_selects_the_same_pods(pod: dict[str, Any]) -> None:
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert the("Deployment")["spec"]["selector"]["matchLabels"] == labels
    for path in FILES:
        for document in documents(path):
            spec = document.get("spec", {})
            if document["kind"] == "Service":
                assert spec["selector"] == labels
                names = {port["name"] for port in pod["containers"][0]["ports"]}
                assert {port["targetPort"] for port in spec["ports"]} <= names
            if document["kind"] == "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"] == labels
            if document["kind"] == "NetworkPolicy":
                assert spec["podSelector"]["matchLabels"] == labels


def test_the_autoscaler_follows_the_queues() -> None:
    scaler = the("HorizontalPodAutoscaler")["spec"]
    deployment = the("Deployment")
    assert scaler["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "it would undo what the autoscaler did"
    names = [metric["pods"]["metric"]["name"] for metric in scaler["metrics"]]
    rules = {rule["name"]["as"]: rule for rule in adapter_rules()}
    assert set(names) == set(rules)
    for rule in rules.values():
        (series,) = selectors(rule["seriesQuery"])
        assert {label for label, _, _ in series.matchers} == {"namespace", "pod"}
        query = rule["metricsQuery"].replace("<<.Series>>", series.name)
        query = query.replace("<<.LabelMatchers>>", 'pod="a"').replace("<<.GroupBy>>", "pod")
        assert [found.name for found in selectors(query)] == [series.name]


def test_prometheus_finds_the_pods_with_the_labels_that_the_adapter_needs(container: dict[str, Any]) -> None:
    (scrape,) = documents(DEPLOY / "prometheus" / "kubernetes-scrape.yml")
    (job,) = scrape["scrape_configs"]
    kept = {r["source_labels"][0]: r["regex"] for r in job["relabel_configs"] if r.get("action") == "keep"}
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert kept["__meta_kubernetes_pod_label_app_kubernetes_io_name"] == labels["app.kubernetes.io/name"]
    assert kept["__meta_kubernetes_pod_container_port_name"] in {p["name"] for p in container["ports"]}
    targets = {r["target_label"] for r in job["relabel_configs"] if "target_label" in r}
    assert targets == {"namespace", "pod"}


class TestKServe:
    """The InferenceService is the same pod."""

    SERVICE = documents(KSERVE)[0]
    PREDICTOR: dict[str, Any] = SERVICE["spec"]["predictor"]

    def test_it_is_one(self) -> None:
        assert len(documents(KSERVE)) == 1
        assert (self.SERVICE["apiVersion"], self.SERVICE["kind"]) == (
            "serving.kserve.io/v1beta1",
            "InferenceService",
        )
        assert set(self.SERVICE["spec"]) == {"predictor"}

    @pytest.mark.parametrize("version", VERSIONS)
    def test_its_pod_fits_the_schema(self, version: str) -> None:
        own = {name: value for name, value in self.PREDICTOR.items() if name in OWN_FIELDS}
        assert all(type(value) is OWN_FIELDS[name] for name, value in own.items())
        spec = {name: value for name, value in self.PREDICTOR.items() if name not in own}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)

    def test_it_runs_what_the_deployment_runs(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        (mine,) = self.PREDICTOR["containers"]
        assert mine["name"] == "kserve-container"
        for name in ("args", "resources", "startupProbe", "lifecycle", "securityContext"):
            assert mine[name] == container[name]
        for name in ("readinessProbe", "livenessProbe"):
            port = {**container[name]["httpGet"], "port": Ports().http}
            assert mine[name] == {**container[name], "httpGet": port}
        assert sorted(mine["volumeMounts"], key=str) == sorted(container["volumeMounts"], key=str)
        for name in ("volumes", "securityContext", "terminationGracePeriodSeconds"):
            assert self.PREDICTOR[name] == pod[name]

    def test_it_has_the_image_of_the_kustomization(self) -> None:
        (image,) = documents(KUBERNETES / "kustomization.yaml")[0]["images"]
        assert self.PREDICTOR["containers"][0]["image"] == f"{image['newName']}:{image['newTag']}"


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_there_are_no_secrets_and_no_moving_images(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    text = text.replace("automountserviceaccounttoken: false", "")
    for word in ("password", "secretkeyref", "token:", "api_key", "kind: secret", ":latest"):
        assert word not in text
