//! How OpenAI, or who speaks like it, is asked: for greetings and for vectors.

use std::time::Duration;

use secrecy::SecretString;

use super::Reader;
use crate::actors::OpenAiLimits;
use crate::clients::{EmbeddingsOptions, OpenAiOptions};
use crate::domain::prices::Price;

const OPENAI_URL: &str = "https://api.openai.com/v1";

/// What both kinds of requests have in common. `OPENAI_…`
pub(super) struct OpenAiAccount {
    base_url: String,
    api_key: Option<SecretString>,
    timeout: Duration,
    limits: OpenAiLimits,
}

impl Reader<'_> {
    /// What the two kinds of requests to OpenAI have in common.
    pub(super) fn openai_account(&mut self) -> OpenAiAccount {
        OpenAiAccount {
            base_url: self.url("OPENAI_BASE_URL", OPENAI_URL),
            api_key: self.credential("OPENAI_API_KEY").map(SecretString::from),
            timeout: Duration::from_secs(self.number("OPENAI_TIMEOUT", 30, 5..=120)),
            limits: OpenAiLimits {
                requests_per_minute: self.limit("OPENAI_RPM", 500),
                tokens_per_minute: self.limit("OPENAI_TPM", 200_000),
            },
        }
    }

    pub(super) fn openai(
        &mut self,
        account: &OpenAiAccount,
    ) -> Option<(OpenAiOptions, OpenAiLimits)> {
        let model = self
            .text("OPENAI_MODEL")
            .unwrap_or_else(|| "gpt-4o-mini".into());
        let max_tokens = self.number("OPENAI_MAX_TOKENS", 150, 50..=500);
        let temperature = self.number("OPENAI_TEMPERATURE", 0.7, 0.0..=2.0);
        let Some(api_key) = account.api_key.clone() else {
            self.warnings.push(
                "OPENAI_API_KEY is not set: callers are recognised, but no greetings are generated"
                    .into(),
            );
            return None;
        };
        let price = self.price(&model);
        let options = OpenAiOptions {
            price,
            base_url: account.base_url.clone(),
            api_key,
            model,
            max_tokens,
            temperature,
            timeout: account.timeout,
        };
        Some((options, account.limits))
    }

    pub(super) fn embeddings(
        &mut self,
        account: &OpenAiAccount,
    ) -> Option<(EmbeddingsOptions, OpenAiLimits)> {
        let base_url = self.url("EMBEDDINGS_BASE_URL", OPENAI_URL);
        let dimensions = self.number("EMBEDDINGS_DIMENSIONS", 0, 0..=4_096);
        let own_key = self
            .credential("EMBEDDINGS_API_KEY")
            .map(SecretString::from);
        let model = self.text("EMBEDDINGS_MODEL")?;
        // A key goes to the server that it is for, and to no other.
        let is_openais = base_url == account.base_url;
        let openais_key = account.api_key.clone().filter(|_| is_openais);
        let api_key = own_key.or(openais_key);
        if api_key.is_none() && base_url == OPENAI_URL {
            self.warnings.push(
                "EMBEDDINGS_MODEL is set without EMBEDDINGS_API_KEY: memories are searched by their words alone"
                    .into(),
            );
            return None;
        }
        let options = EmbeddingsOptions {
            base_url,
            api_key,
            model,
            dimensions: Some(dimensions).filter(|dimensions| *dimensions > 0),
            timeout: account.timeout,
        };
        Some((options, account.limits))
    }

    /// A server of one's own costs what its owner says; without that, nothing.
    fn price(&mut self, model: &str) -> Option<Price> {
        let Some(text) = self.text("OPENAI_PRICES") else {
            return Price::of(model);
        };
        let price = Price::parse(&text);
        if price.is_none() {
            self.warnings.push(format!(
                "OPENAI_PRICES is {text:?}, not dollars for a million tokens of questions and answers such as 0.15/0.60"
            ));
        }
        price.or_else(|| Price::of(model))
    }
}
