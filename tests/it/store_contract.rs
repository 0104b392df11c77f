//! What every memory store and every ledger must do.

use std::sync::Arc;

use bytes::Bytes;
use elaoms::domain::agent_profile::AgentProfile;
use elaoms::domain::call_event::{EventKey, EventKind};
use elaoms::domain::caller_id::CallerId;
use elaoms::domain::greeting::{Greeting, Sentiment};
use elaoms::domain::ids::{AgentId, ConversationId};
use elaoms::domain::language::Language;
use elaoms::domain::learning::Learning;
use elaoms::domain::memory::{Memory, MemoryKind, MemoryVector};
use elaoms::domain::name::{CallerName, Correction, Evidence, NameSource, Naming};
use elaoms::domain::profile::{CallOrder, ConversationState};
use elaoms::domain::tiers::NewGreeting;
use elaoms::domain::trace_context::TraceContext;
use elaoms::domain::vector::Vector;
use elaoms::store::{
    Accepted, AuditEntry, Clock, Decision, ErasedMemory, EventId, InboxEvent, KnownCalls,
    LONGEST_PAUSE, Ledger, MemoryStore, NewEvent, PostgresDatabase, PostgresLedger,
    PostgresMemoryStore, PostgresRegister, PostgresVectorStore, Register, RetryCause, Settlement,
    SqliteDatabase, SqliteLedger, SqliteMemoryStore, SqliteRegister, SqliteVectorStore, Stage,
    StoredAgent, Urgency, VectorStore, call_mark,
};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::postgres::{Pooler, Postgres};

fn caller(id: &str) -> CallerId {
    CallerId::parse(id).unwrap()
}

fn agent(id: &str) -> AgentId {
    AgentId::parse(id).unwrap()
}

fn conversation(id: &str) -> ConversationId {
    ConversationId::parse(id).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_341_600 + second).unwrap()
}

fn learning(id: &str, who: &str, with: &str, second: i64, said: &str) -> Learning {
    Learning {
        conversation_id: conversation(id),
        caller: caller(who),
        agent: agent(with),
        started_at: at(second),
        language: Some(Language::parse("pt-br").unwrap()),
        naming: Naming {
            given: CallerName::parse(said)
                .ok()
                .map(|name| (name, Evidence::Stated)),
            correction: None,
        },
        memories: vec![Memory {
            agent: Some(agent(with)),
            conversation_id: conversation(id),
            ordinal: 0,
            kind: MemoryKind::Turn,
            sector: MemoryKind::Turn.sector(),
            content: said.into(),
            before: "before".into(),
            after: "after".into(),
            salience: 0.7,
            timestamp: at(second),
            language: Some(Language::parse("pt-br").unwrap()),
        }],
    }
}

fn greeting(who: &str, with: &str, second: i64, text: &str) -> NewGreeting {
    NewGreeting {
        caller: caller(who),
        agent: agent(with),
        conversation_id: conversation(&format!("c{second}")),
        addressed: None,
        order: CallOrder {
            started_at: at(second),
            arrival: second,
        },
        greeting: Greeting {
            next_greeting: Some(text.into()),
            key_topics: vec!["a, b".into(), "ö".into()],
            sentiment: Some(Sentiment::Frustrated),
            conversation_summary: Some("s".into()),
            caller_name: None,
        },
        name: None,
    }
}

/// The contract of [`MemoryStore`].
pub async fn memory_store_contract(store: Arc<dyn MemoryStore>) {
    let (nora, tom) = ("+16125550101", "sip:Tom@pbx");
    assert_eq!(store.tiers(&caller(nora)).await.unwrap().profile, None);
    assert!(store.tiers(&caller(nora)).await.unwrap().states.is_empty());
    assert!(
        store
            .store_greeting(&greeting(nora, "a", 0, "x"), None)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        store
            .rename(&caller(nora), &CallerName::parse("Xaver").unwrap(), at(0))
            .await
            .unwrap(),
        None
    );

    // Learning is applied once however often, and at once, it is asked for.
    let first = learning("c1", nora, "a", 100, "Nora");
    let attempts = (0..8).map(|_| store.learn(&first, None));
    let learned = futures_util::future::join_all(attempts).await;
    assert_eq!(
        learned
            .iter()
            .filter(|l| l.as_ref().unwrap().applied)
            .count(),
        1
    );
    store
        .learn(&learning("c2", nora, "b", 50, "Somebody"), None)
        .await
        .unwrap();
    let third = store
        .learn(&learning("c3", nora, "a", 300, "Someone else"), None)
        .await
        .unwrap();
    assert_eq!(
        (
            third.profile.total_interactions,
            third.state.conversation_count
        ),
        (3, 2)
    );
    store
        .learn(&learning("c4", tom, "a", 300, "Nora"), None)
        .await
        .unwrap();

    let profile = store.tiers(&caller(nora)).await.unwrap().profile.unwrap();
    assert_eq!(profile, third.profile);
    assert_eq!(profile.name.as_ref().unwrap().as_str(), "Nora");
    assert_eq!(profile.first_seen, at(50));
    let states = store.tiers(&caller(nora)).await.unwrap().states;
    assert_eq!(states.len(), 2);
    let language = Language::parse("pt-br").ok();
    assert!(states.iter().all(|(_, state)| state.language == language));

    // Memories: this caller's, in order, whole; two callers may say the same.
    let contents =
        |memories: Vec<Memory>| memories.into_iter().map(|m| m.content).collect::<Vec<_>>();
    let all = store.memories(&caller(nora), 100).await.unwrap();
    // OpenMemory classifies by itself.
    let expected = Memory {
        sector: all[0].sector,
        ..first.memories[0].clone()
    };
    assert_eq!(all[0], expected);
    assert_eq!(contents(all), ["Nora", "Somebody", "Someone else"]);
    assert_eq!(
        contents(store.memories(&caller(nora), 2).await.unwrap()),
        ["Somebody", "Someone else"]
    );
    assert_eq!(
        contents(store.memories(&caller(tom), 100).await.unwrap()),
        ["Nora"]
    );

    // The newest call's greeting stands, and belongs to one agent.
    let newer = store
        .store_greeting(&greeting(nora, "a", 300, "newer"), None)
        .await
        .unwrap()
        .unwrap();
    assert!(newer.stored);
    let older = store
        .store_greeting(&greeting(nora, "a", 100, "older"), None)
        .await
        .unwrap()
        .unwrap();
    assert!(!older.stored);
    assert_eq!(older.state, newer.state);
    for (with, state) in store.tiers(&caller(nora)).await.unwrap().states {
        let expected = (with == agent("a")).then_some("newer");
        assert_eq!(state.next_greeting.as_deref(), expected);
        if expected.is_some() {
            assert_eq!(state, newer.state);
            assert_eq!(state.key_topics, ["a, b", "ö"]);
            assert_eq!(state.sentiment, Some(Sentiment::Frustrated));
            assert_eq!(state.conversation_count, 2);
        }
    }

    // A name heard by the model fills a gap and replaces nothing.
    store
        .learn(&learning("c5", "+4930555103", "a", 1, "no name 1"), None)
        .await
        .unwrap();
    for (name, kept) in [("Zoë", "Zoë"), ("Tom", "Zoë")] {
        let heard = NewGreeting {
            name: CallerName::parse(name).ok(),
            ..greeting("+4930555103", "a", 1, "hi")
        };
        let greeted = store.store_greeting(&heard, None).await.unwrap().unwrap();
        assert_eq!(greeted.profile.name.unwrap().as_str(), kept);
    }
    names_are_replaced_only_by_better_ones(&*store).await;
    let renamed = store
        .rename(&caller(nora), &CallerName::parse("Лена").unwrap(), at(7))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(renamed.profile.name.unwrap().as_str(), "Лена");
    assert_eq!(renamed.profile.total_interactions, 3);
    assert_eq!(renamed.states.len(), 2);
    // A greeting with the old name is not spoken any more.
    let old = greeting(nora, "a", 400, "Hello Лена, how are you?");
    store.store_greeting(&old, None).await.unwrap().unwrap();
    let corrected = CallerName::parse("Елена").unwrap();
    let renamed = store
        .rename(&caller(nora), &corrected, at(8))
        .await
        .unwrap()
        .unwrap();
    let state = |states: Vec<(AgentId, ConversationState)>| {
        states
            .into_iter()
            .find(|(a, _)| *a == agent("a"))
            .unwrap()
            .1
    };
    assert_eq!(state(renamed.states).next_greeting, None);
    assert_eq!(
        state(store.tiers(&caller(nora)).await.unwrap().states).next_greeting,
        None
    );
    let source = store
        .tiers(&caller(nora))
        .await
        .unwrap()
        .profile
        .unwrap()
        .name_source;
    let operator = NameSource {
        evidence: Evidence::Operator,
        conversation_id: None,
        at: at(8),
    };
    assert_eq!(source, Some(operator));
    what_is_erased_is_gone(&*store).await;
    store.check_writable().await.unwrap();
}

async fn what_is_erased_is_gone(store: &dyn MemoryStore) {
    let (gone, stays) = ("+33144550105", "+33144550106");
    for (id, who, with) in [("e1", gone, "a"), ("e2", gone, "b"), ("e3", stays, "a")] {
        let learned = store
            .learn(&learning(id, who, with, 500, "Eve"), None)
            .await
            .unwrap();
        assert!(learned.applied);
    }
    let mut calls = store.calls(&caller(gone)).await.unwrap();
    calls.conversations.sort();
    assert_eq!(
        calls.conversations,
        [conversation("e1"), conversation("e2")]
    );
    calls.marks.sort();
    let mut marks = ["e1", "e2"].map(|id| call_mark(&conversation(id)));
    marks.sort();
    assert_eq!(calls.marks, marks);

    let erased = store.erase(&caller(gone)).await.unwrap();
    let all = ErasedMemory {
        profile: true,
        agents: 2,
        memories: 2,
    };
    assert_eq!(erased, all);
    let nothing = store.erase(&caller(gone)).await.unwrap();
    assert_eq!(nothing, ErasedMemory::default());
    let nobody = store.tiers(&caller(gone)).await.unwrap();
    assert_eq!((nobody.profile, nobody.states), (None, Vec::new()));
    assert!(store.memories(&caller(gone), 9).await.unwrap().is_empty());
    assert!(store.export(&caller(gone)).await.unwrap().is_none());
    let tiers = store.tiers(&caller(stays)).await.unwrap();
    assert_eq!(tiers.profile.unwrap().total_interactions, 1);

    // Known anew, the caller begins anew.
    let anew = learning("e4", gone, "a", 600, "Eva");
    let learned = store.learn(&anew, None).await.unwrap();
    assert_eq!(learned.profile.total_interactions, 1);
    assert_eq!(learned.profile.name.unwrap().as_str(), "Eva");

    // Memories go by their age; what is counted stays.
    while store.expire_memories(at(550)).await.unwrap() > 0 {}
    assert!(store.memories(&caller(stays), 9).await.unwrap().is_empty());
    assert_eq!(store.memories(&caller(gone), 9).await.unwrap().len(), 1);
    let tiers = store.tiers(&caller(stays)).await.unwrap();
    assert_eq!(tiers.profile.unwrap().total_interactions, 1);
}

/// The caller's name was heard by the model ("Zoë"), which is doubtful.
async fn names_are_replaced_only_by_better_ones(store: &dyn MemoryStore) {
    let who = "+4930555103";
    let profile = async || store.tiers(&caller(who)).await.unwrap().profile.unwrap();
    assert_eq!(
        profile().await.name_source.unwrap().evidence,
        Evidence::Model
    );
    let greeted = greeting(who, "a", 2, "Hello Zoë!");
    store.store_greeting(&greeted, None).await.unwrap().unwrap();

    // Clearly stated to another agent: the first one's greeting is wrong.
    let stated = store
        .learn(&learning("c10", who, "b", 10, "Zora"), None)
        .await
        .unwrap();
    assert_eq!(stated.profile.name.as_ref().unwrap().as_str(), "Zora");
    let others: Vec<&str> = stated
        .others
        .iter()
        .map(|(agent, _)| agent.as_str())
        .collect();
    assert_eq!(others, ["a"]);
    let states = store.tiers(&caller(who)).await.unwrap().states;
    assert!(
        states
            .iter()
            .all(|(_, state)| state.next_greeting.is_none())
    );
    let source = NameSource {
        evidence: Evidence::Stated,
        conversation_id: Some(conversation("c10")),
        at: at(10),
    };
    assert_eq!(profile().await.name_source, Some(source));

    // Stated is not replaced by stated, but by a correction.
    let again = store
        .learn(&learning("c11", who, "a", 11, "Tom"), None)
        .await
        .unwrap();
    assert_eq!(again.profile.name.unwrap().as_str(), "Zora");
    let mut corrected = learning("c12", who, "a", 12, "no name 2");
    corrected.naming.correction = Some(Correction {
        wrong: CallerName::parse("Zora").unwrap(),
        right: CallerName::parse("Zita").unwrap(),
    });
    let learned = store.learn(&corrected, None).await.unwrap();
    assert_eq!(learned.profile.name.unwrap().as_str(), "Zita");
    let repeated = store.learn(&corrected, None).await.unwrap();
    assert!(!repeated.applied && repeated.profile.name.unwrap().as_str() == "Zita");
}

fn event(id: &str, who: Option<&str>, with: &str, second: i64) -> NewEvent {
    NewEvent {
        key: EventKey {
            kind: EventKind::Transcription,
            conversation_id: conversation(id),
            agent_id: Some(agent(with)),
        },
        caller: who.map(caller),
        started_at: at(second),
        greeting_wanted: true,
        received_at: at(0),
        trace: trace(),
        payload: id.as_bytes().to_vec(),
    }
}

fn trace() -> Option<TraceContext> {
    TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
}

async fn claim(ledger: &dyn Ledger, stage: Stage, second: i64) -> Vec<InboxEvent> {
    let claimed = ledger.claim(stage, at(second), 100, Vec::new()).await;
    let events = claimed.unwrap().events;
    assert!(events.iter().all(|event| event.trace == trace()));
    events
}

fn ids(events: &[InboxEvent]) -> Vec<&str> {
    events
        .iter()
        .map(|e| e.key.conversation_id.as_str())
        .collect()
}

async fn to_archive(ledger: &dyn Ledger, second: i64) -> Vec<String> {
    let due = ledger.to_archive(at(second), 100, usize::MAX).await;
    let ids = due.unwrap().into_iter().map(|e| e.key.conversation_id);
    ids.map(|id| id.to_string()).collect()
}

/// The contract of [`Ledger`].
pub async fn ledger_contract(ledger: Arc<dyn Ledger>) {
    let ledger = &*ledger;
    let (nora, tom) = (Some("+16125550101"), Some("sip:Tom@pbx"));
    for (i, (id, who)) in [
        ("c1", nora),
        ("c2", nora),
        ("c3", nora),
        ("c4", tom),
        ("c5", None),
    ]
    .into_iter()
    .enumerate()
    {
        let new = event(id, who, "a", i64::try_from(i).unwrap());
        assert!(matches!(
            ledger.accept(new.clone()).await.unwrap(),
            Accepted::New(_)
        ));
        assert_eq!(ledger.accept(new).await.unwrap(), Accepted::Duplicate);
    }
    assert_eq!(ledger.stats().await.unwrap().pending, 5);
    assert_eq!(ledger.stats().await.unwrap().oldest, Some(at(0)));

    // Only the oldest of each caller; without a caller, only to be archived.
    let first = claim(ledger, Stage::Learn, 0).await;
    assert_eq!(ids(&first), ["c1", "c4"]);
    assert_eq!(first[0].payload_bytes, 2);
    assert_eq!(ledger.payload(first[0].id).await.unwrap().unwrap(), "c1");
    assert_eq!(first[0].order.started_at, at(0));
    let archivable = to_archive(ledger, 0).await;
    assert_eq!(
        archivable,
        ["c1", "c2", "c3", "c4", "c5"],
        "whatever else is due"
    );
    let busy = ledger
        .claim(Stage::Learn, at(0), 100, vec![first[0].id])
        .await
        .unwrap()
        .events;
    assert_eq!(ids(&busy), ["c4"]);

    // A retry keeps its place at the head, and waits for its time.
    let retry = Settlement::Retry {
        run_at: at(50),
        error: "x".into(),
        cause: RetryCause::Outage,
    };
    ledger.settle(first[0].claim(), retry).await.unwrap();
    assert_eq!(ids(&claim(ledger, Stage::Learn, 49).await), ["c4"]);
    let again = claim(ledger, Stage::Learn, 50).await;
    assert_eq!(ids(&again), ["c4", "c1"]);
    assert_eq!(
        (again[1].attempts, again[1].crashes, again[1].unusable),
        (1, 0, 0)
    );

    // Learned: the next of the caller is ready. No greeting is made while a
    // newer call of the same agent waits.
    let learned = Settlement::Learned;
    let settled = ledger
        .settle(again[1].claim(), learned.clone())
        .await
        .unwrap();
    assert_eq!(settled.next, None);
    let second = claim(ledger, Stage::Learn, 50).await;
    assert_eq!(ids(&second), ["c2", "c4"]);
    // Settling twice changes nothing.
    ledger
        .settle(again[1].claim(), learned.clone())
        .await
        .unwrap();
    assert_eq!(ids(&claim(ledger, Stage::Learn, 50).await), ["c2", "c4"]);

    // A dead letter lets the next one pass, and can be revived.
    let dead = Settlement::Dead {
        error: "broken".into(),
    };
    ledger.settle(second[0].claim(), dead).await.unwrap();
    let third = claim(ledger, Stage::Learn, 50).await;
    assert_eq!(ids(&third), ["c3", "c4"]);
    let settled = ledger
        .settle(third[0].claim(), Settlement::Learned)
        .await
        .unwrap();
    assert_eq!(settled.next, Some(Stage::Greet));
    let letters = ledger.dead_letters(10).await.unwrap();
    assert_eq!((letters.len(), letters[0].error.as_str()), (1, "broken"));
    assert!(ledger.revive(second[0].id, at(60)).await.unwrap());
    assert!(!ledger.revive(second[0].id, at(60)).await.unwrap());

    // The revived call is older than the one that waits for its greeting.
    let revived = claim(ledger, Stage::Learn, 60).await;
    let c2 = revived
        .iter()
        .find(|e| e.key.conversation_id.as_str() == "c2")
        .unwrap();
    let settled = ledger.settle(c2.claim(), learned.clone()).await.unwrap();
    assert_eq!(settled.next, None);

    // A newer call makes the waiting greeting needless.
    assert!(matches!(
        ledger.accept(event("c6", nora, "a", 10)).await.unwrap(),
        Accepted::New(_)
    ));
    assert!(matches!(
        ledger.accept(event("c7", nora, "b", 11)).await.unwrap(),
        Accepted::New(_)
    ));
    let newest = claim(ledger, Stage::Learn, 60).await;
    let c6 = newest
        .iter()
        .find(|e| e.key.conversation_id.as_str() == "c6")
        .unwrap();
    let settled = ledger.settle(c6.claim(), learned.clone()).await.unwrap();
    assert_eq!(
        (settled.next, settled.superseded.len()),
        (Some(Stage::Greet), 1)
    );
    assert_eq!(
        ids(&claim(ledger, Stage::Greet, 60).await),
        ["c6"],
        "c3 is superseded, c7 is not learned yet"
    );
    // What was superseded is still to be archived, on its own time.
    let due = ledger.to_archive(at(60), 100, usize::MAX).await.unwrap();
    let c3 = due
        .iter()
        .find(|e| e.key.conversation_id.as_str() == "c3")
        .unwrap();
    assert_eq!(c3.payload, Bytes::from_static(b"c3"));
    ledger.archive_later(vec![c3.id], at(90)).await.unwrap();
    assert!(!to_archive(ledger, 89).await.contains(&"c3".to_owned()));
    assert!(to_archive(ledger, 90).await.contains(&"c3".to_owned()));
    let one = ledger.to_archive(at(90), 100, 3).await.unwrap();
    assert_eq!(one.len(), 1, "no more bytes than asked for, but always one");
    let all: Vec<EventId> = due.iter().map(|e| e.id).collect();
    ledger.archived(all).await.unwrap();
    assert_eq!(to_archive(ledger, 90).await, Vec::<String>::new());
    let greeted = claim(ledger, Stage::Greet, 60).await;
    let settled = ledger
        .settle(greeted[0].claim(), Settlement::Greeted)
        .await
        .unwrap();
    assert_eq!(settled.next, None);

    // The clock was set back: nothing waits longer than any pause is.
    ledger
        .accept(event("c8", Some("+16125550188"), "a", 0))
        .await
        .unwrap();
    let pause = i64::try_from(LONGEST_PAUSE.as_secs()).unwrap();
    let c8 = claim(ledger, Stage::Learn, 60).await;
    let c8 = c8.iter().find(|e| e.key.conversation_id.as_str() == "c8");
    let c8_claim = c8.unwrap().claim();
    let c8 = c8_claim.id;
    let retry = Settlement::Retry {
        run_at: at(60 + pause),
        error: "x".into(),
        cause: RetryCause::Outage,
    };
    ledger.settle(c8_claim, retry).await.unwrap();
    ledger
        .archive_later(vec![c8], at(60 + pause))
        .await
        .unwrap();
    for (second, due) in [
        (59, true),
        (60, false),
        (59 + pause, false),
        (60 + pause, true),
    ] {
        let claimed = claim(ledger, Stage::Learn, second).await;
        assert_eq!(ids(&claimed).contains(&"c8"), due, "at {second}");
        let to_archive = to_archive(ledger, second).await;
        assert_eq!(to_archive.contains(&"c8".to_owned()), due, "at {second}");
        let busy = ledger.claim(Stage::Learn, at(second), 100, vec![c8]).await;
        assert!(busy.unwrap().events.iter().all(|e| e.id != c8));
    }
    let few = ledger.claim(Stage::Learn, at(59), 1, Vec::new()).await;
    assert_eq!(few.unwrap().events.len(), 1);
    let c8_claim = claim(ledger, Stage::Learn, 60 + pause).await;
    let c8_claim = c8_claim.iter().find(|e| e.id == c8).unwrap().claim();
    ledger.archived(vec![c8]).await.unwrap();
    ledger.settle(c8_claim, learned.clone()).await.unwrap();
    let c8 = claim(ledger, Stage::Greet, 60).await;
    let c8 = c8.iter().find(|e| e.key.conversation_id.as_str() == "c8");
    ledger
        .settle(c8.unwrap().claim(), Settlement::Greeted)
        .await
        .unwrap();

    // Bodies that are no event are kept, once.
    for _ in 0..2 {
        ledger
            .keep_unknown(b"what?".to_vec(), "no event", at(70))
            .await
            .unwrap();
    }
    assert_eq!(ledger.stats().await.unwrap().dead_letters, 1);
    assert_eq!(ledger.dead_letters(10).await.unwrap()[0].kind, "unknown");

    // Finished events are forgotten, open and dead ones are not.
    let before = ledger.stats().await.unwrap();
    assert!(ledger.prune(at(1)).await.unwrap() >= 2);
    assert_eq!(ledger.stats().await.unwrap(), before);
    ledger.check_writable().await.unwrap();
}

/// What else a [`Ledger`] keeps, and what an erasure makes of it.
pub async fn erasing_contract(ledger: &dyn Ledger, register: &dyn Register) {
    let profile = AgentProfile {
        name: Some("Margaret".into()),
        ..AgentProfile::default()
    };
    let margaret = StoredAgent {
        agent: agent("margaret"),
        profile,
        fetched_at: at(5),
    };
    for _ in 0..2 {
        ledger.save_agent(margaret.clone()).await.unwrap();
    }
    let agents = ledger.agents().await.unwrap();
    let known: Vec<_> = agents
        .iter()
        .map(|a| (a.agent.as_str(), a.profile.name.as_deref(), a.fetched_at))
        .collect();
    assert_eq!(known, [("margaret", Some("Margaret"), at(5))]);
    ledger.forget_agent(&agent("margaret")).await.unwrap();
    assert_eq!(ledger.agents().await.unwrap().len(), 0);

    // Dead letters are read and dropped, one by one or by their age.
    let before = ledger.stats().await.unwrap().dead_letters;
    for (body, second) in [("one", 1), ("two", 2)] {
        let kept = ledger.keep_unknown(body.into(), "no event", at(second));
        kept.await.unwrap();
    }
    let letters = ledger.dead_letters(2).await.unwrap();
    let [two, one] = [0, 1].map(|i: usize| EventId(letters[i].id));
    let (letter, body) = ledger.dead_letter(one).await.unwrap().unwrap();
    assert_eq!(
        (letter.error.as_str(), &body[..]),
        ("no event", &b"one"[..])
    );
    assert!(ledger.discard(one).await.unwrap());
    assert!(!ledger.discard(one).await.unwrap());
    assert!(ledger.dead_letter(one).await.unwrap().is_none());
    assert_eq!(ledger.expire_dead_letters(at(2)).await.unwrap(), 0);
    assert_eq!(ledger.expire_dead_letters(at(3)).await.unwrap(), 1);
    assert!(ledger.dead_letter(two).await.unwrap().is_none());
    assert_eq!(ledger.stats().await.unwrap().dead_letters, before);

    // Everything of a caller goes, what was given up and what is not known to
    // be the caller's as well; nothing of others does.
    let (gone, other) = ("+16125550177", "+161255501770");
    for (id, who) in [("g1", gone), ("g2", gone), ("g3", gone), ("o1", other)] {
        ledger.accept(event(id, Some(who), "a", 0)).await.unwrap();
    }
    let first = claim(ledger, Stage::Learn, 0).await;
    let g1 = first
        .iter()
        .find(|e| e.key.conversation_id.as_str() == "g1");
    let g1 = g1.unwrap().claim();
    let dead = Settlement::Dead { error: "x".into() };
    ledger.settle(g1, dead).await.unwrap();
    let second = claim(ledger, Stage::Learn, 0).await;
    let g2 = second
        .iter()
        .find(|e| e.key.conversation_id.as_str() == "g2");
    let g2 = g2.expect("the next is ready").claim();
    ledger.archived(vec![g2.id]).await.unwrap();
    for body in [gone, other, "+1612555017", "nobody"] {
        let body = format!("a call of {body}");
        ledger.keep_unknown(body.into(), "x", at(4)).await.unwrap();
    }
    let known = KnownCalls {
        conversations: vec![conversation("k1")],
        marks: vec![
            call_mark(&conversation("k1")),
            call_mark(&conversation("k2")),
        ],
    };
    let gone = caller(gone);
    let erased = ledger.erase(&gone, known.clone(), at(5)).await.unwrap();
    assert_eq!((erased.events.len(), erased.dead_letters), (4, 2));
    let conversations: Vec<&str> = erased.conversations.iter().map(|c| c.as_str()).collect();
    assert_eq!(conversations, ["g1", "g2", "g3", "k1"]);
    assert_eq!(erased.archived, [(conversation("g2"), at(0))]);
    assert_eq!(erased.marks, [call_mark(&conversation("k2"))]);
    assert_eq!(ledger.stats().await.unwrap().dead_letters, before + 3);
    let left = claim(ledger, Stage::Learn, 5).await;
    assert!(ids(&left).contains(&"o1") && !ids(&left).contains(&"g3"));
    for id in ["g1", "g3", "k1", "k2"] {
        assert!(register.is_erased(&conversation(id)).await.unwrap(), "{id}");
        let late = event(id, Some(gone.as_str()), "a", 0);
        assert_eq!(ledger.accept(late).await.unwrap(), Accepted::Duplicate);
    }
    assert!(!register.is_erased(&conversation("o1")).await.unwrap());
    // Of erased and of taken calls nothing is fetched again, and an erasure has its time.
    let calls = ["g1", "k2", "o1", "never_came"].map(conversation).to_vec();
    let unknown = ledger.unknown_calls(calls).await.unwrap();
    assert_eq!(unknown, [conversation("never_came")]);
    assert_eq!(register.erased_at(&gone).await.unwrap(), Some(at(5)));
    assert_eq!(register.erased_at(&caller(other)).await.unwrap(), None);
    ledger
        .erase(&gone, KnownCalls::default(), at(4))
        .await
        .unwrap();
    assert_eq!(
        register.erased_at(&gone).await.unwrap(),
        Some(at(5)),
        "the latest counts"
    );

    // Until when calls were looked for, and what is counted by day.
    assert_eq!(ledger.reconciled_until().await.unwrap(), None);
    for until in [at(1), at(9)] {
        ledger.set_reconciled_until(until).await.unwrap();
        assert_eq!(ledger.reconciled_until().await.unwrap(), Some(until));
    }
    let counted = |name: &str, value| (name.to_owned(), value);
    for (day, figures) in [
        ("2026-11-27", vec![counted("b", 1)]),
        ("2026-11-28", vec![counted("b", 2), counted("a", 3)]),
        ("2026-11-28", vec![counted("b", 40)]),
    ] {
        ledger.add_figures(day.into(), figures).await.unwrap();
    }
    let figures = ledger.figures("2026-11-28".into()).await.unwrap();
    let day = |name: &str, value| ("2026-11-28".to_owned(), name.to_owned(), value);
    assert_eq!(figures, [day("a", 3), day("b", 42)]);

    // It is noted until the stores have forgotten the caller, and no file is left.
    let pending = async || {
        let pending = register.pending_erasures().await.unwrap();
        pending.into_iter().find(|p| p.caller == gone)
    };
    assert!(!pending().await.unwrap().forgotten);
    ledger
        .withdraw(&gone, conversation("w1"), at(6))
        .await
        .unwrap();
    assert!(register.is_erased(&conversation("w1")).await.unwrap());
    let open = pending().await.unwrap();
    assert!(!open.forgotten, "files alone change nothing");
    assert_eq!(open.conversations.len(), 5);
    register.note_forgotten(&gone).await.unwrap();
    let removed = erased.conversations.clone();
    register.end_erasure(&gone, removed).await.unwrap();
    let open = pending().await.unwrap();
    assert_eq!(
        (open.forgotten, open.conversations),
        (true, vec![conversation("w1")])
    );
    let again = ledger
        .erase(&gone, KnownCalls::default(), at(7))
        .await
        .unwrap();
    assert_eq!(again.archived, [(conversation("w1"), at(7))]);
    register.note_forgotten(&gone).await.unwrap();
    register
        .end_erasure(&gone, vec![conversation("w1")])
        .await
        .unwrap();
    assert_eq!(pending().await, None);
    ledger
        .withdraw(&gone, conversation("w2"), at(8))
        .await
        .unwrap();
    assert!(
        pending().await.unwrap().forgotten,
        "no store has a part in it"
    );

    // An erased head lets the next one pass.
    for id in ["h1", "h2"] {
        let new = event(id, Some("+16125550178"), "a", 0);
        ledger.accept(new).await.unwrap();
    }
    let head = claim(ledger, Stage::Learn, 9).await;
    let h1 = head.iter().find(|e| e.key.conversation_id.as_str() == "h1");
    let h1 = h1.unwrap().claim();
    ledger.settle(h1, Settlement::Erased).await.unwrap();
    // Nothing of it comes back, and its files are to go.
    assert!(register.is_erased(&conversation("h1")).await.unwrap());
    let left = register.pending_erasures().await.unwrap();
    let left = left.iter().find(|p| p.caller.as_str() == "+16125550178");
    let left = left.map(|p| (p.forgotten, p.conversations.clone()));
    assert_eq!(left, Some((true, vec![conversation("h1")])));
    assert!(ids(&claim(ledger, Stage::Learn, 9).await).contains(&"h2"));
    // As many bytes as asked for fit.
    let due = ledger.to_archive(at(9), 2, usize::MAX).await.unwrap();
    let bytes = due.iter().map(|e| e.payload.len()).sum();
    assert_eq!(ledger.to_archive(at(9), 2, bytes).await.unwrap().len(), 2);
    assert_eq!(
        ledger.to_archive(at(9), 2, bytes - 1).await.unwrap().len(),
        1
    );
}

/// The contract of [`Register`].
pub async fn register_contract(register: &dyn Register) {
    let numbers = [
        "+16125550101",
        "+16125550102",
        "+16125550103",
        "+16125550104",
    ];
    let [nora, home, office, tom] = numbers.map(caller);
    let decide = async |decision| register.decide(decision, at(0)).await.unwrap();
    for _ in 0..2 {
        decide(Decision::OptOut(tom.clone(), true)).await;
        decide(Decision::Share(nora.clone(), true)).await;
        decide(Decision::Link(home.clone(), Some(office.clone()))).await;
    }
    // Whoever was linked to an alias is linked to its person.
    decide(Decision::Link(office.clone(), Some(nora.clone()))).await;
    let standings = register.standings().await.unwrap();
    assert!(standings.opted_out.contains(&tom) && standings.shared.contains(&nora));
    assert_eq!(standings.person(&home), &nora);
    assert_eq!(standings.person(&office), &nora);
    decide(Decision::OptOut(tom.clone(), false)).await;
    decide(Decision::Share(nora.clone(), false)).await;
    decide(Decision::Link(home.clone(), None)).await;
    let standings = register.standings().await.unwrap();
    assert!(standings.opted_out.is_empty() && standings.shared.is_empty());
    assert_eq!(standings.person(&home), &home);

    register
        .bury(vec![conversation("b1")], at(1))
        .await
        .unwrap();
    assert!(register.is_erased(&conversation("b1")).await.unwrap());
    assert!(!register.is_erased(&conversation("b2")).await.unwrap());
    for (second, who) in [(1, "ana"), (2, "ops"), (3, "ana")] {
        let entry = AuditEntry {
            at: at(second),
            who: who.into(),
            action: "look".into(),
            subject: "+16*******01".into(),
            outcome: "200".into(),
        };
        register.audit(entry).await.unwrap();
    }
    let log = register.audit_log(2).await.unwrap();
    let newest: Vec<_> = log.iter().map(|e| (e.at, e.who.as_str())).collect();
    assert_eq!(newest, [(at(3), "ana"), (at(2), "ops")]);
}

fn sqlite() -> (tempfile::TempDir, SqliteDatabase) {
    let folder = tempfile::tempdir().unwrap();
    let database = SqliteDatabase::open(&folder.path().join("x.db")).unwrap();
    (folder, database)
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_a_memory_store() {
    let (_folder, database) = sqlite();
    memory_store_contract(Arc::new(SqliteMemoryStore::new(database))).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_a_ledger() {
    let (_folder, database) = sqlite();
    let register = SqliteRegister::new(database.clone());
    let ledger = Arc::new(SqliteLedger::new(database));
    ledger_contract(ledger.clone()).await;
    erasing_contract(&*ledger, &register).await;
    register_contract(&register).await;
}

#[tokio::test]
async fn postgres_keeps_both_contracts() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    both_contracts(&server, |name| server.url(name)).await;
}

#[tokio::test]
async fn postgres_keeps_both_contracts_behind_a_transaction_pooler() {
    let Some(server) = Postgres::start().await else {
        return;
    };
    let Some(pooler) = Pooler::start(&server).await else {
        return;
    };
    both_contracts(&server, |name| pooler.url(name)).await;
}

#[tokio::test]
async fn sqlite_keeps_the_contract_of_a_vector_store() {
    let (_folder, database) = sqlite();
    let ledger = SqliteLedger::new(database.clone());
    vector_store_contract(&SqliteVectorStore::new(database), &ledger).await;
}

/// The contract of [`VectorStore`].
async fn vector_store_contract(store: &dyn VectorStore, ledger: &dyn Ledger) {
    let (nora, tom) = (caller("+16125550101"), caller("sip:Tom@pbx"));
    let vector = |id: &str, second: i64, numbers: &[f32]| MemoryVector {
        conversation_id: conversation(id),
        ordinal: 7,
        timestamp: at(second),
        vector: Vector::quantised(numbers).unwrap(),
    };
    let none: Vec<MemoryVector> = Vec::new();
    assert_eq!(store.kind().await.unwrap(), None);
    store.set_kind("m").await.unwrap();
    store.set_kind("n").await.unwrap();
    assert_eq!(store.kind().await.unwrap().as_deref(), Some("n"));
    store.forget_kind().await.unwrap();
    assert_eq!(store.kind().await.unwrap(), None);

    // First come, first served; who is put off comes last.
    store
        .want(vec![nora.clone(), tom.clone()], Urgency::Now)
        .await
        .unwrap();
    store.want(vec![nora.clone()], Urgency::Now).await.unwrap();
    assert_eq!(store.waiting().await.unwrap(), 2);
    let wanting = store.next(at(0)).await.unwrap().unwrap();
    assert_eq!(wanting.caller, nora);
    store.postpone(&wanting, at(60)).await.unwrap();
    assert_eq!(store.next(at(0)).await.unwrap().unwrap().caller, tom);
    let toms = store.next(at(0)).await.unwrap().unwrap();
    store.done(&toms).await.unwrap();
    assert_eq!(store.next(at(0)).await.unwrap(), None);
    assert_eq!(store.next(at(61)).await.unwrap().as_ref(), Some(&wanting));

    // What is kept replaces what was there, and is of one kind and caller.
    let two = vec![
        vector("c1", 100, &[1.0, 0.0]),
        vector("c2", 200, &[0.0, 1.0]),
    ];
    assert!(store.keep(&wanting, "m", two.clone()).await.unwrap());
    assert_eq!(
        store.vectors(&nora, "m", 100).await.unwrap(),
        [two[1].clone(), two[0].clone()]
    );
    assert_eq!(store.vectors(&nora, "m", 1).await.unwrap(), two[1..]);
    assert_eq!(store.embedded(&nora, "m").await.unwrap().len(), 2);
    // Who only has to be looked through comes after who has just called.
    store
        .want(vec![caller("+16125550103"), tom.clone()], Urgency::Sometime)
        .await
        .unwrap();
    store.want(vec![tom.clone()], Urgency::Now).await.unwrap();
    let first = store.next(at(30)).await.unwrap().unwrap();
    assert_eq!(first.caller, tom);
    store.done(&first).await.unwrap();
    let second = store.next(at(30)).await.unwrap().unwrap();
    assert_eq!(second.caller, caller("+16125550103"));
    store.done(&second).await.unwrap();
    assert!(store.keep(&wanting, "n", two[1..].to_vec()).await.unwrap());
    assert_eq!(store.vectors(&nora, "m", 100).await.unwrap(), two[..1]);
    assert_eq!(store.vectors(&nora, "n", 100).await.unwrap(), two[1..]);
    assert_eq!(store.vectors(&tom, "n", 100).await.unwrap(), none);

    // Asked for again meanwhile, a caller stays in the queue.
    store.want(vec![nora.clone()], Urgency::Now).await.unwrap();
    store.done(&wanting).await.unwrap();
    assert_eq!(store.waiting().await.unwrap(), 1);
    store.expire(at(150)).await.unwrap();
    assert_eq!(store.vectors(&nora, "m", 100).await.unwrap(), none);

    // Of an erased caller nothing is left, and nothing comes back.
    let wanting = store.next(at(61)).await.unwrap().unwrap();
    ledger
        .erase(&nora, KnownCalls::default(), at(300))
        .await
        .unwrap();
    assert_eq!(store.waiting().await.unwrap(), 0);
    assert_eq!(store.vectors(&nora, "n", 100).await.unwrap(), none);
    assert!(!store.keep(&wanting, "n", two.clone()).await.unwrap());
    store.want(vec![nora.clone()], Urgency::Now).await.unwrap();
    assert!(!store.keep(&wanting, "n", two.clone()).await.unwrap());
    assert_eq!(store.vectors(&nora, "n", 100).await.unwrap(), none);
    let again = store.next(at(400)).await.unwrap().unwrap();
    assert!(store.keep(&again, "n", two).await.unwrap());
    store.forget(&nora).await.unwrap();
    assert_eq!(store.vectors(&nora, "n", 100).await.unwrap(), none);
    assert_eq!(store.waiting().await.unwrap(), 0);
}

async fn both_contracts(server: &Postgres, url: impl Fn(&str) -> String) {
    server.database("memory").await;
    let database = PostgresDatabase::open(&url("memory")).await.unwrap();
    memory_store_contract(Arc::new(PostgresMemoryStore::new(database))).await;
    server.database("vectors").await;
    let database = PostgresDatabase::open(&url("vectors")).await.unwrap();
    let ledger = PostgresLedger::new(database.clone());
    vector_store_contract(&PostgresVectorStore::new(database), &ledger).await;
    // The contract tells the time.
    server.database("ledger").await;
    let database = PostgresDatabase::open_with(&url("ledger"), Clock::Given)
        .await
        .unwrap();
    let register = PostgresRegister::new(database.clone());
    let ledger = Arc::new(PostgresLedger::new(database));
    ledger_contract(ledger.clone()).await;
    erasing_contract(&*ledger, &register).await;
    register_contract(&register).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever fails in between, a caller's calls are learned in the order of
    /// their arrival, each once.
    #[test]
    fn calls_are_learned_in_order(
        callers in prop::collection::vec(0u8..4, 1..30),
        failures in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, database) = sqlite();
            let ledger = SqliteLedger::new(database);
            for (i, who) in callers.iter().enumerate() {
                let number = format!("+1612555010{who}");
                ledger.accept(event(&format!("c{i}"), Some(&number), "a", 0)).await.unwrap();
            }
            let mut failures = failures.into_iter();
            let mut learned: Vec<(String, i64)> = Vec::new();
            loop {
                let ready = claim(&ledger, Stage::Learn, 0).await;
                let Some(next) = ready.into_iter().next_back() else { break };
                let claim = next.claim();
                let how = if failures.next() == Some(true) {
                    Settlement::Retry { run_at: at(0), error: "x".into(), cause: RetryCause::Crash }
                } else {
                    learned.push((next.caller.unwrap().as_str().to_owned(), next.id.0));
                    Settlement::Learned
                };
                ledger.settle(claim, how).await.unwrap();
            }
            assert_eq!(learned.len(), callers.len());
            for who in 0..4 {
                let number = format!("+1612555010{who}");
                let order: Vec<i64> = learned.iter().filter(|(c, _)| *c == number).map(|(_, id)| *id).collect();
                assert!(order.is_sorted(), "{order:?}");
            }
        });
    }
}

mod on_openmemory {
    use elaoms::clients::{Generation, OpenMemory};
    use elaoms::store::{OpenMemoryStore, SqliteRecordIndex};

    use super::*;
    use crate::openmemory_stand_in::{KEY, OpenMemoryStandIn, Trouble};

    fn store_at(url: String, key: &str, database: &SqliteDatabase) -> Arc<dyn MemoryStore> {
        let client = OpenMemory::new(url, Some(key.to_owned().into())).unwrap();
        let index = Arc::new(SqliteRecordIndex::new(database.clone()));
        Arc::new(OpenMemoryStore::new(client, index))
    }

    #[tokio::test]
    async fn the_first_generation_keeps_the_contract() {
        let (_folder, database) = sqlite();
        let server = OpenMemoryStandIn::start(Generation::First).await;
        memory_store_contract(store_at(server.url(), KEY, &database)).await;
    }

    #[tokio::test]
    async fn the_second_generation_keeps_the_contract() {
        let (_folder, database) = sqlite();
        let server = OpenMemoryStandIn::start(Generation::Second).await;
        memory_store_contract(store_at(server.url(), KEY, &database)).await;
    }

    /// Against a real server, which must be empty:
    /// `OPENMEMORY_TEST_URL=http://127.0.0.1:8080 OPENMEMORY_TEST_KEY=… cargo test --test it a_real_server -- --ignored`
    #[tokio::test]
    #[ignore = "needs a real OpenMemory server"]
    async fn a_real_server_keeps_the_contract() {
        let (_folder, database) = sqlite();
        let setting = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        let key = setting("OPENMEMORY_TEST_KEY");
        let store = store_at(setting("OPENMEMORY_TEST_URL"), &key, &database);
        println!("{}", store.describe().await);
        memory_store_contract(store).await;
    }

    /// Additions that are stored although their answer says otherwise.
    #[tokio::test]
    async fn lost_answers_lose_and_double_nothing() {
        for generation in [Generation::First, Generation::Second] {
            let (_folder, database) = sqlite();
            let server = OpenMemoryStandIn::start(generation).await;
            let store = store_at(server.url(), KEY, &database);
            server.set_trouble(Trouble::LosesAnswers(3));
            for call in 0..10 {
                let mut learning = learning(&format!("c{call}"), "+16125550101", "a", call, "x");
                learning.memories = (0..4)
                    .map(|ordinal| Memory {
                        ordinal,
                        content: format!("words {ordinal} of call {call}"),
                        ..learning.memories[0].clone()
                    })
                    .collect();
                let mut tries = 0;
                while store.learn(&learning, None).await.is_err() {
                    tries += 1;
                    assert!(tries < 50, "{generation:?}");
                }
            }
            server.set_trouble(Trouble::None);
            let who = caller("+16125550101");
            let profile = store.tiers(&who).await.unwrap().profile.unwrap();
            assert_eq!(profile.total_interactions, 10, "{generation:?}");
            let states = store.tiers(&who).await.unwrap().states;
            assert_eq!(states[0].1.conversation_count, 10, "{generation:?}");
            let memories = store.memories(&who, 1_000).await.unwrap();
            assert_eq!(memories.len(), 40, "{generation:?}");
        }
    }

    /// A new machine, or a lost ledger: the records are found again.
    #[tokio::test]
    async fn a_lost_index_is_rebuilt_from_the_server() {
        let server = OpenMemoryStandIn::start(Generation::Second).await;
        {
            let (_folder, database) = sqlite();
            let store = store_at(server.url(), KEY, &database);
            for call in 0..7 {
                store
                    .learn(
                        &learning(&format!("c{call}"), "+16125550101", "a", call, "Nora"),
                        None,
                    )
                    .await
                    .unwrap();
            }
        }
        let (_folder, database) = sqlite();
        let store = store_at(server.url(), KEY, &database);
        let profile = store
            .tiers(&caller("+16125550101"))
            .await
            .unwrap()
            .profile
            .unwrap();
        assert_eq!(profile.total_interactions, 7);
        assert_eq!(
            store
                .memories(&caller("+16125550101"), 100)
                .await
                .unwrap()
                .len(),
            7
        );
    }

    #[tokio::test]
    async fn trouble_is_an_error_and_never_an_empty_answer() {
        for generation in [Generation::First, Generation::Second] {
            let (_folder, database) = sqlite();
            let server = OpenMemoryStandIn::start(generation).await;
            let store = store_at(server.url(), KEY, &database);
            store
                .learn(&learning("c1", "+16125550101", "a", 0, "Nora"), None)
                .await
                .unwrap();
            for trouble in [
                Trouble::Status(500),
                // A proxy's: it says nothing about a record.
                Trouble::Status(404),
                Trouble::Status(429),
                Trouble::Status(503),
                Trouble::Nonsense,
                Trouble::Hangs,
            ] {
                server.set_trouble(trouble);
                let who = caller("+16125550101");
                assert!(store.tiers(&who).await.is_err());
                assert!(store.memories(&who, 10).await.is_err());
                assert!(store.check_writable().await.is_err());
            }
            let wrong = store_at(server.url(), "another key", &database);
            server.set_trouble(Trouble::None);
            let error = wrong.tiers(&caller("+16125550101")).await.unwrap_err();
            assert!(error.to_string().contains("OPENMEMORY_KEY"), "{error}");
        }
    }
}
