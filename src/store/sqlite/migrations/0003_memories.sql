-- Only copies from another store looked for a single memory; they look for a
-- caller's memories now, and every call has one index less to write.
DROP INDEX memories_of_call;
