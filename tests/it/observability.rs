//! The operator's side, on a real Prometheus and a real Alertmanager.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use elaoms::clients::Generation;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::fakes::OpenAi;
use crate::openmemory_stand_in::{KEY, OpenMemoryStandIn, Trouble};
use crate::payloads::call;
use crate::service::{AGENT, CALLER, Service, free_port, until};
use crate::tools;

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

async fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(repository())
        .output()
        .await
        .expect("promtool is installed (make tools)");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "promtool {arguments:?}:\n{text}");
    text
}

#[tokio::test]
async fn promtool_finds_no_fault() {
    if !tools::installed(tools::PROMTOOL) {
        return;
    }
    promtool(&["check", "config", "prometheus.yml"]).await;
    promtool(&[
        "check",
        "rules",
        "--lint=all",
        "--lint-fatal",
        "grafana/rules/recording.yml",
        "grafana/rules/alerts.yml",
    ])
    .await;
    promtool(&["test", "rules", "grafana/rules/tests.yml"]).await;

    let service = Service::start().await;
    service
        .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("I like roses."))
        .await;
    let page = service.path("metrics.txt");
    std::fs::write(&page, service.metrics().await).unwrap();
    let linted = format!("promtool check metrics < {}", page.display());
    let output = Command::new("sh")
        .args(["-c", &linted])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && text.trim().is_empty(), "{text}");
}

// --- dashboards ------------------------------------------------------------

pub struct Panel {
    pub dashboard: String,
    pub title: String,
    pub panel: Value,
}

pub fn dashboards() -> Vec<(String, Value)> {
    let mut found: Vec<(String, Value)> =
        std::fs::read_dir(repository().join("grafana/dashboards"))
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                (
                    name,
                    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap(),
                )
            })
            .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

pub fn panels() -> Vec<Panel> {
    let mut panels = Vec::new();
    for (dashboard, content) in dashboards() {
        for panel in content["panels"].as_array().unwrap() {
            if panel["type"] != "row" {
                let title = panel["title"].as_str().unwrap_or_default().to_owned();
                panels.push(Panel {
                    dashboard: dashboard.clone(),
                    title,
                    panel: panel.clone(),
                });
            }
        }
    }
    panels
}

#[test]
fn dashboards_keep_the_linters_rules() {
    let names: Vec<String> = dashboards().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["calls", "overview", "upstreams"]);
    for (name, dashboard) in dashboards() {
        assert_eq!(
            dashboard["uid"],
            format!("elaoms-{name}"),
            "ids are stable: links use them"
        );
        let variables: Vec<&str> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v["name"].as_str().unwrap())
            .collect();
        assert_eq!(variables, ["datasource", "job", "instance"], "{name}");
        let ids: BTreeSet<u64> = dashboard["panels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["id"].as_u64().unwrap())
            .collect();
        assert_eq!(
            ids.len(),
            dashboard["panels"].as_array().unwrap().len(),
            "{name}: ids are unique"
        );
    }
    for Panel {
        dashboard,
        title,
        panel,
    } in panels()
    {
        let place = format!("{dashboard} / {title}");
        assert!(
            !title.is_empty() && panel["description"].as_str().is_some_and(|d| d.len() > 15),
            "{place}"
        );
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{place} has no unit"
        );
        assert!(
            panel["fieldConfig"]["defaults"]["thresholds"]["steps"].is_array(),
            "{place} has no thresholds"
        );
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{place}");
        assert!(
            panel["links"][0]["url"]
                .as_str()
                .unwrap()
                .contains("RUNBOOK.txt"),
            "{place}"
        );
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let selectors = query.matches("elaoms_").count();
            assert_eq!(
                query
                    .matches(r#"{job=~"$job", instance=~"$instance""#)
                    .count(),
                selectors,
                "{place}: {query}"
            );
            // Counters only under rate or increase, over Grafana's own interval
            // or, where a threshold is drawn, over its alert's; or over the time that
            // the title names.
            let named = [("[24h]", "24 hours"), ("[1h]", "an hour")].iter();
            let named = named.filter(|(_, words)| title.contains(words));
            let named: usize = named.map(|(time, _)| query.matches(time).count()).sum();
            let counters = query.matches("_total{").count()
                + query.matches("_bucket{").count()
                + query.matches("_count{").count();
            assert_eq!(
                query.matches("[$__rate_interval]").count()
                    + query.matches("[10m]").count()
                    + named,
                counters,
                "{place}: {query}"
            );
            assert_eq!(
                query.matches("rate(").count() + query.matches("increase(").count(),
                counters,
                "{place}: {query}"
            );
        }
    }
}

#[test]
fn the_guides_rows_are_coloured_by_target_and_threshold() {
    let steps = |title: &str| -> Vec<f64> {
        let all = panels();
        let found = all
            .iter()
            .find(|p| p.dashboard == "overview" && p.title.starts_with(title));
        let panel = &found.unwrap_or_else(|| panic!("{title}")).panel;
        panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|s| s["value"].as_f64())
            .collect()
    };
    assert_eq!(steps("Client-data response time"), [0.2, 0.5]);
    assert_eq!(steps("Post-call processing time"), [30.0, 60.0]);
    assert_eq!(steps("OpenAI success rate"), [0.90, 0.95]);
    assert_eq!(steps("Agent cache hit rate"), [0.60, 0.80]);
    assert_eq!(steps("Tier 1 query success"), [0.95, 0.99]);
    assert_eq!(steps("Tier 2 query success"), [0.95, 0.99]);
}

pub fn rules(file: &str) -> String {
    std::fs::read_to_string(repository().join("grafana/rules").join(file)).unwrap()
}

#[test]
fn every_alert_has_a_section_in_the_runbook() {
    let runbook = std::fs::read_to_string(repository().join("grafana/RUNBOOK.md")).unwrap();
    let alerts = rules("alerts.yml");
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 15);
    for name in names {
        let section = runbook
            .split("\n## ")
            .find(|s| s.lines().next() == Some(name));
        let section = section.unwrap_or_else(|| panic!("no section for {name}"));
        for part in ["**To a caller", "**See", "**Do", "**Never"] {
            assert!(section.contains(part), "{name} lacks {part}");
        }
        assert!(
            alerts.contains(&format!("RUNBOOK.txt#:~:text=%23%23%20{name}\"")),
            "{name}"
        );
    }
}

// --- a real Prometheus -----------------------------------------------------

struct Prometheus {
    url: String,
    http: reqwest::Client,
    _child: Child,
    _folder: TempDir,
}

fn form_encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

impl Prometheus {
    /// Loads our own configuration, with the target's real address, scraping
    /// every second; `edit` may change the rules.
    async fn start(target: &str, alertmanager: u16, edit: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["recording.yml", "alerts.yml"] {
            std::fs::write(folder.path().join(file), edit(rules(file))).unwrap();
        }
        let config = std::fs::read_to_string(repository().join("prometheus.yml")).unwrap();
        let replaced = [
            ("127.0.0.1:9464", target.strip_prefix("http://").unwrap()),
            ("127.0.0.1:9093", &format!("127.0.0.1:{alertmanager}")),
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("grafana/rules/", ""),
        ]
        .into_iter()
        .fold(config, |config, (ours, tests)| {
            assert!(config.contains(ours), "{ours}");
            config.replace(ours, tests)
        });
        std::fs::write(folder.path().join("prometheus.yml"), replaced).unwrap();
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--storage.tsdb.path=data")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus is installed (make tools)");
        let http = elaoms::clients::client_builder()
            .no_proxy()
            .build()
            .unwrap();
        let prometheus = Self {
            url: format!("http://127.0.0.1:{port}"),
            http,
            _child: child,
            _folder: folder,
        };
        until("Prometheus", async || {
            prometheus
                .http
                .get(format!("{}/-/ready", prometheus.url))
                .send()
                .await
                .is_ok_and(|r| r.status() == 200)
        })
        .await;
        let log = std::fs::read_to_string(prometheus._folder.path().join("log")).unwrap();
        let complaints: Vec<&str> = log
            .lines()
            .filter(|l| l.contains("level=warn") || l.contains("level=error"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:?}");
        prometheus
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        let request = self
            .http
            .post(format!("{}/api/v1/query", self.url))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(format!("query={}", form_encoded(query)));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// pending, firing or none.
    async fn alert(&self, name: &str) -> String {
        let found = self.query(&format!("ALERTS{{alertname=\"{name}\"}}")).await;
        let states: Vec<&str> = found
            .iter()
            .filter_map(|a| a["metric"]["alertstate"].as_str())
            .collect();
        if states.contains(&"firing") {
            "firing".into()
        } else {
            states.first().copied().unwrap_or("none").into()
        }
    }

    async fn wait_for_alert(&self, name: &str, state: &str) {
        let end = tokio::time::Instant::now() + Duration::from_secs(90);
        loop {
            let now = self.alert(name).await;
            if now == state {
                return;
            }
            assert!(
                tokio::time::Instant::now() < end,
                "{name} is {now}, not {state}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Traffic that touches every webhook, OpenAI, ElevenLabs and the store.
async fn traffic(service: &Service, round: usize) {
    for i in 0..5 {
        let caller = format!("+1612555{round:02}{i:02}");
        service.ring(&caller, AGENT).await;
        let said = call(&format!("conv_{round}_{i}"), AGENT, &caller).caller("I like roses.");
        service.end_call(&said).await;
        service.search(&caller, AGENT, "roses").await;
        service.ring(&caller, AGENT).await;
    }
    service.client_data().body("{").send().await.unwrap();
}

/// A dashboard's expression with its variables filled in.
fn for_everything(query: &str) -> String {
    query
        .replace("$__rate_interval", "30s")
        .replace("$job", ".+")
        .replace("$instance", ".+")
}

/// What the alert list of the overview shows: the state of each alert.
async fn alert_list(prometheus: &Prometheus) -> Vec<(String, String)> {
    let panels = panels();
    let panel = panels.iter().find(|p| p.panel["type"] == "table").unwrap();
    let query = panel.panel["targets"][0]["expr"].as_str().unwrap();
    let found = prometheus.query(&for_everything(query)).await;
    found
        .iter()
        .map(|row| {
            let label = |name: &str| row["metric"][name].as_str().unwrap().to_owned();
            (label("alertname"), label("alertstate"))
        })
        .collect()
}

/// Expressions that rightly have no value in a healthy service.
const MAY_BE_EMPTY: &[&str] = &[
    // No alert; a version is new for two minutes only, a restart is rare.
    "ALERTS{",
    "unless elaoms_build_info",
    "increase(elaoms_actor_restarts_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_has_data_on_a_real_prometheus() {
    if !tools::installed(tools::PROMETHEUS) {
        return;
    }
    let service = Service::start().await;
    service.upstream.add_agent(AGENT, true, json!({}));
    let prometheus = Prometheus::start(&service.ops, free_port(), |rules| rules).await;
    for round in 0..12 {
        traffic(&service, round).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    service.settle().await;
    tokio::time::sleep(Duration::from_secs(3)).await;

    let mut expressions: Vec<(String, String)> = Vec::new();
    for Panel {
        dashboard,
        title,
        panel,
    } in panels()
    {
        for target in panel["targets"].as_array().unwrap() {
            expressions.push((
                format!("{dashboard} / {title}"),
                target["expr"].as_str().unwrap().to_owned(),
            ));
        }
    }
    for (name, dashboard) in dashboards() {
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            if let Some(query) = annotation["target"]["expr"].as_str() {
                expressions.push((format!("{name} / annotation"), query.to_owned()));
            }
        }
    }
    for line in rules("recording.yml")
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- record: "))
    {
        expressions.push(("recording rule".into(), line.to_owned()));
    }
    assert!(expressions.len() > 50);
    for (place, query) in expressions {
        let exempt = place.contains("annotation") || query.starts_with("ALERTS{");
        if exempt && MAY_BE_EMPTY.iter().any(|part| query.contains(part)) {
            continue;
        }
        let query = for_everything(&query);
        let found = prometheus.query(&query).await;
        assert!(!found.is_empty(), "{place} has no data: {query}");
        let numbers = found
            .iter()
            .all(|r| r["value"][1].as_str().is_some_and(|v| v != "NaN"));
        assert!(
            numbers || query.contains("histogram_quantile"),
            "{place}: {found:?}"
        );
    }
    // Each side of each comparison of each alert has data, so that it can fire.
    let rules: Value = prometheus
        .http
        .get(format!("{}/api/v1/rules?type=alert", prometheus.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    for rule in rules["data"]["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
        let metrics: BTreeSet<&str> = rule["query"]
            .as_str()
            .unwrap()
            .split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
            .filter(|word| word.contains("elaoms_") && !word.contains("elaoms_inbox_oldest"))
            .collect();
        for metric in metrics {
            assert!(
                !prometheus.query(metric).await.is_empty(),
                "{}: {metric} has no data",
                rule["name"]
            );
        }
    }
    assert!(prometheus.query("up{job=\"elaoms\"} == 1").await.len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_and_agents_add_no_series() {
    let service = Service::start_with(&[
        ("RUST_LOG", "warn,elaoms::cli=info"),
        ("ELEVENLABS_API_KEY", ""),
    ])
    .await;
    traffic(&service, 0).await;
    service.settle().await;
    let series = async || {
        service
            .metrics()
            .await
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
            .count()
    };
    let before = series().await;
    let service = &service;
    let rings = stream::iter(0..10_000).map(|i| async move {
        service
            .ring(&format!("+1613{i:07}"), &format!("agent_{}", i % 50))
            .await;
    });
    rings.buffer_unordered(64).collect::<Vec<_>>().await;
    assert_eq!(
        service
            .metrics()
            .await
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
            .count(),
        before
    );
}

// --- the fault drill ---------------------------------------------------------

/// Minutes become seconds: the same rules over shortened windows.
fn shortened(rules: String) -> String {
    let rules = [
        ("[5m]", "[10s]"),
        ("[30m]", "[20s]"),
        ("[10m]", "[10s]"),
        ("[15m]", "[10s]"),
    ]
    .into_iter()
    .fold(rules, |rules, (long, short)| rules.replace(long, short));
    rules
        .lines()
        .map(|line| match line.trim_start() {
            t if t.starts_with("for: ") => "        for: 2s".to_owned(),
            t if t.starts_with("keep_firing_for: ") => "        keep_firing_for: 2s".to_owned(),
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

struct Alertmanager {
    url: String,
    port: u16,
    http: reqwest::Client,
    _child: Child,
    _folder: TempDir,
}

impl Alertmanager {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = repository().join("deploy/alertmanager.yml");
        let port = free_port();
        let program = tools::find(tools::ALERTMANAGER).unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let http = elaoms::clients::client_builder()
            .no_proxy()
            .build()
            .unwrap();
        let manager = Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            http,
            _child: child,
            _folder: folder,
        };
        until("Alertmanager", async || {
            manager
                .http
                .get(format!("{}/-/ready", manager.url))
                .send()
                .await
                .is_ok()
        })
        .await;
        manager
    }

    async fn wait_for(&self, alert: &str) {
        until(&format!("{alert} at Alertmanager"), async || {
            let alerts = self
                .http
                .get(format!("{}/api/v2/alerts", self.url))
                .send()
                .await
                .unwrap();
            let alerts: Value = alerts.json().await.unwrap();
            alerts.as_array().unwrap().iter().any(|a| {
                a["labels"]["alertname"] == alert
                    && a["annotations"]["runbook_url"]
                        .as_str()
                        .is_some_and(|u| u.contains("RUNBOOK.txt#"))
                    && a["annotations"]["description"]
                        .as_str()
                        .is_some_and(|d| !d.contains("{{"))
            })
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_raise_the_right_alerts_and_their_end_resolves_them() {
    if !(tools::installed(tools::PROMETHEUS) && tools::installed(tools::ALERTMANAGER)) {
        return;
    }
    let openmemory = OpenMemoryStandIn::start(Generation::First).await;
    let url = openmemory.url();
    let mut service = Service::start_with(&[
        ("OPENMEMORY_PORT", &url),
        ("OPENMEMORY_KEY", KEY),
        ("CLIENT_DATA_DEADLINE_MS", "300"),
    ])
    .await;
    service.upstream.add_agent(AGENT, true, json!({}));
    let manager = Alertmanager::start().await;
    let prometheus = Prometheus::start(&service.ops, manager.port, shortened).await;

    // Calls of new callers all the while: each is read, learned and greeted.
    let rounds = std::sync::atomic::AtomicU32::new(0);
    let keep_calling = async |service: &Service, agent: &str, seconds: u64| {
        let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
        while tokio::time::Instant::now() < end {
            let i = rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let caller = format!("+1614{i:07}");
            service.ring(&caller, agent).await;
            service
                .end_call(&call(&format!("conv_{i}"), agent, &caller).caller("I like roses."))
                .await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Until the first scrape there is no target.
    prometheus.wait_for_alert("ElaomsDown", "none").await;
    keep_calling(&service, AGENT, 5).await;
    for quiet in [
        "ElaomsOpenAiFailing",
        "ElaomsTierOneFailing",
        "ElaomsAgentCacheMissing",
    ] {
        assert_eq!(prometheus.alert(quiet).await, "none", "{quiet}");
    }

    service.upstream.set_openai(OpenAi {
        status: 500,
        ..OpenAi::default()
    });
    let calls = keep_calling(&service, AGENT, 20);
    tokio::join!(
        calls,
        prometheus.wait_for_alert("ElaomsOpenAiFailing", "firing")
    );
    manager.wait_for("ElaomsOpenAiFailing").await;
    let raised = ("ElaomsOpenAiFailing".to_owned(), "firing".to_owned());
    let listed = alert_list(&prometheus).await;
    assert!(listed.contains(&raised), "{listed:?}");
    assert_eq!(prometheus.alert("ElaomsTierOneFailing").await, "none");
    service.upstream.set_openai(OpenAi::default());

    openmemory.set_trouble(Trouble::Status(500));
    let calls = keep_calling(&service, AGENT, 15);
    tokio::join!(
        calls,
        prometheus.wait_for_alert("ElaomsTierOneFailing", "firing")
    );
    manager.wait_for("ElaomsTierOneFailing").await;
    openmemory.set_trouble(Trouble::None);

    // ElevenLabs knows this agent no more.
    let calls = keep_calling(&service, "agent_gone", 15);
    tokio::join!(
        calls,
        prometheus.wait_for_alert("ElaomsAgentCacheMissing", "firing")
    );
    manager.wait_for("ElaomsAgentCacheMissing").await;

    let calls = keep_calling(&service, AGENT, 25);
    let resolved = async {
        for name in [
            "ElaomsOpenAiFailing",
            "ElaomsTierOneFailing",
            "ElaomsAgentCacheMissing",
        ] {
            prometheus.wait_for_alert(name, "none").await;
        }
    };
    tokio::join!(calls, resolved);

    service.terminate().await;
    prometheus.wait_for_alert("ElaomsDown", "firing").await;
    manager.wait_for("ElaomsDown").await;
}

// --- logs --------------------------------------------------------------------

#[tokio::test]
async fn a_call_can_be_followed_through_the_log_and_callers_appear_as_wished() {
    for (format, shown) in [
        ("full", Some("+16125550101")),
        ("masked", Some("+16*******01")),
        ("hashed", None),
    ] {
        let service =
            Service::start_with(&[("LOG_FORMAT", "json"), ("LOG_CALLER_IDS", format)]).await;
        service
            .end_call_and_settle(&call("conv_1", AGENT, CALLER).caller("I like roses."))
            .await;
        service.search(CALLER, AGENT, "roses").await;
        service.wait_for_log("Stored agent-specific state").await;
        let log = service.log();
        let lines: Vec<Value> = log
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .collect();
        for phrase in [
            "Processing memories",
            "Updated universal profile",
            "Generating next greeting",
            "Stored agent-specific state",
        ] {
            let line = lines
                .iter()
                .find(|l| l["message"].as_str().is_some_and(|m| m.starts_with(phrase)));
            let span = &line.unwrap_or_else(|| panic!("{phrase} is not in\n{log}"))["span"];
            assert_eq!(
                (&span["name"], &span["conversation"], &span["agent"]),
                (&json!("post-call"), &json!("conv_1"), &json!(AGENT))
            );
            let caller = span["caller"].as_str().unwrap();
            assert_eq!(shown.unwrap_or(caller), caller);
        }
        assert_eq!(log.contains(CALLER), format == "full", "{log}");
    }
}
