"""The command line: docs/operating.md has the page.

stdout holds results only; progress, logs and errors go to stderr.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from kvbatch import api
from kvbatch._core.base import return_large_memory
from kvbatch._core.frame import LARGE_ENTRY_BYTES
from kvbatch.cli_control import add_control_commands
from kvbatch.cli_inspect import add_inspect_command
from kvbatch.cli_options import (
    BatchOption,
    CheckOption,
    CompressionChoice,
    CompressionOption,
    FamilyOption,
    JobOption,
    JsonOption,
    LaneChoice,
    LaneOption,
    LinkOption,
    MaxStreamsOption,
    MemoryOption,
    MetricsOption,
    NamespaceOption,
    NonemptyOption,
    OverwriteOption,
    ProgressChoice,
    ProgressOption,
    RangeOption,
    RateOption,
    ReadRateOption,
    RetriesOption,
    ScheduleOption,
    SlotsOption,
    SourceArgument,
    StateOption,
    StreamsOption,
    TargetArgument,
    TargetCompressionOption,
    TimeoutOption,
    WindowOption,
    read_path,
)
from kvbatch.cli_output import print_json, print_table, show_plan, show_report, show_summary
from kvbatch.cli_status import add_status_command
from kvbatch.cli_streams import ReaderGoneError, take_streams
from kvbatch.demo import run_demo
from kvbatch.endpoints import format_address, parse_listen, without_password
from kvbatch.errors import KvbatchError, StoppedError
from kvbatch.events import Event
from kvbatch.job_report import render_report
from kvbatch.kept_options import option_words
from kvbatch.logs import configure_for_command_line
from kvbatch.metrics_listener import serve_metrics
from kvbatch.migration import Migration
from kvbatch.options import MigrationOptions, default_state_dir
from kvbatch.progress_view import follow, print_event
from kvbatch.server import Receiver
from kvbatch.shell_words import join_words, show_text
from kvbatch.units import format_bytes
from kvbatch.verification import Verification
from kvbatch.version import __version__

__all__ = ["app", "main"]

EXIT_DIFFERENT = 3
# As shells count, like everybody's behind whom `head` has read enough.
_EXIT_READER_GONE = 128 + signal.SIGPIPE


def _stop_signals() -> tuple[signal.Signals, ...]:
    """What asks for an end. SIGHUP, the end of the terminal or the connection, unless whoever began this ignores it, as
    nohup does."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *(() if ignored else (signal.SIGHUP,)))


# `timeout` signals a child and then its whole group: that is one request to stop, not two.
_SAME_REQUEST_SECONDS = 0.5

app = typer.Typer(
    name="kvbatch",
    help="Moves raw key-values between RocksDB stores as checksummed batches.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _number_or_auto(text: str) -> int | str:
    return int(text) if text.strip().lstrip("-").isdecimal() else text


def _options(
    *,
    lane: LaneChoice,
    streams: str | None,
    max_streams: int | None,
    compression: CompressionChoice,
    target_compression: str,
    max_memory: str,
    batch_size: str,
    window: str,
    rate_limit: str,
    rate_schedule: str | None,
    source_read_rate: str,
    throttle_check: str | None,
    peer_timeout: float,
    column_families: list[str] | None,
    key_range: str | None,
    slots: str | None,
    namespace: str | None,
    job: str | None,
    state_dir: Path | None,
    allow_nonempty: bool,
    overwrite: bool,
    link: bool,
    retries: int,
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "lane": lane.value,
        "compression": compression.value,
        "target_compression": target_compression,
        "max_memory": max_memory,
        "batch_bytes": batch_size,
        "window": _number_or_auto(window),
        "max_streams": max_streams,
        "rate_limit": rate_limit,
        "rate_schedule": rate_schedule,
        "source_read_rate": source_read_rate,
        "throttle_check": throttle_check,
        # A complaint shows what was typed, which is hardly ever 0.0.
        "peer_timeout": int(peer_timeout) if peer_timeout.is_integer() else peer_timeout,
        "column_families": tuple(column_families or ()),
        "key_range": key_range,
        "slots": slots,
        "namespace": namespace,
        "job": job,
        "allow_nonempty": allow_nonempty,
        "overwrite": overwrite,
        "link": link,
        "retries": retries,
        "state_dir": state_dir or default_state_dir(),
    }
    if streams is not None:
        options["streams"] = _number_or_auto(streams)
    return options


# -- migrate and plan -------------------------------------------------------------------------------------------------


@app.command()
def migrate(
    source: SourceArgument,
    target: TargetArgument,
    lane: LaneOption = LaneChoice.AUTO,
    streams: StreamsOption = None,
    max_streams: MaxStreamsOption = None,
    compression: CompressionOption = CompressionChoice.AUTO,
    target_compression: TargetCompressionOption = "auto",
    max_memory: MemoryOption = "256MiB",
    batch_size: BatchOption = "auto",
    window: WindowOption = "auto",
    rate_limit: RateOption = "0",
    rate_schedule: ScheduleOption = None,
    source_read_rate: ReadRateOption = "0",
    throttle_check: CheckOption = None,
    peer_timeout: TimeoutOption = 60.0,
    column_families: FamilyOption = None,
    key_range: RangeOption = None,
    slots: SlotsOption = None,
    namespace: NamespaceOption = None,
    job: JobOption = None,
    state_dir: StateOption = None,
    allow_nonempty: NonemptyOption = False,
    overwrite: OverwriteOption = False,
    link: LinkOption = False,
    retries: RetriesOption = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and touch nothing.")] = False,
    progress: ProgressOption = ProgressChoice.AUTO,
    metrics_listen: MetricsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy SOURCE to TARGET. Run again after any interruption: it carries on where it was."""
    options = _options(
        lane=lane,
        streams=streams,
        max_streams=max_streams,
        compression=compression,
        target_compression=target_compression,
        max_memory=max_memory,
        batch_size=batch_size,
        window=window,
        rate_limit=rate_limit,
        rate_schedule=rate_schedule,
        source_read_rate=source_read_rate,
        throttle_check=throttle_check,
        peer_timeout=peer_timeout,
        column_families=column_families,
        key_range=key_range,
        slots=slots,
        namespace=namespace,
        job=job,
        state_dir=state_dir,
        allow_nonempty=allow_nonempty,
        overwrite=overwrite,
        link=link,
        retries=retries,
    )
    with _FailureTold(progress) as failure:
        if metrics_listen is not None:
            parse_listen(metrics_listen)  # a dry run says what is malformed, too
        if dry_run:
            show_plan(api.plan(source, target, **options), as_json)
            return
        if progress is not ProgressChoice.NONE:
            logging.getLogger("kvbatch.state").setLevel(logging.ERROR)  # its warnings are events too
        migration = Migration(source, target, MigrationOptions.checked(**options))
        failure.migration = migration
        events = migration.events()

        def stop() -> None:
            _say("stopping; the job stays resumable (once more: at once)", progress)
            migration.cancel()

        with _StopOnSignals(stop), _metrics_of(migration, metrics_listen, progress):
            migration.start()
            follow(events, progress.value)
            summary = migration.wait()
        if as_json:
            print_json(summary.to_json())
        else:
            show_summary(summary, migration.plan)


@contextlib.contextmanager
def _metrics_of(
    source: Migration | Receiver, listen: str | None, progress: ProgressChoice = ProgressChoice.AUTO
) -> Iterator[None]:
    if listen is None:
        yield
        return
    with serve_metrics(source, listen) as listener:
        if progress is not ProgressChoice.NONE:
            _say(str(listener), progress)
        yield


class _StopOnSignals:
    """SIGINT, SIGTERM and SIGHUP call `stop`; a second one ends the process at once."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._signals = _stop_signals()
        self._asked = 0.0

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        now = time.monotonic()
        if now - self._asked < _SAME_REQUEST_SECONDS:
            return
        if self._asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked = now
        # In a thread of its own: this one may be in the middle of a line on stderr, where `stop` has something to say.
        # The bare call, since it may also be in the middle of starting a thread.
        _thread.start_new_thread(self._stop, ())

    def __enter__(self) -> None:
        for number in self._signals:
            signal.signal(number, self._on_signal)

    def __exit__(self, *exc: object) -> None:
        # There is nothing left to stop, and the result is still to be printed.
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)


@app.command()
def plan(
    source: SourceArgument,
    target: TargetArgument,
    lane: LaneOption = LaneChoice.AUTO,
    streams: StreamsOption = None,
    column_families: FamilyOption = None,
    key_range: RangeOption = None,
    slots: SlotsOption = None,
    namespace: NamespaceOption = None,
    job: JobOption = None,
    state_dir: StateOption = None,
    target_compression: TargetCompressionOption = "auto",
    max_memory: MemoryOption = "256MiB",
    allow_nonempty: NonemptyOption = False,
    overwrite: OverwriteOption = False,
    link: LinkOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what `migrate` would do and find at TARGET; touches nothing. Exit 4 where it would be refused."""
    options: dict[str, Any] = {
        "lane": lane.value,
        "column_families": tuple(column_families or ()),
        "key_range": key_range,
        "slots": slots,
        "namespace": namespace,
        "job": job,
        "state_dir": state_dir or default_state_dir(),
        "target_compression": target_compression,
        "max_memory": max_memory,
        "allow_nonempty": allow_nonempty,
        "overwrite": overwrite,
        "link": link,
    }
    if streams is not None:
        options["streams"] = _number_or_auto(streams)
    show_plan(api.plan(source, target, **options), as_json)


# -- serve ------------------------------------------------------------------------------------------------------------


@app.command()
def serve(
    root: Annotated[Path, typer.Option(parser=read_path, metavar="PATH", help="Targets are directories below it.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")] = "127.0.0.1:7720",
    max_memory: MemoryOption = "256MiB",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on an address that other machines reach, unencrypted.")
    ] = False,
    metrics_listen: MetricsOption = None,
) -> None:
    """Receive migrations into directories below a root. SIGTERM, SIGINT or SIGHUP ends it."""
    host, port = parse_listen(listen)
    receiver = Receiver(root, host, port, max_memory=max_memory, insecure=insecure)
    # Blocked in every thread and waited for in this one: a handler that sets an event can deadlock on a second signal.
    stop_signals = _stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    with _metrics_of(receiver, metrics_listen):
        receiver.start()
        print(f"listening on {format_address(receiver.host, receiver.port)}, root {receiver.root}", flush=True)
        signal.sigwait(stop_signals)
        receiver.stop()


# -- verify -----------------------------------------------------------------------------------------------------------


@app.command()
def verify(
    source: SourceArgument,
    target: TargetArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Send the keys that differ, and only those.")] = False,
    column_families: FamilyOption = None,
    key_range: RangeOption = None,
    slots: SlotsOption = None,
    namespace: NamespaceOption = None,
    state_dir: StateOption = None,
    progress: ProgressOption = ProgressChoice.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Compare every entry of SOURCE and TARGET by digests. Exit 0: equal; 3: they differ."""
    with _FailureTold(progress):
        if progress is not ProgressChoice.NONE:
            logging.getLogger("kvbatch.state").setLevel(logging.ERROR)  # its warnings are events too
        verification = Verification(
            source,
            target,
            repair=repair,
            column_families=tuple(column_families or ()),
            key_range=key_range,
            slots=slots,
            namespace=namespace,
            state_dir=state_dir,
        )
        events = verification.events()
        # Signals are handled in the main thread, which must not wait in the core meanwhile.
        with _StopOnSignals(verification.cancel), ThreadPoolExecutor(1) as background:
            running = background.submit(verification.run)
            follow(events, progress.value)
            report = running.result()
        if report.unfinished and progress is not ProgressChoice.JSON:
            print("note: the target belongs to an unfinished migration", file=sys.stderr)
        if as_json:
            print_json(report.to_json())
        else:
            show_report(report)
    if not report.equal:
        raise typer.Exit(EXIT_DIFFERENT)


# -- report -----------------------------------------------------------------------------------------------------------


@app.command()
def report(
    job: Annotated[str, typer.Argument(metavar="JOB", help="As `kvbatch status` lists it.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The page; - is stdout.")],
    state_dir: StateOption = None,
) -> None:
    """Show a job as one HTML page with plots, finished or not. Needs the extra `report`: jinja2 and matplotlib."""
    if output == "-":
        sys.stdout.buffer.write(render_report(job, state_dir).encode(errors="backslashreplace"))
        sys.stdout.flush()
        return
    written = api.report(job, output, state_dir)
    print(f"wrote {written}, {format_bytes(written.stat().st_size)}")


# -- inspect, status, control, demo ------------------------------------------------------------------------------------


add_inspect_command(app)
add_status_command(app)
add_control_commands(app)


def _unwind(number: int, frame: object) -> NoReturn:
    """For what leaves nothing to carry on with: it is taken down, and once more does not hurry that."""
    del number, frame
    for each in _stop_signals():
        signal.signal(each, signal.SIG_IGN)
    print("kvbatch: stopped on request", file=sys.stderr, flush=True)
    sys.exit(StoppedError.exit_code)


@app.command()
def demo(
    entries: Annotated[int, typer.Option(help="Entries in the made-up source.", min=1)] = 1_000_000,
    directory: Annotated[Path | None, typer.Option(help="Work here and keep it (default: a temporary one).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a store, migrate it and verify the copy. A receiver on loopback takes it; prints a short table."""
    for number in _stop_signals():
        signal.signal(number, _unwind)
    report = run_demo(entries, directory)
    if as_json:
        print_json(report.to_json())
    else:
        print_table(report.rows())
    if not report.equal:
        raise typer.Exit(EXIT_DIFFERENT)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kvbatch {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    del version, debug


# -- errors -----------------------------------------------------------------------------------------------------------


def _arguments() -> list[str]:
    # --debug is accepted at any place, since it is typed behind a command that just failed.
    return [argument for argument in sys.argv[1:] if argument != "--debug"]


def _print_traceback_if_asked() -> None:
    if "--debug" in sys.argv[1:]:
        traceback.print_exc()


def _advice(error: KvbatchError, command: str, migration: Migration | None) -> str | None:
    """What the command to type next is for, where that is not in the message."""
    if command != "migrate":
        # Whoever stopped a verify knows how to start it.
        return "try again with" if error.resumable and not isinstance(error, StoppedError) else None
    if error.resumable:
        if migration is not None and not migration.begun:
            return "nothing was moved; try again with"
        # Who is stopped says so itself.
        return "carry on with" if isinstance(error, StoppedError) else "nothing is lost; carry on with"
    if error.exit_code == 1 and not error.final:
        moved = migration is not None and migration.progress().durable_entries > 0
        kept = "what was moved stays; once this is mended, carry on with"
        return kept if moved else "once this is mended, try again with"
    return None


def _say(message: str, progress: ProgressChoice) -> None:
    if progress is ProgressChoice.JSON:
        print_event(Event("warning", time.time(), {"message": message}))
    else:
        _print_lines(message)


def _print_lines(message: str) -> None:
    """On stderr; what comes of names that are not ours moves no cursor there."""
    print("\n".join(map(show_text, message.split("\n"))), file=sys.stderr, flush=True)


def _again(arguments: list[str], changes: dict[str, Any]) -> str:
    """The same command, but for the options that were changed while it ran."""
    changed = {MigrationOptions.model_fields[name].title for name in changes}
    kept: list[str] = []
    words = map(without_password, arguments)
    for word in words:
        if word in changed:
            next(words, None)  # its value
        elif word.partition("=")[0] not in changed:
            kept.append(word)
    return "kvbatch " + join_words([*kept[:1], *option_words(changes), *kept[1:]])


def _fail(
    error: KvbatchError, progress: ProgressChoice = ProgressChoice.NONE, migration: Migration | None = None
) -> NoReturn:
    _print_traceback_if_asked()
    arguments = _arguments()
    advice = _advice(error, next(iter(arguments), ""), migration)
    changes = {**({} if migration is None else migration.changed_options), **error.changes}
    command = None if advice is None else _again(arguments, changes)
    if progress is ProgressChoice.JSON:
        print_event(Event("error", time.time(), {"message": str(error), "advice": advice, "command": command}))
    else:
        _print_lines(f"kvbatch: {error}")
        if advice is not None:
            print(f"{advice}: {command}", file=sys.stderr)
    sys.exit(error.exit_code)


class _FailureTold:
    """Ends the process with the exit code of a KvbatchError, and tells of it in the way of the progress, and with what
    the migration, if there is one, came to."""

    def __init__(self, progress: ProgressChoice) -> None:
        self._progress = progress
        self.migration: Migration | None = None

    def __enter__(self) -> _FailureTold:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KvbatchError):
            _fail(error, self._progress, self.migration)


def main() -> None:
    """Runs a command; errors become messages and exit codes."""
    take_streams()
    configure_for_command_line()
    return_large_memory(LARGE_ENTRY_BYTES)
    try:
        try:
            app(_arguments())
        finally:
            sys.stdout.flush()
    except KvbatchError as error:
        _fail(error)
    except ReaderGoneError:
        sys.exit(_EXIT_READER_GONE)
    except Exception as error:
        _print_traceback_if_asked()
        _print_lines(f"kvbatch: {type(error).__name__}: {error} (this is a bug; --debug shows where)")
        sys.exit(1)
