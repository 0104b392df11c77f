//! OpenAI's embeddings, or a server that speaks them: what texts mean, as vectors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use tokio::task::spawn_blocking;

use super::http_client;
use super::openai::{OpenAiError, Reply};
use crate::domain::vector::Vector;

/// Largest answer taken, in bytes: a batch of long vectors, in decimal digits.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The host that refuses what it does not know.
const OPENAI_HOST: &str = "//api.openai.com/";

/// How to ask. `EMBEDDINGS_…`
#[derive(Debug, Clone)]
pub struct EmbeddingsOptions {
    /// Including `/v1`.
    pub base_url: String,
    /// A server of one's own may need none.
    pub api_key: Option<SecretString>,
    pub model: String,
    /// Numbers of a vector, for models that can shorten them.
    pub dimensions: Option<u32>,
    /// Longest wait for an answer to a batch.
    pub timeout: Duration,
}

impl EmbeddingsOptions {
    /// What its vectors have in common: those of another kind cannot be compared.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.dimensions {
            Some(dimensions) => format!("{}/{dimensions}", self.model),
            None => self.model.clone(),
        }
    }
}

/// What a text is to its reader. Some models tell questions from what answers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRole {
    Query,
    Passage,
}

/// Vectors of texts, in the texts' order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    pub vectors: Vec<Vector>,
    /// Tokens, as billed.
    pub tokens: u64,
}

/// The client. Makes one request at a time it is asked.
pub struct Embeddings {
    http: reqwest::Client,
    options: EmbeddingsOptions,
    /// Cleared once a server has refused `input_type`.
    tells_role: AtomicBool,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize, Default)]
struct Usage {
    #[serde(default)]
    total_tokens: u64,
}

impl Embeddings {
    /// A client with these options.
    ///
    /// # Errors
    /// If no TLS can be set up.
    pub fn new(options: EmbeddingsOptions) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: http_client()?,
            // OpenAI's models make no difference, and it refuses unknown fields.
            tells_role: AtomicBool::new(!format!("{}/", options.base_url).contains(OPENAI_HOST)),
            options,
        })
    }

    /// See [`EmbeddingsOptions::kind`].
    #[must_use]
    pub fn kind(&self) -> String {
        self.options.kind()
    }

    /// Asks once for the vectors of texts. A server that does not know
    /// `input_type` is asked a second time, and without it from then on.
    ///
    /// # Errors
    /// [`OpenAiError`]
    pub async fn embed(&self, texts: &[&str], role: TextRole) -> Result<Embedded, OpenAiError> {
        let tells = self.tells_role.load(Ordering::Relaxed);
        let mut reply = self.request(texts, tells.then_some(role)).await?;
        if tells && reply.refuses("input_type") {
            self.tells_role.store(false, Ordering::Relaxed);
            reply = self.request(texts, None).await?;
        }
        let texts = texts.len();
        // Tens of thousands of numbers take a moment to read.
        spawn_blocking(move || read(reply.success()?, texts))
            .await
            .unwrap_or(Err(OpenAiError::Unusable("it cannot be read")))
    }

    async fn request(&self, texts: &[&str], role: Option<TextRole>) -> Result<Reply, OpenAiError> {
        let mut body = json!({
            "model": self.options.model,
            "input": texts,
            "encoding_format": "float",
        });
        if let Some(dimensions) = self.options.dimensions {
            body["dimensions"] = dimensions.into();
        }
        if let Some(role) = role {
            body["input_type"] = match role {
                TextRole::Query => "query".into(),
                TextRole::Passage => "passage".into(),
            };
        }
        let url = format!("{}/embeddings", self.options.base_url);
        let mut request = self
            .http
            .post(url)
            .timeout(self.options.timeout)
            .json(&body);
        if let Some(key) = &self.options.api_key {
            request = request.bearer_auth(key.expose_secret());
        }
        Reply::to(request, MAX_ANSWER_BYTES).await
    }
}

fn read(body: &Value, texts: usize) -> Result<Embedded, OpenAiError> {
    let unusable = OpenAiError::Unusable;
    let answer = Answer::deserialize(body).map_err(|_| unusable("it holds no embeddings"))?;
    let mut vectors: Vec<Option<Vector>> = vec![None; texts];
    for item in answer.data {
        let place = vectors.get_mut(item.index);
        let place = place.ok_or(unusable("it embeds what was not asked for"))?;
        let vector = Vector::quantised(&item.embedding);
        *place = Some(vector.map_err(|_| unusable("it holds what is no vector"))?);
    }
    let vectors: Option<Vec<Vector>> = vectors.into_iter().collect();
    Ok(Embedded {
        vectors: vectors.ok_or(unusable("it embeds less than was asked for"))?,
        tokens: answer.usage.total_tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_vector_for_each_text_in_any_order() {
        let embedded = read(
            &json!({"data": [
                {"index": 1, "embedding": [0.0, 1.0]},
                {"index": 0, "embedding": [1.0, 0.0]},
            ], "usage": {"prompt_tokens": 7, "total_tokens": 7}}),
            2,
        )
        .unwrap();
        let along = Vector::quantised(&[5.0, 0.0]).unwrap();
        assert!(embedded.vectors[0].likeness(&along) > 0.99);
        assert!(embedded.vectors[1].likeness(&along) < 0.01);
        assert_eq!(embedded.tokens, 7);
        for wrong in [
            json!({}),
            json!({"data": []}),
            json!({"data": [{"index": 0, "embedding": [0.0]}]}),
            json!({"data": [{"index": 0, "embedding": ["a"]}]}),
            json!({"data": [{"index": 7, "embedding": [1.0]}]}),
        ] {
            assert!(
                matches!(read(&wrong, 1), Err(OpenAiError::Unusable(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn vectors_of_one_model_and_length_are_of_a_kind() {
        let kind = |dimensions| {
            EmbeddingsOptions {
                base_url: String::new(),
                api_key: None,
                model: "m".into(),
                dimensions,
                timeout: Duration::ZERO,
            }
            .kind()
        };
        assert_eq!(
            (kind(None).as_str(), kind(Some(256)).as_str()),
            ("m", "m/256")
        );
    }
}
