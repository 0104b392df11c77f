//! The account at ElevenLabs, and where in it we are.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::account::Account;
use crate::domain::connection::PublicUrl;

/// Cheap to clone; all clones see when it moves.
#[derive(Clone)]
pub struct Connection {
    pub(super) account: Account,
    place: Arc<ArcSwap<Place>>,
}

/// What tells our webhook, and the agents that refer to it, from others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// `PUBLIC_URL`
    pub public_url: Option<PublicUrl>,
    /// `ELEVENLABS_WEBHOOK_ID`
    pub webhook_id: Option<String>,
}

impl Place {
    /// Whether it can be told which agents are ours.
    fn is_known(&self) -> bool {
        *self != Self::default()
    }
}

impl Connection {
    pub(super) fn new(account: Account, place: Place) -> Self {
        Self {
            account,
            place: Arc::new(ArcSwap::from_pointee(place)),
        }
    }

    /// Where we are now; `None` if that is not known.
    pub(super) fn place(&self) -> Option<Arc<Place>> {
        Some(self.place.load_full()).filter(|place| place.is_known())
    }

    /// Set-up has put us somewhere else.
    pub(super) fn move_to(&self, place: Place) {
        self.place.store(Arc::new(place));
    }
}
