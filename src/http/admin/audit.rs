//! Who did what: every change by an operator is written down before its
//! answer is sent.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::{AdminState, ApiError, Response, error, finish, store_failed};
use crate::store::AuditEntry;

/// Most entries listed.
const MAX_ENTRIES: usize = 1_000;

/// Which entries are wanted.
#[derive(Deserialize)]
pub(super) struct Wanted {
    /// At most so many, the newest.
    #[serde(default = "Wanted::all")]
    limit: usize,
}

impl Wanted {
    fn all() -> usize {
        MAX_ENTRIES
    }
}

/// Whoever made a request, by the name of the key.
#[derive(Clone)]
pub(super) struct Operator {
    pub state: Arc<AdminState>,
    who: String,
}

impl Operator {
    pub fn new(state: Arc<AdminState>, who: String) -> Self {
        Self { state, who }
    }

    /// Does something and writes down that it was done or tried. `subject`
    /// holds no caller but masked. Once begun it is done to its end, whether or
    /// not whoever asked goes on waiting.
    pub async fn act(
        &self,
        action: &'static str,
        subject: String,
        work: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
    ) -> Response {
        let operator = self.clone();
        let done = tokio::spawn(async move {
            let response = work.await.unwrap_or_else(ApiError::into_response);
            operator.note(action, subject, &response).await;
            response
        });
        finish(async { done.await.map_err(|_| ApiError::Internal) }).await
    }

    async fn note(&self, action: &'static str, subject: String, response: &Response) {
        let entry = AuditEntry {
            at: Timestamp::now(),
            who: self.who.clone(),
            action: action.to_owned(),
            subject,
            outcome: response.status().as_str().to_owned(),
        };
        tracing::info!(
            who = entry.who,
            subject = entry.subject,
            outcome = entry.outcome,
            "Administration: {action}"
        );
        if let Err(error) = self.state.register.audit(entry).await {
            // It is done; the line above is what is left of the record.
            tracing::error!(%error, "The audit log cannot be written");
        }
    }
}

pub(super) async fn list(operator: &Operator, wanted: Wanted) -> Result<Response, ApiError> {
    let limit = wanted.limit.min(MAX_ENTRIES);
    let entries = operator.state.register.audit_log(limit).await;
    let entries = entries.map_err(|e| store_failed(&e))?;
    Ok(error::json(&json!({"entries": entries})))
}
