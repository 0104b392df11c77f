//! The file with the settings, changed where a setting changes and nowhere else.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::config::Environment;

/// For the user alone: secrets are in it.
const MODE: u32 = 0o600;

/// `.env`, or the file that was named.
pub(in crate::cli) struct EnvFile {
    path: PathBuf,
    text: String,
}

impl EnvFile {
    /// Reads it. One that is not there is empty.
    ///
    /// # Errors
    /// If it cannot be read, or is no text.
    pub fn open(path: &Path) -> Result<Self, String> {
        // What a link points to is changed, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        Ok(Self { path, text })
    }

    pub fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// What a new file holds; written with the first setting.
    pub fn begin_with(&mut self, text: &str) {
        text.clone_into(&mut self.text);
    }

    /// A file beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Whether these settings can be given another value: before something is made
    /// whose value is shown once.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn check_writable(&self, names: &[&str]) -> Result<(), String> {
        for name in names {
            if Environment::of_process(name).is_some() {
                return Err(self.wins(name));
            }
        }
        let tried = NamedTempFile::new_in(folder_of(&self.path)).and_then(NamedTempFile::close);
        tried.map_err(|error| format!("{} cannot be written: {error}", self.path.display()))
    }

    fn wins(&self, name: &str) -> String {
        format!(
            "{name} is set in the environment, which wins over {}: unset it there, or change it there by hand",
            self.path.display()
        )
    }

    /// Keeps others from changing it at the same time, until this is dropped.
    ///
    /// # Errors
    /// If somebody else is changing it.
    pub fn lock(&self) -> Result<File, String> {
        let folder = folder_of(&self.path);
        let lock =
            File::open(folder).map_err(|e| format!("{} cannot be read: {e}", folder.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err("another set-up is at work here".to_owned()),
            // A file system without locks.
            Err(TryLockError::Error(_)) => Ok(lock),
        }
    }

    /// Gives settings these values, durably; `None` takes one out. Nothing is
    /// written if they have them.
    ///
    /// # Errors
    /// If one is set in the environment, which wins over the file, or the file
    /// cannot be written.
    pub fn set(&mut self, settings: &[(&str, Option<&str>)]) -> Result<(), String> {
        for (name, value) in settings {
            let set = Environment::of_process(name);
            if let (Some(set), Some(value)) = (set, value)
                && set != *value
                && value_in(&self.text, name).as_deref() != Some(&set)
            {
                return Err(self.wins(name));
            }
        }
        let mut text = self.text.clone();
        for (name, value) in settings {
            text = with(&text, name, *value);
        }
        if text != self.text {
            write_private(&self.path, &text)
                .map_err(|error| format!("{} cannot be written: {error}", self.path.display()))?;
            self.text = text;
        }
        Ok(())
    }
}

/// Replaces a file for the user alone, so that it is there in whole or as it was.
///
/// # Errors
/// If it cannot be written.
pub(in crate::cli) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let folder = folder_of(path);
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    let mut permissions = file.as_file().metadata()?.permissions();
    permissions.set_mode(MODE);
    file.as_file().set_permissions(permissions)?;
    if let Ok(before) = fs::metadata(path) {
        // Written by root, it stays the service's.
        let _ = fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The name that a line sets.
fn name_of(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, _) = line.split_once('=')?;
    Some(name.trim())
}

fn value_in(text: &str, name: &str) -> Option<String> {
    let lines = dotenvy::from_read_iter(text.as_bytes());
    let found = lines.flatten().filter(|(n, _)| n == name);
    found.map(|(_, value)| value).last()
}

/// `text` with a setting changed in its place: the last line that sets it; else
/// where it stands as a comment; else at the end.
fn with(text: &str, name: &str, value: Option<&str>) -> String {
    let is_set = |line: &&str| name_of(line) == Some(name);
    let Some(value) = value else {
        let kept = text.split_inclusive('\n').filter(|line| !is_set(line));
        return kept.collect();
    };
    if value_in(text, name).as_deref() == Some(value) {
        return text.to_owned();
    }
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let commented = |line: &&str| {
        let line = line.trim_start().strip_prefix('#');
        line.is_some_and(|line| !line.starts_with(' ') && name_of(line) == Some(name))
    };
    let place = lines
        .iter()
        .rposition(is_set)
        .or_else(|| lines.iter().rposition(commented));
    let set = format!("{name}={}", quoted(value));
    let mut changed = String::with_capacity(text.len() + set.len() + 2);
    for (i, line) in lines.iter().enumerate() {
        if Some(i) == place {
            changed.push_str(&set);
            changed.push('\n');
        } else {
            changed.push_str(line);
        }
    }
    if place.is_none() {
        if !changed.is_empty() && !changed.ends_with('\n') {
            changed.push('\n');
        }
        changed.push_str(&set);
        changed.push('\n');
    }
    changed
}

/// As it can be read again. Our values have no single quotes in them.
fn quoted(value: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.,:/@%+=".contains(&b);
    if value.bytes().all(is_plain) {
        value.to_owned()
    } else {
        format!("'{value}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_setting_changes() {
        let text = "# Secrets\n\nexport A=1 # one\n#B=\nB =old\nC='x y'\n";
        let check = |name, value, expected: &str| assert_eq!(with(text, name, value), expected);
        check(
            "B",
            Some("new"),
            "# Secrets\n\nexport A=1 # one\n#B=\nB=new\nC='x y'\n",
        );
        check("C", Some("x y"), text);
        check(
            "A",
            Some("a b"),
            "# Secrets\n\nA='a b'\n#B=\nB =old\nC='x y'\n",
        );
        check("A", None, "# Secrets\n\n#B=\nB =old\nC='x y'\n");
        check("D", Some("4"), &format!("{text}D=4\n"));
        assert_eq!(with("#B=\nC=1", "B", Some("2")), "B=2\nC=1");
        assert_eq!(with("C=1", "B", Some("2")), "C=1\nB=2\n");
        assert_eq!(
            with("# B=explained\n", "B", Some("2")),
            "# B=explained\nB=2\n"
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in [
            "wsec_0a",
            "a,b",
            "two words",
            "50%#$",
            "https://your.host/x",
        ] {
            assert_eq!(
                value_in(&with("", "X", Some(value)), "X").as_deref(),
                Some(value)
            );
        }
    }

    #[test]
    fn the_file_is_the_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, "A=1\n").unwrap();
        let mut file = EnvFile::open(&path).unwrap();
        file.set(&[("ELAOMS_TEST_B", Some("2"))]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=1\nELAOMS_TEST_B=2\n");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            MODE
        );
    }
}
