"""TLS and headers, with real TLS servers for all four transports."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from longserve.serving import (
    Client,
    InvalidInput,
    RequestError,
    RetryPolicy,
    ServerUnavailable,
    Tls,
)
from longserve.serving.client.calls import Outputs

OpenClient = Callable[..., Any]


@dataclass(frozen=True)
class Certificates:
    """An authority and what it issued: PEM files."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    files = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    return Certificates(*(folder / file for file in files))


@pytest.fixture(params=["https", "grpcs"])
def serve_tls(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    serve_connections: Callable[..., str],
    serve_grpc: Callable[..., str],
    read_request: Callable[..., Any],
    http_answer: Callable[[Outputs], bytes],
    grpc_answer: Callable[[Outputs], Any],
    classification_outputs: Outputs,
) -> Callable[[bool], str]:
    """Start a TLS server of each protocol, which may ask for a client's certificate; returns its URL."""

    def start_https(ask_certificate: bool) -> str:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
        context.load_cert_chain(certificates.server, certificates.server_key)
        context.verify_mode = ssl.CERT_REQUIRED if ask_certificate else ssl.CERT_NONE

        def handler(connection: socket.socket, index: int) -> None:
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                while read_request(secured) is not None:
                    secured.sendall(http_answer(classification_outputs))

        return serve_connections(handler).replace("http://", "https://")

    def start_grpcs(ask_certificate: bool) -> str:
        credentials = grpc.ssl_server_credentials(
            [(certificates.server_key.read_bytes(), certificates.server.read_bytes())],
            certificates.ca.read_bytes(),
            ask_certificate,
        )
        return serve_grpc(lambda call, context: grpc_answer(classification_outputs), credentials=credentials)

    return start_https if request.param == "https" else start_grpcs


def test_a_trusted_server(
    open_client: OpenClient, serve_tls: Callable[[bool], str], certificates: Certificates
) -> None:
    with open_client(serve_tls(False), tls=Tls(ca=certificates.ca), timeout=20) as client:
        assert client.classify("a").label == "weather"
        assert [result.label for result in client.classify(["a"] * 20)] == ["weather"] * 20


def test_an_unknown_authority(open_client: OpenClient, serve_tls: Callable[[bool], str]) -> None:
    with open_client(serve_tls(False), timeout=20) as client, pytest.raises(RequestError) as caught:
        client.classify("a")
    assert "ertificate" in str(caught.value) or "CERTIFICATE_VERIFY_FAILED" in str(caught.value)
    assert "request " in str(caught.value)


def test_a_server_that_asks_for_a_certificate(
    open_client: OpenClient, serve_tls: Callable[[bool], str], certificates: Certificates
) -> None:
    url = serve_tls(True)
    known = Tls(ca=certificates.ca, cert=certificates.client, key=certificates.client_key)
    with open_client(url, tls=known, timeout=20) as client:
        assert client.classify("a").label == "weather"
    with (
        open_client(url, tls=Tls(ca=certificates.ca), timeout=20) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.classify("a")


def test_plain_text_to_a_tls_port(
    open_client: OpenClient, serve_tls: Callable[[bool], str], certificates: Certificates
) -> None:
    url = serve_tls(False).replace("https://", "http://").replace("grpcs://", "grpc://")
    with open_client(url, timeout=20) as client, pytest.raises(ServerUnavailable, match="request "):
        client.classify("a")


def test_tls_files_are_checked_when_the_client_is_made(tmp_path: Path, certificates: Certificates) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no certificate")
    with pytest.raises(InvalidInput, match=r"TLS file ca='.*absent.pem' cannot be read: No such file"):
        Tls(ca=tmp_path / "absent.pem")
    with pytest.raises(InvalidInput, match="needs both cert and key"):
        Tls(cert=certificates.client)
    for bad in (
        Tls(ca=nothing),
        Tls(cert=nothing, key=nothing),
        Tls(cert=certificates.client, key=certificates.server_key),
    ):
        with pytest.raises(InvalidInput, match="TLS files cannot be used"):
            Client("https://localhost", tls=bad)
    with pytest.raises(InvalidInput, match=r"without TLS; use grpc[s]://"):
        Client("grpc://localhost", tls=Tls())


def test_headers_travel_with_every_request(
    open_client: OpenClient,
    serve_grpc: Callable[..., str],
    grpc_answer: Callable[[Outputs], Any],
    classification_outputs: Outputs,
) -> None:
    seen: list[dict[str, str]] = []

    def infer(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return grpc_answer(classification_outputs)

    headers = {"Authorization": "Bearer secret", "X-Team": "claims"}
    with open_client(serve_grpc(infer), headers=headers) as client:
        client.classify(["a", "b"])
        assert "secret" not in repr(client)
    assert len(seen) == 2
    assert all(one["authorization"] == "Bearer secret" and one["x-team"] == "claims" for one in seen)


def test_headers_travel_over_http(
    open_client: OpenClient,
    serve_connections: Callable[..., str],
    http_answer: Callable[[Outputs], bytes],
    classification_outputs: Outputs,
) -> None:
    heads: list[bytes] = []

    def handler(connection: socket.socket, index: int) -> None:
        heads.append(connection.recv(65536))
        connection.sendall(http_answer(classification_outputs))

    with open_client(serve_connections(handler), headers={"Authorization": "Bearer secret"}) as client:
        assert client.classify("a").label == "weather"
    assert b"authorization: bearer secret" in heads[0].lower()


@pytest.mark.parametrize(
    ("headers", "cause"),
    [
        ({"": "x"}, "has the name ''"),
        ({"a b": "x"}, "has the name 'a b'"),
        ({"a\r\nb": "x"}, "has the name"),
        ({3: "x"}, "has the name 3"),
        ({"x": "a\r\nInjected: yes"}, "'x' is not printable"),
        ({"x": "é"}, "'x' is not printable"),
        ({"x": 3}, "'x' is not printable"),
        ({"Content-Length": "3"}, "belongs to the protocol"),
        ({"trace-bin": "3"}, "belongs to the protocol"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(headers: dict[Any, Any], cause: str) -> None:
    with pytest.raises(InvalidInput, match=cause) as caught:
        Client("grpc://localhost", headers=headers, retry=RetryPolicy(attempts=1))
    assert "Injected" not in str(caught.value)
