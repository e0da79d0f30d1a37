from __future__ import annotations

import pytest

from longserve.serving.client.address import Address, parse_address
from longserve.serving.runtime.errors import InvalidInput


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("grpc://localhost:8001", Address(scheme="grpc", host="localhost", port=8001)),
        ("grpc://localhost", Address(scheme="grpc", host="localhost", port=8001)),
        ("http://localhost", Address(scheme="http", host="localhost", port=8000)),
        ("http://10.0.0.1:80/", Address(scheme="http", host="10.0.0.1", port=80)),
        ("http://gateway:80/triton/", Address(scheme="http", host="gateway", port=80, path="/triton")),
        ("GRPC://[::1]:9", Address(scheme="grpc", host="::1", port=9)),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    assert parse_address(url) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8001",
        "localhost",
        "",
        "ftp://localhost:8000",
        "grpcs://localhost/path",
        "grpc://",
        "grpc://:8001",
        "grpc://localhost:port",
        "grpc://localhost:0",
        "grpc://localhost:70000",
        "grpc://localhost:8001/path",
        "http://user:secret@localhost:8000",
        "http://localhost:8000?x=1",
        "http://[::1",
        None,
    ],
)
def test_other_urls_are_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(InvalidInput, match="give grpc://HOST:PORT or http://HOST:PORT"):
        parse_address(url)
