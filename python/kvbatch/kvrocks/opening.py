"""Opening a job at a Kvrocks server: whether it may begin or go on there, and what it deletes first."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

from kvbatch._core.batch import RecordKind, encode_batch, validate_batch
from kvbatch.endpoints import KvrocksEndpoint
from kvbatch.errors import RefusedError, TransportError
from kvbatch.kvrocks.client import KvrocksClient
from kvbatch.kvrocks.kept_cursors import KeptJob, find_kept
from kvbatch.kvrocks.keys import FAMILIES, KEYED_FAMILIES
from kvbatch.kvrocks.preflight import Preflight, server_sequence
from kvbatch.kvrocks.source import KvrocksSource
from kvbatch.manifest import Manifest
from kvbatch.protocol import SILENCE_SECONDS, malformed_is_protocol_error
from kvbatch.target_state import FINISHED_BEFORE, TargetState

__all__ = ["delete_selected", "examine_server", "look_at_server"]

# A range of deletions needs an end, and the keys of the last namespace that there can be have none.
_LAST = b"\xff" * 1024


def look_at_server(
    client: KvrocksClient,
    endpoint: KvrocksEndpoint,
    manifest: Manifest,
    source: KvrocksSource,
    kept: KeptJob | None,
    overwrite: bool,
    silence_seconds: float,
) -> tuple[TargetState, Preflight]:
    """What the job would find, `kept` being what is known of it. Raises RefusedError where it is not to go on."""
    if kept is not None and kept.finished and not kept.is_of(str(endpoint), manifest):
        kept = None  # another job had this name before
    if kept is not None:
        _check_kept(kept, endpoint, manifest)
    with malformed_is_protocol_error(client.name, "answer"):
        preflight = Preflight(client, source, sum(part.estimated_bytes for part in manifest.ranges))
        preflight.refuse()
        if kept is not None and not kept.finished:
            _check_sequence(client, kept)
            state = TargetState.resumable(kept.manifest, (cursor.complete for cursor in kept.cursors))
        else:
            holding = preflight.find_keys(lambda token: KvrocksClient(endpoint, silence_seconds, token))
            if overwrite:
                state = TargetState("overwritten", reason=str(source))
            elif kept is not None and holding:
                state = TargetState("finished", lane=kept.manifest.lane, reason=FINISHED_BEFORE)
            elif holding:
                raise RefusedError(
                    f"the target {endpoint} already holds keys in {', '.join(holding)}. Nothing was changed. Elements "
                    "that an earlier copy has and the source has no more would come back; pass --overwrite to have all "
                    f"that it holds in {source} deleted first, or choose another server"
                )
            else:
                state = TargetState("empty")
    return dataclasses.replace(state, findings=tuple(preflight.findings)), preflight


def _check_kept(kept: KeptJob, endpoint: KvrocksEndpoint, manifest: Manifest) -> None:
    if kept.target != str(endpoint):
        raise RefusedError(
            f"job {manifest.job} stands unfinished at {kept.target}, and where it stands is kept under its name. "
            f"Nothing was changed; give the one to {endpoint} another --job"
        )
    manifest.check_resumes(kept.manifest)
    if kept.broken:
        raise RefusedError(f"job {manifest.job} sends nothing more: {kept.broken}")


def _check_sequence(client: KvrocksClient, kept: KeptJob) -> None:
    """Raises RefusedError where the server has lost some of what it answered to."""
    found = server_sequence(client)
    if found < kept.least_sequence:
        raise RefusedError(
            f"the target {client.name} is at sequence number {found}, and was at {kept.least_sequence} or beyond when "
            "it answered last: it was set back, or its machine lost its power, or another server answers there now. "
            f"Nothing was sent; begin anew with `kvbatch cancel --discard {kept.manifest.job}` and then with "
            "--overwrite"
        )


def delete_selected(client: KvrocksClient, source: KvrocksSource) -> None:
    """All that stands in the slots or namespaces that are sent, subkeys without metadata too, which a later copy of the
    same version would bring back to life. In one batch: it is done whole or not at all."""
    records = [
        (RecordKind.DELETE_RANGE, FAMILIES[family], selected.start or b"", selected.end or _LAST)
        for selected in source.key_ranges
        for family in KEYED_FAMILIES
    ]
    batch = encode_batch(records)
    validate_batch(batch, {FAMILIES[family] for family in KEYED_FAMILIES})
    client.ask("APPLYBATCH", batch)


def examine_server(
    endpoint: KvrocksEndpoint, manifest: Manifest, source: KvrocksSource, state_dir: Path, *, overwrite: bool
) -> TargetState:
    """What a run of the job would find, with all that was found out about the server; changes nothing. Raises what
    opening a session would raise, but for a server that does not answer."""
    try:
        with closing(KvrocksClient(endpoint, SILENCE_SECONDS)) as client:
            kept = find_kept(state_dir, manifest.job)
            return look_at_server(client, endpoint, manifest, source, kept, overwrite, SILENCE_SECONDS)[0]
    except TransportError as error:
        return TargetState("unknown", reason=str(error))
