"""A migration: one job from a source to a target, with everything that brings it to its end."""

from __future__ import annotations

import dataclasses
import os
import secrets
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from kvbatch._core.frame import BufferPool
from kvbatch._core.store import Cursor
from kvbatch.at_exit import AT_EXIT_SECONDS, stop_at_exit
from kvbatch.compression import CodecChooser
from kvbatch.control_server import controlled
from kvbatch.endpoints import DirectoryEndpoint, KvrocksEndpoint, check_apart, parse_endpoint
from kvbatch.errors import KvbatchError, NoSpaceError, RefusedError, SourceError, StoppedError, TransportError
from kvbatch.events import SAMPLE_SECONDS, Event, EventBus, Progress, Summary
from kvbatch.fingerprint import fingerprint_directory
from kvbatch.flow.job_flow import JobFlow
from kvbatch.flow.settings import JobSettings
from kvbatch.flow.stream_meter import StreamMeter
from kvbatch.flow.throttle import ThrottleLedger
from kvbatch.flow_policy import FlowPolicy
from kvbatch.job_figures import JobFigures
from kvbatch.job_recorder import JobRecorder
from kvbatch.job_status import command
from kvbatch.job_stream import JobStream
from kvbatch.kept_options import option_words, options_to_json
from kvbatch.manifest import Manifest
from kvbatch.migration_plan import LANE_CARRIED_ON, make_plan, open_source, options_for
from kvbatch.options import MAX_SIZE, SELECTING, MigrationOptions
from kvbatch.range_queue import RangeQueue
from kvbatch.ranges import Range
from kvbatch.retries import Retries
from kvbatch.sent_log import SentLog
from kvbatch.shell_words import join_words
from kvbatch.state import JobRecord, JobState, control_path, job_lock, state_after
from kvbatch.stopping import StopRequest
from kvbatch.stream_counters import StreamCounters
from kvbatch.stream_group import StreamGroup
from kvbatch.target import TargetSession
from kvbatch.target_local import LocalSession
from kvbatch.target_remote import RemoteSession
from kvbatch.target_state import FINISHED_BEFORE, summary_of_finished

__all__ = ["Migration"]

# A stream that waits for a silent target is cut loose this long after a stop.
_STOP_GRACE_SECONDS = 3.0
# Then the target has this long to say what became durable of what it had got.
_SETTLE_SECONDS = 3.0


class Migration:
    """A job that runs in the background; made by `kvbatch.migrate`. All methods may be called from any thread."""

    def __init__(
        self, source: str | os.PathLike[str], target: str | os.PathLike[str], options: MigrationOptions
    ) -> None:
        """Checks and plans: raises UsageError, RefusedError or SourceError before anything is written."""
        # One receiver may hear of this job from several processes.
        self._sender = secrets.token_hex(8)
        self._source_endpoint = parse_endpoint(source)
        self._target_endpoint = parse_endpoint(target)
        check_apart(self._source_endpoint, self._target_endpoint)
        options = self._options = options_for(self._target_endpoint, options)
        self._store = open_source(self._source_endpoint, options)
        self.plan = make_plan(self._source_endpoint, self._target_endpoint, self._store, options)
        self.job = self.plan.job
        self._bus = EventBus()
        self._recorder = JobRecorder(options.state_dir, self.job, self._warn)
        self._stop = StopRequest()
        # Set when the job's thread has something to look at.
        self._wake = threading.Event()
        self._finished = threading.Event()
        # Several operators at once: what the events say last is what holds.
        self._steering = threading.Lock()
        # What was set since it began, read as options are.
        self._changes: dict[str, Any] = {}
        # Whether the record has the options.
        self._recorded = False
        self._session: TargetSession | None = None
        self._manifest = self.plan.manifest
        self._resumed = False
        # Everything is at the target, which makes a store of it: there is no frame left to hold or to change.
        self._finishing = False
        # Whether fewer streams work than should.
        self._idle_streams = False
        self._flow = JobFlow(options.settings, self._store.read_limiter, ThrottleLedger())
        self._figures = JobFigures(self.plan, self._flow)
        self._policy = FlowPolicy(options, self._flow, self._target_endpoint, self._bus, self.plan.source_memory)
        self._summary: Summary | None = None
        self._error: BaseException | None = None
        self._retries = Retries(options.retries)
        self._sent: SentLog
        self._opened = False
        # The job's record before this run.
        self._known: JobRecord | None = None
        self._thread = threading.Thread(target=self._run, name=f"kvbatch-{self.job}", daemon=True)

    # -- what the caller sees -----------------------------------------------------------------------------------------

    def start(self) -> Migration:
        stop_at_exit(self)
        self._thread.start()
        return self

    def events(self) -> Iterator[Event]:
        """Every event of the job until `done`, the last; of those before this call, all but the samples."""
        return self._bus.subscribe()

    def progress(self) -> Progress:
        """The last sample, about half a second old; whether it is paused is said as of this moment."""
        return self._figures.progress.in_state(self._flow.state)

    @property
    def settings(self) -> JobSettings:
        """What holds now of all that `set` can change."""
        return self._flow.settings

    def set(self, **changes: Any) -> JobSettings:
        """Changes rate_limit, source_read_rate, streams, batch_bytes, window, compression or max_memory of the running
        job, given as to `migrate`; they hold from the next frame on. Raises UsageError, and changes nothing, for what
        makes no sense, RefusedError once the job has ended."""
        with self._steering:
            if self._finished.is_set():
                raise RefusedError(f"job {self.job} has ended: there is nothing left that could be set")
            changed = self._options.changed(self._flow.settings, self.plan.source_memory, **changes)
            settings = self._flow.change(**changed)
            self._changes |= changed
            if self._recorded:
                self._recorder.note_options(self._options_now)
            self._bus.publish("settings", **changed)
        self._wake.set()
        return settings

    @property
    def changed_options(self) -> dict[str, Any]:
        """Of the options that it was begun with, those that `set` has changed. What a schedule sets anew is not among
        them."""
        scheduled = self._options.rate_schedule is not None
        return {name: value for name, value in self._changes.items() if not (scheduled and name == "rate_limit")}

    @property
    def _options_now(self) -> MigrationOptions:
        """Those that a command which carries it on is to give."""
        return self._options.model_copy(update=self.changed_options)

    @property
    def begun(self) -> bool:
        """Whether its target was open, in this run or before: then there is something to carry on with."""
        return self._opened or self._known is not None

    @property
    def finishing(self) -> bool:
        """Whether everything is at the target, and nothing but `cancel` makes a difference any more."""
        return self._finishing

    def pause(self) -> None:
        """Holds the job between two frames, or before its end, until `resume`. What was sent becomes durable.
        Idempotent; in vain once the job is finishing."""
        with self._steering:
            if not self._finishing and self._flow.pause():
                self._bus.publish("state", state="paused")

    def resume(self) -> None:
        with self._steering:
            if self._flow.resume():
                self._bus.publish("state", state="running")
        self._wake.set()

    def cancel(self) -> None:
        """Stops cleanly: what was applied is made durable and the job stays resumable. `wait` raises StoppedError."""
        self._stop.make()
        self._wake.set()

    def wait(self, timeout: float | None = None) -> Summary:
        """The summary of the finished job. Raises what ended it, or TimeoutError after `timeout` seconds."""
        if not self._finished.wait(timeout):
            raise TimeoutError(f"job {self.job} is still running")
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._summary is not None
        return self._summary

    def stop_at_exit(self) -> None:
        self.cancel()
        self._thread.join(AT_EXIT_SECONDS)

    def _warn(self, message: str) -> None:
        self._bus.publish("warning", message=message)

    # -- the job ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            state_dir = self._options.state_dir
            with job_lock(state_dir, self.job), controlled(self, control_path(state_dir, self.job), self._warn):
                self._summary = self._run_job()
            self._bus.publish("done", **self._summary.to_json())
        except BaseException as error:
            # The frames behind it hold on to the source, which stays locked as long as this object lives.
            traceback.clear_frames(error.__traceback__)
            self._error = error
            self._bus.publish("done", state=state_after(error), error=str(error))
        finally:
            del self._store
            self._policy.close()
            with self._steering:
                # What is set from now on is of no use to anybody.
                self._recorded = False
            self._recorder.close()
            self._finished.set()

    def _run_job(self) -> Summary:
        self._known = self._recorder.find()
        self._recorder.start(self.plan.source, self.plan.target, self.plan.manifest.fingerprint, self._bus)
        try:
            already_finished = self._attempt_until_done()
        except BaseException as error:
            if not self._opened:
                self._recorder.undo_start(self._known)
                raise
            # Of a job that is too short for another it is the only one.
            progress = self._publish(self._figures.last_sample())
            self._recorder.update(state=state_after(error), error=str(error), progress=progress.to_json())
            raise
        if already_finished is not None:
            return already_finished
        progress, summary = self._publish(self._figures.last_sample()), self._summarize()
        self._recorder.update(state=JobState.DONE, summary=summary.to_json(), progress=progress.to_json())
        self._recorder.remove_sent_log()
        return summary

    def _attempt_until_done(self) -> Summary | None:
        """Runs sessions until one finishes the job. Returns the recorded summary when an earlier session had finished
        the job already."""
        while True:
            try:
                with self._full_disk_named():
                    return self._run_session()
            except KvbatchError as error:
                if not self._waited_for_retry(error):
                    raise

    @contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        """Says whose disk it is: what met it may name a file of the source, or a path of another machine."""
        try:
            yield
        except NoSpaceError as error:
            raise NoSpaceError(
                f"the disk of the target {self._target_endpoint} is full: {error}. What is durable there is safe; make "
                "room on that disk and run the same command again"
            ) from error

    def _waited_for_retry(self, error: KvbatchError) -> bool:
        """Waits before another session; False when there is to be none."""
        if not error.retryable or self._stop.made:
            return False
        retry = self._retries.after_failure(self._figures.standing_bytes())
        if retry is None:
            return False
        self._bus.publish("retry", **dataclasses.asdict(retry), error=str(error))
        self._figures.note_break()
        # Before the target was open there is nothing to tell, and an earlier run's figures are to stay.
        if self._opened:
            self._publish(self._figures.sample())
            self._policy.tell_throttle(self._figures.progress.throttle)
        self._recorder.update(error=f"retry {retry.retry} of {retry.retries}: {error}")
        # A stop ends this pause; the next attempt sees why.
        self._stop.wait(retry.wait_seconds)
        return True

    def _open_session(self) -> TargetSession:
        """A stop ends the waiting for a receiver that does not answer; a session that is open ends in good order."""
        target = self._target_endpoint
        if isinstance(target, DirectoryEndpoint):
            # It shares this side's memory, and has no bound of its own for frames.
            return LocalSession(target.path, self.plan.manifest, MAX_SIZE, self._flow.settings.max_memory)
        window, silence_seconds = self._policy.window, self._options.peer_timeout
        try:
            if isinstance(target, KvrocksEndpoint):
                return self._open_server(target)
            return RemoteSession(
                target, self.plan.manifest, window, silence_seconds, on_connected=self._stop.watch, sender=self._sender
            )
        except (TransportError, StoppedError) as error:
            # A connection that was interrupted looks broken.
            if self._stop.made:
                raise self._stopped() from error
            raise
        finally:
            self._stop.let_go()

    def _open_server(self, target: KvrocksEndpoint) -> TargetSession:
        from kvbatch.kvrocks.target import KvrocksSession  # redis-py takes as long as a quarter of kvbatch

        assert self.plan.server_source is not None
        session = KvrocksSession(
            target,
            self.plan.manifest,
            self._store,
            self.plan.server_source,
            self._options.state_dir,
            overwrite=self._options.overwrite and not self._ended_unheard,
            silence_seconds=self._options.peer_timeout,
            on_connected=self._stop.watch,
        )
        if not self._opened:
            for finding in session.findings:
                if finding.kind == "warning":
                    self._warn(f"{target}: {finding.message}")
        return session

    @property
    def _ended_unheard(self) -> bool:
        """Whether a run finished the job and died before it could say so."""
        known = self._known
        return known is not None and known.summary is not None and known.state != JobState.DONE

    def _run_session(self) -> Summary | None:
        if self._stop.made:
            raise self._stopped()  # while it waited for another attempt
        self._finishing = False
        if self.plan.recorded_end is not None and (done := self._already_finished()) is not None:
            return done
        try:
            session = self._open_session()
        except RefusedError:
            # Between the target's last step and its answer a sender may have died: then the target is whole and
            # holds no trace of the job but its identity.
            done = self._already_finished()
            if done is not None:
                return done
            raise
        try:
            reply = session.reply
            if reply.resumed and not self._opened:
                self._warn_of_kept_compression(reply.manifest)
            self._opened = True
            self._session = session
            self._resumed = self._resumed or reply.resumed
            self._manifest = reply.manifest
            self._figures.begin_session(reply.manifest, reply.cursors, reply.begun())
            self._retries.note_opened(self._figures.standing_bytes())
            # A store that is moved as it is keeps its identity.
            identity = reply.identity or self._store.identity
            self._warn_of_another_target()
            with self._steering:
                options, fingerprint = self._options_now, self.plan.manifest.fingerprint
                self._recorder.note_opened(options, identity=identity, fingerprint=fingerprint)
                self._recorded = True
            self._bus.publish(
                "job",
                job=self.job,
                lane=self._manifest.lane,
                lane_reason=self._lane_reason(),
                ranges=len(reply.manifest.ranges),
                resumed=reply.resumed,
                complete=[cursor.range for cursor in reply.cursors if cursor.complete],
            )
            with closing(self._recorder.sent_log(len(reply.manifest.ranges), anew=not reply.resumed)) as self._sent:
                self._run_streams(session, self._sent)
            self._begin_finishing()
            self._check_source_unchanged()
            self._recorder.update(
                state=JobState.FINISHING,
                progress=self._figures.last_sample().to_json(),
                summary=self._summarize().to_json(),
            )
            session.finish()
        finally:
            session.close()
            self._session = None
        return None

    def _begin_finishing(self) -> None:
        """Once nobody has paused the job any more: its last frame may have been under way then."""
        while not self._stop.made:
            with self._steering:
                if self._flow.state != "paused":
                    self._finishing = True
                    return
            self._wake.wait()
            self._wake.clear()
        raise self._stopped()

    def _warn_of_another_target(self) -> None:
        """One name, two targets: the record can be that of one of them. Once the target is open, what the record was
        before counts for this alone, and once."""
        known, self._known = self._known, None
        if known is None or known.state == JobState.DONE or not known.identity or known.target == self.plan.target:
            return
        self._warn(
            f"job {self.job} stands unfinished at {known.target}, too; its record is that of {self.plan.target} from "
            "now on. What it wrote there is safe, and its own command carries on; give jobs of two targets two names"
        )

    def _warn_of_kept_compression(self, stored: Manifest) -> None:
        """A store is written in one way, whoever carries the job on."""
        asked, kept = self._options.target_compression, sorted({family.compression for family in stored.families})
        if asked != "auto" and kept != [asked]:
            self._warn(
                f"--target-compression {asked} counts when a job begins: job {self.job} goes on as it began, with "
                f"{' and '.join(kept)}. For another compression discard it and begin anew"
            )

    def _lane_reason(self) -> str:
        if self._manifest.lane == self.plan.lane:
            return self.plan.lane_reason
        return LANE_CARRIED_ON

    def _already_finished(self) -> Summary | None:
        """The summary of the session that finished this job, if the target still is the store that it finished."""
        fingerprint = self.plan.manifest.fingerprint
        summary = summary_of_finished(self._recorder.find(), self._target_endpoint, fingerprint, self._options)
        if summary is None:
            return None
        if not self._opened:
            self._warn(f"job {self.job} was finished before; nothing was moved{self._compared()}")
        if not self._opened:
            self._recorder.undo_start(self._known)
        # The answer to the last step may have been all that was missing.
        if self._opened or (self._known is not None and self._known.state != JobState.DONE):
            self._recorder.update(state=JobState.DONE, error=None)
        return Summary(**{**summary, "finished_before": not self._opened})

    def _compared(self) -> str:
        """What a finished job that was asked for again was compared by."""
        if isinstance(self._target_endpoint, KvrocksEndpoint):
            return f"; {FINISHED_BEFORE}"
        return (
            ". Compared with what that run recorded were the fingerprint of the source and RocksDB's identity of the "
            "target, not their entries; to compare those: " + self._verify_command()
        )

    def _verify_command(self) -> str:
        kept = options_to_json(self._options)
        options = option_words({name: kept[name] for name in SELECTING})
        return join_words(["kvbatch", "verify", *options, self.plan.source, self.plan.target])

    def _run_streams(self, session: TargetSession, sent: SentLog) -> None:
        cursors = self._figures.cursors()
        remaining = [part for part in self._manifest.ranges if part.id not in cursors or not cursors[part.id].complete]
        queue = RangeQueue(remaining, in_order=isinstance(self._target_endpoint, KvrocksEndpoint))
        pool = BufferPool(self._policy.pool_bytes)
        halt = threading.Event()

        def make_stream(index: int) -> JobStream:
            return JobStream(
                index=index,
                source=self._store,
                session=session,
                queue=queue,
                cursors=cursors,
                sent=sent,
                pool=pool,
                flow=self._flow,
                meter=StreamMeter(index, self._flow.wire_limiter, self._flow.ledger, self._policy.window),
                batch_bytes=self._policy.batch_bytes,
                piece_bytes=self._policy.piece_bytes,
                codecs=CodecChooser(self._policy.codec),
                link=self._options.link,
                counters=StreamCounters(),
                stopping=halt,
                on_started=self._note_started,
                on_split=self._note_split,
                on_durable=self._note_durable,
                on_ended=self._wake.set,
            )

        group = StreamGroup(make_stream, queue, halt)
        self._flow.take_hold()
        self._policy.begin_session(group, pool, self._manifest.lane)
        self._figures.begin_streams(group.streams)
        # Until it is known.
        self._idle_streams = True
        group.adjust(self._policy.streams)
        give_up = float("inf")
        next_sample = time.monotonic() + SAMPLE_SECONDS
        while not group.ended:
            # Until a stream ends, somebody stops or changes the job, or a sample or a deadline is due.
            self._wake.wait(max(0.0, min(next_sample, give_up) - time.monotonic()))
            self._wake.clear()
            if self._stop.made or group.errors:
                if not halt.is_set():
                    halt.set()
                    self._flow.wake()
                    give_up = time.monotonic() + _STOP_GRACE_SECONDS
                if self._stop.made:
                    pool.close()
                if time.monotonic() >= give_up:
                    # A stream that failed may hold the memory that another one waits for.
                    pool.close()
                    self._flow.let_go()
                    group.interrupt()
                    give_up = float("inf")
            elif time.monotonic() >= next_sample:
                next_sample += SAMPLE_SECONDS
                self._policy.look(self._publish(self._figures.sample()), self._figures.observation)
            self._policy.apply()
            self._idle_streams = group.working < self._policy.streams
        group.join()
        self._policy.end_session()
        self._figures.end_streams()
        if self._is_last(group.errors):
            self._settle(session)
        self._raise_first(group.errors)

    def _is_last(self, errors: list[Exception]) -> bool:
        """Whether no other attempt follows these, whose session would begin with all that is durable."""
        causes = [error for error in errors if not isinstance(error, StoppedError)]
        return self._stop.made or not all(isinstance(error, KvbatchError) and error.retryable for error in causes)

    def _settle(self, session: TargetSession) -> None:
        """Takes what became durable behind the last acks into the figures, if the target can still say it."""
        known = self._figures.cursors()
        with suppress(KvbatchError):
            reply = session.settle(_SETTLE_SECONDS)
            self._figures.note_begun(reply.begun())
            for cursor in reply.cursors:
                if cursor.range not in known or not known[cursor.range].complete:
                    self._note_durable(cursor)

    def _publish(self, progress: Progress) -> Progress:
        self._bus.publish("sample", **progress.to_json())
        return progress

    def _raise_first(self, errors: list[Exception]) -> None:
        """What ended the streams; a stream that only stopped because of another's error does not count."""
        if self._stop.made and all(isinstance(error, KvbatchError) and error.resumable for error in errors):
            raise self._stopped()
        causes = [error for error in errors if not isinstance(error, StoppedError)]
        # A permanent reason tells more than what passes, and anything more than the broken connections around it.
        causes.sort(
            key=lambda error: (
                isinstance(error, KvbatchError) and error.retryable,
                isinstance(error, TransportError),
            )
        )
        if causes:
            raise causes[0]

    def _stopped(self) -> StoppedError:
        return StoppedError("stopped on request; nothing is lost")

    def _note_started(self, part: Range) -> None:
        self._bus.publish("range", range=part.id, state="started")
        # Where others have nothing to do, it may have so much that they could help.
        if self._idle_streams:
            self._wake.set()

    def _note_split(self, part: Range) -> None:
        assert self._session is not None
        self._manifest = self._session.reply.manifest
        self._figures.note_split(self._manifest)
        self._bus.publish("range", range=part.id, state="added")
        self._wake.set()

    def _note_durable(self, cursor: Cursor) -> None:
        self._figures.note_durable(cursor)
        if cursor.complete:
            self._bus.publish("range", range=cursor.range, state="complete")

    def _check_source_unchanged(self) -> None:
        assert isinstance(self._source_endpoint, DirectoryEndpoint)
        if fingerprint_directory(self._source_endpoint.path) != self.plan.manifest.fingerprint:
            raise SourceError(
                f"the source {self._source_endpoint} was written to during the migration. The target is left "
                f"unfinished; discard it with `{command('cancel --discard', self.job, self._options.state_dir)}` and "
                "migrate again while nothing writes to the source",
                final=True,
            )

    def _summarize(self) -> Summary:
        return self._figures.summary(
            self.job, self._lane_reason(), resumed=self._resumed, resent_bytes=self._sent.resent_bytes
        )
