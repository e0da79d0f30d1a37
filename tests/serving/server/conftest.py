"""Callers of the session's Triton over both protocols."""

from __future__ import annotations

import pytest
from kserve import Caller, GrpcCaller, HttpCaller
from triton_fixture import RunningServer


@pytest.fixture(scope="session")
def http(triton_server: RunningServer) -> HttpCaller:
    return HttpCaller(triton_server.urls)


@pytest.fixture(scope="session")
def grpc(triton_server: RunningServer) -> GrpcCaller:
    return GrpcCaller(triton_server.urls)


@pytest.fixture(params=["http", "grpc"])
def caller(request: pytest.FixtureRequest) -> Caller:
    """Each protocol in turn."""
    caller: Caller = request.getfixturevalue(request.param)
    return caller
