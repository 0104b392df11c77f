-- Times are milliseconds since 1970-01-01 UTC.

CREATE TABLE callers (
    caller             TEXT PRIMARY KEY,
    name               TEXT,
    first_seen         INTEGER NOT NULL,
    total_interactions INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conversation_states (
    caller               TEXT NOT NULL,
    agent                TEXT NOT NULL,
    conversation_count   INTEGER NOT NULL,
    last_call_date       INTEGER NOT NULL,
    next_greeting        TEXT,
    key_topics           TEXT NOT NULL, -- JSON array of strings
    sentiment            TEXT,
    conversation_summary TEXT,
    greeted_started_at   INTEGER, -- the call that the greeting is made from
    greeted_arrival      INTEGER,
    PRIMARY KEY (caller, agent)
) STRICT, WITHOUT ROWID;

-- One row for each call learned: what makes learning idempotent. A call that
-- was learned in another store is known by 'mark:' and a hash of its id.
CREATE TABLE learned_calls (
    conversation_id TEXT PRIMARY KEY,
    caller          TEXT NOT NULL,
    agent           TEXT NOT NULL,
    learned_at      REAL NOT NULL -- seconds
) STRICT, WITHOUT ROWID;
CREATE INDEX learned_calls_of_caller ON learned_calls (caller, learned_at);

CREATE TABLE memories (
    id              INTEGER PRIMARY KEY,
    caller          TEXT NOT NULL,
    agent           TEXT, -- NULL: every agent may know it
    conversation_id TEXT NOT NULL,
    ordinal         INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    sector          TEXT NOT NULL,
    content         TEXT NOT NULL,
    said_before     TEXT NOT NULL,
    said_after      TEXT NOT NULL,
    salience        REAL NOT NULL,
    said_at         INTEGER NOT NULL
) STRICT;
CREATE INDEX memories_of_caller ON memories (caller, id);
CREATE INDEX memories_of_call ON memories (caller, conversation_id, ordinal);

CREATE TABLE inbox (
    id              INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival, never reused
    event_key       TEXT NOT NULL UNIQUE,              -- type and conversation
    kind            TEXT NOT NULL,
    conversation_id TEXT,
    agent           TEXT,
    caller          TEXT,
    started_at      INTEGER NOT NULL,
    greeting_wanted INTEGER NOT NULL,
    stage           TEXT NOT NULL CHECK (stage IN ('learn', 'greet', 'archive')),
    -- queued: behind an older event of the same caller that is not learned yet
    state           TEXT NOT NULL CHECK (state IN ('queued', 'ready', 'done', 'dead')),
    attempts        INTEGER NOT NULL DEFAULT 0, -- in this stage, for whatever cause
    crashes         INTEGER NOT NULL DEFAULT 0,
    unusable        INTEGER NOT NULL DEFAULT 0,
    run_at          INTEGER NOT NULL,
    received_at     INTEGER NOT NULL,
    archived        INTEGER NOT NULL DEFAULT 0,
    last_error      TEXT,
    payload         BLOB
) STRICT;
CREATE INDEX inbox_ready    ON inbox (stage, run_at, id)   WHERE state = 'ready';
CREATE INDEX inbox_learning ON inbox (caller, id)          WHERE stage = 'learn' AND state IN ('queued', 'ready');
CREATE INDEX inbox_greeting ON inbox (caller, agent)       WHERE stage = 'greet' AND state = 'ready';
CREATE INDEX inbox_open     ON inbox (received_at)         WHERE state IN ('queued', 'ready');
CREATE INDEX inbox_dead     ON inbox (id)                  WHERE state = 'dead';
CREATE INDEX inbox_done     ON inbox (received_at)         WHERE state = 'done';

CREATE TABLE agent_profiles (
    agent      TEXT PRIMARY KEY,
    profile    TEXT NOT NULL, -- JSON
    fetched_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Written to prove that writing works.
CREATE TABLE heartbeat (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    at      INTEGER NOT NULL,
    ballast BLOB NOT NULL -- as large as an event, so that a full disk is noticed
) STRICT;

-- Where records are in an OpenMemory that cannot be asked by user.
CREATE TABLE record_index (
    position INTEGER PRIMARY KEY, -- order of arrival
    key        TEXT NOT NULL,
    caller     TEXT NOT NULL,
    id         TEXT NOT NULL,
    created_at INTEGER NOT NULL, -- by the server's clock
    sector     TEXT NOT NULL,
    metadata   TEXT,             -- of records that never change: memories
    UNIQUE (key, id)
) STRICT;
CREATE INDEX record_index_newest ON record_index (key, created_at, position);

-- Callers of whom records may be stored that are not in the index; the empty
-- caller stands for "everything was indexed once".
CREATE TABLE record_index_state (
    caller TEXT PRIMARY KEY,
    since  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
