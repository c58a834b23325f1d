"""The HTTP interface: answers, refusals, batches, what is not let in and not let out."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from helpers.serving import Fake, Server, serving

from nutgraf.core.errors import UserError
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.serving.limits import Limits, parse_limits

JSON = {"Content-Type": "application/json"}
ARTICLE = "Fire destroyed a mill in Norwick on Monday. Nobody was hurt, police said."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Fake()) as started:
        yield started


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does, at most 10 seconds."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it did not come true in 10 s"
        time.sleep(0.005)


def refusal(answer: httpx2.Response, status: int) -> str:
    """The one line of an answer that has to be a refusal with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert "\n" not in body["error"]
    return body["error"]


# Answers.


def test_articles_are_summarized_by_every_system_in_order(server):
    answer = server.ask("A b c.", "D e f.", systems=["lead3", "best", "lead3"])
    assert answer.status_code == 200
    summaries = [(s["article"], s["system"], s["text"]) for s in answer.json()["summaries"]]
    assert summaries == [
        (0, "lead3", "lead3: A b c.."),
        (0, "best", "best: A b c.."),
        (1, "lead3", "lead3: D e f.."),
        (1, "best", "best: D e f.."),
    ]


def test_the_best_system_writes_where_none_is_named_and_evidence_comes_where_it_is_asked_for(
    server,
):
    (plain,) = server.ask(ARTICLE).json()["summaries"]
    assert (plain["system"], plain["evidence"]) == ("best", None)
    (shown,) = server.ask(ARTICLE, evidence=True).json()["summaries"]
    (sentence,) = shown["evidence"]["sentences"]
    (source,) = sentence["sources"]
    assert ARTICLE[source["start"] : source["end"]] == ARTICLE.split(". ")[0] + "."


def test_a_stream_tells_pieces_then_the_whole_then_its_end(server):
    answer = server.ask(ARTICLE, systems=["best", "lead3"], stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [
        (name, json.loads(data))
        for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", answer.text)
    ]
    assert events[-1] == ("done", {})
    for system in ("best", "lead3"):
        own = [(name, payload) for name, payload in events if payload.get("system") == system]
        *pieces, (last, whole) = own
        assert last == "summary"
        assert {name for name, _ in pieces} == {"piece"}
        assert len(pieces) > 2
        assert "".join(payload["text"] for _, payload in pieces) == whole["text"]


def test_models_health_examples_and_metrics(server):
    server.ask(ARTICLE)
    models = server.client.get("/models").json()
    assert [s["name"] for s in models["systems"]] == ["best", "baseline", "lead3"]
    assert models["limits"]["max_article"] == Limits().max_article
    assert "synthetic newswire only" in models["caution"]
    assert (models["candidates"], models["choose"]) == (1, "consensus")
    assert server.client.get("/health").json() == {"status": "ok", "unanswered": 0}
    examples = server.client.get("/examples").json()
    assert len({e["kind"] for e in examples}) == len(examples) == 5
    assert all(len(e["article"].split()) > 100 for e in examples)
    server.client.get("/no/such/path")
    metrics = server.client.get("/metrics").text
    assert re.search(r'^nutgraf_summaries_total\{system="best"\} [1-9]', metrics, re.M)
    assert re.search(
        r'^nutgraf_requests_total\{path="/summaries",status="200"\} [1-9]', metrics, re.M
    )
    assert 'path="other",status="404"' in metrics
    assert "/no/such" not in metrics


# Answers in OpenAI's form, to its own client.


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0)


def test_the_openai_client_gets_the_summary_of_the_last_user_message(server, client):
    assert [model.id for model in client.models.list()] == ["best", "baseline", "lead3"]
    assert client.models.retrieve("lead3").owned_by == "nutgraf"
    talk = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "Before."},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": ARTICLE}]},
    ]
    for system in ("best", "lead3"):
        answer = client.chat.completions.create(model=system, messages=talk, n=1, temperature=0)
        (choice,) = answer.choices
        (summary,) = server.ask(ARTICLE, systems=[system]).json()["summaries"]
        assert choice.message.content == summary["text"]
        assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
        assert (answer.object, answer.model) == ("chat.completion", system)
        assert answer.usage.to_dict() == {
            "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
        }  # fmt: skip
    answer = client.completions.create(model="best", prompt=["A b.", "C d."])
    assert [(c.index, c.text) for c in answer.choices] == [(0, "best: A b.."), (1, "best: C d..")]
    assert answer.usage.total_tokens == 30


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_is_an_upper_limit(client, limit):
    asked = {"model": "best", "messages": [{"role": "user", "content": ARTICLE}]}
    (choice,) = client.chat.completions.create(**asked, **{limit: 2}).choices
    assert (choice.message.content, choice.finish_reason) == ("best: Fire", "length")
    (choice,) = client.chat.completions.create(**asked, **{limit: 10_000}).choices
    assert choice.finish_reason == "stop"


def test_n_gives_all_candidates_the_chosen_one_first(client):
    answer = client.completions.create(model="best", prompt=["A b.", "C d."], n=3)
    assert [choice.text for choice in answer.choices] == [
        "best: A b..", "Not best: A b..", "Not best: A b..",
        "best: C d..", "Not best: C d..", "Not best: C d..",
    ]  # fmt: skip
    assert answer.usage.completion_tokens == 2 * (5 + 4 + 4)
    greedy = client.completions.create(model="best", prompt="A b.", n=3, temperature=0)
    assert [choice.text for choice in greedy.choices] == ["best: A b.."] * 3


@pytest.mark.parametrize("n", [1, 3])
def test_the_openai_client_reads_a_stream_piece_by_piece(client, n):
    asked = {"model": "best", "stream": True, "n": n, "stream_options": {"include_usage": True}}
    messages = [{"role": "user", "content": ARTICLE}]
    *chunks, last = client.chat.completions.create(messages=messages, **asked)
    texts, ends = [""] * n, []
    for chunk in chunks:
        assert (chunk.object, chunk.usage) == ("chat.completion.chunk", None)
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason == "stop" else []
    summary = "best: Fire destroyed a mill in."
    assert texts == [summary, *[f"Not {summary}"] * (n - 1)]
    assert ends == list(range(n))
    assert len(chunks) > 5
    assert (last.choices, last.usage.completion_tokens) == ([], 5 + 4 * (n - 1))
    *chunks, last = client.completions.create(prompt=["A b.", "C d."], **asked)
    texts = [""] * 2 * n
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[::n] == ["best: A b..", "best: C d.."]
    assert last.usage.prompt_tokens == 20


def test_a_stream_in_openais_form_ends_with_done(server):
    asked = {"model": "lead3", "prompt": ARTICLE, "stream": True}
    answer = server.client.post("/v1/completions", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    *events, end, rest = answer.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events)


@pytest.mark.parametrize(
    ("asked", "status", "param", "words"),
    [
        ({"model": "gpt-4o"}, 404, "model", "'gpt-4o': this server has best, baseline, lead3"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "but white space"),
        ({"messages": [{"role": "system", "content": "a b"}]}, 400, "messages", "messages is ''"),
        ({"messages": [{"role": "user", "content": "x" * 50_001}]}, 400, "messages", "50,001 char"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages",
         "type is 'image_url': input should be 'text'"),
        ({"temperature": 0.7}, 400, "temperature", "only null or 0 is supported: leave"),
        ({"top_p": 0.5}, 400, "top_p", "top_p is 0.5: only null or 1 is supported: leave it out"),
        ({"seed": 1}, 400, "seed", "seed is 1: only null is supported"),
        ({"stop": ["\n"]}, 400, "stop", "only null or [] is supported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "supported"),
        ({"n": 17}, 400, "n", "n is 17: input should be less than or equal to 16"),
        ({"max_tokens": 0}, 400, "max_tokens", "max_tokens is 0: input should be greater"),
        ({"reasoning_effort": "low"}, 400, "reasoning_effort", "extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_the_openai_client_gets_a_refusal_in_its_own_form(client, asked, status, param, words):
    good = {"model": "best", "messages": [{"role": "user", "content": ARTICLE}]}
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(**(good | asked))
    assert raised.value.status_code == status
    assert (raised.value.type, raised.value.param) == ("invalid_request_error", param)
    assert words in raised.value.body["message"]
    assert raised.value.code == ("model_not_found" if status == 404 else None)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"{", "headers": JSON}, 400),
        ({"content": b"x" * 2_000_001, "headers": JSON}, 413),
        ({"content": b"{}"}, 415),
        ({"json": {}, "headers": {"Host": "evil.example"}}, 403),
        ({"json": {}, "headers": {"Origin": "https://evil.example"}}, 403),
    ],
)
def test_what_is_not_let_in_is_refused_in_openais_form(server, request_, status):
    answer = server.client.post("/v1/completions", **request_)
    assert answer.status_code == status
    assert list(answer.json()["error"]) == ["message", "type", "param", "code"]


def test_requests_in_both_forms_share_the_queue_its_batches_and_its_limits():
    fake = Fake()
    asked = {"model": "best", "prompt": "1 b"}
    with serving(fake, Limits(max_queue=4)) as server, ThreadPoolExecutor(4) as people:
        fake.open.clear()
        first = people.submit(server.ask, "first")
        until(lambda: len(fake.batches) == 1)
        waiting = [people.submit(server.ask, "0 b"), people.submit(server.ask, "0 b")]
        waiting += [people.submit(server.client.post, "/v1/completions", json=asked)]
        until(lambda: server.worker.unanswered == 4)
        refused = server.client.post("/v1/completions", json=asked)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        fake.open.set()
        assert all(answer.result().is_success for answer in [first, *waiting])
        fake.error = ValueError("Norwick was in the article")
        assert server.client.post("/v1/completions", json=asked).status_code == 500
        stream = server.client.post("/v1/completions", json=asked | {"stream": True})
    assert [len(batch) for batch in fake.batches[:2]] == [1, 3]
    problem, end, _ = stream.text.split("\n\n")
    assert json.loads(problem.removeprefix("data: "))["error"]["type"] == "server_error"
    assert end == "data: [DONE]"


# Refusals: what is asked for.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"articles": []}, "articles is a list of 0: list should have at least 1 item"),
        ({"articles": ["a"] * 17}, "articles is a list of 17: list should have at most 16 items"),
        ({"articles": [ARTICLE, " \n"]}, "articles.1 is ' \\n': it has nothing but white space"),
        ({"articles": ["\0\x01"]}, "nothing but white space"),
        ({"articles": ["<!DOCTYPE html><html><p>It rained."]}, "it is a web page: give the text"),
        ({"articles": [7]}, "articles.0 is 7: input should be a valid string"),
        ({"articles": ["x" * 50_001]}, "a text of 50,001 characters: string should have at most"),
        ({"articles": ["a \ud800 b"]}, "unable to parse raw data as a unicode string"),
        ({"articles": [ARTICLE], "systems": ["bset"]}, "'best', 'baseline' or 'lead3'"),
        ({"articles": [ARTICLE], "systems": []}, "systems is a list of 0"),
        ({"articles": [ARTICLE], "sistems": ["best"]}, "sistems is a list of 1: extra inputs"),
        (
            {"articles": [ARTICLE], "stream": 1},
            "stream is 1: input should be a valid boolean",
        ),
        ({"articles": [ARTICLE], "candidates": 0}, "candidates is 0: input should be greater"),
        ({"articles": [ARTICLE], "candidates": 17}, "candidates is 17: input should be less"),
        ({"articles": [ARTICLE], "candidates": "4"}, "candidates is '4': input should be a valid"),
        ({"articles": [ARTICLE], "max_new_tokens": 0}, "max_new_tokens is 0: input should be gre"),
        ({}, "articles is an object of 0: field required"),
        ([], "the body is a list of 0"),
    ],
)
def test_what_is_not_as_described_is_told_in_one_line(server, body, reason):
    answer = server.client.post("/summaries", content=json.dumps(body), headers=JSON)
    line = refusal(answer, 422)
    assert reason in line
    assert "Norwick" not in line


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b'{"articles": [', "headers": JSON}, 422, "the body is no JSON"),
        ({"content": b"\xff", "headers": JSON}, 422, "the body is no JSON"),
        ({"content": b"[" * 100_000, "headers": JSON}, 422, "the body is no JSON"),
        ({"content": b'{"articles": ["a b"]}', "headers": {"Content-Type": "text/plain"}}, 415,
         "Content-Type is 'text/plain': send application/json"),
        ({"content": b'{"articles": ["a b"]}'}, 415, "Content-Type is ''"),
        ({"content": b"\x1f\x8b", "headers": JSON}, 422, "the body is no JSON: it is compressed"),
        ({"content": b"x" * 2_000_001, "headers": JSON}, 413, "more than 2,000,000 bytes"),
        ({"content": iter([b" " * 10**6] * 3), "headers": JSON}, 413, "--max-body"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_read(server, request_, status, reason):
    assert reason in refusal(server.client.post("/summaries", **request_), status)


def test_paths_and_methods_that_are_not_there(server):
    assert "/openapi.json" in refusal(server.client.get("/summary"), 404)
    answer = server.client.get("/summaries")
    assert answer.headers["allow"] == "POST"
    refusal(answer, 405)


# Refusals: who asks.


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_names_of_this_machine_are_answered(server, host):
    assert server.client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:80", "192.168.0.1", "", "["],
)
def test_other_names_are_not_so_that_rebinding_does_not_work(server, host):
    line = refusal(server.client.get("/health", headers={"Host": host}), 403)
    assert repr(host) in line


def test_pages_of_other_sites_cannot_ask(server):
    own = {"Origin": server.address}
    assert server.client.post("/summaries", json={"articles": ["a b"]}, headers=own).is_success
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        answer = server.client.post(
            "/summaries", json={"articles": ["a b"]}, headers={"Origin": origin}
        )
        assert origin in refusal(answer, 403)
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = server.client.options("/summaries", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_origin_that_was_named_can_ask_and_no_other_can(server):
    named = ["https://Name-8000.app.example/", "http://proxy.example:8080/user/me/proxy/8000/"]
    own = (
        {"Origin": "https://name-8000.app.example"},  # a proxy that names this machine as host
        {"Origin": "https://name-8000.app.example", "Host": "name-8000.app.example:443"},
        {"Origin": "http://proxy.example:8080", "Host": "proxy.example"},
        {"Host": "proxy.example:8080"},
        {"Origin": "http://localhost", "Host": "localhost:80"},
    )
    foreign = (
        {"Origin": "http://name-8000.app.example"},
        {"Origin": "https://proxy.example:8080"},
        {"Origin": "http://evil.example", "Host": "proxy.example"},
        {"Origin": "https://name-8000.app.example.evil.example"},
        {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"},
        {"Host": "evil.example", "X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"},
        {"Origin": "null", "Host": "proxy.example"},
    )
    with serving(Fake(), origins=named) as named_server:
        for headers in own:
            asked = {"json": {"articles": ["a b"]}, "headers": headers}
            assert named_server.client.post("/summaries", **asked).is_success, headers
        for headers in foreign:
            asked = {"json": {"articles": ["a b"]}, "headers": headers}
            answer = named_server.client.post("/summaries", **asked)
            assert "start it with --allow-origin" in refusal(answer, 403), headers
            assert not [name for name in answer.headers if name.startswith("access-control")]
    for headers in own[:4]:
        refusal(server.client.post("/summaries", json={"articles": ["a b"]}, headers=headers), 403)


def test_a_path_in_front_works_whether_the_proxy_takes_it_off_or_not():
    with serving(Fake(), origins=["https://hub.example/user/me/proxy/8000/"]) as server:
        for start in ("/", "/user/me/proxy/8000/"):
            page = server.client.get(start)
            assert page.headers["content-type"].startswith("text/html")
            for name in re.findall(r'(?:href|src)="([^"#]+)"', page.text):
                assert server.client.get(start + name).is_success, name
            asked = {"articles": ["a b"], "stream": True}
            assert "event: done" in server.client.post(f"{start}summaries", json=asked).text
            described = server.client.get(f"{start}openapi.json").json()
            assert described["servers"] == [{"url": "."}]
        answer = server.client.get("/user/me/proxy/8000")
        assert (answer.status_code, answer.headers["location"]) == (308, "8000/")
        refusal(server.client.get("/user/me/proxy/80001/"), 404)


def test_head_is_answered_as_get_is_without_the_body(server):
    for path in ("/", "/page.js", "/models", "/examples", "/health", "/metrics", "/openapi.json"):
        head, whole = server.client.head(path), server.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert server.client.head("/summaries").headers["allow"] == "POST"
    assert server.client.head("/nowhere").status_code == 404
    assert server.client.post("/health").headers["allow"] == "GET, HEAD"
    assert server.client.head("/health", headers={"Host": "evil.example"}).status_code == 403


def test_no_proxy_holds_a_stream_back_or_ends_it_while_it_waits(monkeypatch):
    monkeypatch.setattr("nutgraf.serving.running_request.COMMENT_SECONDS", 0.05)
    fake = Fake()
    with serving(fake) as server:
        fake.open.clear()
        asked = {"articles": [ARTICLE], "stream": True}
        with server.client.stream("POST", "/summaries", json=asked) as answer:
            assert answer.headers["x-accel-buffering"] == "no"
            assert {"no-cache", "no-transform"} <= set(answer.headers["cache-control"].split(", "))
            lines = answer.iter_lines()
            assert next(lines) == ": waiting"
            fake.open.set()
            assert "event: done" in list(lines)


def test_every_answer_forbids_foreign_scripts_and_caches(server):
    answers = [server.client.get(p) for p in ("/", "/page.js", "/models", "/nowhere")]
    answers += [server.ask(" "), server.client.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    page = answers[0].text
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|https?://", page)


# Limits.


def behind_another(fake: Fake, server: Server, requests: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the answers to a request for `first`, and to others that wait behind it."""
    with ThreadPoolExecutor(10) as people:
        fake.open.clear()
        first = people.submit(server.ask, "first")
        until(lambda: len(fake.batches) == 1)
        rest = [people.submit(server.ask, f"{i} b", **asked) for i, asked in enumerate(requests)]
        summaries = 1 + sum(len(asked.get("systems", ["best"])) for asked in requests)
        until(lambda: server.worker.unanswered == summaries)
        fake.open.set()
        return [waiting.result() for waiting in [first, *rest]]


def test_requests_that_wait_together_are_decoded_together():
    fake = Fake()
    with serving(fake, Limits(batch_size=4)) as server:
        answers = behind_another(fake, server, [{"systems": ["best", "lead3"]}] * 5)
    assert all(answer.status_code == 200 for answer in answers)
    assert [(len(b), {row.split()[0] for row in b}) for b in fake.batches] == [
        (1, {"best"}), (4, {"lead3"}), (4, {"best"}), (1, {"lead3"}), (1, {"best"}),
    ]  # fmt: skip


def test_candidates_take_more_of_a_batch_and_are_not_mixed_with_other_numbers_of_them():
    fake = Fake()
    numbers = (8, 8, 8, None, 1, 16, 16)
    with serving(fake, Limits(batch_size=4)) as server:
        first, *rest = behind_another(fake, server, [{"candidates": k} for k in numbers])
    answers = [answer.json()["summaries"][0] for answer in rest]
    assert first.is_success
    assert sorted(len(batch) for batch in fake.batches) == [1, 1, 1, 1, 2, 2]
    assert [len(answer["candidates"]) for answer in answers] == [8, 8, 8, 0, 0, 16, 16]


def test_only_summaries_of_the_same_limit_are_decoded_together():
    fake = Fake()
    limits = (None, 2, 96, 2, 1000)  # 96 is the study's own
    with serving(fake, Limits(batch_size=4)) as server:
        _, *rest = behind_another(fake, server, [{"max_new_tokens": limit} for limit in limits])
    assert sorted(map(len, fake.batches)) == [1, 2, 3]
    words = [len(answer.json()["summaries"][0]["text"].split()) for answer in rest]
    assert words == [3, 2, 3, 2, 3]


@pytest.mark.parametrize(("batch_size", "candidates"), [(3, 1), (6, 8)])
def test_a_batch_waits_a_moment_for_more(batch_size, candidates):
    fake = Fake()
    with (
        serving(fake, Limits(batch_wait=5, batch_size=batch_size)) as server,
        ThreadPoolExecutor(3) as people,
    ):
        started = time.monotonic()
        answers = people.map(lambda text: server.ask(text, candidates=candidates), "abc")
        assert all(answer.is_success for answer in answers)
        assert time.monotonic() - started < 4
    assert [len(batch) for batch in fake.batches] == [3]


def test_streams_and_whole_summaries_are_decoded_together():
    fake = Fake()
    with serving(fake, Limits(batch_size=4)) as server:
        answers = behind_another(fake, server, [{"stream": i % 2 == 0} for i in range(4)])
    for i, answer in enumerate(answers):
        assert (answer.text.count("event: piece") > 1) == (i in (1, 3))
        assert "best: first." in answer.text or f"best: {i - 1} b." in answer.text
    assert [len(batch) for batch in fake.batches] == [1, 4]
    assert [len(step) for step in fake.steps[-3:]] == [4, 4, 4]


def test_what_cannot_be_ready_in_time_is_refused_at_once():
    fake = Fake()
    with (
        serving(fake, Limits(time_limit=2, batch_size=1)) as server,
        ThreadPoolExecutor(3) as people,
    ):
        fake.open.clear()
        slow = people.submit(server.ask, "slow")  # from which a batch is known to take 1.2 s
        until(lambda: len(fake.batches) == 1)
        waiting = [people.submit(server.ask, "a b", stream=stream) for stream in (False, True)]
        time.sleep(1.2)
        fake.open.set()
        assert slow.result().is_success
        assert "s of work, too much for the 2 s of --time-limit: ask" in refusal(
            waiting[0].result(), 429
        )
        assert '{"status": 429, ' in waiting[1].result().text
        fake.open.clear()
        running = people.submit(server.ask, "next")
        until(lambda: len(fake.batches) == 2)
        for stream in (False, True):
            answer = server.ask("c d", stream=stream)
            line = refusal(answer, 429)
            assert re.search(
                r"1 more asked for, about [12]\.\d+ s of work, too much for the 2 s", line
            )
            assert answer.headers["retry-after"] == "1"
        fake.open.set()
        assert running.result().is_success
    assert fake.batches == [["best slow"], ["best next"]]


def test_a_full_queue_refuses_and_says_when_to_come_back():
    fake = Fake()
    with serving(fake, Limits(max_queue=3)) as server, ThreadPoolExecutor(3) as people:
        fake.open.clear()
        waiting = [people.submit(server.ask, "a b") for _ in range(3)]
        until(lambda: server.worker.unanswered == 3)
        answer = server.ask("c d")
        line = refusal(answer, 429)
        assert "3 summaries are waiting and 1 more asked for, limit 3" in line
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        fake.open.set()
        assert all(each.result().is_success for each in waiting)
        assert server.ask("c d").is_success
        # An idle server takes what would not fit beside others.
        assert server.ask("a", "b", "c", "d").is_success


def test_a_request_ends_at_its_time_limit_and_is_not_written_any_more():
    fake = Fake()
    with serving(fake, Limits(time_limit=0.2)) as server:
        fake.open.clear()
        line = refusal(server.ask("slow"), 504)
        assert line.startswith("1 of 1 summaries were not ready in 0.2 s")
        assert "--time-limit" in line
        refusal(server.ask("never begun"), 504)
        streamed = server.ask("slow", stream=True)
        assert '"status": 504' in streamed.text.split("event: problem\n")[1]
        fake.open.set()
        until(lambda: server.worker.unanswered == 0)
        assert server.ask("after it").is_success
    assert ["best never begun"] not in fake.batches


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_waits_for_is_dropped_at_once(stream):
    fake = Fake()
    with serving(fake, Limits(batch_size=2)) as server:
        fake.open.clear()
        with contextlib.ExitStack() as callers:
            for n in range(1, 5):  # two that are written, two that wait
                caller = callers.enter_context(socket.create_connection(server.at))
                body = json.dumps({"articles": [f"left {n}"], "stream": stream}).encode()
                caller.sendall(
                    b"POST /summaries HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                    b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                until(lambda n=n: server.worker.unanswered == n)
        until(lambda: server.worker.unanswered == 0)  # while the model is at work
        fake.open.set()
        assert server.ask("who stays").is_success
    left = [batch for batch in fake.batches if "best who stays" not in batch]
    assert sum(map(len, left)) <= 2
    assert len([step for step in fake.steps if "best who stays" not in step]) <= 1


def test_a_body_that_does_not_come_is_not_waited_for():
    part = b"POST /summaries HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    with (
        serving(Fake(), Limits(time_limit=0.2)) as server,
        socket.create_connection(server.at) as caller,
    ):
        caller.sendall(part)
        response = b"".join(iter(lambda: caller.recv(4096), b""))
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive in 0.2 s" in response


def test_too_many_requests_at_once_are_refused():
    fake = Fake()
    with serving(fake, Limits(max_connections=1)) as server, ThreadPoolExecutor(1) as people:
        fake.open.clear()
        waiting = people.submit(server.ask, "a b")
        until(lambda: server.worker.unanswered == 1)
        answer = httpx2.get(f"{server.address}/health")
        assert "2 requests at once, limit 1" in refusal(answer, 503)
        assert answer.headers["retry-after"] == "1"
        fake.open.set()
        assert waiting.result().is_success


# Trouble.


@pytest.mark.parametrize("finishes", [True, False])
def test_at_the_end_what_waits_is_refused_and_what_is_written_has_a_moment(monkeypatch, finishes):
    monkeypatch.setattr("nutgraf.serving.server._FINISH_SECONDS", 5 if finishes else 0.2)
    fake = Fake()
    limits = Limits(batch_size=2, batch_wait=5)
    with serving(fake, limits) as server, ThreadPoolExecutor(4) as people:
        fake.open.clear()
        asked = []
        for n, system in enumerate(("best", "best", "baseline", "baseline"), 1):
            ask = people.submit(server.ask, "a b", systems=[system], stream=n % 2 == 0)
            asked.append(ask)
            until(lambda n=n: server.worker.unanswered == n)
        server.stop()
        assert "the server is stopping" in refusal(asked[2].result(), 503)
        assert asked[3].result().text.startswith('event: problem\ndata: {"status": 503, ')
        if finishes:
            fake.open.set()
            assert asked[0].result().is_success
            assert asked[1].result().text.endswith("event: done\ndata: {}\n\n")
        else:
            assert "the server is stopping" in refusal(asked[0].result(), 503)
            assert asked[1].result().text.startswith('event: problem\ndata: {"status": 503, ')
        fake.open.set()


def test_at_the_end_a_body_that_does_not_come_is_refused(monkeypatch, capfd):
    monkeypatch.setattr("nutgraf.serving.server._FINISH_SECONDS", 0)
    monkeypatch.setattr("nutgraf.serving.server._REFUSE_SECONDS", 0)
    part = b"POST /summaries HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    with serving(Fake()) as server, socket.create_connection(server.at) as caller:
        caller.sendall(part)
        until(lambda: server._http.server_state.tasks)
        server.stop()
        response = b"".join(iter(lambda: caller.recv(4096), b""))
    assert response.startswith(b"HTTP/1.1 503 ")
    assert b"the server is stopping" in response
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_is_answered_and_its_words_are_kept_from_the_log(capfd, stream):
    fake = Fake()
    with serving(fake) as server:
        fake.error = ValueError("Norwick was in the article")
        answer = server.ask(ARTICLE, stream=stream)
        message = answer.text if stream else refusal(answer, 500)
        assert "no summary could be written (ValueError)" in message
        for error in (
            MemoryError(),
            DeviceMemoryError("no memory on the device for 1 rows of 9 tokens"),
        ):
            fake.error = error
            answer = server.ask(ARTICLE, stream=stream)
            message = answer.text if stream else refusal(answer, 503)
            assert "out of memory with 1 summaries at once" in message
            assert "--batch-size (now 8)" in message
        fake.error = None
        assert server.ask(ARTICLE).is_success  # the worker has outlived it
    logged = capfd.readouterr().err
    assert "ValueError at " in logged
    assert "serving.py:" in logged
    assert "Norwick" not in logged


def test_an_error_in_an_answer_is_one_line_too(capfd, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("Norwick")

    monkeypatch.setattr("nutgraf.serving.running_request.evidence", broken)
    with serving(Fake()) as server:
        assert refusal(server.ask(ARTICLE, evidence=True), 500).startswith(
            "unexpected RuntimeError"
        )
    logged = capfd.readouterr().err
    assert "RuntimeError at " in logged
    assert "Norwick" not in logged


def test_health_tells_of_a_worker_that_is_gone():
    with serving(Fake()) as server:
        server.worker.__exit__()
        assert "stopping" in refusal(server.client.get("/health"), 503)
        answer = server.ask("a b")
        refusal(answer, 503)
        assert answer.headers["retry-after"] == "5"


def test_threads_end_with_the_server():
    before = threading.active_count()
    with serving(Fake()) as server:
        server.ask("a b")
    until(lambda: threading.active_count() <= before)


def test_limits_are_read_from_options():
    assert parse_limits({"max_queue": "7", "time_limit": "2.5"}) == Limits(
        max_queue=7, time_limit=2.5
    )
    with pytest.raises(
        UserError, match="--max-queue is '0': input should be greater than or equal"
    ):
        parse_limits({"max_queue": "0"})
    with pytest.raises(UserError, match="--time-limit is 'soon'"):
        parse_limits({"time_limit": "soon"})
