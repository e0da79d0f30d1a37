"""The architectures that can be exported, by the `model_type` of a Hugging Face configuration."""

from __future__ import annotations

from ..errors import UnsupportedModel
from ..exporter_config import register_model_type
from .architecture import Architecture

__all__ = ["architecture_of", "register", "supported_model_types"]

_BY_MODEL_TYPE: dict[str, Architecture] = {}


def register(architecture: Architecture) -> None:
    """Make an architecture known; a model type that another one had is its from now on."""
    for model_type in architecture.model_types:
        register_model_type(model_type, takes_global_attention=architecture.takes_global_attention)
        _BY_MODEL_TYPE[model_type] = architecture


def supported_model_types() -> tuple[str, ...]:
    """Return the model types that can be exported, in alphabetical order."""
    return tuple(sorted(_BY_MODEL_TYPE))


def architecture_of(model_type: str, source: str | None = None) -> Architecture:
    """Return the architecture of a model type.

    Args:
        model_type: `config.model_type`.
        source: the checkpoint, for the message.

    Raises:
        UnsupportedModel: no architecture has that model type.
    """
    if model_type not in _BY_MODEL_TYPE:
        what = f"{source} is a {model_type} model" if source else f"there is no architecture {model_type}"
        raise UnsupportedModel(f"{what}; longserve exports {', '.join(supported_model_types())}")
    return _BY_MODEL_TYPE[model_type]
