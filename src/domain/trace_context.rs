//! Where a trace goes on: the W3C `traceparent`.

use std::fmt;

/// A trace, and the span of it that the next one follows (W3C Trace Context,
/// "traceparent", version 00).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: u128,
    pub span_id: u64,
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads a header; `None` if it is not a valid one. Later versions are read
    /// as far as version 00 goes.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut fields = header.split('-');
        let mut field = |length: usize| -> Option<&str> {
            let field = fields.next().filter(|field| field.len() == length)?;
            let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
            field.bytes().all(is_hex).then_some(field)
        };
        let version = field(2)?;
        let trace_id = u128::from_str_radix(field(32)?, 16).ok()?;
        let span_id = u64::from_str_radix(field(16)?, 16).ok()?;
        let flags = u8::from_str_radix(field(2)?, 16).ok()?;
        let has_more = fields.next().is_some();
        let is_valid =
            trace_id != 0 && span_id != 0 && version != "ff" && (version != "00" || !has_more);
        is_valid.then_some(Self {
            trace_id,
            span_id,
            is_sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(
            f,
            "00-{:032x}-{:016x}-{flags:02x}",
            self.trace_id, self.span_id
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_valid_headers_are_read() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(good).unwrap().to_string(), good);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-what-ever";
        assert!(!TraceContext::parse(later).unwrap().is_sampled);
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace_id in 1u128.., span_id in 1u64.., is_sampled: bool) {
            let context = TraceContext { trace_id, span_id, is_sampled };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn nothing_makes_it_panic(header in ".*") {
            let _ = TraceContext::parse(&header);
        }
    }
}
