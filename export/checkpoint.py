"""Loading a Hugging Face checkpoint: the stock model, its configuration and its tokenizer, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from longserve.serving.runtime.manifest import ProblemType, Task

from .architectures import Architecture, architecture_of
from .checkpoint_config import check_config, check_token_ids
from .checkpoint_files import UNREADABLE, Place, find_checkpoint, first_sentence, unreadable
from .checkpoint_weights import load_model
from .errors import CheckpointError, CheckpointNotFound, UnsupportedModel

__all__ = ["Checkpoint", "PairFrame", "load_checkpoint"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model", "spiece.model")
_ROLES = ("cls", "sep", "pad", "unk", "mask", "bos", "eos")


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
        unused: names of the weights that the task's model does without, such as another head's.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    task: Task
    model_id: str
    revision: str | None
    frame: PairFrame
    unused: tuple[str, ...] = ()

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
        found = _named_tokens(self.config if self.tokenizer is None else self.tokenizer)
        found["pad"] = self.config.pad_token_id
        for role, other in (("cls", "bos"), ("sep", "eos")):
            if role not in found and other in found:
                found[role] = found[other]
        return {role: int(number) for role, number in found.items()}


def load_checkpoint(
    source: str, task: Task, *, revision: str | None = None, default_revision: str | None = None
) -> Checkpoint:
    """Load a checkpoint.

    Args:
        source: a hub id, or a local directory.
        task: the task that its head must be made for.
        revision: branch, tag or commit of a hub repository.
        default_revision: what `revision` is where none is given; not of a local directory.

    Raises:
        CheckpointNotFound: nothing there, or it cannot be read or reached.
        CheckpointError: its weights are not those of its configuration.
        UnsupportedModel: another architecture, or a configuration without an exact export.
        TaskMismatch: its head is another task's, or it has none.
    """
    place = find_checkpoint(source, revision, default_revision=default_revision)
    try:
        config = AutoConfig.from_pretrained(place.path, revision=place.commit, trust_remote_code=False)
    except UNREADABLE as error:
        raise CheckpointNotFound(unreadable(place, error)) from error
    check_config(config, source, task)
    model, unused = load_model(place, task, config.model_type)
    tokenizer = _load_tokenizer(place)
    architecture = architecture_of(config.model_type)
    if architecture.attention_shape(model.config, task, None).longest < 1:
        raise UnsupportedModel(
            f"{source} has max_position_embeddings {model.config.max_position_embeddings} with pad_token_id "
            f"{model.config.pad_token_id}, which leaves no position for a token; correct config.json"
        )
    frame = PairFrame(architecture.question_separators[0], 0)
    if tokenizer is None:
        check_token_ids(_named_tokens(model.config), model.config, source)
    else:
        _check_tokenizer(tokenizer, model.config, source)
        if task is Task.QUESTION_ANSWERING:
            frame = _read_frame(tokenizer, model.config, source)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        task=task,
        model_id=source if place.local is None else place.local.resolve().name,
        revision=place.commit,
        frame=frame,
        unused=unused,
    )


def _named_tokens(source: Any) -> dict[str, Any]:
    """Role to id of the special tokens that a tokenizer or a configuration names."""
    found = {role: getattr(source, f"{role}_token_id", None) for role in _ROLES}
    return {role: number for role, number in found.items() if number is not None}


def _load_tokenizer(place: Place) -> PreTrainedTokenizerBase | None:
    files: tuple[str, ...] = _TOKENIZER_FILES
    if place.local is not None:
        files = tuple(name for name in files if (place.local / name).is_file())
        if not files:
            return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.path, revision=place.commit, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception, whatever is wrong with its files
        raise CheckpointError(
            f"the tokenizer of {place.source} cannot be loaded: {first_sentence(error)}; get its files again"
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
