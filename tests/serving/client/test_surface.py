"""The clients' public surface: the same on all of them, and complete under mypy strict."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longserve.serving import (
    AsyncClient,
    CallKeywords,
    ClassificationKeywords,
    ClassificationOptions,
    ClassificationRequest,
    Client,
    InvalidInput,
    LocalClient,
    QuestionAnsweringOptions,
    QuestionKeywords,
    QuestionRequest,
)
from longserve.serving.client.requests import RequestBuilder

REMOTE_ONLY = {"models", "limits", "wait_until_ready"}


def methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def keywords(*kinds: Any) -> set[str]:
    return {name for kind in kinds for name in kind.__annotations__}


def test_all_clients_have_the_same_methods() -> None:
    assert methods(Client) == methods(AsyncClient)
    assert methods(LocalClient) == methods(Client) - REMOTE_ONLY


@pytest.mark.parametrize("name", sorted(methods(Client)))
def test_their_parameters_are_the_same(name: str) -> None:
    def parameters(kind: type) -> list[Any]:
        signature = inspect.signature(getattr(kind, name))
        return [(p.name, p.kind, p.default) for p in signature.parameters.values()]

    assert parameters(Client) == parameters(AsyncClient)
    if name not in REMOTE_ONLY:
        remote = [each for each in parameters(Client) if each[0] not in ("model", "timeout", "options")]
        assert [each for each in parameters(LocalClient) if each[0] != "options"] == remote


def test_the_constructors_are_the_same() -> None:
    def parameters(kind: Any) -> list[Any]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(kind).parameters.values()]

    assert parameters(Client) == parameters(AsyncClient)


def test_the_keywords_are_those_of_the_options() -> None:
    options = ClassificationOptions.__slots__, QuestionAnsweringOptions.__slots__  # type: ignore[attr-defined]
    assert keywords(ClassificationKeywords) == set(options[0]) - {"window_results"}
    assert keywords(QuestionKeywords) == set(options[1]) - {"window_results"}
    for request, method in (
        (ClassificationRequest, RequestBuilder.classification),
        (QuestionRequest, RequestBuilder.question),
    ):
        taken = set(inspect.signature(method).parameters) - {"self"}
        assert taken == keywords(request) and keywords(CallKeywords) <= taken


def test_an_unknown_keyword_is_a_type_error() -> None:
    client: Any = Client("grpc://localhost")
    legal = "function_to_apply, model, request_id, stride, timeout, top_k, window_combination"
    with pytest.raises(TypeError, match=f"^unknown option topk; the options are {legal}$"):
        client.classify("a", topk=1)
    with pytest.raises(TypeError, match=r"unknown option max_answer_len; .*max_answer_tokens"):
        client.answer_many([], max_answer_len=1)
    with pytest.raises(TypeError, match="unknown option top_k; the options are model, request_id, timeout"):
        client.logits([0], [1], top_k=1)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_string_is_no_stream_of_texts(kind: Any) -> None:
    client = kind("grpc://localhost")
    for many in (client.classify_many, client.answer_many):
        with pytest.raises(InvalidInput, match="are a single str; give an iterable"):
            many("a text")


USER = """
from __future__ import annotations

from longserve.serving import AsyncClient, Answer, Classification, Client, LocalClient, RetryPolicy, Tls


def use(client: Client | LocalClient) -> None:
    one: Classification = client.classify("a", top_k=2)
    many: list[Classification] = client.classify(["a", "b"], window_combination="max")
    answers: list[Answer] = client.answer("q", "c", handle_impossible_answer=True)
    each: list[list[Answer]] = client.answer("q", ["c", "d"])
    streamed: list[Classification] = list(client.classify_many(iter(["a"]), progress=False))
    print(one.scores["x"], many, answers, each, streamed, client.classify_windows("a").windows[0].score)


def remote(client: Client) -> int | None:
    client.wait_until_ready(3.0)
    names: list[str] = [model.name for model in client.models() if model.ready]
    print(names, client.labels("m"), client.classify("a", model="m", timeout=3, request_id="r"))
    return client.limits().max_windows


async def asynchronous() -> None:
    retry = RetryPolicy(attempts=2)
    async with AsyncClient("grpcs://h", tls=Tls(), headers={"a": "b"}, retry=retry) as client:
        one: Classification = await client.classify("a")
        answers: list[list[Answer]] = await client.answer(["q"], "c")
        async for result in client.answer_many([("q", "c")], top_k=3):
            print(result[0].answer, one, answers)


def wrong(client: Client) -> None:
    client.classify("a", topk=2)  # expect: [call-overload]
    client.classify_windows("a", top_k="2")  # expect: [arg-type]
    client.classify_windows(["a"])  # expect: [arg-type]
    client.answer_windows("q", "c", max_answer_len=3)  # expect: [call-arg]
"""


@pytest.mark.slow
def test_a_users_code_is_checked_by_mypy_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    root = Path(__file__).parents[3]
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {root / '.ci' / 'typing'}\nexplicit_package_bases = True\n"
        "namespace_packages = True\n[mypy-longserve.*]\nignore_errors = True\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    reported = {
        int(line.split(":")[1]): line.rsplit(" ", 1)[1]
        for line in done.stdout.splitlines()
        if ": error:" in line
    }
    expected = {
        number: line.rsplit(" ", 1)[1]
        for number, line in enumerate(USER.splitlines(), 1)
        if "# expect:" in line
    }
    assert reported == expected, done.stdout + done.stderr
