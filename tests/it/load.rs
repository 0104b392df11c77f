//! Many calls at once.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use crate::fakes::OpenAi;
use crate::payloads::call;
use crate::service::{AGENT, CALLER, Service, until};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_of_one_caller_at_once_are_counted_exactly() {
    let service = Service::start().await;
    service.upstream.set_openai(OpenAi {
        delay: Duration::from_secs(5),
        ..OpenAi::default()
    });
    service
        .end_call_and_settle(
            &call("conv_0", AGENT, CALLER).caller("My name is Nora. This is call 0."),
        )
        .await;

    let calls = stream::iter(1..=199).map(|i| {
        let said = call(&format!("conv_{i}"), AGENT, CALLER)
            .caller(&format!("This is call {i}."))
            .later(i * 60);
        let service = &service;
        async move { service.end_call(&said).await }
    });
    let rings = async {
        for _ in 0..100 {
            // Known from the first call, whatever is being processed.
            assert_eq!(
                service.ring(CALLER, AGENT).await["dynamic_variables"]["user_name"],
                "Nora"
            );
        }
    };
    tokio::join!(calls.buffer_unordered(50).collect::<Vec<_>>(), rings);
    service.settle().await;

    let shown = service.caller(CALLER).await;
    assert_eq!(shown["total_interactions"], 200);
    assert_eq!(shown["agents"][AGENT]["conversation_count"], 200);
    assert!(
        service
            .greeting(CALLER, AGENT)
            .await
            .unwrap()
            .contains("call 199.")
    );
    assert_eq!(service.query("SELECT count(*) FROM memories"), 200);
    // Of the calls that wait, only the newest is greeted.
    let asked = service.upstream.asked();
    assert!(asked < 20, "{asked} requests for one greeting");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_with_few_sessions_are_all_remembered() {
    let service = Service::start_with(&[("MAX_SESSIONS", "32")]).await;
    let callers: Vec<String> = (0..300).map(|i| format!("+1612556{i:04}")).collect();
    let service = &service;
    let sent = stream::iter(callers.iter().enumerate()).map(|(i, caller)| async move {
        for round in 0..2 {
            let said = call(&format!("conv_{i}_{round}"), AGENT, caller)
                .caller(&format!("I am number {i}."))
                .later(round * 60);
            service.end_call(&said).await;
        }
    });
    sent.buffer_unordered(30).collect::<Vec<_>>().await;
    service.settle().await;
    let rings = stream::iter(callers.iter().enumerate()).map(|(i, caller)| async move {
        let greeting = service.greeting(caller, AGENT).await.unwrap_or_default();
        assert!(
            greeting.ends_with(&format!("number {i}.")),
            "{caller}: {greeting}"
        );
    });
    rings.buffer_unordered(10).collect::<Vec<_>>().await;
    assert_eq!(
        service.query("SELECT sum(total_interactions) FROM callers"),
        600
    );
    assert_eq!(
        service.query("SELECT count(*) FROM inbox WHERE state = 'dead'"),
        0
    );
    until("no more sessions than there may be", async || {
        service.metric("elaoms_sessions_active").await <= 32.0
    })
    .await;
}
