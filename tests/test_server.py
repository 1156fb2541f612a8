"""``colnorm serve`` with a real client and a real browser: the same tags, requests that share batches, what is refused."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading

import browser
import pytest
from tagger_cases import make_tagger

from colnorm import cli, model_file, predict, server, tagged

# What is started in the background of a shell script ignores Ctrl-C, and so would the server.
START = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("colnorm.cli", run_name="__main__", alter_sys=True)
"""
TEXT = "Mr. Obama flew to Paris on Monday. It rained there."
MOST = 2000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    fields, encoder, params = make_tagger()
    return model_file.save(
        tmp_path_factory.mktemp("model") / "tiny.safetensors", predict.Predictor(encoder, fields, params), {}
    )


@contextlib.contextmanager
def serving(model, *arguments):
    """Its process and its port."""
    command = [sys.executable, "-c", START, "serve", "--model", str(model), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), process.stderr.read()
        yield process, int(line.rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def port(model):
    with serving(model, "--most-characters", str(MOST)) as (_, port):
        yield port


def ask(port, body, method="POST", path="/tag"):
    """Status and what the JSON of the answer says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps(body) if isinstance(body, dict | list) else body
    connection.request(method, path, body)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if response.headers["Content-Type"] == "application/json" else content


def test_it_tags_as_the_command_does(port, model):
    predictor = model_file.load(model)
    status, answer = ask(port, {"text": TEXT})
    assert status == 200 and answer["sentences"]
    expected = tagged.to_objects(predictor.tag(TEXT), TEXT)
    for ours, theirs in zip(answer["sentences"], expected, strict=True):
        for one, other in zip(ours.pop("entities"), theirs.pop("entities"), strict=True):
            assert one.pop("posterior") == pytest.approx(other.pop("posterior"), abs=1e-4)
            assert one == other and TEXT[one["start"] : one["end"]] == one["text"]
        assert ours == theirs
    status, answers = ask(port, {"texts": [TEXT, "", " \n", "😀 Paris 北京"]})
    assert status == 200 and [len(each["sentences"]) for each in answers["texts"]] == [2, 0, 0, 1]
    assert answers["texts"][3]["sentences"][0]["tokens"] == [t.word for t in predictor.tag("😀 Paris 北京")[0].tokens]
    status, about = ask(port, None, "GET", "/model")
    assert status == 200 and about == {"name": "tiny.safetensors", "types": {"geo": 0, "per": 180}, "most_characters": MOST}


def test_many_clients_at_once_get_their_own(port):
    texts = [f"Obama met {number} presidents. " * (number % 4 + 1) for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: ask(port, {"text": text}), texts))
    for text, (status, answer) in zip(texts, answers, strict=True):
        assert status == 200
        assert " ".join(sentence["text"] for sentence in answer["sentences"]) == text.strip()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("", 400, "no JSON"),
        (b"\xff", 400, "no JSON"),
        ("[" * 20_000, 400, "no JSON"),
        ("[]", 400, 'expected {"text": "..."}'),
        ({}, 400, 'expected {"text": "..."}'),
        ({"text": 3}, 400, 'expected {"text": "..."}'),
        ({"text": "a", "texts": []}, 400, 'expected {"text": "..."}'),
        ({"texts": ["a", None]}, 400, 'expected {"text": "..."}'),
        ('{"text": "\\ud800"}', 400, "half of a surrogate pair"),
        ({"text": "a" * (MOST + 1)}, 413, "at most 2,000 characters, got 2,001"),
        ({"texts": ["a" * MOST, "b"]}, 413, "at most 2,000 characters"),
        ("a" * 40_000, 413, "at most 25,000 bytes"),
    ],
)
def test_what_cannot_be_tagged_is_refused(port, body, status, message):
    got, answer = ask(port, body)
    assert got == status and message in answer["error"]
    assert ask(port, {"text": "Paris"})[0] == 200


def test_other_paths_and_methods(port):
    assert ask(port, None, "GET")[0] == 405
    assert ask(port, None, "GET", "/elsewhere")[0] == 404


def test_a_client_that_goes_away_is_no_trouble(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /tag HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
    assert ask(port, {"text": "Paris"})[0] == 200


def test_requests_that_come_meanwhile_share_a_batch():
    """A text that can't be tagged takes none with it; too many are turned away; a batch has its size."""
    batches, started, go = [], threading.Event(), threading.Event()

    def tag(texts):
        batches.append(list(texts))
        started.set()
        assert go.wait(30)
        if "bad" in texts:
            raise ValueError("bad is bad")
        return [[text] for text in texts]

    async def run():
        queue = server.Batches(tag, most_characters=20, most_waiting=5)
        worker = asyncio.create_task(queue.work())
        first = asyncio.create_task(queue.tag(["first"]))
        await asyncio.to_thread(started.wait, 30)
        requests = [asyncio.create_task(queue.tag(texts)) for texts in (["a", "b"], ["bad"], [], ["gone"], ["x" * 30])]
        await asyncio.sleep(0)
        with pytest.raises(server.RequestError, match="5 requests wait already") as caught:
            await queue.tag(["late"])
        requests[3].cancel()
        await asyncio.sleep(0)
        go.set()
        done = await asyncio.gather(first, *requests, return_exceptions=True)
        worker.cancel()
        return caught.value.status, done

    status, (first, both, bad, none, gone, long) = asyncio.run(run())
    assert status == 503 and first == [["first"]] and both == [["a"], ["b"]] and none == [] and long == [["x" * 30]]
    assert isinstance(bad, server.RequestError) and (bad.status, str(bad)) == (400, "bad is bad")
    assert isinstance(gone, asyncio.CancelledError)
    assert batches == [["first"], ["a", "b", "bad"], ["a", "b"], ["bad"], [], ["x" * 30]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "65536"], "--port must be 0 to 65,535, got 65536"),
        (["--most-characters", "0"], "--most-characters must be at least 1"),
        (["--model", "missing"], "missing: expected a model of gmb, a file or a run directory"),
    ],
)
def test_what_cannot_be_served(model, capsys, arguments, message):
    assert cli.main(["serve", "--model", str(model), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_that_is_taken(port, model, capsys):
    assert cli.main(["serve", "--model", str(model), "--port", str(port)]) == 1
    assert f"can't listen at 127.0.0.1, port {port}: " in capsys.readouterr().err


@pytest.mark.slow
def test_it_ends_when_it_is_told_to(model):
    with serving(model) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
@pytest.mark.skipif(browser.PATH is None, reason="no Chromium")
def test_a_browser_marks_entities_while_one_types(port, model, tmp_path):
    predictor = model_file.load(model)
    with browser.opened(f"http://127.0.0.1:{port}/", tmp_path) as page:
        page.wait("document.querySelector('#status').textContent.endsWith(' ms')")
        page.evaluate("document.querySelector('textarea').value = ''")
        page.evaluate("document.querySelector('textarea').focus()")
        typed = "😀 Obama <b>flew</b> to Paris."
        page.type(typed)
        words = "[...document.querySelector('#tagged').childNodes].map(n => n.firstChild?.data ?? n.data).join('')"
        page.wait(f"{words} == {json.dumps(typed)}")
        entities = [entity for sentence in predictor.tag(typed) for entity in sentence.entities]
        marks = page.evaluate("[...document.querySelectorAll('#tagged mark')].map(m => [m.firstChild.data, m.title])")
        assert entities and [text for text, _ in marks] == [entity.text for entity in entities]
        for (_, title), entity in zip(marks, entities, strict=True):
            assert title.startswith(f"{entity.type}, posterior 0.") or entity.posterior > 0.9995
        assert page.evaluate("document.querySelector('#tagged b')") is None
        page.evaluate(f"document.querySelector('textarea').value = 'a'.repeat({MOST})")
        page.type("a")
        page.wait("document.querySelector('#status').textContent.includes('at most 2,000 characters')")
