-- What operators decide about callers. None of it is a caller's words.

-- Nothing is kept of these, and they are greeted as strangers.
CREATE TABLE opted_out_callers (
    caller TEXT PRIMARY KEY,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Numbers that several people use.
CREATE TABLE shared_callers (
    caller TEXT PRIMARY KEY,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One person, two numbers: whoever calls from the alias is the caller.
CREATE TABLE caller_links (
    alias  TEXT PRIMARY KEY,
    caller TEXT NOT NULL,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Calls that were erased, by a hash of their id, so that a late delivery
-- brings nothing back.
CREATE TABLE erased_calls (
    mark TEXT PRIMARY KEY,
    at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Callers whose erasure has begun and not ended: it goes on after a restart.
CREATE TABLE pending_erasures (
    caller        TEXT PRIMARY KEY,
    conversations TEXT NOT NULL, -- JSON array: whose files are to be removed
    begun_at      INTEGER NOT NULL,
    -- The stores are done, and files are left: what the caller has said since
    -- is none of this erasure's.
    forgotten     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Who did what, for good.
CREATE TABLE audit_log (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL, -- the name of an admin key, or 'command line'
    action  TEXT NOT NULL,
    subject TEXT NOT NULL, -- a masked caller, an agent, a number of a dead letter
    outcome TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_log_is_not_changed BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_is_not_shortened BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE INDEX inbox_of_caller ON inbox (caller) WHERE caller IS NOT NULL;
CREATE INDEX memories_by_age ON memories (said_at);
CREATE INDEX record_index_of_caller ON record_index (caller);
-- Memories are read from the server alone: what is deleted there is nowhere else.
ALTER TABLE record_index DROP COLUMN metadata;
