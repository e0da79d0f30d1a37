"""Loading a Hugging Face checkpoint: the stock model, its configuration and its tokenizer, checked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from longserve.serving.runtime.manifest import ProblemType, Task

from .errors import CheckpointError, CheckpointNotFound, TaskMismatch, UnsupportedModel
from .exporter_config import model_class

__all__ = ["Checkpoint", "load_checkpoint"]

_HEAD_CLASS = {
    Task.TEXT_CLASSIFICATION: "LongformerForSequenceClassification",
    Task.QUESTION_ANSWERING: "LongformerForQuestionAnswering",
}
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
_ROLES = ("cls", "sep", "pad", "unk", "mask", "bos", "eos")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A stock model, ready to be exported and compared with.

    Attributes:
        model: the stock model, float32, in evaluation mode.
        tokenizer: its fast tokenizer, None if the checkpoint has none.
        task: the task of its head.
        model_id: hub id, or the name of the local directory.
        revision: commit of the hub repository, None for a local directory.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    task: Task
    model_id: str
    revision: str | None

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def attention_window(self) -> tuple[int, ...]:
        """Attention window of each layer, in tokens."""
        return tuple(self.config.attention_window)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names by index; none for question answering."""
        if self.task is not Task.TEXT_CLASSIFICATION:
            return ()
        return tuple(str(self.config.id2label[index]) for index in range(self.config.num_labels))

    @property
    def problem_type(self) -> ProblemType | None:
        """How a classifier's logits are read; None for question answering."""
        if self.task is not Task.TEXT_CLASSIFICATION:
            return None
        if self.config.problem_type is not None:
            return ProblemType(self.config.problem_type)
        return ProblemType.SINGLE_LABEL

    @property
    def special_tokens(self) -> dict[str, int]:
        """Role to id of the special tokens, from the tokenizer where there is one, else the configuration."""
        source = self.config if self.tokenizer is None else self.tokenizer
        found = {role: getattr(source, f"{role}_token_id", None) for role in _ROLES}
        found["pad"] = self.config.pad_token_id
        for role, other in (("cls", "bos"), ("sep", "eos")):
            if found[role] is None:
                found[role] = found[other]
        return {role: int(number) for role, number in found.items() if number is not None}


def load_checkpoint(source: str, task: Task, *, revision: str | None = None) -> Checkpoint:
    """Load a checkpoint.

    Args:
        source: a hub id, or a local directory.
        task: the task that its head must be made for.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointNotFound: nothing there, or it cannot be read or reached.
        UnsupportedModel: another architecture, or a configuration without an exact export.
        TaskMismatch: its head is another task's, or it has none.
    """
    local = _local_directory(source)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointNotFound(_unreadable(source, local, error)) from error
    _check_config(config, source, task)
    model = _load_model(source, task, revision, local)
    tokenizer = _load_tokenizer(source, revision, local)
    if tokenizer is not None:
        _check_tokenizer(tokenizer, model.config, source, task)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        task=task,
        model_id=source if local is None else local.resolve().name,
        revision=getattr(model.config, "_commit_hash", None) if local is None else None,
    )


def _local_directory(source: str) -> Path | None:
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointNotFound(
                f"{source} is no checkpoint: it has no config.json; give a directory written by "
                "save_pretrained, or a hub id"
            )
        return path
    if path.exists():
        raise CheckpointNotFound(f"{source} is a file; give the checkpoint's directory, or a hub id")
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or os.sep * 2 in source:
        raise CheckpointNotFound(f"there is no directory {source}; give a checkpoint's, or a hub id")
    return None


def _unreadable(source: str, local: Path | None, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if local is None:
        return (
            f"{source} is no local directory and could not be had from the hub: {reason}; "
            "check the name, the connection and the access token, or download it and give its directory"
        )
    return f"the checkpoint {source} cannot be read: {reason}"


def _check_config(config: PretrainedConfig, source: str, task: Task) -> None:
    if config.model_type != "longformer":
        raise UnsupportedModel(f"{source} is a {config.model_type} model; longserve exports longformer")
    wanted, named = _HEAD_CLASS[task], tuple(config.architectures or ())
    if named and wanted not in named:
        raise TaskMismatch(
            f"{source} holds {', '.join(named)}, but the task {task.value} needs {wanted}; choose the task "
            "of its head, or a fine-tuned checkpoint"
        )
    if task is Task.QUESTION_ANSWERING and config.num_labels != 2:
        raise UnsupportedModel(
            f"{source} has {config.num_labels} question-answering outputs; only 2 (start, end) are supported"
        )
    window = config.attention_window
    windows = [window] * config.num_hidden_layers if isinstance(window, int) else list(window)
    if len(windows) != config.num_hidden_layers or any(size <= 0 or size % 2 for size in windows):
        raise UnsupportedModel(
            f"{source} has attention_window {window} for {config.num_hidden_layers} layers; it must be one "
            "positive even number per layer"
        )
    if min(windows) < 4 or any(max(windows) % size for size in windows):
        raise UnsupportedModel(
            f"{source} has the attention windows {windows}; the stock model runs only where each is at least 4 "
            f"and divides the largest, {max(windows)}, so there is nothing to compare with"
        )
    if config.problem_type is not None and config.problem_type not in {kind.value for kind in ProblemType}:
        raise UnsupportedModel(f"{source} has the unknown problem_type {config.problem_type!r}")
    labels = list((config.id2label or {}).values())
    if task is Task.TEXT_CLASSIFICATION and len(set(labels)) != config.num_labels:
        raise UnsupportedModel(
            f"{source} has {config.num_labels} labels with the names {labels}; give each its own"
        )
    if config.pad_token_id is None:
        raise UnsupportedModel(f"{source} has no pad_token_id; positions are counted from it")


def _load_model(source: str, task: Task, revision: str | None, local: Path | None) -> PreTrainedModel:
    try:
        model, info = model_class(task).from_pretrained(
            source, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointNotFound(_unreadable(source, local, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        head = [name for name in missing if not name.startswith("longformer.")]
        if head:
            raise TaskMismatch(
                f"{source} has no weights for the head of {task.value} ({_some(head)}); "
                "fine-tune it for that task first"
            )
        raise CheckpointError(f"{source} lacks weights: {_some(missing)}; get the checkpoint again")
    mismatched = sorted(str(key) for key in info.get("mismatched_keys", ()))
    if mismatched:
        raise CheckpointError(f"{source} has weights of the wrong shape: {_some(mismatched)}")
    loaded: PreTrainedModel = model.eval()
    return loaded


def _load_tokenizer(source: str, revision: str | None, local: Path | None) -> PreTrainedTokenizerBase | None:
    if local is not None and not any((local / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, use_fast=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"the tokenizer of {source} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise UnsupportedModel(
            f"{source} has only the slow tokenizer {type(tokenizer).__name__}, with no tokenizer.json form"
        )
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _check_tokenizer(tokenizer: Any, config: PretrainedConfig, source: str, task: Task) -> None:
    """Check that ids fit the model and that texts are framed as serving frames them."""
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= config.vocab_size:
        raise UnsupportedModel(
            f"the tokenizer of {source} has ids up to {highest}, but the model's vocabulary has "
            f"{config.vocab_size}; they do not belong together"
        )
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    if cls_id is None or sep_id is None:
        raise UnsupportedModel(f"the tokenizer of {source} has no cls or sep token to frame texts with")
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != config.pad_token_id:
        raise UnsupportedModel(
            f"the tokenizer of {source} pads with {tokenizer.pad_token_id}, its model with "
            f"{config.pad_token_id}; they do not belong together"
        )
    bare = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("what", "this")}
    if task is Task.TEXT_CLASSIFICATION:
        framed, expected = tokenizer("what")["input_ids"], [cls_id, *bare["what"], sep_id]
    else:
        framed = tokenizer("what", "this")["input_ids"]
        expected = [cls_id, *bare["what"], sep_id, sep_id, *bare["this"], sep_id]
    if list(framed) != expected:
        raise UnsupportedModel(
            f"the tokenizer of {source} frames a text as {list(framed)}, not in Longformer's way {expected} "
            "(<s> question </s></s> context </s>)"
        )


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
