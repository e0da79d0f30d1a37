"""A real Triton for the whole session: the models of both test bundles on free loopback ports.

`tests/conftest.py` imports the fixtures from here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from longserve.serving.server import Ports, ServerUrls, TritonServer

__all__ = ["CLASSIFIER", "FREE_PORTS", "QA", "RunningServer", "triton_server"]

CLASSIFIER = "longformer_classification"
QA = "longformer_qa"
FREE_PORTS = Ports(http=0, grpc=0, metrics=0)


@dataclass(frozen=True)
class RunningServer:
    """The session's server and what it serves."""

    server: TritonServer
    urls: ServerUrls
    repository: Path
    classification_bundle: Path
    qa_bundle: Path


@pytest.fixture(scope="session")
def triton_server(
    classification_bundle: Path, qa_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Serve `classification_bundle` and `qa_bundle` under the demo's model names."""
    from longserve.serving.repository import build_repository

    repository = tmp_path_factory.mktemp("served") / "model_repository"
    build_repository(classification_bundle, CLASSIFIER, repository)
    build_repository(qa_bundle, QA, repository)
    with TritonServer(repository, ports=FREE_PORTS, log=sys.stderr, grace=2.0) as server:
        yield RunningServer(server, server.urls, repository, classification_bundle, qa_bundle)
