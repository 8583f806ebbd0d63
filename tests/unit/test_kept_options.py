"""What is kept of a job's options, and the words that give them again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from kvbatch import cli
from kvbatch.kept_options import option_words, options_to_json, without_words
from kvbatch.options import MigrationOptions


def kept(**options: Any) -> dict[str, Any]:
    """As it comes out of the state directory."""
    value: dict[str, Any] = json.loads(json.dumps(options_to_json(MigrationOptions.checked(**options))))
    return value


def test_what_is_the_default_needs_no_words() -> None:
    assert option_words(kept(job="nightly", state_dir="/elsewhere")) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_limit": "3MiB/s"}, ["--rate-limit", "3MiB/s"]),
        ({"rate_limit": 200_000}, ["--rate-limit", "200000/s"]),
        ({"rate_schedule": "09:00-18:00=1MiB/s,*=0"}, ["--rate-schedule", "09:00-18:00=1MiB,*=0"]),
        ({"source_read_rate": "64KiB/s"}, ["--max-source-read-rate", "64KiB/s"]),
        ({"throttle_check": "test -e 'a b'"}, ["--throttle-check", "test -e 'a b'"]),
        ({"streams": "auto", "max_streams": 3}, ["--streams", "auto", "--max-streams", "3"]),
        ({"streams": 17, "max_memory": "2GiB"}, ["--streams", "17", "--max-memory", "2GiB"]),
        ({"batch_bytes": "96KiB", "window": 5}, ["--batch-size", "96KiB", "--window", "5"]),
        ({"column_families": ["a b", "-c"]}, ["--cf", "a b", "--cf", "-c"]),
        ({"key_range": "..61"}, ["--range", "..61"]),
        ({"slots": "200,0-100", "namespace": "a b"}, ["--slots", "0-100,200", "--namespace", "a b"]),
        ({"allow_nonempty": True, "lane": "batch"}, ["--lane", "batch", "--allow-nonempty"]),
        ({"lane": "files", "link": True, "retries": 0}, ["--lane", "files", "--link", "--retries", "0"]),
        ({"peer_timeout": 90.0, "compression": "lz4"}, ["--compression", "lz4", "--peer-timeout", "90"]),
        ({"target_compression": "zstd"}, ["--target-compression", "zstd"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else "-".join(value),
)
def test_the_words_give_the_same_options_again(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: list[str]
) -> None:
    assert option_words(kept(**options)) == words
    assert without_words(kept(**options)) == []
    read: dict[str, Any] = {}
    monkeypatch.setattr(cli.api, "plan", lambda *_, **given: read.update(given))
    monkeypatch.setattr(cli, "show_plan", lambda *_: None)
    done = CliRunner().invoke(cli.app, ["migrate", "source", "target", "--dry-run", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert MigrationOptions.checked(**read) == MigrationOptions.checked(**options)


def test_what_only_python_can_give_is_named() -> None:
    options = kept(throttle_check=lambda: True, graft_bytes="2MiB", window=4)
    assert option_words(options) == ["--window", "4"]
    assert without_words(options) == ["throttle_check", "graft_bytes"]
