-- The language in which a memory was said (ISO 639-1).
ALTER TABLE memories ADD COLUMN language TEXT;

-- What memories mean, as an embeddings model tells it. Of every memory store:
-- OpenMemory's memories have theirs here, too.
CREATE TABLE memory_vectors (
    caller          TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    ordinal         INTEGER NOT NULL,
    model           TEXT NOT NULL,
    said_at         INTEGER NOT NULL,
    vector          BLOB NOT NULL,
    PRIMARY KEY (caller, conversation_id, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_vectors_by_age ON memory_vectors (said_at);

-- Callers with memories that may lack a vector.
CREATE TABLE embedding_queue (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- another one after an erasure
    caller     TEXT NOT NULL UNIQUE,
    renewed    INTEGER NOT NULL DEFAULT 0, -- how often it was asked for since
    not_before INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX embedding_queue_in_order ON embedding_queue (not_before, id);

-- The model whose vectors every caller has, or is queued for.
CREATE TABLE embedding_model (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    model TEXT NOT NULL
) STRICT;
