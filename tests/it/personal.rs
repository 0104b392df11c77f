//! Who hears what: the guide's validation tests and the rules of recognition.

use serde_json::json;

use crate::payloads::call;
use crate::service::{AGENT, CALLER, CANARY, OTHER_AGENT, OTHER_CALLER, Service, greeting_in};

#[tokio::test]
async fn a_returning_caller_is_greeted_by_this_agent_and_only_named_by_another() {
    let service = Service::start().await;
    // Test 1 of the guide: a new caller.
    let ring = service.ring(CALLER, AGENT).await;
    assert_eq!(
        ring,
        json!({"type": "conversation_initiation_client_data", "user_id": CALLER, "dynamic_variables": {}})
    );
    service
        .wait_for_log(&format!("New caller {CALLER} - using agent defaults"))
        .await;
    service
        .end_call_and_settle(
            &call("conv_1", AGENT, CALLER)
                .agent("Hello, this is Margaret.")
                .caller("Hi, my name is Nora. I'd like raised beds."),
        )
        .await;

    // Test 2: the same agent again.
    let ring = service.ring(CALLER, AGENT).await;
    assert!(
        greeting_in(&ring).unwrap().contains("raised beds"),
        "{ring}"
    );
    assert_eq!(
        ring["dynamic_variables"],
        json!({"user_name": "Nora", "user_sentiment": "positive", "key_topics": "garden", "user_language": "en",
            "last_call_summary": "Said: Hi, my name is Nora. I'd like raised beds."})
    );

    // Test 3: another agent knows the name and nothing else.
    let ring = service.ring(CALLER, OTHER_AGENT).await;
    assert_eq!(
        ring,
        json!({"type": "conversation_initiation_client_data", "user_id": CALLER,
            "dynamic_variables": {"user_name": "Nora"}})
    );
    service
        .end_call_and_settle(
            &call("conv_2", OTHER_AGENT, CALLER)
                .caller("A risotto, please.")
                .later(60),
        )
        .await;
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("raised beds")
    );
    assert!(
        service
            .greeting(CALLER, OTHER_AGENT)
            .await
            .unwrap()
            .contains("risotto")
    );

    for phrase in [
        format!("Client-data webhook called for caller: {CALLER}, agent: {AGENT}"),
        format!("Found agent-specific greeting for {CALLER}"),
        format!("Found universal profile for {CALLER}"),
        format!("Processing memories for caller: {CALLER}, agent: {AGENT}"),
        format!("Updated universal profile for {CALLER}"),
        format!("Generating next greeting for {CALLER} with agent {AGENT}"),
        format!("Stored agent-specific state for {CALLER} with agent {AGENT}"),
        format!("Fetching agent profile {AGENT}"),
        format!("Agent not found: {AGENT}"),
    ] {
        service.wait_for_log(&phrase).await;
    }
}

#[tokio::test]
async fn two_callers_who_say_the_same_words_keep_their_own_memories() {
    let service = Service::start().await;
    let words = format!("I keep my {CANARY} in the shed.");
    for (conversation, caller) in [("conv_1", CALLER), ("conv_2", OTHER_CALLER)] {
        service
            .end_call_and_settle(&call(conversation, AGENT, caller).caller(&words))
            .await;
    }
    for caller in [CALLER, OTHER_CALLER] {
        assert_eq!(
            service
                .found(caller, AGENT, "where is the xylophone?")
                .await,
            [words.as_str()]
        );
        assert_eq!(service.caller(caller).await["total_interactions"], 1);
    }
    // Nobody else finds anything: neither another caller nor another agent.
    assert!(
        service
            .found("+4930555103", AGENT, "xylophone")
            .await
            .is_empty()
    );
    assert!(
        service
            .found(CALLER, OTHER_AGENT, "xylophone")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn names_come_from_the_caller_and_the_first_one_stays() {
    let service = Service::start().await;
    let agent_only = call("conv_1", AGENT, CALLER)
        .agent("Hi, my name is Margaret. How can I help?")
        .caller("I need compost.");
    service.end_call_and_settle(&agent_only).await;
    assert_eq!(service.caller(CALLER).await["name"], json!(null));

    let named = call("conv_2", AGENT, CALLER)
        .caller("Меня зовут Наталья.")
        .later(60);
    service.end_call_and_settle(&named).await;
    assert_eq!(service.caller(CALLER).await["name"], "Наталья");

    // A household's second name never replaces the first.
    let second = call("conv_3", AGENT, CALLER)
        .caller("My name is Tom.")
        .fact("first_name", json!("Tom"))
        .later(120);
    service.end_call_and_settle(&second).await;
    assert_eq!(
        service.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"],
        "Наталья"
    );

    // But an operator may.
    let path = format!("callers/{CALLER}/name");
    let renamed = service
        .admin(reqwest::Method::PUT, &path)
        .json(&json!({"name": "Natalja O'Neil"}))
        .send()
        .await
        .unwrap();
    assert_eq!(renamed.status(), 200);
    assert_eq!(
        service.ring(CALLER, OTHER_AGENT).await["dynamic_variables"]["user_name"],
        "Natalja O'Neil"
    );
    // The greeting that spoke the old name is gone.
    assert!(
        !service
            .greeting(CALLER, AGENT)
            .await
            .unwrap_or_default()
            .contains("Наталья")
    );
    let refused = service
        .admin(reqwest::Method::PUT, &path)
        .json(&json!({"name": "{{x}}"}))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 422);
}

#[tokio::test]
async fn the_model_may_name_the_caller_if_the_caller_said_so() {
    let service = Service::start().await;
    let answer = |name: &str| {
        let text = json!({"next_greeting": "Hello!", "key_topics": [], "sentiment": "neutral",
            "conversation_summary": "A call.", "caller_name": name});
        crate::fakes::OpenAi {
            content: Some(text.to_string()),
            ..Default::default()
        }
    };
    service.upstream.set_openai(answer("Margaret"));
    let asked = call("conv_1", AGENT, CALLER)
        .agent("I am Margaret. Who is calling?")
        .caller("That would be Nora Lind, of course.");
    service.end_call_and_settle(&asked).await;
    assert_eq!(service.caller(CALLER).await["name"], json!(null));

    service.upstream.set_openai(answer("Nora Lind"));
    let again = call("conv_2", AGENT, CALLER)
        .agent("Who is calling?")
        .caller("That would be Nora Lind, of course.")
        .later(60);
    service.end_call_and_settle(&again).await;
    assert_eq!(service.caller(CALLER).await["name"], "Nora Lind");
}

#[tokio::test]
async fn withheld_numbers_are_answered_and_never_stored() {
    let service = Service::start().await;
    for (i, caller) in ["anonymous", "+266696687", "Restricted", ""]
        .into_iter()
        .enumerate()
    {
        let said = call(&format!("conv_{i}"), AGENT, caller)
            .with(
                "/data/conversation_initiation_client_data/dynamic_variables/system__caller_id",
                json!(caller),
            )
            .caller("My name is Nora.");
        service.end_call_and_settle(&said).await;
        let ring = service.ring(caller, AGENT).await;
        assert_eq!(ring["dynamic_variables"], json!({}), "{caller:?}");
        assert_eq!(
            service.search(caller, AGENT, "Nora").await,
            json!({"profile": null, "memories": []})
        );
    }
    for body in [
        json!({"agent_id": AGENT}),
        json!({"agent_id": AGENT, "caller_id": null}),
    ] {
        let response = service.client_data().json(&body).send().await.unwrap();
        assert_eq!(response.status(), 200, "{body}");
    }
    assert_eq!(service.query("SELECT count(*) FROM callers"), 0);
    assert_eq!(service.query("SELECT count(*) FROM memories"), 0);
    // Archived all the same.
    assert!(
        service
            .path("payloads/conv_0/conv_0_transcription.json")
            .exists()
    );
    assert_eq!(service.upstream.asked(), 0);
}

#[tokio::test]
async fn an_answer_never_makes_elevenlabs_end_the_call() {
    let service = Service::start().await;
    let placeholders =
        json!({"user_name": "there", "account_tier": "basic", "visits": 0, "vip": false});
    service
        .upstream
        .add_agent(AGENT, true, placeholders.clone());
    service
        .upstream
        .add_agent(OTHER_AGENT, false, placeholders.clone());
    // The first ring fetches the profile in the background and does not wait.
    for agent in [AGENT, OTHER_AGENT] {
        crate::service::until("the placeholders", async || {
            service.ring(CALLER, agent).await["dynamic_variables"]["account_tier"] == "basic"
        })
        .await;
        let conversation = format!("conv_{agent}");
        service
            .end_call_and_settle(&call(&conversation, agent, CALLER).caller("My name is Nora."))
            .await;
    }
    let permitted = service.ring(CALLER, AGENT).await;
    assert!(greeting_in(&permitted).is_some());
    let forbidden = service.ring(CALLER, OTHER_AGENT).await;
    assert_eq!(greeting_in(&forbidden), None);
    let variables = &forbidden["dynamic_variables"];
    assert!(
        variables["next_greeting"]
            .as_str()
            .unwrap()
            .starts_with("Hello Nora")
    );
    assert_eq!(
        (
            &variables["user_name"],
            &variables["account_tier"],
            &variables["vip"]
        ),
        (&json!("Nora"), &json!("basic"), &json!(false))
    );
}

#[tokio::test]
async fn a_search_finds_facts_and_turns_in_either_shape_of_request() {
    let service = Service::start().await;
    let said = call("conv_1", AGENT, CALLER)
        .agent("Which day suits you for the delivery?")
        .caller("Tuesdays, please.")
        .caller("I like roses.")
        .fact("E-Mail", json!("nora@example.org"));
    service.end_call_and_settle(&said).await;

    let flat = service.search(CALLER, AGENT, "delivery day").await;
    // Question and answer, and what was said next: the room is there.
    assert_eq!(
        flat["memories"][0]["content"],
        "[Agent: Which day suits you for the delivery?]\nTuesdays, please.\nI like roses."
    );
    assert_eq!(flat["memories"][0]["sector"], "episodic");
    assert_eq!(flat["memories"][0]["salience"], 0.7);
    assert_eq!(flat["memories"][0]["timestamp"], "2026-11-22T10:00:00Z");
    assert_eq!(flat["profile"]["phone_number"], CALLER);
    assert_eq!(
        service.found(CALLER, AGENT, "e-mail address").await,
        ["The caller's e mail is nora@example.org."]
    );

    let wrapped = json!({"tool_name": "search_data", "tool_call_id": "t1", "parameters":
        {"query": "delivery day", "user_id": CALLER, "agent_id": AGENT}});
    let response = service.search_data().json(&wrapped).send().await.unwrap();
    let answer: serde_json::Value = response.json().await.unwrap();
    assert_eq!(answer, flat);
}

#[tokio::test]
async fn a_call_that_ends_during_the_next_one_is_found_at_once() {
    let service = Service::start().await;
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    assert_eq!(
        service.found(CALLER, AGENT, "roses tulips").await,
        ["I like roses."]
    );
    // The index is warm now and has to grow.
    service
        .end_call_and_settle(
            &call("conv_2", AGENT, CALLER)
                .caller("I also like tulips.")
                .later(60),
        )
        .await;
    assert_eq!(
        service.found(CALLER, AGENT, "tulips").await,
        ["I also like tulips."]
    );
}
