//! Where settings come from: the process environment, then `.env` or another file.

use std::collections::HashMap;
use std::path::Path;

use secrecy::zeroize::Zeroize;

/// The file with the settings, in the working folder: not one of a folder above,
/// which would not fit relative paths here.
pub const SETTINGS_FILE: &str = ".env";

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
    /// The environment of the process, completed from `file` (in general
    /// [`SETTINGS_FILE`], which need not be there): what is set in the environment wins.
    ///
    /// # Errors
    /// If the file cannot be read; the message never repeats its lines, which hold
    /// secrets.
    pub fn load(file: Option<&Path>) -> Result<Self, String> {
        let path = file.unwrap_or(Path::new(SETTINGS_FILE));
        let shown = path.display();
        let mut settings = HashMap::new();
        match dotenvy::from_path_iter(path) {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|e| match e {
                        dotenvy::Error::LineParse(text, _) => unreadable(path, &text),
                        other => format!("{shown} cannot be read: {other}"),
                    })?;
                    settings.insert(name, value);
                }
            }
            Err(e) if e.not_found() && file.is_none() => {}
            Err(e) => return Err(format!("{shown} cannot be read: {e}")),
        }
        settings.extend(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
        Ok(Self(settings))
    }

    /// What the process was given for a setting, whatever a file says.
    #[must_use]
    pub fn of_process(name: &str) -> Option<String> {
        std::env::var(name).ok()
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
fn unreadable(path: &Path, text: &str) -> String {
    let file = std::fs::read_to_string(path).unwrap_or_default();
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
        "{} cannot be read at {at}: put a value with spaces, #, $ or quotes between single quotes",
        path.display()
    )
}
