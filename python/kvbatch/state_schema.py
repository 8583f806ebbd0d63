"""The tables of the state directory's database, and how an older one is brought up to date."""

from __future__ import annotations

import sqlite3

__all__ = ["NewerSchemaError", "upgrade"]

_RELEASED = (
    """
    CREATE TABLE IF NOT EXISTS jobs (
        job TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        target TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        identity TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        pid INTEGER NOT NULL,
        progress TEXT NOT NULL,
        summary TEXT,
        error TEXT
    ) STRICT
    """,
)

# What came later stands in tables of its own, so that a program of the first release still works on this database. The
# trigger makes it forget a job's history too.
_HISTORY = (
    """
    CREATE TABLE job_details (
        job TEXT PRIMARY KEY,
        options TEXT,
        verification TEXT
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE samples (
        job TEXT NOT NULL,
        running_ms INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        run INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        raw_bytes INTEGER NOT NULL,
        wire_bytes INTEGER NOT NULL,
        entries_per_second INTEGER NOT NULL,
        bytes_per_second INTEGER NOT NULL,
        batch_bytes INTEGER NOT NULL,
        "window" INTEGER NOT NULL,
        round_trip_us INTEGER,
        apply_us INTEGER,
        rss_bytes INTEGER NOT NULL,
        streams INTEGER NOT NULL,
        state TEXT NOT NULL,
        throttle TEXT,
        throttled_ms TEXT NOT NULL,
        PRIMARY KEY (job, running_ms)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE range_times (
        job TEXT NOT NULL,
        range INTEGER NOT NULL,
        started_ms INTEGER,
        completed_ms INTEGER,
        starts INTEGER NOT NULL,
        PRIMARY KEY (job, range)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE timeline (
        job TEXT NOT NULL,
        kind TEXT NOT NULL,
        number INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (job, kind, number)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TRIGGER forget_history AFTER DELETE ON jobs BEGIN
        DELETE FROM job_details WHERE job = OLD.job;
        DELETE FROM samples WHERE job = OLD.job;
        DELETE FROM range_times WHERE job = OLD.job;
        DELETE FROM timeline WHERE job = OLD.job;
    END
    """,
)

# Where jobs stand at servers that keep no records of them: kvbatch.kvrocks.kept_cursors.
_SERVER_CURSORS = (
    """
    CREATE TABLE server_jobs (
        job TEXT PRIMARY KEY,
        target TEXT NOT NULL,
        manifest BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        broken TEXT NOT NULL,
        finished INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE server_cursors (
        job TEXT NOT NULL,
        range INTEGER NOT NULL,
        complete INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        raw_bytes INTEGER NOT NULL,
        digest BLOB NOT NULL,
        last_key BLOB NOT NULL,
        PRIMARY KEY (job, range)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TRIGGER forget_server AFTER DELETE ON jobs BEGIN
        DELETE FROM server_jobs WHERE job = OLD.job;
        DELETE FROM server_cursors WHERE job = OLD.job;
    END
    """,
)

# Step i leads from version i to i + 1. A database of the first release says 0, as an empty one does.
_STEPS = ((*_RELEASED, *_HISTORY), _SERVER_CURSORS)


class NewerSchemaError(sqlite3.DatabaseError):
    """The database is of a later kvbatch."""


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def upgrade(database: sqlite3.Connection) -> None:
    """Makes what is missing, all of it or nothing; another process may do the same at this moment. Raises
    sqlite3.Error."""
    if _version(database) == len(_STEPS):
        return
    database.execute("BEGIN IMMEDIATE")
    with database:
        found = _version(database)
        if found > len(_STEPS):
            raise NewerSchemaError(
                f"its database has version {found} and this kvbatch knows {len(_STEPS)}: a later one made it"
            )
        for step in _STEPS[found:]:
            for statement in step:
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {len(_STEPS)}")
