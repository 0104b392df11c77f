//! A PostgreSQL server of a test's own, thrown away with it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::service::until;
use crate::tools;

/// Where Debian keeps the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Nobody else's server listens there.
pub const TLS_ADDRESS: &str = "127.0.7.1";
/// Whom the server runs as where we are root, which it refuses.
const USER: &str = "postgres";

pub struct Postgres {
    folder: TempDir,
    child: Child,
}

impl Postgres {
    /// `None` where PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        if !tools::is_there_or_skipped("postgresql", program("initdb").is_some()) {
            return None;
        }
        let folder = folder_of_the_user().await;
        let data = folder.path().join("data");
        let mut initdb = as_user(&program("initdb").unwrap());
        initdb
            .args(["--auth=trust", "--username=elaoms", "--no-sync", "-D"])
            .arg(&data);
        succeeded(&initdb.output().await.unwrap());
        let settings = data.join("postgresql.auto.conf");
        let mut settings = OpenOptions::new().append(true).open(settings).unwrap();
        writeln!(settings, "listen_addresses = ''").unwrap();
        let child = spawn(folder.path());
        let server = Self { folder, child };
        server.wait().await;
        Some(server)
    }

    /// A new, empty database on it.
    pub async fn database(&self, name: &str) -> String {
        self.run(&format!("CREATE DATABASE {name}")).await;
        self.url(name)
    }

    pub fn url(&self, database: &str) -> String {
        // A socket of its own: ports are given to other tests meanwhile.
        url_at(self.folder.path(), database)
    }

    /// From now on it also listens at [`TLS_ADDRESS`], for those who insist on
    /// TLS. The certificate of the authority that vouches for it.
    pub async fn offer_tls(&mut self) -> PathBuf {
        certificate(&self.folder.path().join("data")).await;
        self.run("ALTER SYSTEM SET ssl = on").await;
        let listen = format!("ALTER SYSTEM SET listen_addresses = '{TLS_ADDRESS}'");
        self.run(&listen).await;
        self.stop().await;
        self.start_again().await;
        let authority = self.folder.path().join("ca.crt");
        std::fs::copy(self.folder.path().join("data/ca.crt"), &authority).unwrap();
        authority
    }

    /// Where its socket is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another server that follows this one, which from now on acknowledges
    /// nothing that the other does not have.
    pub async fn standby(&self) -> Self {
        let folder = folder_of_the_user().await;
        let mut copy = as_user(&program("pg_basebackup").unwrap());
        copy.args([
            "--username=elaoms",
            "--checkpoint=fast",
            "--write-recovery-conf",
        ])
        .arg(format!("--host={}", self.folder.path().display()))
        .arg("--pgdata")
        .arg(folder.path().join("data"));
        succeeded(&copy.output().await.unwrap());
        let child = spawn(folder.path());
        let standby = Self { folder, child };
        standby.wait().await;
        self.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
            .await;
        self.run("SELECT pg_reload_conf()").await;
        until("the standby to follow", async || {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            self.query("postgres", sql).await == "1"
        })
        .await;
        standby
    }

    /// Makes a standby the primary.
    pub async fn promote(&self) {
        self.run("ALTER SYSTEM SET synchronous_standby_names = ''")
            .await;
        self.run("SELECT pg_promote()").await;
    }

    /// Ends the server as a crash would.
    pub async fn stop(&mut self) {
        // SIGQUIT: at once, without a checkpoint.
        let pid = self.child.id().unwrap().to_string();
        let quit = Command::new("kill").args(["-QUIT", &pid]).status();
        assert!(quit.await.unwrap().success());
        self.child.wait().await.unwrap();
    }

    /// Sends a signal to the server and to every process of it.
    pub async fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        // The server first: it begets processes.
        let server = Command::new("kill").args([signal, &pid]).status();
        assert!(server.await.unwrap().success());
        let children = Command::new("pkill").args([signal, "-P", &pid]).status();
        assert!(children.await.unwrap().success());
    }

    pub async fn start_again(&mut self) {
        self.child = spawn(self.folder.path());
        self.wait().await;
    }

    async fn wait(&self) {
        until("PostgreSQL to answer", async || {
            self.psql("postgres", "SELECT 1").await.status.success()
        })
        .await;
    }

    /// What a statement answers, without decoration.
    pub async fn query(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql).await;
        succeeded(&output);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    async fn run(&self, sql: &str) {
        succeeded(&self.psql("postgres", sql).await);
    }

    async fn psql(&self, database: &str, sql: &str) -> Output {
        Command::new(program("psql").unwrap())
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url(database))
            .env("PGCONNECT_TIMEOUT", "5")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap()
    }
}

/// pgbouncer in front of a server, in the mode that lends a connection for one
/// transaction.
pub struct Pooler {
    folder: TempDir,
    _child: Child,
}

impl Pooler {
    /// With so few connections to the server that they change hands all the
    /// time. `None` where pgbouncer is not installed.
    pub async fn start(server: &Postgres) -> Option<Self> {
        let program = Path::new("/usr/sbin/pgbouncer");
        if !tools::is_there_or_skipped("pgbouncer", program.exists()) {
            return None;
        }
        let folder = folder_of_the_user().await;
        let (own, behind) = (folder.path().display(), server.folder.path().display());
        let configuration = folder.path().join("pgbouncer.ini");
        let lines = format!(
            "[databases]\n* = user=elaoms host={behind}\n[pgbouncer]\npool_mode = transaction\ndefault_pool_size = 5\n\
             listen_addr =\nunix_socket_dir = {own}\nlisten_port = 5432\nauth_type = any\n"
        );
        std::fs::write(&configuration, lines).unwrap();
        let mut pooler = as_user(program);
        pooler.arg("-q").arg(&configuration).stderr(Stdio::null());
        let child = pooler.spawn().unwrap();
        let socket = folder.path().join(".s.PGSQL.5432");
        until("pgbouncer to listen", async || socket.exists()).await;
        Some(Self {
            folder,
            _child: child,
        })
    }

    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres://elaoms@localhost/{database}?host={folder}&pool_mode=transaction")
    }
}

/// A folder in which [`USER`] may write where we are root.
async fn folder_of_the_user() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    if rustix::process::geteuid().is_root() {
        let id = async |of: &str| {
            let id = Command::new("id").args([of, USER]).output().await.unwrap();
            String::from_utf8(id.stdout).unwrap().trim().parse().ok()
        };
        chown(folder.path(), id("-u").await, id("-g").await).unwrap();
    }
    folder
}

/// `server.key`, its certificate `server.crt`, and that of the authority,
/// `ca.crt`, in a folder of the server's user.
pub async fn certificate(folder: &Path) {
    let script = format!(
        "set -e
         openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority -keyout ca.key -out ca.crt
         openssl req -newkey rsa:2048 -nodes -subj /CN=postgres -keyout server.key -out server.csr
         echo subjectAltName=IP:{TLS_ADDRESS} > names
         openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile names -out server.crt"
    );
    let mut openssl = Command::new("sh");
    openssl.args(["-c", &script]).current_dir(folder);
    succeeded(&openssl.output().await.unwrap());
    let owner = std::fs::metadata(folder).unwrap();
    let key = folder.join("server.key");
    chown(&key, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// The URL of a database on the server with its socket in this folder.
pub fn url_at(folder: &Path, database: &str) -> String {
    format!(
        "postgres://elaoms@localhost/{database}?host={}",
        folder.display()
    )
}

fn succeeded(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The newest version of a program of the server, which is on no PATH.
fn program(name: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop()
}

/// It ends with the thread that starts it, even if that is killed.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // Its own folder may be closed to the other user.
    command.current_dir("/");
    command
}

fn spawn(folder: &Path) -> Child {
    let mut server = as_user(&program("postgres").unwrap());
    let sockets = format!("unix_socket_directories={}", folder.display());
    server
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-c", &sockets, "-c", "max_connections=200"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    server.spawn().unwrap()
}
