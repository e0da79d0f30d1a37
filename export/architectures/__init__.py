"""The architectures that longserve exports: one module and one registration each."""

from __future__ import annotations

from .architecture import Architecture, AttentionShape
from .bert import Bert, Roberta
from .bigbird import BigBird
from .longformer import Longformer
from .registry import architecture_of, register, supported_model_types

__all__ = ["Architecture", "AttentionShape", "architecture_of", "register", "supported_model_types"]

register(Longformer())
register(BigBird())
register(Bert())
register(Roberta())
