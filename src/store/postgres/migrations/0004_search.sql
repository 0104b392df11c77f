-- The language in which a memory was said (ISO 639-1).
ALTER TABLE memories ADD COLUMN language TEXT;

-- What memories mean, as an embeddings model tells it.
CREATE TABLE memory_vectors (
    caller          TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    ordinal         BIGINT NOT NULL,
    model           TEXT NOT NULL,
    said_at         BIGINT NOT NULL,
    vector          BYTEA NOT NULL,
    PRIMARY KEY (caller, conversation_id, ordinal)
);
CREATE INDEX memory_vectors_by_age ON memory_vectors (said_at);

-- Callers with memories that may lack a vector.
CREATE TABLE embedding_queue (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- another one after an erasure
    caller     TEXT NOT NULL UNIQUE,
    renewed    BIGINT NOT NULL DEFAULT 0, -- how often it was asked for since
    not_before BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX embedding_queue_in_order ON embedding_queue (not_before, id);

-- The model whose vectors every caller has, or is queued for.
CREATE TABLE embedding_model (
    id    INT PRIMARY KEY CHECK (id = 1),
    model TEXT NOT NULL
);
