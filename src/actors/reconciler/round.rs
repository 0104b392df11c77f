//! One look for calls, from the oldest to the newest.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use super::{Connection, Feeding, Place, Progress, Search, Shared, State};
use crate::account::{Account, MOST_REQUESTS};
use crate::actors::inbox::Receipt;
use crate::clients::{ConversationPage, ConversationQuery, ElevenLabsError, ListedConversation};
use crate::domain::ids::{AgentId, ConversationId};
use crate::domain::reconciliation::{Verdict, Window, windows};
use crate::metric_definitions::Reconciled;
use crate::store::StoreError;

/// How long it is believed which agents are connected: less than a round looks back
/// ([`OVERLAP`](crate::domain::reconciliation::OVERLAP)), so that the first calls of one that was connected since are seen.
const BELIEVED: Duration = Duration::from_secs(2 * 3600);
/// A call that is not over after so long never will be, in seconds.
const NEVER_ENDS: i64 = 24 * 3600;
/// Most pages of one list: what goes on for longer does not end.
const MAX_PAGES: usize = 10_000;
/// So many calls are asked for in the ledger at once.
const PORTION: usize = 100;
/// Before this there were no calls: ElevenLabs had no agents yet (2023-01-01).
const EARLIEST: Timestamp = Timestamp::constant(1_672_531_200, 0);
/// A pause of feeding, so that rings and new calls come in between.
const BREATH: Duration = Duration::from_millis(5);

/// The agents that are connected.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub agents: Vec<AgentId>,
    /// Whether the account has no other agents.
    are_all: bool,
    /// Those of whose calls ElevenLabs keeps nothing.
    forgetful: Vec<String>,
}

/// Why a look was broken off.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenOff {
    #[error("{0}")]
    Api(#[from] ElevenLabsError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("agent {0} is not connected with this ELAOMS: run elaoms setup --agent {0}")]
    NotConnected(AgentId),
    #[error("ElevenLabs' list of calls does not end, or is too long")]
    Endless,
    #[error("no agent is connected with this ELAOMS: run elaoms setup")]
    NobodyConnected,
}

/// A call in a list.
struct Found {
    conversation: ConversationId,
    started_at: i64,
}

impl Shared {
    /// Looks for calls, and has the inbox take what is missing.
    pub(super) async fn look(
        &self,
        connection: &Connection,
        place: &Place,
        search: Search,
        background: bool,
    ) {
        let now = Timestamp::now();
        *self.progress() = Progress {
            state: State::Running,
            dry_run: search.dry_run,
            since: Some(search.since),
            until: Some(now),
            ..Progress::default()
        };
        let looked = self.each_window(connection, place, &search, now).await;
        let progress = {
            let mut progress = self.progress();
            match &looked {
                Ok(_) => progress.state = State::Done,
                Err(error) => {
                    progress.state = State::Failed;
                    progress.error = Some(error.to_string());
                }
            }
            progress.clone()
        };
        let Progress {
            listed,
            fetched,
            lost,
            ..
        } = progress;
        match looked {
            Ok(until) => {
                if fetched + lost > 0 && !search.dry_run {
                    tracing::warn!(
                        fetched,
                        lost,
                        "Of {listed} calls {fetched} had never come; they were fetched from ElevenLabs"
                    );
                }
                if background && let Err(error) = self.ledger.set_reconciled_until(until).await {
                    // The next round looks at more than it would have to.
                    tracing::warn!(%error, "It cannot be noted until when calls were looked for");
                }
            }
            Err(error) => {
                self.metrics.reconciled.get(Reconciled::Failed).increment(1);
                tracing::warn!(%error, fetched, "The look for calls that never came was broken off; the next goes on");
            }
        }
    }

    /// Until when every call was found that there is.
    async fn each_window(
        &self,
        connection: &Connection,
        place: &Place,
        search: &Search,
        now: Timestamp,
    ) -> Result<Timestamp, BrokenOff> {
        let connected = self.connected_agents(connection, place).await?;
        let agents = match &search.agent {
            Some(agent) if connected.agents.contains(agent) => vec![agent.clone()],
            Some(agent) => return Err(BrokenOff::NotConnected(agent.clone())),
            None if connected.agents.is_empty() => return Err(BrokenOff::NobodyConnected),
            None => connected.agents.clone(),
        };
        {
            let mut progress = self.progress();
            progress.agents = agents.len();
            let remark = |agent: &String| {
                format!("agent {agent} has zero retention: of its calls nothing can be fetched")
            };
            progress.remarks = connected.forgetful.iter().map(remark).collect();
        }
        // One list for all of them, if there are no others.
        let lists: Vec<Option<&AgentId>> = match search.agent {
            None if connected.are_all => vec![None],
            _ => agents.iter().map(Some).collect(),
        };
        // New calls come by their webhooks meanwhile, and are greeted at once.
        let _feeding = Feeding::begin(&self.feeding);
        let mut settled = now;
        for window in windows(search.since.max(EARLIEST), now) {
            let mut calls = Vec::new();
            for agent in &lists {
                let open = self.list(connection, search, window, *agent, &agents, &mut calls);
                if let Some(open) = open.await? {
                    settled = settled.min(open);
                }
            }
            calls.sort_by_key(|call| call.started_at);
            for portion in calls.chunks(PORTION) {
                self.feed(connection, search, portion).await?;
            }
            self.progress().reached = Some(window.until);
        }
        Ok(settled)
    }

    /// Adds the calls of a window; when the first started that is not over.
    async fn list(
        &self,
        connection: &Connection,
        search: &Search,
        window: Window,
        agent: Option<&AgentId>,
        agents: &[AgentId],
        calls: &mut Vec<Found>,
    ) -> Result<Option<Timestamp>, BrokenOff> {
        let mut open: Option<Timestamp> = None;
        let mut query = ConversationQuery {
            agent: agent.cloned(),
            user_id: search
                .caller
                .as_ref()
                .map(|caller| caller.as_str().to_owned()),
            // Whether that second is included is not written down.
            after: window.from.checked_sub(SignedDuration::from_secs(1)).ok(),
            before: Some(window.until),
            cursor: None,
        };
        for _ in 0..MAX_PAGES {
            let page = page(connection.account.clone(), query.clone()).await?;
            for listed in page.conversations {
                let ListedConversation {
                    conversation_id,
                    agent_id,
                    start_time_unix_secs: started_at,
                    status,
                } = listed;
                let is_ours = agents.iter().any(|agent| agent.as_str() == agent_id)
                    && started_at >= window.from.as_second();
                let Some(conversation) = ConversationId::parse(&conversation_id)
                    .ok()
                    .filter(|_| is_ours)
                else {
                    continue;
                };
                let mut progress = self.progress();
                progress.listed += 1;
                if matches!(status.as_str(), "done" | "failed") {
                    calls.push(Found {
                        conversation,
                        started_at,
                    });
                } else {
                    progress.not_yet += 1;
                    if Timestamp::now().as_second() - started_at > NEVER_ENDS {
                        continue;
                    }
                    let started = Timestamp::from_second(started_at).unwrap_or(window.from);
                    open = Some(open.map_or(started, |open| open.min(started)));
                }
            }
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return Ok(open),
            }
        }
        Err(BrokenOff::Endless)
    }

    /// Fetches what is not known of these calls, in their order.
    async fn feed(
        &self,
        connection: &Connection,
        search: &Search,
        calls: &[Found],
    ) -> Result<(), BrokenOff> {
        let ids = calls.iter().map(|call| call.conversation.clone()).collect();
        let mut unknown = self.ledger.unknown_calls(ids).await?;
        unknown.retain(|call| !self.is_given_up(call));
        {
            let mut progress = self.progress();
            progress.known += (calls.len() - unknown.len()) as u64;
            if search.dry_run {
                progress.fetched += unknown.len() as u64;
                return Ok(());
            }
        }
        let account = &connection.account;
        let fetching = unknown.into_iter().map(|id| fetch(account.clone(), id));
        let fetching: Vec<_> = fetching.collect();
        let mut fetched = stream::iter(fetching).buffered(MOST_REQUESTS);
        while let Some((conversation, told)) = fetched.next().await {
            let verdict = match told {
                Ok(told) => self.judge(told).await?,
                Err(ElevenLabsError::NotFound) => {
                    self.lost(&conversation, "ElevenLabs does not have it any more");
                    continue;
                }
                Err(ElevenLabsError::Unusable) => Verdict::Unreadable,
                Err(error) => return Err(error.into()),
            };
            match verdict {
                Verdict::Event(event) => match self.take(event).await? {
                    Receipt::Event(_) => self.progress().fetched += 1,
                    Receipt::Unwanted => self.progress().unwanted += 1,
                    Receipt::Test | Receipt::Unknown => {
                        self.lost(&conversation, "it names no call");
                    }
                },
                Verdict::NotYet => self.progress().not_yet += 1,
                Verdict::NoTranscript => {
                    self.lost(
                        &conversation,
                        "its transcript is deleted, or was never kept",
                    );
                }
                Verdict::NeverConnected => self.lost(&conversation, "it never connected"),
                Verdict::Unreadable => self.lost(&conversation, "it cannot be read"),
            }
            tokio::time::sleep(BREATH).await;
        }
        Ok(())
    }

    fn lost(&self, conversation: &ConversationId, reason: &'static str) {
        self.progress().lose(conversation, reason);
        self.give_up(conversation);
        self.metrics.reconciled.get(Reconciled::Lost).increment(1);
    }

    /// The agents that refer to our webhook, read not too long ago.
    pub(super) async fn connected_agents(
        &self,
        connection: &Connection,
        place: &Place,
    ) -> Result<Connected, BrokenOff> {
        if let Some((read, connected)) = &*self.connected()
            && read.elapsed() < BELIEVED
        {
            return Ok(connected.clone());
        }
        let connected = read_connected(connection, place).await?;
        *self.connected() = Some((Instant::now(), connected.clone()));
        Ok(connected)
    }
}

pub(super) async fn page(
    account: Account,
    query: ConversationQuery,
) -> Result<ConversationPage, ElevenLabsError> {
    let query = &query;
    account
        .ask(|api| async move { api.conversations(query).await })
        .await
}

pub(super) async fn fetch(
    account: Account,
    conversation: ConversationId,
) -> (ConversationId, Result<Vec<u8>, ElevenLabsError>) {
    let id = &conversation;
    let told = account
        .ask(|api| async move { api.conversation(id).await })
        .await;
    (conversation, told)
}

async fn settings_of(
    account: Account,
    agent: AgentId,
) -> (AgentId, Result<serde_json::Value, ElevenLabsError>) {
    let id = &agent;
    let settings = account
        .ask(|api| async move { api.agent_settings(id, None).await })
        .await;
    (agent, settings)
}

async fn read_connected(connection: &Connection, place: &Place) -> Result<Connected, BrokenOff> {
    let account = &connection.account;
    let ours = match (&place.webhook_id, &place.public_url) {
        (Some(id), _) => vec![id.clone()],
        (None, Some(url)) => {
            let webhooks = account.ask(|api| async move { api.webhooks().await });
            let webhooks = webhooks.await?;
            let ours = webhooks
                .into_iter()
                .filter(|webhook| webhook.url == url.post_call());
            ours.map(|webhook| webhook.id).collect()
        }
        (None, None) => Vec::new(),
    };
    let is_ours =
        |id: &serde_json::Value| id.as_str().is_some_and(|id| ours.iter().any(|o| o == id));
    let workspace = account.ask(|api| async move { api.workspace_settings().await });
    let workspace = workspace.await?;
    let by_workspace = is_ours(&workspace["webhooks"]["post_call_webhook_id"]);
    let listed = account.ask(|api| async move { api.agents().await }).await?;
    let mut reading = Vec::new();
    for agent in &listed {
        if let Ok(id) = AgentId::parse(&agent.agent_id) {
            reading.push(settings_of(account.clone(), id));
        }
    }
    let mut reading = stream::iter(reading).buffered(MOST_REQUESTS);
    let mut connected = Connected {
        agents: Vec::new(),
        are_all: false,
        forgetful: Vec::new(),
    };
    while let Some((id, settings)) = reading.next().await {
        let settings = match settings {
            Ok(settings) => settings,
            // Gone since it was listed.
            Err(ElevenLabsError::NotFound) => continue,
            Err(error) => return Err(error.into()),
        };
        let platform = &settings["platform_settings"];
        let own = &platform["workspace_overrides"]["webhooks"]["post_call_webhook_id"];
        if is_ours(own) || (own.is_null() && by_workspace) {
            if platform["privacy"]["zero_retention_mode"] == true {
                connected.forgetful.push(id.to_string());
            }
            connected.agents.push(id);
        }
    }
    connected.are_all = connected.agents.len() == listed.len();
    Ok(connected)
}
