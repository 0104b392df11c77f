-- Archiving is no stage behind learning and greeting any more: an event has
-- `archived` of its own, and is finished when it is done and archived.
ALTER TABLE inbox ADD COLUMN archive_at INTEGER NOT NULL DEFAULT 0; -- not before
UPDATE inbox SET state = 'done' WHERE stage = 'archive' AND kind <> 'unknown' AND state <> 'done';
-- Bodies that are no event have no place in the archive.
UPDATE inbox SET archived = 1 WHERE kind = 'unknown' OR payload IS NULL;
CREATE INDEX inbox_to_archive ON inbox (id) WHERE archived = 0;
