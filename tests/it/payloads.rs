//! Webhook bodies in the shape in which ElevenLabs sends them.

use serde_json::{Value, json};

/// A finished call, to be adapted with the methods and sent as JSON.
#[derive(Clone)]
pub struct CallBody(pub Value);

/// One inbound call over Twilio with every field that ElevenLabs sends.
pub fn call(conversation: &str, agent: &str, caller: &str) -> CallBody {
    let start = 1_795_341_600;
    CallBody(json!({
        "type": "post_call_transcription",
        "event_timestamp": start + 80,
        "data": {
            "agent_id": agent,
            "conversation_id": conversation,
            "status": "done",
            "user_id": null,
            "branch_id": null,
            "transcript": [],
            "metadata": {
                "start_time_unix_secs": start,
                "accepted_time_unix_secs": start,
                "call_duration_secs": 74,
                "cost": 412,
                "deletion_settings": {"deletion_time_unix_secs": null, "delete_audio": false},
                "feedback": {"type": null, "overall_score": null, "likes": 0, "dislikes": 0},
                "authorization_method": "signed_url",
                "charging": {"dev_discount": false, "tier": "creator", "llm_price": 0.0021},
                "phone_call": {
                    "direction": "inbound", "phone_number_id": "phnum_1", "agent_number": "+16125550000",
                    "external_number": caller, "type": "twilio", "stream_sid": "MZ1", "call_sid": "CA1",
                },
                "batch_call": null,
                "termination_reason": "Call ended by remote party",
                "error": null,
                "warnings": [],
                "main_language": "en",
                "whatsapp": null,
            },
            "analysis": {
                "evaluation_criteria_results": {},
                "data_collection_results": {},
                "call_successful": "success",
                "transcript_summary": "A call.",
            },
            "conversation_initiation_client_data": {
                "conversation_config_override": {"agent": null, "tts": null},
                "custom_llm_extra_body": {},
                "dynamic_variables": {
                    "system__agent_id": agent, "system__caller_id": caller, "system__called_number": "+16125550000",
                    "system__conversation_id": conversation, "system__call_duration_secs": 74,
                },
            },
            "has_audio": true,
        },
    }))
}

impl CallBody {
    fn turn(mut self, role: &str, message: &str) -> Self {
        let turns = self.0["data"]["transcript"].as_array_mut().unwrap();
        let second = turns.len() * 4;
        turns.push(json!({
            "role": role, "message": message, "agent_metadata": null, "multivoice_message": null,
            "tool_calls": [], "tool_results": [], "feedback": null, "llm_override": null,
            "time_in_call_secs": second, "conversation_turn_metrics": null, "rag_retrieval_info": null,
            "llm_usage": null, "interrupted": false, "original_message": null, "source_medium": null,
        }));
        self
    }

    /// The agent says something.
    pub fn agent(self, message: &str) -> Self {
        self.turn("agent", message)
    }

    /// The caller says something.
    pub fn caller(self, message: &str) -> Self {
        self.turn("user", message)
    }

    /// The caller says something, told with nothing else around it.
    pub fn caller_only(mut self, message: &str) -> Self {
        let turns = self.0["data"]["transcript"].as_array_mut().unwrap();
        turns.push(json!({"role": "user", "message": message}));
        self
    }

    /// Data collection found a value.
    pub fn fact(mut self, key: &str, value: Value) -> Self {
        self.0["data"]["analysis"]["data_collection_results"][key] =
            json!({"data_collection_id": key, "value": value, "rationale": "Said."});
        self
    }

    /// The call started so many seconds later.
    pub fn later(mut self, seconds: i64) -> Self {
        let start = &mut self.0["data"]["metadata"]["start_time_unix_secs"];
        *start = json!(start.as_i64().unwrap() + seconds);
        self
    }

    /// Sets anything by JSON pointer.
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        *self
            .0
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer}")) = value;
        self
    }

    pub fn body(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}
