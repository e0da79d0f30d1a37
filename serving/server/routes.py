"""The paths of the KServe v2 protocol with Triton's extensions, and the part of it that each belongs to."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from .access import Api

__all__ = ["Route", "find_route", "methods_of", "model_of"]

_MODEL = r"/v2/models/(?:[A-Za-z0-9_.~-]|%(?!00)[0-9A-Fa-f]{2})+"
"""Without a NUL, at which Triton would cut a name off."""
_VERSIONED = rf"{_MODEL}(?:/versions/[0-9]{{1,18}})?"


@dataclass(frozen=True, slots=True)
class Route:
    """A group of paths.

    Attributes:
        path: what the paths look like.
        methods: what may be asked of them.
        api: the part of the protocol.
    """

    path: re.Pattern[str]
    methods: tuple[str, ...]
    api: Api


def _route(path: str, methods: tuple[str, ...], api: Api) -> Route:
    return Route(re.compile(path), methods, api)


_ROUTES = (
    _route(rf"{_VERSIONED}/infer", ("POST",), Api.INFERENCE),
    _route(r"/v2/health/(?:live|ready)", ("GET",), Api.HEALTH),
    _route(rf"{_VERSIONED}/ready", ("GET",), Api.HEALTH),
    _route(r"/v2/models/stats", ("GET",), Api.STATISTICS),
    _route(rf"{_VERSIONED}/stats", ("GET",), Api.STATISTICS),
    _route(rf"{_VERSIONED}/config", ("GET",), Api.MODEL_CONFIG),
    _route(r"/v2/repository/index", ("POST",), Api.MODEL_REPOSITORY),
    _route(r"/v2/repository/models/[^/]+/(?:load|unload)", ("POST",), Api.MODEL_REPOSITORY),
    _route(rf"(?:/v2|{_MODEL})/trace/setting", ("GET", "POST"), Api.TRACE),
    _route(r"/v2/logging", ("GET", "POST"), Api.LOGGING),
    _route(
        r"/v2/(?:system|cuda)sharedmemory(?:/region/[^/]+)?/(?:status|register|unregister)",
        ("GET", "POST"),
        Api.SHARED_MEMORY,
    ),
    _route(r"/v2/?", ("GET",), Api.METADATA),
    _route(_VERSIONED, ("GET",), Api.METADATA),
)
"""Triton's `generate` extension is not among them: Triton 2.51 never answers it for our models."""


def find_route(method: str, path: str) -> Route | None:
    """Return the route of a request, or None if there is none for its path or its method."""
    return next((r for r in _ROUTES if method in r.methods and r.path.fullmatch(path)), None)


def methods_of(path: str) -> tuple[str, ...]:
    """What may be asked of a path; nothing if it does not exist."""
    return next((route.methods for route in _ROUTES if route.path.fullmatch(path)), ())


def model_of(path: str) -> str | None:
    """The model that a path is about; None if it is about the server."""
    parts = path.split("/")
    return urllib.parse.unquote(parts[3]) if parts[2:3] == ["models"] and len(parts) > 4 else None
