//! The vectors of a model, where `EMBEDDINGS_BASE_URL` names a server.

use std::time::Duration;

use elaoms::clients::{Embeddings, EmbeddingsOptions, TextRole};
use elaoms::domain::memory::{Memory, MemoryVector};
use elaoms::domain::vector::Vector;
use tokio::runtime::Runtime;

/// Memories embedded with one request.
const BATCH: usize = 32;

pub struct Meaning {
    client: Embeddings,
    runtime: Runtime,
}

impl Meaning {
    /// `None` if there is no server.
    pub fn from_environment() -> Option<Self> {
        let base_url = std::env::var("EMBEDDINGS_BASE_URL").ok()?;
        let options = EmbeddingsOptions {
            base_url,
            api_key: std::env::var("EMBEDDINGS_API_KEY").ok().map(Into::into),
            model: std::env::var("EMBEDDINGS_MODEL").unwrap_or_else(|_| "model".into()),
            dimensions: None,
            timeout: Duration::from_secs(120),
        };
        Some(Self {
            client: Embeddings::new(options).expect("a client"),
            runtime: Runtime::new().expect("a runtime"),
        })
    }

    pub fn of_memories(&self, memories: &[Memory]) -> Vec<MemoryVector> {
        let batches = memories.chunks(BATCH).flat_map(|batch| {
            let passages: Vec<String> = batch.iter().map(Memory::passage).collect();
            let texts: Vec<&str> = passages.iter().map(String::as_str).collect();
            let vectors = self.embed(&texts, TextRole::Passage);
            let made = batch.iter().zip(vectors);
            made.map(|(memory, vector)| MemoryVector::of(memory, vector))
        });
        batches.collect()
    }

    pub fn of_question(&self, question: &str) -> Vector {
        self.embed(&[question], TextRole::Query).remove(0)
    }

    fn embed(&self, texts: &[&str], role: TextRole) -> Vec<Vector> {
        let embedded = self.client.embed(texts, role);
        self.runtime
            .block_on(embedded)
            .expect("the server embeds")
            .vectors
    }
}
