"""Whatever is changed while a job runs, and whenever: what comes out is equal."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvbatch
from support.places import quick_folder
from support.steered import LANES, SteeredJob
from support.stores import read_store, write_store

_random = random.Random(8)
ENTRIES = {
    "default": {b"key-%05d" % number: _random.randbytes(120) for number in range(5000)},
    "other": {b"%d" % number: b"v" * (number % 900) for number in range(300)},
}

CHANGES = st.one_of(
    st.fixed_dictionaries({"rate_limit": st.sampled_from([0, "512KiB/s", "4MiB/s"])}),
    st.fixed_dictionaries({"source_read_rate": st.sampled_from([0, "2MiB/s"])}),
    st.fixed_dictionaries({"streams": st.sampled_from([1, 2, 4, "auto"])}),
    st.fixed_dictionaries({"batch_bytes": st.sampled_from(["4KiB", 5000, "64KiB", "auto"])}),
    st.fixed_dictionaries({"window": st.sampled_from([1, 2, 7, 1024, "auto"])}),
    st.fixed_dictionaries({"compression": st.sampled_from(["auto", "lz4", "zstd", "none"])}),
    st.fixed_dictionaries({"max_memory": st.sampled_from(["24MiB", "64MiB"])}),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["pause", "resume", "set"]), CHANGES, st.integers(0, 25)), min_size=1, max_size=8
)


@pytest.mark.parametrize("lane", LANES)
@settings(max_examples=6)
@given(STEPS, st.booleans())
def test_settings_change_at_any_moment(lane: str, steps: list[tuple[str, dict[str, Any], int]], remote: bool) -> None:
    with quick_folder("kvbatch-settings-") as base, kvbatch.serve(base / "root") as receiver:
        source = write_store(base / "source", ENTRIES)
        target = f"kvbatch://127.0.0.1:{receiver.port}/copy" if remote else base / "root" / "copy"
        options = {"state_dir": base / "state", "lane": lane, "range_bytes": 32 << 10, "batch_bytes": 4096}
        with SteeredJob(source, target, **options) as job:
            for verb, changes, batches in steps:
                # So far on, unless it is held or done.
                due = job.progress.batches + batches
                while job.progress.batches < due and job.progress.state == "running" and not job.told("done"):
                    job.migration._finished.wait(0.01)
                if verb == "set":
                    with suppress(kvbatch.RefusedError):  # it has ended
                        job.migration.set(**changes)
                else:
                    getattr(job.migration, verb)()
            job.migration.resume()
            summary = job.finish(rate_limit=0, source_read_rate=0)
        assert summary.resent_bytes == 0
        assert read_store(base / "root" / "copy") == ENTRIES
