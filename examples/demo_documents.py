"""Synthetic long documents whose evidence stands where one asks for it.

Three kinds, all readable English, all written from small closed word lists so that a tiny vocabulary and a
tiny model can learn them:

* **Minutes** of a harbour board (question answering). Facts about projects ("The warranty of Project Kestrel
  ends on 14 March 2031.") stand among neutral sentences. The question asks for one of them; facts about the
  same project and facts of the same sort about other projects stand around it, so the question must be read.
* **Claim files** of an insurer (classification). A few sentences name signs of a cause of damage; most, by a
  clear majority, point to one cause, the label. Denied signs ("found no soot") count for nothing.
* **Policy files** (classification). One sentence names the cause of damage that is insured, one a sign of the
  cause that happened; the label says whether they agree. Neither tells anything alone, so both must be seen
  together, however far apart they stand.

Length, position and scatter of the evidence are parameters, because studies of long documents vary them. A
document follows from its `key` alone: the same key and parameters give the same text on every machine.
Lengths are in *words*, where a punctuation mark counts as a word: within a few per cent the number of tokens
of the demo vocabulary.

Only the standard library is used.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from demo_lexicon import (
    ATTRIBUTES,
    CLAIM_FILLER,
    DENIED,
    FIRST_NAMES,
    INSURED,
    LAST_NAMES,
    MINUTES_FILLER,
    MONTHS,
    OBSERVED,
    PROJECTS,
    ROOMS,
    SIGNS,
    TOPICS,
    TOWNS,
    Attribute,
)

__all__ = [
    "COVER_LABELS",
    "LABELS",
    "ClaimFile",
    "Evidence",
    "Minutes",
    "PolicyFile",
    "count_words",
    "write_claim_file",
    "write_minutes",
    "write_policy_file",
]

LABELS: tuple[str, ...] = tuple(SIGNS)
"""The causes of damage, in the order of the classifier's logits."""

COVER_LABELS: tuple[str, ...] = ("covered", "not covered")
"""What is asked of a policy file."""

_PARAGRAPH = 6
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Minutes:
    """A document with a question on it.

    Attributes:
        text: the document.
        question: what is asked.
        answer: the answer as it stands in the text; empty if the text does not tell.
        answer_start: offset of its first character in `text`, in code points; -1 if there is none.
    """

    text: str
    question: str
    answer: str
    answer_start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A sentence of a claim file that speaks for a label: `text[start:end]`, in code points."""

    label: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFile:
    """A document with a cause of damage.

    Attributes:
        text: the document.
        label: the cause that most evidence speaks for; None if there is no evidence.
        evidence: every sentence that speaks for a cause, in order.
    """

    text: str
    label: str | None
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """A document that says what is insured, and elsewhere what happened.

    Attributes:
        text: the document.
        label: `covered` if both causes are the same, else `not covered`.
        evidence: the sentence on the insured cause, then that on the cause of the damage.
    """

    text: str
    label: str
    evidence: tuple[Evidence, Evidence]


def count_words(text: str) -> int:
    """Return the length of a text in words, where a punctuation mark is a word too."""
    return len(_WORD.findall(text))


def write_minutes(
    key: str,
    *,
    words: int,
    position: float | None = None,
    facts: float = 0.3,
    rivals: float = 0.3,
    answerable: bool = True,
) -> Minutes:
    """Write minutes and a question on them.

    Args:
        key: what the document follows from, e.g. `"train/17"`.
        words: length to reach; the document is at most one sentence longer or shorter.
        position: where the asked fact stands, 0 (first sentence) to 1 (last); None: anywhere.
        facts: share of sentences that state a fact, 0 to 1; the others are neutral.
        rivals: share of the other facts that are of the asked sort, but about another project.
        answerable: whether the asked fact stands in the document at all.

    Raises:
        ValueError: a share or position outside 0 to 1, or fewer than 20 words.
    """
    _check_share("position", position)
    _check_share("facts", facts)
    _check_share("rivals", rivals)
    if words < 20:
        raise ValueError(f"words must be at least 20 (a fact takes that many), not {words}")
    rng = random.Random(f"minutes/{key}")
    project = rng.choice(PROJECTS)
    attribute = rng.choice(ATTRIBUTES)
    question = rng.choice(attribute.questions).format(project=project)
    fact, answer, offset = _state(rng, attribute, project)

    told = {(project, attribute.name)}
    length = count_words(fact) if answerable else 0
    sentences: list[str] = []
    while True:
        if rng.random() < facts:
            sentence = _distractor(rng, project, attribute, rivals, told)
        else:
            sentence = _fill(rng, rng.choice(MINUTES_FILLER))
        length += count_words(sentence)
        if length > words and (sentences or answerable):
            break
        sentences.append(sentence)
    if not answerable:
        return Minutes(text=_join(sentences), question=question, answer="", answer_start=-1)
    share = rng.random() if position is None else position
    index = round(share * len(sentences))
    sentences.insert(index, fact)
    start = _starts(sentences)[index] + offset
    return Minutes(text=_join(sentences), question=question, answer=answer, answer_start=start)


def write_claim_file(
    key: str,
    *,
    words: int,
    evidence: int | None = None,
    majority: float = 0.7,
    denied: float = 0.1,
    region: tuple[float, float] = (0.0, 1.0),
) -> ClaimFile:
    """Write a claim file.

    Args:
        key: what the document follows from, e.g. `"train/17"`.
        words: length to reach; the document is at most one sentence longer or shorter, but always holds
            its evidence.
        evidence: number of sentences that speak for a cause; None: some, more in longer documents; 0: none,
            so that the file has no label.
        majority: least share of them that speaks for the label, above 0.5 and at most 1.
        denied: share of the other sentences that deny a sign.
        region: part of the document in which the evidence is scattered, as shares of its length.

    Raises:
        ValueError: a share outside its range, a region that is empty or negative evidence.
    """
    _check_share("denied", denied)
    if not 0.5 < majority <= 1.0:
        raise ValueError(f"majority must be above 0.5 and at most 1, not {majority}")
    if not 0.0 <= region[0] < region[1] <= 1.0:
        raise ValueError(f"region must be two rising shares between 0 and 1, not {region}")
    rng = random.Random(f"claims/{key}")
    label = rng.choice(LABELS)
    if evidence is None:
        evidence = 1 if words < 60 else rng.randint(3, 5 + min(words // 120, 12))
    if evidence < 0:
        raise ValueError(f"evidence must not be negative, not {evidence}")
    spoken = _votes(rng, label, evidence, majority)
    observations = [_observe(rng, vote, OBSERVED) for vote in spoken]

    taken = sum(map(count_words, observations))
    rest = _claim_filler(rng, words - taken, denied, least=0 if observations else 1)

    low, high = (round(share * len(rest)) for share in region)
    places = sorted(rng.randint(low, high) for _ in observations)
    sentences = list(rest)
    for done, (place, observation) in enumerate(zip(places, observations, strict=True)):
        sentences.insert(place + done, observation)
    starts = _starts(sentences)
    found = tuple(
        Evidence(label=vote, start=starts[place + done], end=starts[place + done] + len(observation))
        for done, (place, vote, observation) in enumerate(zip(places, spoken, observations, strict=True))
    )
    return ClaimFile(text=_join(sentences), label=label if evidence else None, evidence=found)


def write_policy_file(
    key: str,
    *,
    words: int,
    insured: float | None = None,
    observed: float | None = None,
    denied: float = 0.1,
) -> PolicyFile:
    """Write a policy file: as many are covered as not.

    Args:
        key: what the document follows from, e.g. `"train/17"`.
        words: length to reach; the document is at most one sentence longer or shorter, but always holds
            both sentences.
        insured: where the insured cause is named, 0 (first sentence) to 1 (last); None: anywhere.
        observed: where the sign of what happened stands, likewise; behind the insured cause if both are to
            stand in one place.
        denied: share of the other sentences that deny a sign.

    Raises:
        ValueError: a share or position outside 0 to 1.
    """
    _check_share("insured", insured)
    _check_share("observed", observed)
    _check_share("denied", denied)
    rng = random.Random(f"policies/{key}")
    happened = rng.choice(LABELS)
    agree = rng.random() < 0.5
    named = happened if agree else rng.choice([other for other in LABELS if other != happened])
    policy = _fill(rng, rng.choice(INSURED).replace("{cause}", named))
    observation = _observe(rng, happened, OBSERVED)
    rest = _claim_filler(rng, words - count_words(policy) - count_words(observation), denied)

    shares = [rng.random() if share is None else share for share in (insured, observed)]
    places = [round(share * len(rest)) for share in shares]
    behind = [places[0] + (places[1] < places[0]), places[1] + (places[1] >= places[0])]
    sentences = list(rest)
    for place, sentence in sorted(zip(behind, (policy, observation), strict=True)):
        sentences.insert(place, sentence)
    starts = _starts(sentences)
    found = [
        Evidence(label=cause, start=starts[place], end=starts[place] + len(sentence))
        for cause, place, sentence in zip((named, happened), behind, (policy, observation), strict=True)
    ]
    label = COVER_LABELS[0] if agree else COVER_LABELS[1]
    return PolicyFile(text=_join(sentences), label=label, evidence=(found[0], found[1]))


def _claim_filler(rng: random.Random, words: int, denied: float, *, least: int = 0) -> list[str]:
    """Return sentences that speak for no cause, of at most `words` words together; `least` in any case."""
    sentences: list[str] = []
    length = 0
    while True:
        if rng.random() < denied:
            sentence = _observe(rng, rng.choice(LABELS), DENIED)
        else:
            sentence = _fill(rng, rng.choice(CLAIM_FILLER))
        length += count_words(sentence)
        if length > words and len(sentences) >= least:
            return sentences
        sentences.append(sentence)


def _check_share(name: str, value: float | None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, not {value}")


def _votes(rng: random.Random, label: str, evidence: int, majority: float) -> list[str]:
    """Return the label that each sentence of evidence speaks for, in a random order."""
    least = min(evidence, int(evidence * majority) + 1)
    count = rng.randint(least, evidence)
    others = [other for other in LABELS if other != label]
    votes = [label] * count + [rng.choice(others) for _ in range(evidence - count)]
    rng.shuffle(votes)
    return votes


def _observe(rng: random.Random, label: str, templates: Sequence[str]) -> str:
    sign = rng.choice(SIGNS[label])
    return _fill(rng, rng.choice(templates).replace("{sign}", sign))


def _distractor(
    rng: random.Random, project: str, attribute: Attribute, rivals: float, told: set[tuple[str, str]]
) -> str:
    """State a fact that is not the asked one: of the same sort, of the same project, or of neither."""
    for _ in range(50):
        other_project, other = rng.choice(PROJECTS), rng.choice(ATTRIBUTES)
        if rng.random() < rivals:
            other = attribute
        elif rng.random() < 0.4:
            other_project = project
        if (other_project, other.name) not in told:
            told.add((other_project, other.name))
            return _state(rng, other, other_project)[0]
    return _fill(rng, rng.choice(MINUTES_FILLER))  # a very long document has told nearly everything


def _state(rng: random.Random, attribute: Attribute, project: str) -> tuple[str, str, int]:
    """Return a sentence stating a fact, the value in it and the value's offset."""
    template = rng.choice(attribute.statements).replace("{project}", project)
    offset = template.index("{value}")
    value = _fill(rng, "{" + attribute.sort + "}")
    return template.replace("{value}", value), value, offset


def _fill(rng: random.Random, template: str) -> str:
    """Replace every slot such as `{town}` by a random word or phrase of its kind."""

    def draw(match: re.Match[str]) -> str:
        kind = match.group(1)
        if kind == "person":
            return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
        if kind == "date":
            return f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1990, 2039)}"
        if kind == "money":
            return f"{rng.randint(1, 99)},{rng.randint(1, 9)}00 euros"
        if kind == "number":
            return str(rng.randint(2, 60))
        return rng.choice({"town": TOWNS, "topic": TOPICS, "room": ROOMS}[kind])

    return re.sub(r"\{(\w+)\}", draw, template)


def _separator(index: int) -> str:
    """Return what stands before the sentence of that index."""
    if index == 0:
        return ""
    return "\n\n" if index % _PARAGRAPH == 0 else " "


def _join(sentences: Sequence[str]) -> str:
    return "".join(_separator(index) + sentence for index, sentence in enumerate(sentences))


def _starts(sentences: Sequence[str]) -> list[int]:
    """Return the offset of each sentence in the joined text."""
    starts: list[int] = []
    length = 0
    for index, sentence in enumerate(sentences):
        length += len(_separator(index))
        starts.append(length)
        length += len(sentence)
    return starts
