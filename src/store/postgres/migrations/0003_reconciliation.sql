-- The language of the last call (ISO 639-1), as ElevenLabs told it.
ALTER TABLE conversation_states ADD COLUMN language TEXT;

-- Until when calls were looked for whose webhook never came.
CREATE TABLE reconciliation (
    id            INT PRIMARY KEY CHECK (id = 1),
    settled_until BIGINT NOT NULL
);

-- What is reported by day (UTC): rings, calls, tokens. Never anything of a caller.
CREATE TABLE figures (
    day   TEXT NOT NULL, -- YYYY-MM-DD
    name  TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (day, name)
);
