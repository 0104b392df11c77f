-- Times that callers and upstreams tell are milliseconds since 1970-01-01 UTC,
-- as in SQLite; so are those of the queue, by this database's clock.

-- Which instances of the service live, by this database's clock. What an
-- instance has claimed is its own for as long as it lives.
CREATE TABLE instances (
    id          TEXT PRIMARY KEY,
    alive_until TIMESTAMPTZ NOT NULL
);

-- Which instance does what one does for all.
CREATE TABLE leaders (
    job   TEXT PRIMARY KEY,
    owner TEXT NOT NULL
);

-- Locked by whoever changes a caller or the caller's queue: the row of the
-- caller's slot, a hash of the id. No row tells of a caller, and none is written.
CREATE TABLE caller_locks (
    slot INT PRIMARY KEY
);
INSERT INTO caller_locks SELECT generate_series(0, 65535);

CREATE SEQUENCE memories_versions;
CREATE TABLE callers (
    caller             TEXT PRIMARY KEY,
    name               TEXT,
    name_evidence      TEXT,
    name_conversation  TEXT,
    name_at            BIGINT,
    first_seen         BIGINT NOT NULL,
    total_interactions BIGINT NOT NULL,
    -- Another one whenever the caller's memories change, and never one that
    -- there was: whoever holds an index of them knows whether it is the newest.
    memories_version   BIGINT NOT NULL DEFAULT nextval('memories_versions')
);

CREATE TABLE conversation_states (
    caller               TEXT NOT NULL,
    agent                TEXT NOT NULL,
    conversation_count   BIGINT NOT NULL,
    last_call_date       BIGINT NOT NULL,
    next_greeting        TEXT,
    key_topics           TEXT NOT NULL, -- JSON array of strings
    sentiment            TEXT,
    conversation_summary TEXT,
    greeted_started_at   BIGINT, -- the call that the greeting is made from
    greeted_arrival      BIGINT,
    PRIMARY KEY (caller, agent)
);

-- One row for each call learned: what makes learning idempotent. A call that
-- was learned in another store is known by 'mark:' and a hash of its id.
CREATE TABLE learned_calls (
    conversation_id TEXT PRIMARY KEY,
    caller          TEXT NOT NULL,
    agent           TEXT NOT NULL,
    learned_at      TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX learned_calls_of_caller ON learned_calls (caller, learned_at);

CREATE TABLE memories (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    caller          TEXT NOT NULL,
    agent           TEXT, -- NULL: every agent may know it
    conversation_id TEXT NOT NULL,
    ordinal         BIGINT NOT NULL,
    kind            TEXT NOT NULL,
    sector          TEXT NOT NULL,
    content         TEXT NOT NULL,
    said_before     TEXT NOT NULL,
    said_after      TEXT NOT NULL,
    salience        REAL NOT NULL,
    said_at         BIGINT NOT NULL
);
CREATE INDEX memories_of_caller ON memories (caller, id);
CREATE INDEX memories_by_age ON memories (said_at);

CREATE TABLE inbox (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- order of arrival within a caller
    event_key       TEXT NOT NULL UNIQUE,                            -- type and conversation
    kind            TEXT NOT NULL,
    conversation_id TEXT,
    agent           TEXT,
    caller          TEXT,
    slot            INT, -- of the caller's lock
    started_at      BIGINT NOT NULL,
    greeting_wanted BOOLEAN NOT NULL,
    stage           TEXT NOT NULL CHECK (stage IN ('learn', 'greet', 'archive')),
    -- queued: behind an older event of the same caller that is not learned yet
    -- running: claimed by the owner
    state           TEXT NOT NULL CHECK (state IN ('queued', 'ready', 'running', 'done', 'dead')),
    owner           TEXT,
    fence           BIGINT NOT NULL DEFAULT 0, -- raised with each claim
    attempts        BIGINT NOT NULL DEFAULT 0, -- in this stage, for whatever cause
    crashes         BIGINT NOT NULL DEFAULT 0,
    unusable        BIGINT NOT NULL DEFAULT 0,
    run_at          BIGINT NOT NULL,
    received_at     BIGINT NOT NULL,
    greet_since     BIGINT,
    archived        BOOLEAN NOT NULL DEFAULT FALSE,
    archive_at      BIGINT NOT NULL DEFAULT 0,
    archiver        TEXT, -- the instance that writes it to the archive
    last_error      TEXT,
    payload         BYTEA,
    CHECK ((state = 'running') = (owner IS NOT NULL)),
    CHECK ((caller IS NULL) = (slot IS NULL))
)
-- A backlog comes and goes faster than a tenth of the table changes.
WITH (autovacuum_analyze_scale_factor = 0.01, autovacuum_vacuum_scale_factor = 0.05);
-- At most one call of a caller is being learned or next to be, whatever the
-- code forgets.
CREATE UNIQUE INDEX inbox_head ON inbox (caller) WHERE stage = 'learn' AND state IN ('ready', 'running');
CREATE INDEX inbox_ready       ON inbox (stage, run_at, id) WHERE state = 'ready';
CREATE INDEX inbox_running     ON inbox (owner)             WHERE state = 'running';
CREATE INDEX inbox_queued      ON inbox (caller, id)        WHERE state = 'queued';
CREATE INDEX inbox_unfinished  ON inbox (caller, agent)     WHERE stage IN ('learn', 'greet') AND state IN ('queued', 'ready', 'running');
CREATE INDEX inbox_open        ON inbox (received_at)       WHERE state IN ('queued', 'ready', 'running');
CREATE INDEX inbox_dead        ON inbox (id)                WHERE state = 'dead';
CREATE INDEX inbox_done        ON inbox (received_at)       WHERE state = 'done';
CREATE INDEX inbox_unarchived  ON inbox (received_at)       WHERE NOT archived AND state = 'done';
CREATE INDEX inbox_to_archive  ON inbox (id)                WHERE NOT archived;
CREATE INDEX inbox_of_caller   ON inbox (caller)            WHERE caller IS NOT NULL;

CREATE SEQUENCE agent_versions;
CREATE TABLE agent_profiles (
    agent      TEXT PRIMARY KEY,
    profile    TEXT NOT NULL, -- JSON
    fetched_at BIGINT NOT NULL,
    version    BIGINT NOT NULL DEFAULT nextval('agent_versions') -- another one with each change
);
CREATE INDEX agent_profiles_by_version ON agent_profiles (version);

-- Written to prove that writing works.
CREATE TABLE heartbeat (
    id INT PRIMARY KEY CHECK (id = 1),
    at TIMESTAMPTZ NOT NULL
);

-- What operators decide about callers. Its version is raised with each
-- decision, so that every instance knows whether it has the newest.
CREATE TABLE decisions (
    id      INT PRIMARY KEY CHECK (id = 1),
    version BIGINT NOT NULL
);
INSERT INTO decisions VALUES (1, 1);

CREATE TABLE opted_out_callers (
    caller TEXT PRIMARY KEY,
    since  BIGINT NOT NULL
);

CREATE TABLE shared_callers (
    caller TEXT PRIMARY KEY,
    since  BIGINT NOT NULL
);

CREATE TABLE caller_links (
    alias  TEXT PRIMARY KEY,
    caller TEXT NOT NULL,
    since  BIGINT NOT NULL
);
CREATE INDEX caller_links_of_caller ON caller_links (caller);

CREATE TABLE erased_calls (
    mark TEXT PRIMARY KEY,
    at   BIGINT NOT NULL
);

CREATE TABLE pending_erasures (
    caller        TEXT PRIMARY KEY,
    conversations TEXT NOT NULL, -- JSON array: whose files are to be removed
    begun_at      BIGINT NOT NULL,
    -- The stores are done, and files are left: what the caller has said since
    -- is none of this erasure's.
    forgotten     BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE audit_log (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      BIGINT NOT NULL,
    who     TEXT NOT NULL, -- the name of an admin key, or the command line
    action  TEXT NOT NULL,
    subject TEXT NOT NULL, -- a masked caller, an agent, a number of a dead letter
    outcome TEXT NOT NULL
);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE TRIGGER audit_log_is_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
