"""Loading a Hugging Face checkpoint: the stock model, its configuration and its tokenizer, checked."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file, extract_commit_hash

from longserve.serving.runtime.manifest import ProblemType, Task

from .architectures import Architecture, architecture_of
from .errors import CheckpointError, CheckpointNotFound, TaskMismatch, UnsupportedModel
from .exporter_config import model_class

__all__ = ["Checkpoint", "PairFrame", "load_checkpoint"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
_ROLES = ("cls", "sep", "pad", "unk", "mask", "bos", "eos")
_UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers, safetensors and torch raise on files that are not there or damaged."""


@dataclass(frozen=True, slots=True)
class PairFrame:
    """How a tokenizer joins a question and its context.

    Attributes:
        separators: separators between the two.
        context_type: token type of the context and what follows; before it all are 0.
    """

    separators: int
    context_type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A stock model, ready to be exported and compared with.

    Attributes:
        model: the stock model, float32, in evaluation mode.
        tokenizer: its fast tokenizer, None if the checkpoint has none.
        task: the task of its head.
        model_id: hub id, or the name of the local directory.
        revision: commit of the hub repository, None for a local directory.
        frame: how question and context are joined.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    task: Task
    model_id: str
    revision: str | None
    frame: PairFrame

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def architecture(self) -> Architecture:
        """What longserve knows of its architecture."""
        return architecture_of(self.config.model_type)

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
    place = _Place(source, local, None if local is not None else _commit(source, revision))
    try:
        config = AutoConfig.from_pretrained(place.path, revision=place.commit, trust_remote_code=False)
    except _UNREADABLE as error:
        raise CheckpointNotFound(_unreadable(place, error)) from error
    _check_config(config, source, task)
    model = _load_model(place, task, config.model_type)
    tokenizer = _load_tokenizer(place)
    architecture = architecture_of(config.model_type)
    frame = PairFrame(architecture.question_separators[0], 0)
    if tokenizer is not None:
        _check_tokenizer(tokenizer, model.config, source)
        if task is Task.QUESTION_ANSWERING:
            frame = _read_frame(tokenizer, model.config, source)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        task=task,
        model_id=source if local is None else local.resolve().name,
        revision=place.commit,
        frame=frame,
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the files are: a local directory, or a commit of a hub repository."""

    source: str
    local: Path | None
    commit: str | None

    @property
    def path(self) -> str:
        return self.source if self.local is None else str(self.local)


def _commit(source: str, revision: str | None) -> str:
    """Return the commit that the revision of a hub repository is now: all its files must come from one."""
    try:
        config = cached_file(source, "config.json", revision=revision)
    except _UNREADABLE as error:
        where = source if revision is None else f"{source} at revision {revision}"
        raise CheckpointNotFound(_unreadable(_Place(where, None, None), error)) from error
    commit: str | None = extract_commit_hash(config, None)
    if commit is None:
        raise CheckpointNotFound(f"{config} is in no commit of a hub repository; give its directory instead")
    return commit


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


def _unreadable(place: _Place, error: Exception) -> str:
    reason = _first_sentence(error)
    if place.local is None:
        return (
            f"{place.source} is no local directory and could not be had from the hub: {reason}; "
            "check the name, the connection and the access token, or download it and give its directory"
        )
    return f"the checkpoint {place.source} cannot be read: {reason}; get it again"


def _first_sentence(error: Exception) -> str:
    """Return what an error says first; the rest of foreign ones is advice that does not apply here."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, LookupError) or not lines:
        return " ".join([type(error).__name__, *lines[:1]])
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return said.rstrip(".")


def _check_config(config: PretrainedConfig, source: str, task: Task) -> None:
    architecture = architecture_of(config.model_type, source)
    wanted, named = architecture.head_class(config.model_type, task), tuple(config.architectures or ())
    if named and wanted not in named:
        raise TaskMismatch(
            f"{source} holds {', '.join(named)}, but the task {task.value} needs {wanted}; choose the task "
            "of its head, or a fine-tuned checkpoint"
        )
    if task is Task.QUESTION_ANSWERING and config.num_labels != 2:
        raise UnsupportedModel(
            f"{source} has {config.num_labels} question-answering outputs; only 2 (start, end) are supported"
        )
    if config.problem_type is not None and config.problem_type not in {kind.value for kind in ProblemType}:
        raise UnsupportedModel(f"{source} has the unknown problem_type {config.problem_type!r}")
    if task is Task.TEXT_CLASSIFICATION:
        _check_labels(dict(config.id2label or {}), source)
    if config.pad_token_id is None:
        raise UnsupportedModel(f"{source} has no pad_token_id; shorter rows of a batch are filled with it")
    architecture.check(config, source, task)


def _check_labels(names: dict[Any, Any], source: str) -> None:
    if sorted(names) != list(range(len(names))):
        raise UnsupportedModel(
            f"{source} names labels for the indices {sorted(names)}; id2label must name 0 to {len(names) - 1}"
        )
    if len({str(name) for name in names.values()}) != len(names):
        raise UnsupportedModel(
            f"{source} has {len(names)} labels with the names {list(names.values())}; give each its own"
        )


def _load_model(place: _Place, task: Task, model_type: str) -> PreTrainedModel:
    source = place.source
    try:
        model, info = model_class(task, model_type).from_pretrained(
            place.path,
            revision=place.commit,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            trust_remote_code=False,
        )
    except _UNREADABLE as error:
        raise CheckpointNotFound(_unreadable(place, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        head = [name for name in missing if not name.startswith(f"{model.base_model_prefix}.")]
        if head:
            raise TaskMismatch(
                f"{source} has no weights for the head of {task.value} ({_some(head)}); "
                "fine-tune it for that task first"
            )
        raise CheckpointError(f"{source} lacks weights: {_some(missing)}; get the checkpoint again")
    mismatched = [
        f"{name} is {list(found)}, its configuration says {list(expected)}"
        for name, found, expected in sorted(info["mismatched_keys"])
    ]
    if mismatched:
        raise CheckpointError(
            f"{source} has weights of other shapes than its configuration: {_some(mismatched)}; "
            "get the checkpoint again"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def _load_tokenizer(place: _Place) -> PreTrainedTokenizerBase | None:
    files: tuple[str, ...] = _TOKENIZER_FILES
    if place.local is not None:
        files = tuple(name for name in files if (place.local / name).is_file())
        if not files:
            return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.path, revision=place.commit, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception, whatever is wrong with its files
        raise CheckpointError(
            f"the tokenizer of {place.source} cannot be loaded: {_first_sentence(error)}; get its files again"
        ) from error
    if not tokenizer.is_fast:
        raise UnsupportedModel(
            f"{place.source} has only the slow tokenizer {type(tokenizer).__name__}, "
            "which has no tokenizer.json form"
        )
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # What transformers 5 makes of no file, or of files that the tokenizer's class does not read
        if place.local is None:
            return None
        raise CheckpointError(
            f"{type(tokenizer).__name__} has no token from the tokenizer files of {place.source} "
            f"({', '.join(files)}) but the special ones; name their class in tokenizer_config.json"
        )
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _check_tokenizer(tokenizer: Any, config: PretrainedConfig, source: str) -> None:
    """Check that ids fit the model and that a text is framed as serving frames it."""
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
    if architecture_of(config.model_type).reads_separators and sep_id != config.sep_token_id:
        raise UnsupportedModel(
            f"the tokenizer of {source} separates with {sep_id}, but its model looks for "
            f"{config.sep_token_id}; they do not belong together"
        )
    framed = list(tokenizer("what")["input_ids"])
    expected = [cls_id, *_bare(tokenizer, "what"), sep_id]
    if framed != expected:
        raise UnsupportedModel(
            f"the tokenizer of {source} frames a text as {framed}, not as {expected} (<s> text </s>)"
        )


def _read_frame(tokenizer: Any, config: PretrainedConfig, source: str) -> PairFrame:
    """Find out how the tokenizer joins a question and its context."""
    architecture = architecture_of(config.model_type)
    cls_id, sep_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    question, context = _bare(tokenizer, "what"), _bare(tokenizer, "this")
    encoded = tokenizer("what", "this")
    framed, types = list(encoded["input_ids"]), encoded.get("token_type_ids")
    expected = []
    for count in architecture.question_separators:
        head = [cls_id, *question, *[sep_id] * count]
        expected.append([*head, *context, sep_id])
        if framed != expected[-1]:
            continue
        context_type = architecture.default_context_type if types is None else types[-1]
        if types is not None and list(types) != [0] * len(head) + [context_type] * (len(context) + 1):
            raise UnsupportedModel(
                f"the tokenizer of {source} gives question and context the token types {list(types)}; only "
                "one type for the question and one for the context are supported"
            )
        return PairFrame(count, int(context_type) if config.type_vocab_size > 1 else 0)
    raise UnsupportedModel(
        f"the tokenizer of {source} frames question and context as {framed}, not as "
        f"{' or '.join(map(str, expected))} (<s> question </s></s> context </s>, or with one </s> between)"
    )


def _bare(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
