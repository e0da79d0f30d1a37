"""The arguments with which Triton is started."""

from __future__ import annotations

from pathlib import Path

from .access import Api
from .ports import InnerPorts

__all__ = ["GATEWAY_HEADER", "triton_arguments"]

GATEWAY_HEADER = "longserve-gateway"
"""Carries the key that opens Triton's own ports to the gateway."""


def triton_arguments(
    repository: Path,
    *,
    inner: InnerPorts,
    key: str,
    host: str,
    metrics: int,
    grace: float,
    shared_memory: str,
    backends: Path | None,
    keep_going: bool,
    verbose: bool,
) -> list[str]:
    """Return the arguments.

    Args:
        repository: the model repository.
        inner: Triton's own HTTP and gRPC ports, on the loopback.
        key: opens them to the gateway.
        host: IP address at which the metrics are served.
        metrics: their port.
        grace: seconds that requests under way get at a stop.
        shared_memory: what the names of the Python models' regions begin with.
        backends: where the backends are; None: where Triton looks.
        keep_going: serve the models that load although another does not.
        verbose: log everything.
    """
    closed = ",".join(api.value for api in Api)
    arguments = [
        f"--model-repository={repository.resolve()}",
        "--model-control-mode=none",
        "--strict-readiness=true",
        f"--exit-on-error={'false' if keep_going else 'true'}",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={max(1, round(grace))}",
        *inner.arguments(),
        f"--http-restricted-api={closed}:{GATEWAY_HEADER}={key}",
        f"--grpc-restricted-protocol={closed}:{GATEWAY_HEADER}={key}",
        # Its server (libevhtp) tells the kinds of addresses by what stands before them.
        f"--metrics-address={'ipv6:' if ':' in host else ''}{host}",
        f"--metrics-port={metrics}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
    ]
    if backends is not None:
        arguments.append(f"--backend-directory={backends}")
    if verbose:
        arguments.append("--log-verbose=1")
    return arguments
