"""Who may read and who may control what `--metrics-listen` serves, and that it begins and ends as it should."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvbatch
from kvbatch.metrics_listener import MetricsListener, serve_metrics
from support.stores import kvbatch as run_kvbatch
from support.stores import numbered, write_store
from support.watched_job import ControlledFake, FakeJob

WAIT_SECONDS = 30.0


class Client:
    """Speaks to a listener as a browser would, or as somebody who pretends to be one."""

    def __init__(self, listener: MetricsListener, address: str | None = None) -> None:
        self.connection = http.client.HTTPConnection(address or listener.host, listener.port, timeout=WAIT_SECONDS)
        self.host = f"{listener.host}:{listener.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        return self.ask("GET", path, **headers)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, str]:
        self.connection.request(method, path, headers=headers)
        response = self.connection.getresponse()
        return response.status, response.read().decode()

    def token(self) -> str:
        found = re.search(r'name="kvbatch-token" content="([^"]*)"', self.get("/")[1])
        assert found is not None
        return found[1]

    def control(self, request: object, **changed: str | None) -> tuple[int, str]:
        headers = {
            "Origin": f"http://{self.host}",
            "Content-Type": "application/json",
            "X-Kvbatch-Token": self.token(),
            **{name.replace("_", "-"): value for name, value in changed.items()},
        }
        body = request if isinstance(request, str) else json.dumps(request)
        self.connection.request(
            "POST", "/control", body, {name: value for name, value in headers.items() if value is not None}
        )
        response = self.connection.getresponse()
        return response.status, response.read().decode()

    def follow(self) -> Iterator[dict[str, Any]]:
        """The events, from the snapshot to the end of the stream."""
        self.connection.request("GET", "/events")
        response = self.connection.getresponse()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for line in response:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


@pytest.fixture
def job() -> ControlledFake:
    return ControlledFake()


@pytest.fixture
def listener(job: ControlledFake) -> Iterator[MetricsListener]:
    made = serve_metrics(job, "127.0.0.1:0")
    yield made
    made.stop()


@pytest.fixture
def client(listener: MetricsListener) -> Client:
    return Client(listener)


# -- what is served ---------------------------------------------------------------------------------------------------


def test_metrics_page_and_status(client: Client) -> None:
    status, metrics = client.get("/metrics")
    assert (status, "kvbatch_sender_entries_total 1.25e+06" in metrics) == (200, True)
    assert client.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")[1].endswith("# EOF\n")
    status, page = client.get("/")
    assert (status, page.startswith("<!doctype html>"), "{{" in page) == (200, True, False)
    status, text = client.get("/status.json")
    assert (status, json.loads(text)["job"], json.loads(text)["state"]) == (200, "nightly", "running")
    assert client.get("/nonsense")[0] == 404


def test_the_page_may_load_nothing_and_be_framed_by_nobody(client: Client) -> None:
    client.connection.request("GET", "/")
    response = client.connection.getresponse()
    page = response.read().decode()
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    [nonce] = set(re.findall(r"'nonce-([^']+)'", policy))
    assert re.findall(r"<(?:script|style)[^>]*>", page) == [f'<style nonce="{nonce}">', f'<script nonce="{nonce}">']
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page), "an address on another machine"


def test_events_begin_with_a_snapshot_and_end_with_one(job: ControlledFake, client: Client) -> None:
    events = client.follow()
    assert next(events)["event"] == "snapshot"
    job.begin()
    job.sample(entries=2_000_000)
    job.bus.publish("range", range=3, state="started")
    assert [next(events)["event"] for _ in range(3)] == ["job", "sample", "range"]
    job.end()
    assert next(events)["event"] == "done"
    last = next(events)
    assert (last["event"], last["finished"], last["state"]) == ("snapshot", True, "done")
    assert last["ranges"][:4] == ["complete", "complete", "waiting", "started"]
    assert list(events) == []


def test_who_comes_after_the_end_sees_how_it_ended(job: ControlledFake, client: Client) -> None:
    first = client.follow()
    job.end("failed", error="the disk is gone")
    assert [event["event"] for event in first] in (["snapshot", "done", "snapshot"], ["snapshot"])
    [late] = client.follow()
    assert (late["finished"], late["state"], late["messages"][-1]["error"]) == (True, "failed", "the disk is gone")


# -- who may control --------------------------------------------------------------------------------------------------


def test_the_page_pauses_resumes_and_sets_the_rate(job: ControlledFake, client: Client) -> None:
    assert client.control({"action": "pause"})[0] == 204
    assert client.control({"action": "resume"})[0] == 204
    assert client.control({"action": "set", "rate_limit": "20MiB"})[0] == 204
    assert client.control({"action": "set", "rate_limit": 0})[0] == 204
    assert job.asked == ["paused", "running", {"rate_limit": "20MiB"}, {"rate_limit": 0}]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"X_Kvbatch_Token": "guessed"}, 403),
        ({"X_Kvbatch_Token": None}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_a_request_from_another_page_is_refused(
    headers: dict[str, str | None], status: int, job: ControlledFake, client: Client
) -> None:
    assert client.control({"action": "pause"}, **headers)[0] == status
    assert job.asked == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{",
        {},
        {"action": "cancel"},
        {"action": "pause", "rate_limit": 5},
        {"action": "set"},
        {"action": "set", "rate_limit": [1]},
        {"action": "set", "rate_limit": 1, "streams": 64},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(body: object, job: ControlledFake, client: Client) -> None:
    status, answer = client.control(body)
    assert (status, bool(json.loads(answer)["error"])) == (400, True)
    assert job.asked == []


def test_what_the_job_refuses_is_said(client: Client) -> None:
    status, answer = client.control({"action": "set", "rate_limit": "nonsense"})
    assert (status, json.loads(answer)["error"]) == (400, "--rate-limit 'nonsense': give a size like 20MiB")


def test_on_loopback_no_other_name_is_answered(client: Client) -> None:
    """Else a page whose name was made to mean 127.0.0.1 could read the token."""
    for path in ("/", "/metrics", "/status.json", "/events"):
        assert client.get(path, Host="evil.example")[0] == 400
    assert client.get("/", Host="localhost:12345")[0] == 200, "through a tunnel from another port"


def test_on_another_address_all_is_for_reading_only(job: ControlledFake) -> None:
    listener = serve_metrics(job, "0.0.0.0:0")
    try:
        client = Client(listener, "127.0.0.1")
        assert client.get("/metrics", Host="database-7.example:9100")[0] == 200
        assert client.token() == ""
        assert client.control({"action": "pause"})[0] in (404, 405)
        assert job.asked == []
    finally:
        listener.stop()


def test_a_job_that_cannot_be_controlled_has_no_controls() -> None:
    listener = serve_metrics(FakeJob(), "127.0.0.1:0")
    try:
        assert Client(listener).token() == ""
        assert Client(listener).control({"action": "pause"})[0] == 404
    finally:
        listener.stop()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_loopback_address_has_controls_too(job: ControlledFake) -> None:
    try:
        listener = serve_metrics(job, "[::1]:0")
    except kvbatch.UsageError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    try:
        client = Client(listener)
        client.host = f"[::1]:{listener.port}"
        assert listener.url == f"http://[::1]:{listener.port}/"
        assert client.control({"action": "pause"})[0] == 204
    finally:
        listener.stop()


# -- without the extra, and for a receiver ----------------------------------------------------------------------------


def test_without_the_extra_there_are_the_metrics_and_a_word_on_how_to_get_it(
    job: ControlledFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvbatch.metrics_listener._WEB_PACKAGES", ("starlette", "no_such_package"))
    listener = serve_metrics(job, "127.0.0.1:0")
    try:
        assert str(listener) == (
            f"metrics at http://127.0.0.1:{listener.port}/metrics (for a live page, too: pip install starlette uvicorn)"
        )
        assert "kvbatch_sender_entries_total 1.25e+06" in Client(listener).get("/metrics")[1]
        assert Client(listener).get("/")[0] == 404
    finally:
        listener.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.port), timeout=WAIT_SECONDS).close()


def test_a_receiver_has_metrics_and_no_page(tmp_path: Path) -> None:
    with kvbatch.serve(tmp_path / "root") as receiver, kvbatch.serve_metrics(receiver, "127.0.0.1:0") as listener:
        assert listener.url == f"http://127.0.0.1:{listener.port}/metrics"
        assert str(listener) == f"metrics at {listener.url}"
        assert "kvbatch_receiver_jobs 0.0" in Client(listener).get("/metrics")[1]
        assert Client(listener).get("/metrics?name[]=kvbatch_receiver_jobs")[0] == 200


def test_paths_that_do_not_exist_are_404_and_head_is_an_answer(listener: MetricsListener, tmp_path: Path) -> None:
    with kvbatch.serve(tmp_path / "root") as receiver, kvbatch.serve_metrics(receiver, "127.0.0.1:0") as of_receiver:
        for each in (listener, of_receiver):
            assert Client(each).ask("HEAD", "/metrics") == (200, "")
            for path in ("/nothing", "/metrics/nothing", "/favicon.ico"):
                assert Client(each).get(path) == (404, "Not Found")
        for path in ("/", "/status.json", "/events"):
            assert Client(of_receiver).get(path)[0] == 404


# -- beginning and end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("web", [True, False])
def test_an_address_that_is_taken_is_named(web: bool, job: ControlledFake, monkeypatch: pytest.MonkeyPatch) -> None:
    if not web:
        monkeypatch.setattr("kvbatch.metrics_listener._WEB_PACKAGES", ("no_such_package",))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(kvbatch.UsageError, match=f"serve metrics at {address}: Address already in use"):
            serve_metrics(job, address)


def test_what_has_no_metrics_is_named() -> None:
    with pytest.raises(kvbatch.UsageError, match="metrics of 5: give a Migration or a Receiver"):
        serve_metrics(5, "127.0.0.1:0")  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["migrate", "serve"])
@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "127.0.0.1:"])
def test_the_command_line_refuses_what_is_no_address(command: str, address: str, tmp_path: Path) -> None:
    write_store(tmp_path / "source", {"default": numbered(5)})
    arguments = {
        "migrate": (tmp_path / "source", tmp_path / "target", "--state-dir", tmp_path / "state"),
        "serve": ("--root", tmp_path / "root", "--listen", "127.0.0.1:0"),
    }
    done = run_kvbatch(command, *arguments[command], "--metrics-listen", address)
    assert done.returncode == 2
    assert f"malformed address {address!r}: " in done.stderr
    assert "write HOST:PORT" in done.stderr
    assert not (tmp_path / "target").exists()


def test_stopping_lets_readers_go_and_frees_the_address(listener: MetricsListener, client: Client) -> None:
    events = client.follow()
    next(events)
    listener.stop()
    listener.stop()
    assert list(events) == []
    with socket.create_server(("127.0.0.1", listener.port)):
        pass


@pytest.mark.parametrize("error", [None, kvbatch.StoppedError("told to")])
def test_the_end_of_a_with_statement_waits_for_the_last_event(
    error: kvbatch.KvbatchError | None, job: ControlledFake
) -> None:
    with contextlib.suppress(kvbatch.StoppedError), serve_metrics(job, "127.0.0.1:0") as listener:
        events = Client(listener).follow()
        next(events)
        job.end("stopped" if error else "done")
        if error is not None:
            raise error
    assert [event["event"] for event in events] == ["done", "snapshot"]


def test_a_listener_that_is_left_open_does_not_hold_the_program_up() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from support.watched_job import FakeJob; import kvbatch\n"
        "listener = kvbatch.serve_metrics(FakeJob(), '127.0.0.1:0')\n"
        "import urllib.request; print(urllib.request.urlopen(listener.url).status)"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n", "")
