//! The SQL database that holds the ledger, the register, and, unless a memory
//! engine does, the memories.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::{
    Ledger, MemoryStore, PostgresDatabase, PostgresLedger, PostgresMemoryStore, PostgresRegister,
    PostgresVectorStore, Register, Result, SqliteDatabase, SqliteLedger, SqliteMemoryStore,
    SqliteRegister, SqliteVectorStore, VectorStore,
};

/// `DATABASE_URL`
#[derive(Debug, Clone)]
pub enum DatabaseUrl {
    /// A file of one instance.
    Sqlite(PathBuf),
    /// A server that several instances share. The URL may hold a password.
    Postgres(SecretString),
}

impl DatabaseUrl {
    /// `sqlite://path/to/file.db` or `postgres://…`; `None` if it is neither.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Some(Self::Postgres(url.into()));
        }
        let file = url
            .strip_prefix("sqlite://")
            .or_else(|| url.strip_prefix("sqlite:"))?;
        (!file.is_empty() && !file.contains('?')).then(|| Self::Sqlite(file.into()))
    }

    /// The database file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(file) => Some(file),
            Self::Postgres(_) => None,
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => file.display().fmt(f),
            Self::Postgres(_) => f.write_str("the PostgreSQL database"),
        }
    }
}

/// An open database. Cheap to clone.
#[derive(Clone)]
pub enum Database {
    Sqlite(SqliteDatabase),
    Postgres(PostgresDatabase),
}

impl Database {
    /// Opens it, making or migrating it as needed.
    ///
    /// # Errors
    /// As [`SqliteDatabase::open`] or [`PostgresDatabase::open`].
    pub async fn open(url: &DatabaseUrl) -> Result<Self> {
        Ok(match url {
            DatabaseUrl::Sqlite(file) => Self::Sqlite(SqliteDatabase::open(file)?),
            DatabaseUrl::Postgres(url) => {
                Self::Postgres(PostgresDatabase::open(url.expose_secret()).await?)
            }
        })
    }

    /// As [`Self::open`], for commands that work on what a service keeps: none is
    /// made where there is none.
    ///
    /// # Errors
    /// If there is none, or as [`Self::open`].
    pub async fn open_existing(url: &DatabaseUrl) -> Result<Self> {
        Ok(match url {
            DatabaseUrl::Sqlite(file) => Self::Sqlite(SqliteDatabase::open_existing(file)?),
            DatabaseUrl::Postgres(url) => {
                Self::Postgres(PostgresDatabase::open_existing(url.expose_secret()).await?)
            }
        })
    }

    /// The inbox, dead letters and agent profiles in it.
    #[must_use]
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        match self.clone() {
            Self::Sqlite(database) => Arc::new(SqliteLedger::new(database)),
            Self::Postgres(database) => Arc::new(PostgresLedger::new(database)),
        }
    }

    /// What operators decided and did, in it.
    #[must_use]
    pub fn register(&self) -> Arc<dyn Register> {
        match self.clone() {
            Self::Sqlite(database) => Arc::new(SqliteRegister::new(database)),
            Self::Postgres(database) => Arc::new(PostgresRegister::new(database)),
        }
    }

    /// Vectors of memories in it, wherever the memories are.
    #[must_use]
    pub fn vector_store(&self) -> Arc<dyn VectorStore> {
        match self.clone() {
            Self::Sqlite(database) => Arc::new(SqliteVectorStore::new(database)),
            Self::Postgres(database) => Arc::new(PostgresVectorStore::new(database)),
        }
    }

    /// Both tiers and memories in it.
    #[must_use]
    pub fn memory_store(&self) -> Arc<dyn MemoryStore> {
        match self.clone() {
            Self::Sqlite(database) => Arc::new(SqliteMemoryStore::new(database)),
            Self::Postgres(database) => Arc::new(PostgresMemoryStore::new(database)),
        }
    }

    /// Finishes what is under way and closes it, within a few seconds or not at
    /// all. Later operations fail.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.close().await,
        }
    }
}
