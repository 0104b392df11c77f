-- Who set a caller's name: how it became known, from which call, and when.
ALTER TABLE callers ADD COLUMN name_evidence TEXT;
ALTER TABLE callers ADD COLUMN name_conversation TEXT;
ALTER TABLE callers ADD COLUMN name_at INTEGER;
-- When the greeting of an event first became due: so long it has been tried.
ALTER TABLE inbox ADD COLUMN greet_since INTEGER;
UPDATE inbox SET greet_since = CAST(unixepoch('subsec') * 1000 AS INTEGER) WHERE stage = 'greet';
-- A call dated after its receipt was the newest for ever.
UPDATE conversation_states SET greeted_started_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE greeted_started_at > unixepoch('subsec') * 1000;
UPDATE conversation_states SET last_call_date = CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE last_call_date > unixepoch('subsec') * 1000;
UPDATE inbox SET started_at = received_at WHERE started_at > received_at;
