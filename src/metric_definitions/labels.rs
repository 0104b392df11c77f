//! The values that labels may have.

/// A label with a fixed set of values.
pub trait Label: Copy + 'static {
    /// Every value, in the order of their positions.
    const ALL: &'static [Self];
    /// The value as it is exported.
    fn as_str(self) -> &'static str;
    /// Its place in [`Label::ALL`].
    fn position(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            fn position(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// Connections to PostgreSQL.
    Pool {
        /// For rings and searches.
        Rings = "rings",
        /// For everything else.
        Work = "work",
    }
}

label! {
    /// How a ring was answered.
    RingOutcome {
        /// With this agent's greeting.
        Greeting = "greeting",
        /// With the caller's profile, without a greeting.
        Profile = "profile",
        /// With the defaults: nobody knows the caller.
        NewCaller = "new_caller",
        /// With the defaults: the number is withheld or none.
        Withheld = "withheld",
        /// With the defaults: the store did not answer in time.
        Deadline = "deadline",
        /// With the defaults: the store failed, or too much was going on.
        Error = "error",
    }
}

label! {
    /// How a search was answered.
    SearchOutcome {
        /// With memories.
        Found = "found",
        /// Without: none match.
        Empty = "empty",
        /// Without: the number is withheld or none.
        Withheld = "withheld",
        /// Without: the store did not answer in time.
        Deadline = "deadline",
        /// Without: the store failed, or too much was going on.
        Error = "error",
    }
}

label! {
    /// How the processing of a post-call event ended.
    CallOutcome {
        /// Learned, and the next greeting is stored.
        Greeted = "greeted",
        /// Learned; no greeting was to be made.
        Learned = "learned",
        /// Learned; a newer call's greeting was made instead.
        Superseded = "superseded",
        /// Only archived: no caller, a recording, or a failed initiation.
        Archived = "archived",
        /// Given up.
        DeadLetter = "dead_letter",
    }
}

label! {
    /// The webhooks.
    Endpoint {
        /// `POST /webhook/client-data`
        ClientData = "client-data",
        /// `POST /webhook/search-data`
        SearchData = "search-data",
        /// `POST /webhook/post-call`
        PostCall = "post-call",
    }
}

label! {
    /// The statuses that webhooks answer with.
    Status {
        /// Done.
        S200 = "200",
        /// The body is not JSON.
        S400 = "400",
        /// Wrong or missing key or signature.
        S401 = "401",
        /// The body came too slowly.
        S408 = "408",
        /// The body is too large.
        S413 = "413",
        /// A field is missing.
        S422 = "422",
        /// Not to be stored now.
        S503 = "503",
    }
}

label! {
    /// Why the listener parted with a sender.
    Dropped {
        /// A stranger's connection brought no request in time.
        Silent = "silent",
        /// A stranger's connection: its peer had too many.
        Peer = "peer",
        /// There were too many connections in all.
        Full = "full",
        /// A body stalled, or was slow, while another needed its place.
        Stalled = "stalled",
    }
}

label! {
    /// How the making of a greeting ended, after retries.
    OpenAiOutcome {
        /// A usable greeting.
        Success = "success",
        /// 429.
        RateLimited = "rate_limited",
        /// 429 `insufficient_quota`.
        Quota = "quota_exhausted",
        /// 401 or 403.
        InvalidKey = "invalid_key",
        /// 5xx.
        ServerError = "server_error",
        /// Another 4xx.
        Refused = "refused",
        /// No answer in time.
        Timeout = "timeout",
        Network = "network",
        /// An answer that cannot be used.
        Unusable = "unusable",
        /// Not asked: too many failures in a row.
        BreakerOpen = "breaker_open",
    }
}

label! {
    /// What became of the vector of a search's question.
    QuestionVector {
        /// It came in time.
        Used = "used",
        /// It did not come within 200 ms.
        Late = "late",
        /// The service failed.
        Failed = "failed",
        /// Not asked for: too many questions, or too many failures in a row.
        Skipped = "skipped",
    }
}

label! {
    /// Kinds of tokens, as billed.
    TokenKind {
        /// Of the question.
        Prompt = "prompt",
        /// Of the answer.
        Completion = "completion",
    }
}

label! {
    /// What the agent cache knew.
    CacheResult {
        /// A fresh profile.
        Hit = "hit",
        /// Nothing.
        Miss = "miss",
        /// An old profile, served while it is fetched anew.
        Stale = "stale",
        /// That there is no such agent.
        Negative = "negative",
    }
}

label! {
    /// The tiers of the guide.
    Tier {
        /// Universal profiles.
        One = "1",
        /// Conversation states.
        Two = "2",
    }
}

label! {
    /// What a read of a tier led to.
    TierResult {
        /// Something is known.
        Hit = "hit",
        /// Nothing is known.
        Miss = "miss",
        Error = "error",
    }
}

label! {
    /// What became of calls whose webhook never came.
    Reconciled {
        /// Fetched, and in the inbox.
        Fetched = "fetched",
        /// Not to be had any more.
        Lost = "lost",
        /// A look for them was broken off.
        Failed = "failed",
    }
}

label! {
    /// The state of our post-call webhook at ElevenLabs.
    WebhookState {
        /// Enabled, attached, delivering.
        Ok = "ok",
        /// Not known: it could not be read.
        Unknown = "unknown",
        /// Its last delivery failed.
        Failing = "failing",
        /// Disabled: no call that ends arrives.
        Disabled = "disabled",
        /// Attached to no agent and not to the workspace.
        Detached = "detached",
        /// There is none.
        Missing = "missing",
    }
}

label! {
    /// Kinds of supervised actors.
    ActorKind {
        /// Root of the tree.
        AgentCache = "agent_cache",
        OpenAi = "openai",
        Inbox = "inbox",
        /// What writes the archive.
        Archiver = "archiver",
        /// What removes what is old.
        Retention = "retention",
        /// What makes the vectors of memories.
        VectorMaker = "vector_maker",
        /// What looks for calls that never came.
        Reconciler = "reconciler",
        /// What looks after our webhook at ElevenLabs.
        WebhookWatch = "webhook_watch",
        /// A shard of the session router.
        Router = "router",
        Session = "session",
    }
}
