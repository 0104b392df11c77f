//! Our own webhooks, called as ElevenLabs calls them: through the public URL.

use std::time::Duration;

use jiff::Timestamp;
use rand::distr::{Alphanumeric, SampleString};
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::domain::connection::{PublicUrl, TEST_EVENT};
use crate::http::sign;

/// Longest wait for an answer: ElevenLabs waits about as long for a ring's.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a webhook does not do what ElevenLabs needs: the reason, the remedy.
pub(in crate::cli) type Refused = (String, &'static str);

const UNREACHABLE: &str = "start the service (elaoms serve), and see that the address leads to its BIND_ADDR: DNS, \
     firewall, reverse proxy, certificate";
const NOT_OURS: &str = "see that the reverse proxy passes /webhook/ on to the service's BIND_ADDR";
const OTHER_KEY: &str = "restart the service, every instance of it, so that it reads the settings as they are now, and run \
     the same command again";
/// So often each is tried: behind a load balancer every instance has to know a key.
const INSTANCES: u32 = 8;

pub(in crate::cli) struct Probe {
    client: Client,
    url: PublicUrl,
}

impl Probe {
    /// # Errors
    /// If no TLS can be set up.
    pub fn new(url: &PublicUrl) -> Result<Self, String> {
        // A connection for each request: behind a load balancer each may reach another
        // instance.
        let client = crate::clients::client_builder()
            .pool_max_idle_per_host(0)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        Ok(Self {
            client: client.build().map_err(|e| e.to_string())?,
            url: url.clone(),
        })
    }

    /// A ring without a caller is let in with the key, and not without.
    pub async fn client_data(&self, agent: &str, key: &SecretString) -> Result<(), Refused> {
        let body = json!({"caller_id": "", "agent_id": agent, "called_number": "", "call_sid": ""});
        let answer = self.keyed(&self.url.client_data(), &body, key).await?;
        match answer["type"] == "conversation_initiation_client_data" {
            true => Ok(()),
            false => Err(self.not_ours(&self.url.client_data())),
        }
    }

    /// A search for nobody.
    pub async fn search_data(&self, agent: &str, key: &SecretString) -> Result<(), Refused> {
        let body = json!({"query": "", "user_id": "", "agent_id": agent});
        let answer = self.keyed(&self.url.search_data(), &body, key).await?;
        match answer["memories"].is_array() {
            true => Ok(()),
            false => Err(self.not_ours(&self.url.search_data())),
        }
    }

    /// An event that is signed with the secret is taken; with another it is not.
    pub async fn post_call(&self, secret: &SecretString) -> Result<(), Refused> {
        let url = self.url.post_call();
        // Unlike any other, so that no cache on the way can answer.
        let nonce = Alphanumeric.sample_string(&mut rand::rng(), 16);
        let body = json!({"type": TEST_EVENT, "data": {"nonce": nonce}}).to_string();
        let signed = |secret: &[u8]| {
            let signature = sign(body.as_bytes(), secret, Timestamp::now());
            self.client
                .post(&url)
                .header("ElevenLabs-Signature", signature)
                .header("Content-Type", "application/json")
                .body(body.clone())
        };
        let (status, _) = ask(&url, signed(nonce.as_bytes())).await?;
        if status != 401 {
            return Err(self.not_refused(&url, status, "with a wrong signature"));
        }
        let signed = || signed(secret.expose_secret().as_bytes());
        match self.taken(&url, signed).await? {
            answer if answer["type"] == TEST_EVENT => Ok(()),
            _ => Err(self.not_ours(&url)),
        }
    }

    async fn keyed(&self, url: &str, body: &Value, key: &SecretString) -> Result<Value, Refused> {
        let request = || self.client.post(url).json(body);
        let (status, _) = ask(url, request()).await?;
        if status != 401 {
            return Err(self.not_refused(url, status, "without a key"));
        }
        let keyed = || request().header("X-Api-Key", key.expose_secret());
        self.taken(url, keyed).await
    }

    /// What is authentic is taken, by every instance that answers; the last answer.
    async fn taken(
        &self,
        url: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Value, Refused> {
        let mut last = (0, Value::Null);
        for _ in 0..INSTANCES {
            last = ask(url, request()).await?;
            if last.0 == 401 {
                let reason = format!(
                    "{url} refuses the secret in the settings (401): the service, or one of its instances, has others, or its clock is wrong"
                );
                return Err((reason, OTHER_KEY));
            }
        }
        match last {
            (200, answer) => Ok(answer),
            (status, _) => Err(not_well(url, status)),
        }
    }

    fn not_refused(&self, url: &str, status: u16, how: &str) -> Refused {
        match status {
            404 | 405 => self.not_ours(url),
            502..=504 => not_well(url, status),
            _ => (
                format!("{url} answers {status} {how}, not 401: something else answers there"),
                NOT_OURS,
            ),
        }
    }

    fn not_ours(&self, url: &str) -> Refused {
        (
            format!("{url} is answered by something else than ELAOMS"),
            NOT_OURS,
        )
    }
}

fn not_well(url: &str, status: u16) -> Refused {
    (format!("{url} answers {status}"), UNREACHABLE)
}

async fn ask(url: &str, request: RequestBuilder) -> Result<(u16, Value), Refused> {
    let failed = |e: reqwest::Error| {
        let cause = std::iter::successors(std::error::Error::source(&e), |e| e.source()).last();
        let why = cause.map_or_else(|| "no answer in time".to_owned(), ToString::to_string);
        (format!("nothing answers at {url}: {why}"), UNREACHABLE)
    };
    let response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let body = response.bytes().await.map_err(failed)?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}
