"""The errors of the serving half.

    ServingError
    ├── BundleError                 a bundle cannot be used
    │   ├── BundleNotFound          there is none at that path, or a file of it is missing
    │   ├── IncompatibleBundle      written for another major schema version
    │   └── CorruptBundle           a file or the manifest is not what was written
    ├── EngineError                 the engine or execution provider cannot run the bundle here
    │   ├── IncompatibleEngine      a built engine is another version's, GPU's or bundle's, or damaged
    │   └── OutsideProfile          a run does not fit what the engine was built for
    ├── InvalidInput                the caller's text, tensor or option cannot be used
    ├── RepositoryError             a Triton model repository cannot be built or read
    ├── ServerError                 the embedded Triton cannot be started or has stopped
    │   ├── TritonNotFound          no Triton on this machine
    │   ├── UnfitEnvironment        Triton is there, but this Python environment cannot host it
    │   ├── PortInUse               a port is taken
    │   └── ServerFailed            Triton ended, or was not ready in time
    └── RequestError                a server did not answer a request as it should
        ├── ServerUnavailable       no connection, or the server is not ready
        ├── Overloaded              the server's queue is full
        ├── DeadlineExceeded        no answer within the time given
        ├── ModelNotFound           the server has no such model
        ├── AccessDenied            the server keeps this closed, or wants credentials
        └── InferenceFailed         the server failed while computing the answer

Every message names what was wrong, the value seen, and what to do.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "AccessDenied",
    "BundleError",
    "BundleNotFound",
    "CorruptBundle",
    "DeadlineExceeded",
    "EngineError",
    "IncompatibleBundle",
    "IncompatibleEngine",
    "InferenceFailed",
    "InvalidInput",
    "ModelNotFound",
    "OutsideProfile",
    "Overloaded",
    "PortInUse",
    "Refusal",
    "RepositoryError",
    "RequestError",
    "ServerError",
    "ServerFailed",
    "ServerUnavailable",
    "ServingError",
    "TritonNotFound",
    "UnfitEnvironment",
]


class Refusal(str, Enum):
    """What is wrong with an input, for counting: a short name that holds nothing of the input."""

    EMPTY = "empty"
    """There is no text in it."""
    NOT_TEXT = "not_text"
    """It is no UTF-8, or holds what no text holds: NUL, unpaired surrogates, the model's special tokens."""
    OPTION = "option"
    """An unknown option, or a value that it does not take."""
    QUESTION_TOO_LONG = "question_too_long"
    """The question leaves no room for the context."""
    TENSOR = "tensor"
    """A tensor of the wrong type, shape or range."""
    TOO_LARGE = "too_large"
    """More bytes than `max_text_bytes`."""
    TOO_MANY_WINDOWS = "too_many_windows"
    """More windows than `max_windows`."""


class ServingError(Exception):
    """Root of everything that `longserve.serving` raises on purpose.

    Attributes:
        exit_code: exit status of the command line for it. The command treats any exception whose class has
            one as raised on purpose and prints its message alone.
    """

    exit_code = 1


class BundleError(ServingError):
    """A bundle cannot be used."""


class BundleNotFound(BundleError):
    """There is no bundle at that path, or a file of it is missing."""


class IncompatibleBundle(BundleError):
    """The bundle was written for another major schema version."""


class CorruptBundle(BundleError):
    """A file or the manifest of the bundle is not what was written."""


class EngineError(ServingError):
    """The engine or execution provider cannot run the bundle here."""


class IncompatibleEngine(EngineError):
    """A built engine is of another version, GPU or bundle than is here, or its files are damaged."""


class OutsideProfile(EngineError):
    """A run's batch, length or number of global tokens is more than the engine was built for."""


class InvalidInput(ServingError):
    """The caller's text, tensor or option cannot be used.

    Attributes:
        reason: which kind of input it is.
    """

    def __init__(self, message: str = "", *, reason: Refusal = Refusal.TENSOR) -> None:
        super().__init__(message)
        self.reason = reason


class RepositoryError(ServingError):
    """A Triton model repository cannot be built or read."""


class ServerError(ServingError):
    """The embedded Triton cannot be started, or has stopped."""


class TritonNotFound(ServerError):
    """There is no Triton on this machine."""


class UnfitEnvironment(ServerError):
    """Triton is there, but this Python environment cannot host it."""


class PortInUse(ServerError):
    """A port that the server was told to use is taken."""


class ServerFailed(ServerError):
    """Triton ended by itself, or was not ready in time."""


class RequestError(ServingError):
    """A server did not answer a request as it should."""


class ServerUnavailable(RequestError):
    """No connection to the server, or it is not ready."""


class Overloaded(RequestError):
    """The server's queue is full."""


class DeadlineExceeded(RequestError):
    """There was no answer within the time given."""


class ModelNotFound(RequestError):
    """The server has no such model."""


class AccessDenied(RequestError):
    """The server keeps this closed, or wants credentials."""


class InferenceFailed(RequestError):
    """The server failed while computing the answer."""
