"""Ports are checked before Triton starts, and every taken one is named."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from longserve.serving import PortInUse, UnfitEnvironment
from longserve.serving.server import Ports
from longserve.serving.server.ports import InnerPorts


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """Two ports that something listens on."""
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(listener.getsockname()[1])
        yield ports


def test_zero_becomes_free_ports_that_differ() -> None:
    ports = Ports(http=0, grpc=0, metrics=0).resolve("127.0.0.1")
    numbers = [port for _, port in ports.items()]
    assert len(set(numbers)) == 3 and all(numbers)


def test_every_taken_port_is_named(taken: list[int]) -> None:
    with pytest.raises(PortInUse) as error:
        Ports(http=taken[0], grpc=0, metrics=taken[1]).resolve("127.0.0.1")
    assert f"port {taken[0]} (http)" in str(error.value)
    assert f"port {taken[1]} (metrics)" in str(error.value)
    assert "grpc)" not in str(error.value)


def test_a_port_that_was_just_closed_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0]:
            pass
    assert Ports(http=port, grpc=0, metrics=0).resolve("127.0.0.1").http == port


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(UnfitEnvironment, match=r"192\.0\.2\.1"):
        Ports(http=0, grpc=0, metrics=0).resolve("192.0.2.1")


def test_a_host_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnfitEnvironment, match=r"no-such-host\.invalid"):
        Ports(http=0, grpc=0, metrics=0).resolve("no-such-host.invalid")


@pytest.mark.parametrize(("http", "grpc"), [(8001, 8001), (-1, 1), (65536, 1)])
def test_impossible_ports_are_refused(http: int, grpc: int) -> None:
    with pytest.raises(PortInUse, match=str(http)):
        Ports(http=http, grpc=grpc)


def test_an_inner_port_is_nobody_elses_and_the_server_gets_every_connection() -> None:
    inner = InnerPorts()
    try:
        first, second = inner.http, inner.grpc
        assert first != second
        with pytest.raises(PortInUse, match=str(first)):
            Ports(http=first, grpc=0, metrics=0).resolve("127.0.0.1")
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(("127.0.0.1", first))
            server.listen(50)
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", first), timeout=5), server.accept()[0]:
                    pass
    finally:
        inner.close()
    assert Ports(http=second, grpc=0, metrics=0).resolve("127.0.0.1").http == second
