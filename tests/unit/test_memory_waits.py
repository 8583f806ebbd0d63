from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kvbatch._core.base import RateLimiter
from kvbatch._core.frame import BufferPool, largest_entry, memory_for_entry
from kvbatch.endpoints import parse_endpoint
from kvbatch.events import EventBus
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.throttle import ThrottleLedger, ThrottleReason
from kvbatch.flow_policy import FlowPolicy
from kvbatch.options import MIB, STREAM_BYTES, MigrationOptions
from kvbatch.stream_group import StreamGroup


def flow_of(options: MigrationOptions) -> JobFlow:
    return JobFlow(options.settings, RateLimiter(), ThrottleLedger())


def pool_that_waited(seconds: float) -> Any:
    return SimpleNamespace(waited_seconds=seconds)


def test_waits_for_memory_count_once_and_by_name() -> None:
    flow = flow_of(MigrationOptions.checked())
    first = pool_that_waited(2.0)
    flow.use_pool(first)
    first.waited_seconds = 5.0
    flow.count_waits()
    flow.count_waits()
    assert flow.ledger.seconds()[ThrottleReason.MEMORY] == pytest.approx(3.0)


def test_what_a_session_waited_last_counts_when_the_next_has_its_own_pool() -> None:
    flow = flow_of(MigrationOptions.checked())
    first = pool_that_waited(0.0)
    flow.use_pool(first)
    first.waited_seconds = 4.0
    second = pool_that_waited(0.0)
    flow.use_pool(second)
    second.waited_seconds = 1.0
    flow.count_waits()
    assert flow.ledger.seconds()[ThrottleReason.MEMORY] == pytest.approx(5.0)


def test_the_pool_has_what_the_streams_leave_and_follows_the_settings() -> None:
    options = MigrationOptions.checked(streams=2, max_memory="64MiB")
    flow = flow_of(options)
    policy = FlowPolicy(options, flow, parse_endpoint("/target"), EventBus())
    pool = BufferPool(policy.pool_bytes)
    assert pool.max_bytes == 64 * MIB - 2 * STREAM_BYTES
    group = SimpleNamespace(streams=[], adjust=lambda streams: None)
    policy.begin_session(cast(StreamGroup, group), pool, "batch")
    flow.change(max_memory=128 * MIB, streams=3)
    policy.apply()
    assert pool.max_bytes == 128 * MIB - 3 * STREAM_BYTES
    policy.close()


@pytest.mark.parametrize("size", [1, 2, 3, 100, 2 * MIB, 256 * MIB, 256 * MIB + 1])
def test_the_budget_that_an_entry_is_said_to_need_takes_it(size: int) -> None:
    needed = memory_for_entry(size)
    assert largest_entry(needed) >= size
    assert largest_entry(needed - 7) < size
    assert needed <= 3.5 * size + 7
