//! Whatever a caller says or a model answers costs time in proportion to its
//! length. Hostile shapes, at n and 2n, on this thread's own clock.

use std::time::Duration;

use elaoms::domain::agent_profile::AgentProfile;
use elaoms::domain::call_event::{self, Call, CallEvent, Role, Turn};
use elaoms::domain::caller_id::CallerId;
use elaoms::domain::caller_rules::CallerRules;
use elaoms::domain::envelope::EnvelopeSplitter;
use elaoms::domain::greeting::Greeting;
use elaoms::domain::ids::AgentId;
use elaoms::domain::name::{self, CallerName};
use elaoms::domain::prompt::GreetingPrompt;
use elaoms::domain::search::{Index, Query};
use elaoms::domain::{learning::Learning, memory};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

const SHAPES: &[&str] = &[
    "my name is ",
    "My name is Anna and ",
    "my name is uh ",
    "he said my name is Bob ",
    "this is ",
    "not Anna, Bob ",
    "a b c ",
    "Anna here, ",
    "I'm ",
    "Hello Anna, this is ",
    "Anna ",
    "van ",
    "Dr. ",
    ". ",
    ".",
    "a.",
    "A.",
    "x",
    "\u{301}",
    "a\u{301}\u{323}",
    "ﷺ",
    "'",
    "-",
    "!",
    "你",
    "{{",
    "\\\"",
];

fn thread_time(work: &mut impl FnMut()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    // The least of several: whatever disturbs the machine only adds.
    (0..3)
        .map(|_| {
            let start = now();
            work();
            now() - start
        })
        .min()
        .unwrap()
}

/// Twice the text takes at most 2.5 times as long. Too short to be measured,
/// it is tried longer; disturbed, once more.
fn check(what: &str, shape: &str, mut work: impl FnMut(&str)) {
    let mut bytes = 8 * 1024;
    let mut tries = 0;
    loop {
        let text = shape.repeat(bytes / shape.len());
        let double = shape.repeat(2 * bytes / shape.len());
        let one = thread_time(&mut || work(&text));
        if one < Duration::from_micros(500) && bytes < 128 * 1024 {
            bytes *= 4;
            continue;
        }
        let two = thread_time(&mut || work(&double));
        if two <= one.mul_f64(2.5) + Duration::from_micros(200) {
            return;
        }
        tries += 1;
        assert!(
            tries < 4,
            "{what}, {shape:?}, {bytes} bytes: {one:?}, doubled {two:?}"
        );
    }
}

fn turn(role: Role, text: &str) -> Turn {
    Turn {
        role,
        text: text.to_owned(),
    }
}

fn call(turns: Vec<Turn>) -> Call {
    let body = json!({"type": "post_call_transcription", "data": {
        "agent_id": "a", "conversation_id": "c"}});
    let CallEvent::Transcription(call) = call_event::parse(
        body.to_string().as_bytes(),
        Timestamp::UNIX_EPOCH,
        &CallerRules::default(),
    )
    .unwrap() else {
        unreachable!()
    };
    Call { turns, ..call }
}

fn caller() -> CallerId {
    CallerId::parse("+16125550101").unwrap()
}

#[test]
fn a_name_is_listened_for_in_linear_time() {
    for shape in SHAPES {
        check("one turn", shape, |text| {
            let _ = name::from_turns(&[turn(Role::Caller, text)]);
        });
        check("asked for the name", shape, |text| {
            let asked = turn(Role::Agent, "May I have your name?");
            let _ = name::from_turns(&[asked, turn(Role::Caller, text)]);
        });
        check("an agent's turn", shape, |text| {
            let me = turn(Role::Caller, "It is a fine day");
            let _ = name::from_turns(&[turn(Role::Agent, text), me]);
        });
        check("many turns", shape, |text| {
            let turns: Vec<Turn> = text
                .split_inclusive(' ')
                .enumerate()
                .map(|(i, t)| {
                    turn(
                        if i % 2 == 0 {
                            Role::Caller
                        } else {
                            Role::Agent
                        },
                        t,
                    )
                })
                .collect();
            let _ = name::from_turns(&turns);
        });
        check("a correction", shape, |text| {
            let agents = turn(Role::Agent, text);
            let _ = name::told(&[agents, turn(Role::Caller, text)], &[]);
        });
        check("the model's name", shape, |text| {
            let name = CallerName::parse("Anna Maria").unwrap();
            let _ = name::confirmed_by_turns(name, &[turn(Role::Caller, text)]);
        });
        check("a name from a form", shape, |text| {
            let _ = CallerName::parse(text);
        });
        check("a caller id", shape, |text| {
            let _ = CallerId::parse(text);
        });
    }
}

#[test]
fn memories_prompts_and_greetings_are_made_in_linear_time() {
    let agent = AgentId::parse("a").unwrap();
    for shape in SHAPES {
        check("memories", shape, |text| {
            let turns: Vec<Turn> = text
                .as_bytes()
                .chunks(64)
                .enumerate()
                .map(|(i, chunk)| {
                    let role = if i % 9 == 0 {
                        Role::Caller
                    } else {
                        Role::Agent
                    };
                    turn(role, &String::from_utf8_lossy(chunk))
                })
                .collect();
            let call = call(turns);
            let _ = memory::of_call(&call, &agent);
            let _ = Learning::from_call(&call, caller());
        });
        check("the prompt", shape, |text| {
            let turns = [turn(Role::Caller, text)];
            let _ = GreetingPrompt::new(
                &agent,
                &AgentProfile::default(),
                None,
                Timestamp::UNIX_EPOCH,
                &turns,
            );
        });
        check("a model's answer", shape, |text| {
            let answer = json!({"next_greeting": text, "key_topics": text, "conversation_summary": text,
                "caller_name": text, "sentiment": text});
            let _ = Greeting::from_answer(&answer.to_string());
        });
        check("an index", shape, |text| {
            let learning =
                Learning::from_call(&call(vec![turn(Role::Caller, text)]), caller()).unwrap();
            let _ = Index::new(learning.memories);
        });
        check("a query", shape, |text| {
            let learning = Learning::from_call(
                &call(vec![turn(Role::Caller, "Anna likes roses")]),
                caller(),
            )
            .unwrap();
            let query = Query {
                text,
                agent: &agent,
                now: Timestamp::now(),
                vector: None,
            };
            let _ = Index::new(learning.memories).search(&query);
        });
    }
}

#[test]
fn a_body_is_read_in_linear_time() {
    for shape in [
        "[",
        "{\"a\":",
        "{\"data\":{\"transcript\":[",
        "\"full_audio\":\"",
        "\\u0301",
        "[1,",
        "{\"role\":\"user\",\"message\":\"x\"},",
        "\"a\":1,",
        "\"data\":{\"a\":1},",
    ] {
        check("a body", shape, |text| {
            let _ = call_event::parse(
                text.as_bytes(),
                Timestamp::UNIX_EPOCH,
                &CallerRules::default(),
            );
        });
        for (before, after) in [
            (
                "{\"type\":\"post_call_transcription\",\"data\":{\"transcript\":[",
                "0]}}",
            ),
            (
                "{\"type\":\"post_call_transcription\",\"data\":{",
                "\"b\":0}}",
            ),
            ("{", "\"b\":0}"),
            (
                "{\"data\":{\"analysis\":{\"data_collection_results\":{",
                "\"b\":0}}}}",
            ),
        ] {
            check("a body with a middle", shape, |text| {
                let body = format!("{before}{text}{after}");
                let _ = call_event::parse(
                    body.as_bytes(),
                    Timestamp::UNIX_EPOCH,
                    &CallerRules::default(),
                );
            });
        }
        check("the splitter", shape, |text| {
            let mut splitter = EnvelopeSplitter::default();
            for chunk in text.as_bytes().chunks(1_000) {
                splitter.push(chunk, |_| {});
            }
            let _ = splitter.finish();
        });
    }
}
