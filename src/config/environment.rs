//! Where settings come from: the process environment, then `.env`.

use std::collections::HashMap;

use secrecy::zeroize::Zeroize;

/// A snapshot of the settings. Wiped from memory when it is dropped.
pub struct Environment(HashMap<String, String>);

impl Drop for Environment {
    fn drop(&mut self) {
        for value in self.0.values_mut() {
            value.zeroize();
        }
    }
}

impl Environment {
    /// The environment of the process, completed from `.env` in the working
    /// folder: what is set in the environment wins.
    ///
    /// # Errors
    /// If there is a `.env` that cannot be read; the message never repeats
    /// its lines, which hold secrets.
    pub fn load() -> Result<Self, String> {
        let mut settings = HashMap::new();
        // Not one of a folder above, which would not fit relative paths here.
        match dotenvy::from_path_iter(".env") {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|e| match e {
                        dotenvy::Error::LineParse(text, _) => unreadable(&text),
                        other => format!(".env cannot be read: {other}"),
                    })?;
                    settings.insert(name, value);
                }
            }
            Err(e) if e.not_found() => {}
            Err(e) => return Err(format!(".env cannot be read: {e}")),
        }
        settings.extend(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
        Ok(Self(settings))
    }

    /// Exactly these settings: for the demo and tests.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The value as it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Names the setting, never its value: what cannot be parsed may be all of it.
fn unreadable(text: &str) -> String {
    let file = std::fs::read_to_string(".env").unwrap_or_default();
    let line = file.lines().find(|line| line.contains(text.trim()));
    let name = line.and_then(|line| line.split_once('=')).map(|(name, _)| {
        let name = name.trim();
        name.strip_prefix("export ").unwrap_or(name).trim()
    });
    let is_name = |name: &&str| {
        let mut bytes = name.bytes();
        bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') && name.len() < 60
    };
    let at = name.filter(is_name).unwrap_or("one of the settings");
    format!(
        ".env cannot be read at {at}: put a value with spaces, #, $ or quotes between single quotes"
    )
}
