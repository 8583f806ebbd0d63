"""The functions of the package; see `kvbatch.__all__`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from kvbatch.calibration import calibrate, estimate_seconds
from kvbatch.endpoints import KvrocksEndpoint, check_apart, parse_endpoint
from kvbatch.job_report import write_report
from kvbatch.migration import Migration
from kvbatch.migration_plan import Plan, found_at, make_plan, open_source, options_for
from kvbatch.options import MigrationOptions
from kvbatch.server import Receiver
from kvbatch.state import check_not_run
from kvbatch.target_state import TargetState, examine_target
from kvbatch.verification import verify

__all__ = ["migrate", "plan", "report", "serve", "verify"]


def plan(source: str | os.PathLike[str], target: str | os.PathLike[str], **options: Any) -> Plan:
    """What `migrate` with the same arguments would do and find at the target; touches nothing.

    Raises UsageError, RefusedError also where `migrate` would be refused, SourceError, TargetError or ProtocolError. A
    receiver that does not answer is no error.
    """
    checked = MigrationOptions.checked(**options)
    source_endpoint, target_endpoint = parse_endpoint(source), parse_endpoint(target)
    check_apart(source_endpoint, target_endpoint)
    checked = options_for(target_endpoint, checked)
    store = open_source(source_endpoint, checked)
    made = make_plan(source_endpoint, target_endpoint, store, checked)
    check_not_run(checked.state_dir, made.job)
    if made.recorded_end is not None:
        state = TargetState.finished(made.recorded_end)
    elif isinstance(target_endpoint, KvrocksEndpoint):
        state = _examine_server(target_endpoint, made, checked)
    else:
        state = examine_target(target_endpoint, made.manifest, checked)
    made = found_at(made, state, store, checked)
    measured = calibrate(store, made, target_endpoint)
    return dataclasses.replace(made, estimated_seconds=estimate_seconds(made, measured, target_endpoint, checked))


def _examine_server(target: KvrocksEndpoint, made: Plan, options: MigrationOptions) -> TargetState:
    from kvbatch.kvrocks.opening import examine_server  # redis-py takes as long as a quarter of kvbatch

    assert made.server_source is not None
    return examine_server(target, made.manifest, made.server_source, options.state_dir, overwrite=options.overwrite)


def migrate(source: str | os.PathLike[str], target: str | os.PathLike[str], **options: Any) -> Migration:
    """Starts moving `source` to `target` in the background.

    Endpoints are a path, `rocksdb:PATH` or, for a target, `kvbatch://host:port/NAME` or
    `kvrocks://[:PASSWORD@]host:port`. Options are the fields of `MigrationOptions`. An unfinished job of the same
    source, target and selection is taken up where it stands. Raises UsageError, RefusedError or SourceError before
    anything is written; what happens later is raised by `Migration.wait`.
    """
    return Migration(source, target, MigrationOptions.checked(**options)).start()


def serve(root: str | os.PathLike[str], *, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Receiver:
    """Starts a receiver for targets below `root` in the background; port 0 takes a free one (`Receiver.port`). Stop it
    with `Receiver.stop`, or use it in a `with` statement."""
    receiver = Receiver(root, host, port, **options)
    receiver.start()
    return receiver


def report(job: str, path: str | os.PathLike[str], state_dir: str | os.PathLike[str] | None = None) -> Path:
    """Writes what the state directory (None: the XDG one) knows of a job as one self-contained HTML page, finished or
    not. A file at `path` is replaced, in one step. Returns `path`.

    Raises UsageError: no such job, `path` is a directory or cannot be written, the state directory cannot be used, or
    the extra `report` is not installed.
    """
    return write_report(job, path, state_dir)
