"""The address that a server listens on, what it closes, and the paths that its gateway knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from longserve.serving import ServerError
from longserve.serving.server import TritonServer
from longserve.serving.server.access import (
    ADMINISTRATION,
    AccessPolicy,
    Api,
    check_host,
    closed_apis,
    is_loopback,
    read_admin_key,
    resolve_host,
)
from longserve.serving.server.gateway import GatewayLimits
from longserve.serving.server.routes import find_route, methods_of

KEY = "0123456789abcdef-_.~"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("no-such-host.invalid", False),
        ("", False),
    ],
)
def test_only_the_loopback_needs_no_flag(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    check_host(host, public=True)
    if loopback:
        check_host(host, public=False)
    else:
        with pytest.raises(ServerError, match="--public"):
            check_host(host, public=False)
        with pytest.raises(ServerError, match="--public"):
            TritonServer("anywhere", host=host)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.8.9.10", "127.8.9.10"),
        ("::1", "::1"),
        ("::", "::"),
        ("0.0.0.0", "0.0.0.0"),
        ("localhost", "127.0.0.1"),
    ],
)
def test_an_address_is_itself_and_a_name_its_address(host: str, address: str) -> None:
    assert resolve_host(host) == address


@pytest.mark.parametrize("host", ["no-such-host.invalid", "", "a" * 70, "fe80::1%lo"])
def test_what_is_no_address_that_triton_takes_is_refused_at_once(host: str) -> None:
    with pytest.raises(ServerError, match="give another --host"):
        TritonServer("anywhere", host=host, public=True)


def test_administration_is_closed_and_to_other_machines_the_configuration_too() -> None:
    assert {Api.MODEL_REPOSITORY, Api.SHARED_MEMORY, Api.TRACE, Api.LOGGING} == ADMINISTRATION
    assert closed_apis(public=False) == ADMINISTRATION
    assert closed_apis(public=True) == ADMINISTRATION | {Api.MODEL_CONFIG}


def test_the_key_opens_what_is_closed() -> None:
    policy = AccessPolicy(key=KEY)
    assert policy.admits(Api.INFERENCE, {})
    assert not policy.admits(Api.LOGGING, {})
    assert not policy.admits(Api.LOGGING, {"admin-key": KEY[:-1]})
    assert not policy.admits(Api.LOGGING, {"admin-key": "\udcff"})
    assert policy.admits(Api.LOGGING, {"admin-key": KEY})
    assert AccessPolicy(closed=frozenset()).admits(Api.LOGGING, {})


def test_the_default_key_is_random_and_shown_nowhere() -> None:
    first, second = AccessPolicy(), AccessPolicy()
    assert first.key != second.key and len(first.key) >= 40
    assert first.key not in repr(first)


@pytest.mark.parametrize(
    "key", ["", "short", "with a space 1234567", "with=equals=12345678", "ümlaut-ümlaut-ümlaut"]
)
def test_a_key_that_cannot_be_sent_or_guards_nothing_is_refused(key: str) -> None:
    with pytest.raises(ServerError, match="admin key") as refused:
        AccessPolicy(key=key)
    assert not key or key not in str(refused.value)


def test_the_key_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"  {KEY}  \nrest\n")
    assert read_admin_key(tmp_path / "key") == KEY
    (tmp_path / "empty").touch()
    assert read_admin_key(tmp_path / "empty") == ""
    with pytest.raises(ServerError, match="cannot be read"):
        read_admin_key(tmp_path / "missing")


@pytest.mark.parametrize(
    ("method", "path", "api"),
    [
        ("GET", "/v2", Api.METADATA),
        ("GET", "/v2/", Api.METADATA),
        ("GET", "/v2/health/live", Api.HEALTH),
        ("GET", "/v2/health/ready", Api.HEALTH),
        ("GET", "/v2/models/a", Api.METADATA),
        ("GET", "/v2/models/a-b.c_d/versions/1", Api.METADATA),
        ("GET", "/v2/models/a/ready", Api.HEALTH),
        ("GET", "/v2/models/a/versions/1/ready", Api.HEALTH),
        ("GET", "/v2/models/a/stats", Api.STATISTICS),
        ("GET", "/v2/models/stats", Api.STATISTICS),
        ("GET", "/v2/models/a/config", Api.MODEL_CONFIG),
        ("POST", "/v2/models/a/infer", Api.INFERENCE),
        ("POST", "/v2/models/a/versions/12/infer", Api.INFERENCE),
        ("POST", "/v2/repository/index", Api.MODEL_REPOSITORY),
        ("POST", "/v2/repository/models/a/load", Api.MODEL_REPOSITORY),
        ("POST", "/v2/logging", Api.LOGGING),
        ("GET", "/v2/trace/setting", Api.TRACE),
        ("POST", "/v2/models/a/trace/setting", Api.TRACE),
        ("GET", "/v2/systemsharedmemory/status", Api.SHARED_MEMORY),
        ("POST", "/v2/systemsharedmemory/region/x/register", Api.SHARED_MEMORY),
        ("POST", "/v2/cudasharedmemory/unregister", Api.SHARED_MEMORY),
    ],
)
def test_every_path_belongs_to_a_part_of_the_protocol(method: str, path: str, api: Api) -> None:
    route = find_route(method, path)
    assert route is not None and route.api is api
    assert method in methods_of(path)
    assert find_route("DELETE", path) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v2/models",
        "/v2/models/a/generate",
        "/v2/models/a/generate_stream",
        "/v2/models/a/versions/x/infer",
        "/v2/models/a/versions/9999999999999999999/infer",
        "/v2/models/a/b/infer",
        "/v2/models/../infer/x",
        "/v2/health/ready/more",
        "http://elsewhere/v2",
        "/v2\n",
    ],
)
def test_nothing_else_is_passed_on(path: str) -> None:
    assert find_route("GET", path) is None and find_route("POST", path) is None
    assert methods_of(path) == ()


@pytest.mark.parametrize("name", ["max_request_bytes", "body_timeout", "idle_timeout"])
def test_a_limit_that_lets_nothing_in_is_refused(name: str) -> None:
    with pytest.raises(ServerError, match=name):
        GatewayLimits(**{name: 0})
