//! What each metric says of itself.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(super) fn describe() {
    let s = Unit::Seconds;
    describe_histogram!(
        "elaoms_client_data_duration_seconds",
        s,
        "From the ring's request to its answer."
    );
    describe_histogram!(
        "elaoms_search_data_duration_seconds",
        s,
        "From a search's request to its answer."
    );
    describe_histogram!(
        "elaoms_post_call_processing_duration_seconds",
        s,
        "From the receipt of a post-call event until nothing is left to do."
    );
    describe_counter!(
        "elaoms_webhook_requests_total",
        "Webhook requests by the status answered."
    );
    describe_gauge!(
        "elaoms_connections",
        "Open connections of the public listener."
    );
    describe_counter!(
        "elaoms_connections_dropped_total",
        "Connections of strangers closed, connections refused, and bodies cut off, to keep room for others."
    );
    describe_counter!(
        "elaoms_openai_requests_total",
        "Greetings asked for, each counted once after its retries."
    );
    describe_counter!("elaoms_openai_attempts_total", "Requests sent to OpenAI.");
    describe_histogram!(
        "elaoms_openai_request_duration_seconds",
        s,
        "Duration of one request to OpenAI."
    );
    describe_counter!("elaoms_openai_tokens_total", "Tokens billed.");
    describe_counter!(
        "elaoms_openai_cost_nanodollars_total",
        "What they cost by list price or OPENAI_PRICES, in billionths of a dollar: an estimate."
    );
    describe_histogram!(
        "elaoms_openai_limiter_wait_seconds",
        s,
        "How long a greeting waited for the rate limiter."
    );
    describe_gauge!(
        "elaoms_openai_breaker_open",
        "1 while OpenAI is not asked because it keeps failing."
    );
    describe_counter!(
        "elaoms_embeddings_requests_total",
        "Requests for vectors of memories and questions."
    );
    describe_counter!(
        "elaoms_embeddings_tokens_total",
        "Tokens billed for vectors."
    );
    describe_gauge!(
        "elaoms_embeddings_waiting_callers",
        "Callers with memories that have no vector yet."
    );
    describe_counter!(
        "elaoms_search_question_vectors_total",
        "Searches with an embeddings model, by whether the question's vector came in time."
    );
    describe_counter!(
        "elaoms_agent_cache_requests_total",
        "Look-ups of agent profiles."
    );
    describe_gauge!("elaoms_agent_cache_entries", "Agent profiles held.");
    describe_counter!(
        "elaoms_tier_queries_total",
        "Reads of a tier from the memory store."
    );
    describe_histogram!(
        "elaoms_tier_query_duration_seconds",
        s,
        "Duration of a read of a tier from the memory store."
    );
    describe_gauge!(
        "elaoms_inbox_pending",
        "Post-call events with something left to do."
    );
    describe_gauge!(
        "elaoms_inbox_oldest_pending_seconds",
        s,
        "Age of the oldest of them; 0 if there is none."
    );
    describe_gauge!(
        "elaoms_dead_letters",
        "Post-call events given up or never understood."
    );
    describe_gauge!("elaoms_sessions_active", "Caller sessions in memory.");
    describe_gauge!(
        "elaoms_sessions_max",
        "Caller sessions that there may be (MAX_SESSIONS)."
    );
    describe_gauge!(
        "elaoms_instances",
        "Instances that share the database and live, this one included; 0 without PostgreSQL."
    );
    describe_counter!(
        "elaoms_lease_takeovers_total",
        "Events that this instance has taken over from others that were gone."
    );
    describe_counter!(
        "elaoms_fence_refusals_total",
        "Times this instance was refused because another had taken its event over."
    );
    describe_gauge!(
        "elaoms_database_busy_connections",
        "Connections to PostgreSQL in use, of 8 for rings and searches and 16 for work; the 4 that take events in are not counted."
    );
    describe_gauge!(
        "elaoms_database_standbys",
        "Standbys that follow PostgreSQL; 0 where the user may not see them (pg_monitor)."
    );
    describe_gauge!(
        "elaoms_database_replication_lag_seconds",
        s,
        "How far PostgreSQL's furthest standby is behind; 0 without one, or where the user may not see it."
    );
    let b = Unit::Bytes;
    describe_gauge!(
        "elaoms_storage_free_bytes",
        b,
        "Free space on the disk of the database."
    );
    describe_gauge!(
        "elaoms_storage_size_bytes",
        b,
        "Size of the disk of the database."
    );
    describe_counter!(
        "elaoms_actor_restarts_total",
        "Actors restarted after a failure."
    );
    describe_counter!(
        "elaoms_reconciled_calls_total",
        "Calls whose webhook never came: fetched, not to be had any more; and looks for them that failed."
    );
    describe_gauge!(
        "elaoms_webhook_state",
        "1 for the state of our post-call webhook at ElevenLabs, 0 for the others; all 0 if it is not watched."
    );
    describe_gauge!(
        "elaoms_last_post_call_timestamp_seconds",
        s,
        "Unix time of the last post-call event taken; 0 before the first."
    );
    describe_gauge!("elaoms_build_info", "1; the version is the label.");
}
