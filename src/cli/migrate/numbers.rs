//! Which callers to migrate: arguments and files.

use std::collections::BTreeSet;
use std::path::Path;

use crate::domain::caller_id::CallerId;

/// The column of a CSV that holds the caller.
const COLUMNS: [&str; 4] = ["phone_number", "phone", "caller_id", "caller"];

/// Callers in order, each once, and how many entries were none.
#[derive(Debug, PartialEq)]
pub(super) struct Given {
    pub callers: Vec<CallerId>,
    pub unreadable: usize,
}

/// Reads callers from the arguments and from a file.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn read(numbers: &[String], file: Option<&Path>) -> Result<Given, String> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|e| format!("{} cannot be read: {e}", file.display()))?,
        None => String::new(),
    };
    let entries = numbers.iter().map(String::as_str).chain(entries_of(&text)?);
    let mut callers = BTreeSet::new();
    let mut unreadable = 0;
    for entry in entries {
        match CallerId::parse(entry) {
            Ok(caller) => drop(callers.insert(caller)),
            Err(error) => {
                eprintln!("{entry:?}: {error}");
                unreadable += 1;
            }
        }
    }
    Ok(Given {
        callers: callers.into_iter().collect(),
        unreadable,
    })
}

/// The entries of a file: the lines, or one column of a CSV with a header.
///
/// # Errors
/// If there are several columns and none says that it holds callers.
fn entries_of(text: &str) -> Result<Vec<&str>, String> {
    // Excel begins a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .peekable();
    let Some(first) = lines.peek() else {
        return Ok(Vec::new());
    };
    let fields = split(first);
    let named = fields.iter().position(|field| {
        let name = field.to_lowercase().replace([' ', '-'], "_");
        COLUMNS.contains(&name.as_str())
    });
    let column = match named {
        Some(column) => {
            lines.next();
            column
        }
        None if fields.len() == 1 || CallerId::parse(fields[0]).is_ok() => 0,
        None => return Err("the CSV has no column phone_number".into()),
    };
    Ok(lines
        .filter_map(|line| split(line).get(column).copied())
        .filter(|entry| !entry.is_empty())
        .collect())
}

/// Numbers hold no commas, so quotes need only be taken off.
fn split(line: &str) -> Vec<&str> {
    line.split([',', ';', '\t'])
        .map(|field| field.trim().trim_matches('"').trim())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(entries_of(text).unwrap(), expected, "{text:?}");
    }

    #[test]
    fn lines_and_columns_are_read() {
        check(
            "+16125551234\n\n# a comment\n +16125559876 \n",
            &["+16125551234", "+16125559876"],
        );
        check(
            "name,phone_number\r\nNora,\"+1 612 555 1234\"\r\nTom,\r\n",
            &["+1 612 555 1234"],
        );
        check(
            "\u{feff}Phone Number;Customer\n+16125551234;Nora",
            &["+16125551234"],
        );
        check(
            "+16125551234;Nora\n+16125559876;Tom",
            &["+16125551234", "+16125559876"],
        );
        check("", &[]);
        assert!(entries_of("customer,number\n12345678,+16125551234").is_err());
    }
}
