//! `elaoms setup` against a stand-in of ElevenLabs' API with a memory.

use std::os::unix::fs::PermissionsExt;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::elevenlabs_stand_in::{Account, FULL_KEY, Failure, Seen};
use crate::payloads;
use crate::service::{AGENT, CALLER, OTHER_AGENT, Service};

/// A service with its settings in `.env`, and an account with two agents.
struct Workshop {
    account: Account,
    service: Service,
}

impl Workshop {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(more: &[(&'static str, &str)]) -> Self {
        let account = Account::start().await;
        account.add_agent(AGENT, "Margaret");
        account.add_agent(OTHER_AGENT, "Luigi");
        account.add_number("+16125550000", AGENT);
        let url = account.url();
        let settings = [
            ("ELEVENLABS_BASE_URL", url.as_str()),
            ("ELEVENLABS_SETUP_API_KEY", FULL_KEY),
        ];
        let all: Vec<_> = settings.iter().chain(more).copied().collect();
        let service = Service::start_from_file(&all).await;
        Self { account, service }
    }

    async fn setup(&self, more: &[&str]) -> (i32, String) {
        let arguments = [&["setup", "--url", &self.service.base], more].concat();
        self.service.run(&arguments).await
    }

    /// Sets up, and expects that it works.
    async fn set_up(&self, more: &[&str]) -> String {
        let (status, text) = self.setup(more).await;
        assert_eq!(status, 0, "{text}");
        text
    }

    fn env(&self) -> String {
        std::fs::read_to_string(self.service.path(".env")).unwrap()
    }

    fn setting(&self, name: &str) -> String {
        let env = self.env();
        let line = env
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{name}=")));
        line.unwrap_or_default().to_owned()
    }

    /// A call ends: sent as the webhook that is attached now would.
    async fn deliver(&self, agent: &str, conversation: &str) -> u16 {
        let call = payloads::call(conversation, agent, CALLER).caller("I plan a garden.");
        let (url, signature) = self.account.signed(agent, &call.body());
        let sent = self
            .service
            .http
            .post(url)
            .header("ElevenLabs-Signature", signature);
        sent.body(call.body())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }

    fn writes(&self) -> usize {
        self.account.with(|s| s.writes())
    }
}

#[tokio::test]
async fn one_command_connects_an_agent_and_the_second_changes_nothing() {
    let workshop = Workshop::start().await;
    let other_before = workshop.account.agent(OTHER_AGENT);
    let text = workshop.set_up(&["--agent", AGENT]).await;
    assert!(
        text.contains("+16125550000") && text.contains("callers of Margaret are remembered"),
        "{text}"
    );

    let agent = workshop.account.agent(AGENT);
    let overrides = &agent["platform_settings"]["workspace_overrides"];
    let base = &workshop.service.base;
    assert_eq!(
        overrides["conversation_initiation_client_data_webhook"]["url"],
        format!("{base}/webhook/client-data")
    );
    let webhook = workshop
        .account
        .with(|s| s.webhooks.values().next().unwrap().clone());
    assert_eq!(webhook["retry_enabled"], true);
    assert_eq!(
        overrides["webhooks"]["post_call_webhook_id"],
        webhook["webhook_id"]
    );
    let permitted =
        &agent["platform_settings"]["overrides"]["conversation_config_override"]["agent"];
    assert_eq!(
        (&permitted["first_message"], &permitted["prompt"]["prompt"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        workshop.account.agent(OTHER_AGENT),
        other_before,
        "nobody else is touched"
    );

    // What is secret is in the settings alone, for the user alone.
    let env = workshop.env();
    assert!(env.starts_with("# Mine\n"), "{env}");
    let secret = format!("wsec_secret-of-{}", webhook["webhook_id"].as_str().unwrap());
    assert_eq!(workshop.setting("ELEVENLABS_POST_CALL_KEY"), secret);
    assert!(!text.contains(&secret), "{text}");
    let mode = |name| {
        std::fs::metadata(workshop.service.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode(".env"), mode(".elaoms-setup.json")), (0o600, 0o600));
    let journal = std::fs::read_to_string(workshop.service.path(".elaoms-setup.json")).unwrap();
    assert!(!journal.contains(&secret));

    // The service that runs takes what ElevenLabs signs from now on, and after a restart.
    assert_eq!(workshop.deliver(AGENT, "conv_1").await, 200);
    workshop.service.settle().await;
    let ring = workshop.service.ring(CALLER, AGENT).await;
    assert!(
        ring["dynamic_variables"]["key_topics"].is_string(),
        "{ring}"
    );

    // It fetches what was before, without a restart.
    workshop
        .account
        .add_call(&payloads::call("conv_before", AGENT, CALLER).caller("I like roses."));
    let (status, text) = workshop
        .service
        .run(&["reconcile", "--since", "2026-01-01T00:00:00Z"])
        .await;
    assert!(
        status == 0 && text.contains("of 1 agents") && text.contains("1 were missing"),
        "{text}"
    );

    let writes = workshop.writes();
    let account = workshop.account.with(|s| s.account());
    let text = workshop.set_up(&["--agent", AGENT]).await;
    assert!(text.contains("Nothing had to change."), "{text}");
    assert_eq!(workshop.writes(), writes);
    assert_eq!(workshop.account.with(|s| s.account()), account);
    assert_eq!(workshop.env(), env);
    let mut workshop = workshop;
    workshop.service.terminate().await;
    workshop.service.respawn().await;
    assert_eq!(workshop.deliver(AGENT, "conv_2").await, 200);
}

#[tokio::test]
async fn a_dry_run_tells_the_difference_and_writes_nothing() {
    let workshop = Workshop::start().await;
    let (env, account) = (workshop.env(), workshop.account.with(|s| s.account()));
    let text = workshop.set_up(&["--all-agents", "--dry-run"]).await;
    for told in [
        "would be made",
        "agent Luigi",
        "post-call-webhook",
        "Nothing was written",
    ] {
        assert!(text.contains(told), "{told:?} in {text}");
    }
    assert_eq!(
        workshop
            .account
            .with(|s| s.seen.iter().filter(|s| s.is_write()).count()),
        0
    );
    assert_eq!(workshop.account.with(|s| s.account()), account);
    assert_eq!(workshop.env(), env);
    assert!(!workshop.service.path(".elaoms-setup.json").exists());
}

#[tokio::test]
async fn what_was_changed_by_hand_is_repaired_and_what_was_chosen_stays() {
    let workshop = Workshop::start().await;
    workshop.set_up(&["--agent", AGENT]).await;
    let connected = workshop.account.agent(AGENT);
    workshop.account.with(|s| {
        let agent = s
            .agents
            .get_mut(AGENT)
            .unwrap()
            .values_mut()
            .next()
            .unwrap();
        let overrides = &mut agent["platform_settings"]["workspace_overrides"];
        overrides["webhooks"]["post_call_webhook_id"] = Value::Null;
        overrides["webhooks"]["transcript_format"] = "opentelemetry".into();
        overrides["conversation_initiation_client_data_webhook"] = Value::Null;
        agent["conversation_config"]["agent"]["prompt"]["tool_ids"] = json!([]);
        agent["conversation_config"]["agent"]["dynamic_variables"]["dynamic_variable_placeholders"]
            ["user_name"] = "there".into();
        let webhook = s.webhooks.values_mut().next().unwrap();
        webhook["is_disabled"] = true.into();
        webhook["is_auto_disabled"] = true.into();
        let tool = s.tools.values_mut().next().unwrap();
        tool["tool_config"]["api_schema"]["method"] = "GET".into();
        tool["tool_config"]["description"] = "My own words".into();
    });
    // Without naming it: it is known.
    let text = workshop.set_up(&[]).await;
    assert!(
        text.contains("disabled by ElevenLabs after failures"),
        "{text}"
    );
    let mut expected = connected;
    expected["conversation_config"]["agent"]["dynamic_variables"]["dynamic_variable_placeholders"]
        ["user_name"] = "there".into();
    assert_eq!(workshop.account.agent(AGENT), expected);
    workshop.account.with(|s| {
        let webhook = s.webhooks.values().next().unwrap();
        assert_eq!(
            (&webhook["is_disabled"], &webhook["is_auto_disabled"]),
            (&json!(false), &json!(false))
        );
        let tool = &s.tools.values().next().unwrap()["tool_config"];
        assert_eq!(
            (&tool["api_schema"]["method"], &tool["description"]),
            (&json!("POST"), &json!("My own words"))
        );
    });
    let writes = workshop.writes();
    workshop.set_up(&[]).await;
    assert_eq!(workshop.writes(), writes);
}

#[tokio::test]
async fn what_belongs_to_others_is_left_alone() {
    let workshop = Workshop::start().await;
    workshop.account.with(|s| {
        s.webhooks.insert("wh_theirs".into(), json!({"webhook_id": "wh_theirs", "name": "ELAOMS",
            "webhook_url": "https://theirs.example", "is_disabled": false, "is_auto_disabled": false}));
        s.secrets.insert("secret_theirs".into(), ("elaoms_client_data_key".into(), "theirs".into()));
        let agent = s.agents.get_mut(OTHER_AGENT).unwrap().values_mut().next().unwrap();
        let overrides = &mut agent["platform_settings"]["workspace_overrides"];
        overrides["webhooks"]["post_call_webhook_id"] = "wh_theirs".into();
        overrides["conversation_initiation_client_data_webhook"] = json!({"url": "https://theirs.example/ring",
            "request_headers": {"Authorization": {"secret_id": "secret_theirs"}}});
        s.tools.insert("tool_theirs".into(), json!({"id": "tool_theirs", "tool_config": {"type": "webhook",
            "name": "search_data", "description": "theirs", "api_schema": {"url": "https://theirs.example/search"}}}));
    });
    let theirs = workshop.account.agent(OTHER_AGENT);
    let text = workshop.set_up(&["--all-agents"]).await;
    assert!(
        text.contains("left alone") && text.contains("wh_theirs"),
        "{text}"
    );
    assert_eq!(workshop.account.agent(OTHER_AGENT), theirs);
    workshop.account.with(|s| {
        assert_eq!(
            s.secrets["secret_theirs"].1, "theirs",
            "another's secret keeps its value"
        );
        assert_eq!(
            s.tools["tool_theirs"]["tool_config"]["description"],
            "theirs"
        );
        assert_eq!(
            s.webhooks["wh_theirs"]["webhook_url"],
            "https://theirs.example"
        );
    });

    // Asked for, it is detached, without their header staying beside ours; and
    // undone, it is as it was.
    workshop
        .set_up(&["--agent", OTHER_AGENT, "--replace"])
        .await;
    let agent = workshop.account.agent(OTHER_AGENT);
    let ring = &agent["platform_settings"]["workspace_overrides"]["conversation_initiation_client_data_webhook"];
    assert_eq!(
        ring["request_headers"].as_object().unwrap().len(),
        1,
        "{ring}"
    );
    let (status, text) = workshop.service.run(&["setup", "--remove"]).await;
    assert_eq!(status, 0, "{text}");
    let mut restored = workshop.account.agent(OTHER_AGENT);
    let declared = "/conversation_config/agent/dynamic_variables/dynamic_variable_placeholders";
    *restored.pointer_mut(declared).unwrap() = json!({});
    assert_eq!(restored, theirs);
}

#[tokio::test]
async fn undone_everything_is_as_it_was() {
    let workshop = Workshop::start().await;
    let before = workshop.account.with(|s| s.account());
    workshop.set_up(&["--all-agents"]).await;
    assert_ne!(workshop.account.with(|s| s.account()), before);
    let (status, text) = workshop.service.run(&["setup", "--remove"]).await;
    assert_eq!(status, 0, "{text}");
    assert!(
        text.contains("stay declared"),
        "what cannot be undone is told: {text}"
    );
    let after = workshop.account.with(|s| {
        for branches in s.agents.values_mut() {
            for agent in branches.values_mut() {
                agent["conversation_config"]["agent"]["dynamic_variables"]["dynamic_variable_placeholders"] = json!({});
            }
        }
        s.account()
    });
    assert_eq!(after, before);
    assert_eq!(workshop.setting("PUBLIC_URL"), "");
    assert!(!workshop.service.path(".elaoms-setup.json").exists());
    let (status, text) = workshop.service.run(&["setup", "--remove"]).await;
    assert!(status == 1 && text.contains("nothing is known"), "{text}");
}

#[tokio::test]
async fn secrets_are_changed_without_one_refused_event() {
    let workshop = Workshop::start().await;
    workshop.set_up(&["--all-agents"]).await;
    let old = workshop.setting("ELEVENLABS_POST_CALL_KEY");
    let rotation = async {
        let text = workshop.set_up(&["--rotate"]).await;
        assert!(text.contains("the old webhook"), "{text}");
    };
    let mut rotation = std::pin::pin!(rotation);
    let mut delivered = 0;
    loop {
        let deliver = async {
            let conversation = format!("conv_{delivered}");
            assert_eq!(
                workshop.deliver(AGENT, &conversation).await,
                200,
                "{conversation}"
            );
        };
        tokio::select! {
            biased;
            () = deliver => delivered += 1,
            () = &mut rotation => break,
        }
        if delivered % 2 == 0 {
            tokio::select! { () = &mut rotation => break, () = tokio::task::yield_now() => {} }
        }
    }
    assert!(delivered > 3, "{delivered}");
    assert_eq!(workshop.deliver(AGENT, "conv_after").await, 200);
    let webhooks = workshop.account.with(|s| s.webhooks.len());
    assert_eq!(webhooks, 1, "the old one is gone");
    let now = workshop.setting("ELEVENLABS_POST_CALL_KEY");
    assert!(now != old && now.ends_with(&format!(",{old}")), "{now}");
    let key = workshop.setting("ELEVENLABS_CLIENT_DATA_KEY");
    let held = workshop.account.with(|s| {
        let secret = s
            .secrets
            .values()
            .find(|(name, _)| name == "elaoms_client_data_key");
        secret.unwrap().1.clone()
    });
    assert_eq!(key.split(',').next(), Some(held.as_str()));
    let writes = workshop.writes();
    workshop.set_up(&[]).await;
    assert_eq!(workshop.writes(), writes);
}

#[tokio::test]
async fn another_address_takes_a_new_webhook() {
    let workshop = Workshop::start().await;
    workshop.set_up(&["--all-agents"]).await;
    let elsewhere = workshop.service.base.replace("127.0.0.1", "localhost");
    let (status, text) = workshop
        .service
        .run(&["setup", "--url", &elsewhere, "--agent", AGENT])
        .await;
    assert_eq!(status, 0, "{text}");
    // The other agent would have gone on with the old one.
    for agent in [AGENT, OTHER_AGENT] {
        let (url, _) = workshop.account.signed(agent, b"{}");
        assert_eq!(url, format!("{elsewhere}/webhook/post-call"));
    }
    assert_eq!(
        workshop
            .account
            .with(|s| (s.webhooks.len(), s.tools.len(), s.secrets.len())),
        (1, 1, 2)
    );
    assert_eq!(workshop.setting("PUBLIC_URL"), elsewhere);
}

#[tokio::test]
async fn every_branch_that_takes_calls_is_connected() {
    let workshop = Workshop::start().await;
    workshop.account.with(|s| {
        let settings = s.agents.get_mut(AGENT).unwrap().remove("").unwrap();
        s.agents
            .get_mut(AGENT)
            .unwrap()
            .insert("agtbrch_main".into(), settings);
        s.live.insert(format!("{AGENT}/agtbrch_main"), 70.0);
    });
    workshop.account.add_branch(AGENT, "agtbrch_trial", 30.0);
    workshop.account.add_branch(AGENT, "agtbrch_draft", 0.0);
    workshop.set_up(&["--agent", AGENT]).await;
    let attached = workshop.account.with(|s| {
        let attached = s.agents[AGENT].iter().map(|(branch, settings)| {
            let webhooks = &settings["platform_settings"]["workspace_overrides"]["webhooks"];
            (branch.clone(), webhooks["post_call_webhook_id"].is_string())
        });
        attached.collect::<Vec<_>>()
    });
    let expected = [
        ("agtbrch_draft", false),
        ("agtbrch_main", true),
        ("agtbrch_trial", true),
    ];
    assert_eq!(
        attached,
        expected.map(|(branch, is)| (branch.to_owned(), is))
    );
}

#[tokio::test]
async fn the_workspace_is_changed_only_when_asked_for_and_as_a_whole() {
    let workshop = Workshop::start().await;
    let before = workshop.account.with(|s| s.workspace.clone());
    workshop.set_up(&["--agent", AGENT, "--workspace"]).await;
    let after = workshop.account.with(|s| s.workspace.clone());
    assert_eq!(
        after["rag_retention_period_days"],
        before["rag_retention_period_days"]
    );
    assert!(after["webhooks"]["post_call_webhook_id"].is_string());
    let overrides = &workshop.account.agent(AGENT)["platform_settings"]["workspace_overrides"];
    assert_eq!(overrides["webhooks"]["post_call_webhook_id"], Value::Null);
    // It is remembered, and checked as agents have it.
    let writes = workshop.writes();
    workshop.set_up(&[]).await;
    assert_eq!(workshop.writes(), writes);
    let (status, _, all) = workshop.check().await;
    assert_eq!(status, 0, "{all}");
    let format = "/webhooks/transcript_format";
    workshop
        .account
        .with(|s| *s.workspace.pointer_mut(format).unwrap() = "opentelemetry".into());
    let (status, _, all) = workshop.check().await;
    assert!(
        status == 1 && all.to_string().contains("opentelemetry"),
        "{all}"
    );
    workshop.set_up(&[]).await;
    assert_eq!(workshop.check().await.0, 0);
    let (status, text) = workshop.service.run(&["setup", "--remove"]).await;
    assert_eq!(status, 0, "{text}");
    assert_eq!(workshop.account.with(|s| s.workspace.clone()), before);
}

#[tokio::test]
async fn a_key_with_too_few_permissions_is_told_before_anything_is_done() {
    for (key, missing) in [
        ("xi-key-for-elevenlabs-0005", "convai_write"),
        ("xi-key-without-webhooks", "webhooks_write"),
        ("xi-key-that-is-wrong", "Invalid API key"),
    ] {
        let workshop = Workshop::start_with(&[("ELEVENLABS_SETUP_API_KEY", key)]).await;
        let (env, account) = (workshop.env(), workshop.account.with(|s| s.account()));
        let (status, text) = workshop.setup(&["--all-agents"]).await;
        assert!(status == 1 && text.contains(missing), "{text}");
        assert!(!text.contains(key), "{text}");
        assert_eq!(workshop.account.with(|s| s.account()), account);
        assert_eq!(workshop.env(), env);
    }
}

#[tokio::test]
async fn nothing_is_attached_while_nobody_answers() {
    let mut workshop = Workshop::start().await;
    workshop.service.kill().await;
    let account = workshop.account.with(|s| s.account());
    let (status, text) = workshop.setup(&["--all-agents"]).await;
    assert!(
        status == 1 && text.contains("nothing answers") && text.contains("elaoms serve"),
        "{text}"
    );
    let (status, text) = workshop.setup(&[]).await;
    assert!(
        status == 1 && text.contains("--agent ID, or --all-agents"),
        "it asks nobody: {text}"
    );
    let (status, text) = workshop.setup(&["--agent", "agent_nobody"]).await;
    assert!(
        status == 1 && text.contains("no agent agent_nobody"),
        "{text}"
    );
    assert_eq!(workshop.account.with(|s| s.account()), account);
}

impl Workshop {
    /// Which requests came since `seen`, trials left out; whether each writes.
    fn requests_since(&self, seen: usize) -> Vec<bool> {
        self.account.with(|s| {
            let requests = s.seen[seen..].iter().filter(|s| !s.is_trial());
            requests.map(Seen::is_write).collect()
        })
    }

    fn seen(&self) -> usize {
        self.account.with(|s| s.seen.len())
    }

    /// Has the request of this number, from now on, fail.
    fn fail(&self, number: usize, failure: Failure) {
        self.account
            .with(|s| s.fail = Some((s.counted + number, failure)));
    }

    /// What ElevenLabs holds is what the service takes, and nothing is left over.
    async fn is_whole(&self, told: &str) {
        let (left, held) = self.account.with(|s| {
            let held = s.secrets.values().cloned().collect::<Vec<_>>();
            ((s.webhooks.len(), s.tools.len(), s.secrets.len()), held)
        });
        assert_eq!(left, (1, 1, 2), "{told}");
        for agent in [AGENT, OTHER_AGENT] {
            assert_eq!(
                self.deliver(agent, &format!("conv_{agent}")).await,
                200,
                "{told}"
            );
        }
        for (name, value) in held {
            let (route, setting) = match name.as_str() {
                "elaoms_client_data_key" => ("client-data", "ELEVENLABS_CLIENT_DATA_KEY"),
                _ => ("search-data", "ELEVENLABS_SEARCH_DATA_KEY"),
            };
            let url = format!("{}/webhook/{route}", self.service.base);
            let body = json!({"caller_id": "", "agent_id": AGENT, "query": "", "user_id": ""});
            let sent = self
                .service
                .http
                .post(url)
                .header("X-Api-Key", &value)
                .json(&body);
            assert_eq!(sent.send().await.unwrap().status(), 200, "{told}");
            assert_eq!(
                self.setting(setting).split(',').next(),
                Some(&*value),
                "{told}"
            );
        }
        let writes = self.writes();
        let text = self.set_up(&[]).await;
        assert_eq!(self.writes(), writes, "{told}\nthen: {text}");
    }
}

/// A command that is broken off anywhere is completed by another.
async fn broken_off(command: &[&str], completed_by: &[&str], first: bool, whole: bool) {
    let prepared = async || {
        let workshop = Workshop::start().await;
        let before = workshop.account.with(|s| s.account());
        if !first {
            workshop.set_up(&["--all-agents"]).await;
        }
        (workshop, before)
    };
    let requests = {
        let (workshop, _) = prepared().await;
        let seen = workshop.seen();
        let (status, text) = workshop.setup_or_remove(command).await;
        assert_eq!(status, 0, "{text}");
        workshop.requests_since(seen)
    };
    let mut cases = Vec::new();
    for (number, is_write) in requests.into_iter().enumerate() {
        // Ends a run at once; other statuses are asked again.
        cases.push((number, Failure::Status(403)));
        if is_write {
            cases.push((number, Failure::LostAnswer));
        }
    }
    let cases = cases.into_iter().map(async |(number, failure)| {
        let (workshop, before) = prepared().await;
        workshop.fail(number, failure);
        // What failed may have been a request of the service.
        let (_, broken_off) = workshop.setup_or_remove(command).await;
        let (status, text) = workshop.setup_or_remove(completed_by).await;
        let told = format!("request {number}, {failure:?}:\n{broken_off}\nthen:\n{text}");
        if whole {
            assert_eq!(status, 0, "{told}");
            workshop.is_whole(&told).await;
        } else {
            // The first run may have been done, but for an answer.
            assert!(status == 0 || text.contains("nothing is known"), "{told}");
            assert_eq!(workshop.account.with(without_variables), before, "{told}");
        }
    });
    stream::iter(cases)
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
}

/// The account, but for declared variables, which cannot be removed.
fn without_variables(state: &mut crate::elevenlabs_stand_in::State) -> Value {
    for branches in state.agents.values_mut() {
        for agent in branches.values_mut() {
            agent["conversation_config"]["agent"]["dynamic_variables"]["dynamic_variable_placeholders"] =
                json!({});
        }
    }
    state.account()
}

impl Workshop {
    async fn setup_or_remove(&self, arguments: &[&str]) -> (i32, String) {
        match arguments {
            ["--remove"] => self.service.run(&["setup", "--remove"]).await,
            _ => self.setup(arguments).await,
        }
    }
}

#[tokio::test]
async fn a_first_run_broken_off_anywhere_is_completed_by_the_next() {
    broken_off(&["--all-agents"], &["--all-agents"], true, true).await;
}

#[tokio::test]
async fn a_rotation_broken_off_anywhere_is_completed_by_the_next() {
    broken_off(&["--rotate"], &["--rotate"], false, true).await;
}

#[tokio::test]
async fn a_rotation_broken_off_anywhere_is_completed_without_asking_for_it_again() {
    broken_off(&["--rotate"], &[], false, true).await;
}

#[tokio::test]
async fn an_undoing_broken_off_anywhere_is_completed_by_the_next() {
    broken_off(&["--remove"], &["--remove"], false, false).await;
}

#[tokio::test]
async fn old_secrets_go_and_the_one_in_use_never_does() {
    let mut workshop = Workshop::start().await;
    workshop.set_up(&["--all-agents"]).await;
    let age = |workshop: &Workshop| {
        let path = workshop.service.path(".elaoms-setup.json");
        let mut journal: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for since in journal["superseded"].as_object_mut().unwrap().values_mut() {
            *since = json!(since.as_i64().unwrap() - 3 * 3600);
        }
        std::fs::write(path, journal.to_string()).unwrap();
    };
    for round in 0..3 {
        workshop.set_up(&["--rotate"]).await;
        workshop.is_whole(&format!("round {round}")).await;
        age(&workshop);
    }
    workshop.set_up(&[]).await;
    for name in [
        "ELEVENLABS_CLIENT_DATA_KEY",
        "ELEVENLABS_SEARCH_DATA_KEY",
        "ELEVENLABS_POST_CALL_KEY",
    ] {
        assert!(!workshop.setting(name).contains(','), "{name}");
    }
    workshop.service.terminate().await;
    workshop.service.respawn().await;
    workshop.is_whole("after a restart").await;
}

#[tokio::test]
async fn a_rotation_that_the_service_cannot_be_told_of_waits_for_its_restart() {
    let mut workshop = Workshop::start().await;
    workshop.set_up(&["--all-agents"]).await;
    // Whoever runs set-up has no key of the service.
    let env = workshop.env();
    let without: String = env
        .lines()
        .filter(|l| !l.starts_with("ADMIN_KEY="))
        .map(|l| format!("{l}\n"))
        .collect();
    std::fs::write(workshop.service.path(".env"), without).unwrap();
    let (status, text) = workshop.setup(&["--rotate"]).await;
    assert!(
        status == 1 && text.contains("restart the service, every instance"),
        "{text}"
    );
    let made = workshop.setting("ELEVENLABS_CLIENT_DATA_KEY");
    let (status, _) = workshop.setup(&["--rotate"]).await;
    assert_eq!(
        (status, workshop.setting("ELEVENLABS_CLIENT_DATA_KEY")),
        (1, made),
        "nothing is made anew"
    );
    // Meanwhile everything goes on as before.
    assert_eq!(workshop.deliver(AGENT, "conv_meanwhile").await, 200);
    workshop.service.terminate().await;
    workshop.service.respawn().await;
    let (status, text) = workshop.setup(&["--rotate"]).await;
    assert!(
        status == 1 && text.contains("restart"),
        "the webhook's secret is new as well: {text}"
    );
    workshop.service.terminate().await;
    workshop.service.respawn().await;
    workshop.set_up(&["--rotate"]).await;
    workshop.is_whole("after the restarts").await;
}

impl Workshop {
    /// What `check setup` finds: `LEVEL check`, and the whole of it.
    async fn check(&self) -> (i32, Vec<String>, Value) {
        let (status, text) = self.service.run(&["check", "setup", "--json"]).await;
        let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let lines = found.as_array().unwrap().iter().map(|finding| {
            let text = |name: &str| finding[name].as_str().unwrap().to_owned();
            format!("{} {}", text("level"), text("check"))
        });
        (status, lines.collect(), found)
    }
}

#[tokio::test]
async fn a_check_looks_at_the_account_as_it_is() {
    let workshop = Workshop::start().await;
    let (status, found, _) = workshop.check().await;
    assert_eq!(
        (status, found),
        (1, vec!["FAIL setup".to_owned()]),
        "before it is set up"
    );
    workshop.set_up(&["--agent", AGENT]).await;
    workshop.account.add_number("+16125559999", OTHER_AGENT);
    let (status, found, all) = workshop.check().await;
    let expected = [
        "PASS webhook",
        "PASS client-data",
        "PASS search-data",
        "PASS post-call",
        "PASS running service",
        "PASS search tool",
        "WARN agent Luigi",
        "PASS agent Margaret",
    ];
    assert_eq!(
        (status, found),
        (0, expected.map(str::to_owned).to_vec()),
        "{all}"
    );

    workshop.account.with(|s| {
        let webhook = s.webhooks.values_mut().next().unwrap();
        webhook["is_auto_disabled"] = true.into();
        webhook["is_disabled"] = true.into();
        webhook["retry_enabled"] = false.into();
        webhook["most_recent_failure_error_code"] = 401.into();
        webhook["most_recent_failure_timestamp"] = jiff::Timestamp::now().as_second().into();
        let agent = s
            .agents
            .get_mut(AGENT)
            .unwrap()
            .values_mut()
            .next()
            .unwrap();
        let settings = &mut agent["platform_settings"];
        settings["overrides"]["conversation_config_override"]["agent"]["first_message"] =
            false.into();
        settings["workspace_overrides"]["webhooks"]["transcript_format"] = "opentelemetry".into();
        settings["privacy"]["zero_retention_mode"] = true.into();
        let tool = s.tools.values_mut().next().unwrap();
        tool["usage_stats"] = json!({"total_calls": 7, "avg_latency_secs": 3.5});
    });
    let (status, found, all) = workshop.check().await;
    let expected = [
        "FAIL webhook",
        "WARN webhook",
        "PASS client-data",
        "PASS search-data",
        "PASS post-call",
        "PASS running service",
        "WARN search tool",
        "WARN agent Luigi",
        "WARN agent Margaret",
        "FAIL agent Margaret",
        "WARN agent Margaret",
    ];
    assert_eq!(
        (status, found),
        (1, expected.map(str::to_owned).to_vec()),
        "{all}"
    );
    let text = all.to_string();
    for told in [
        "disabled by ElevenLabs",
        "no retries",
        "--rotate",
        "next_greeting",
        "opentelemetry",
        "3.5 s",
    ] {
        assert!(text.contains(told), "{told:?} in {text}");
    }
    // What a person reads; and a secret that the service does not have.
    std::fs::write(
        workshop.service.path(".env"),
        workshop.env().replace("wsec_secret", "wsec_other"),
    )
    .unwrap();
    let (status, text) = workshop.service.run(&["check", "setup"]).await;
    assert!(
        status == 1 && text.contains("FAIL post-call") && text.contains("remedy: restart"),
        "{text}"
    );
}

#[tokio::test]
async fn a_new_installation_begins_with_secrets_of_its_own() {
    let workshop = Workshop::start().await;
    let folder = tempfile::tempdir().unwrap();
    let init = || {
        crate::service::command(folder.path(), &[])
            .arg("init")
            .output()
    };
    let told = init().await.unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    for command in ["elaoms serve", "elaoms setup --url", "OPENAI_API_KEY"] {
        assert!(text.contains(command), "{text}");
    }
    let path = folder.path().join(".env");
    let env = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        env.contains("ELEVENLABS_POST_CALL_KEY=unconnected-"),
        "{env}"
    );
    let again = init().await.unwrap();
    assert!(
        String::from_utf8(again.stdout)
            .unwrap()
            .contains("nothing was changed")
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), env);
    // Its secrets let a service start, and are no two installations'.
    let value = |text: &str, name: &str| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(&format!("{name}=")));
        line.unwrap().to_owned()
    };
    for name in [
        "ELEVENLABS_CLIENT_DATA_KEY",
        "ELEVENLABS_SEARCH_DATA_KEY",
        "ADMIN_KEY",
    ] {
        assert_eq!(value(&env, name).len(), 43, "{name}");
        assert_ne!(value(&env, name), value(&workshop.env(), name));
    }
}

#[tokio::test]
async fn a_mistyped_address_changes_nothing() {
    let workshop = Workshop::start().await;
    workshop.set_up(&["--all-agents"]).await;
    let (env, account) = (workshop.env(), workshop.account.with(|s| s.account()));
    let journal = std::fs::read(workshop.service.path(".elaoms-setup.json")).unwrap();
    let (status, text) = workshop
        .service
        .run(&["setup", "--url", "http://127.0.0.1:1"])
        .await;
    assert!(
        status == 1 && text.contains(&workshop.service.base),
        "{text}"
    );
    assert_eq!(workshop.env(), env);
    assert_eq!(workshop.account.with(|s| s.account()), account);
    assert_eq!(
        std::fs::read(workshop.service.path(".elaoms-setup.json")).unwrap(),
        journal
    );
}

#[tokio::test]
async fn settings_in_the_environment_are_told_before_anything_is_changed() {
    let workshop = Workshop::start().await;
    workshop.set_up(&["--all-agents"]).await;
    let (env, account) = (workshop.env(), workshop.account.with(|s| s.account()));
    let key = workshop.setting("ELEVENLABS_POST_CALL_KEY");
    let mut settings = workshop.service.settings().to_vec();
    settings.push(("ELEVENLABS_POST_CALL_KEY", key));
    let folder = workshop.service.path("");
    let mut command = crate::service::command(&folder, &settings);
    let done = command.args(["setup", "--rotate"]).output().await.unwrap();
    let text = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(
        !done.status.success() && text.contains("is set in the environment"),
        "{text}"
    );
    assert_eq!(workshop.env(), env);
    assert_eq!(workshop.account.with(|s| s.account()), account);
}

#[tokio::test]
async fn a_service_with_another_key_for_elevenlabs_is_told() {
    let workshop = Workshop::start_with(&[("ELEVENLABS_API_KEY", "xi-key-that-is-wrong")]).await;
    let text = workshop.set_up(&["--all-agents"]).await;
    assert!(text.contains("cannot ask ElevenLabs"), "{text}");
    let (status, found, all) = workshop.check().await;
    assert!(
        status == 1 && found.contains(&"FAIL running service".to_owned()),
        "{all}"
    );
}

#[tokio::test]
async fn what_was_connected_by_hand_is_taken_over_and_left_as_it_was() {
    let workshop = Workshop::start().await;
    let base = workshop.service.base.clone();
    workshop.account.with(|s| {
        let secret = "wsec_entered-by-hand".to_owned();
        s.signing.insert("wh_by_hand".into(), secret);
        s.webhooks.insert("wh_by_hand".into(), json!({"webhook_id": "wh_by_hand", "name": "Mine", "retry_enabled": false,
            "webhook_url": format!("{base}/webhook/post-call"), "is_disabled": false, "is_auto_disabled": false}));
        let agent = s.agents.get_mut(AGENT).unwrap().values_mut().next().unwrap();
        let overrides = &mut agent["platform_settings"]["workspace_overrides"];
        overrides["webhooks"]["post_call_webhook_id"] = "wh_by_hand".into();
    });
    let env = workshop
        .env()
        .replace("unconnected-0123456789abcdef", "wsec_entered-by-hand");
    std::fs::write(workshop.service.path(".env"), env).unwrap();
    let before = workshop.account.agent(AGENT);
    let text = workshop.set_up(&["--agent", AGENT]).await;
    assert!(
        text.contains("taken over") && text.contains("had no retries: corrected"),
        "{text}"
    );
    assert_eq!(workshop.deliver(AGENT, "conv_1").await, 200);
    let (status, text) = workshop.service.run(&["setup", "--remove"]).await;
    assert_eq!(status, 0, "{text}");
    assert!(
        workshop
            .account
            .with(|s| s.webhooks.contains_key("wh_by_hand"))
    );
    let mut after = workshop.account.agent(AGENT);
    after["conversation_config"]["agent"]["dynamic_variables"]["dynamic_variable_placeholders"] =
        json!({});
    assert_eq!(after, before);
}
