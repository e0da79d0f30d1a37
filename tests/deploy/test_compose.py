"""The compose file fits its schema, and its parts fit together."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

import jsonschema
import pytest
from manifests import DEPLOY, ROOT, documents, instructions, parse_serve, seconds_to_stop

COMPOSE = DEPLOY / "compose" / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    (document,) = documents(COMPOSE)
    return dict(document["services"])


def test_it_fits_the_schema_of_compose_files() -> None:
    """check-jsonschema brings the schema of compose-spec/compose-spec."""
    package = importlib.resources.files("check_jsonschema.builtin_schemas.vendor")
    schema = json.loads((package / "compose-spec.json").read_text(encoding="utf-8"))
    (document,) = documents(COMPOSE)
    jsonschema.validate(document, schema)
    document["services"]["longserve"]["readonly"] = True
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_nothing_listens_but_on_the_loopback(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", ["longserve", "prometheus", "grafana"])
def test_each_service_is_confined(services: dict[str, dict[str, Any]], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert "privileged" not in service


def test_mounted_files_are_there_and_read_only(services: dict[str, dict[str, Any]]) -> None:
    named = set(documents(COMPOSE)[0]["volumes"])
    mounted = []
    for service in services.values():
        for volume in service["volumes"]:
            if isinstance(volume, dict):
                assert volume["read_only"]
                mounted.append(volume["source"].split(":-")[1].rstrip("}"))
            elif volume.split(":")[0] not in named:
                source, _, mode = volume.split(":")
                assert mode == "ro"
                mounted.append(source)
    assert len(mounted) == 5
    for source in mounted:
        assert (COMPOSE.parent / source).exists(), source


def test_the_server_is_built_and_stopped_as_the_dockerfile_says(services: dict[str, dict[str, Any]]) -> None:
    service = services["longserve"]
    build = service["build"]
    context = (COMPOSE.parent / build["context"]).resolve()
    assert context == ROOT and (context / build["dockerfile"]).is_file()
    found = instructions()
    command = [*json.loads(found["ENTRYPOINT"][-1]), *json.loads(found["CMD"][-1])]
    serve = parse_serve(command[2:])
    assert service["user"] == found["USER"][-1]
    assert float(service["stop_grace_period"].rstrip("s")) > seconds_to_stop(serve)
    assert f"127.0.0.1:{serve['http_port']}:{serve['http_port']}" in service["ports"]
    (mount,) = service["volumes"]
    assert mount["target"] == str(serve["repository"])


def test_prometheus_scrapes_the_server_and_reads_the_rules(services: dict[str, dict[str, Any]]) -> None:
    (config,) = documents(DEPLOY / "prometheus" / "prometheus.yml")
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["longserve:8002"]}]
    assert job["job_name"] == "longserve", "the alerts select it"
    (rules,) = config["rule_files"]
    targets = [volume.split(":")[1] for volume in services["prometheus"]["volumes"] if "rules" in volume]
    assert targets[0].startswith(rules.split("*")[0])


def test_grafana_finds_data_source_and_dashboard(services: dict[str, dict[str, Any]]) -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (sources,) = documents(provisioning / "datasources" / "prometheus.yml")
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
    (providers,) = documents(provisioning / "dashboards" / "longserve.yml")
    folder = providers["providers"][0]["options"]["path"]
    (target,) = [v.split(":")[1] for v in services["grafana"]["volumes"] if "longserve.json" in v]
    assert target.rpartition("/")[0] == folder
    environment = services["grafana"]["environment"]
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == target
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
