//! The first start of the monitoring on paper: whatever one file of `deploy/`
//! and `grafana/` names, another provides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::observability::{dashboards, panels, repository, rules};
use crate::tools;

/// Where Grafana's image serves files without a login, as `/public/…`.
const GRAFANA_PUBLIC: &str = "/usr/share/grafana/public";

fn read(path: impl AsRef<Path>) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

/// A file or folder of the repository as a container sees it.
struct Mount {
    source: PathBuf,
    target: String,
}

struct Compose(Value);

impl Compose {
    fn read() -> Self {
        Self(yaml("deploy/compose.yaml"))
    }

    fn services(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0["services"].as_object().unwrap().iter()
    }

    fn mounts(&self, service: &str) -> Vec<Mount> {
        strings(&self.0["services"][service]["volumes"])
            .iter()
            .filter(|volume| volume.starts_with('.'))
            .map(|volume| {
                let mut parts = volume.split(':');
                Mount {
                    source: repository().join("deploy").join(parts.next().unwrap()),
                    target: parts.next().unwrap().to_owned(),
                }
            })
            .collect()
    }

    /// What a container finds at a path, in the repository.
    fn resolve(&self, service: &str, path: &str) -> PathBuf {
        let found = self.mounts(service).into_iter().find_map(|mount| {
            let rest = Path::new(path).strip_prefix(&mount.target).ok()?;
            Some(if rest.as_os_str().is_empty() {
                mount.source
            } else {
                mount.source.join(rest)
            })
        });
        let found = found.unwrap_or_else(|| panic!("nothing is mounted at {path} in {service}"));
        assert!(found.exists(), "{path} in {service}: {}", found.display());
        found
    }

    fn environment(&self, service: &str) -> BTreeMap<String, String> {
        let variables = self.0["services"][service]["environment"].as_object();
        variables
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
            .collect()
    }

    /// The value of `--name=value` on the command line of a service.
    fn flag(&self, service: &str, name: &str) -> String {
        strings(&self.0["services"][service]["command"])
            .iter()
            .find_map(|word| word.strip_prefix(&format!("--{name}=")))
            .unwrap_or_else(|| panic!("{service} has no --{name}"))
            .to_owned()
    }
}

/// Names of the variables that a provisioning file reads.
fn variables(text: &str) -> BTreeSet<String> {
    text.split("${")
        .skip(1)
        .map(|rest| rest.split('}').next().unwrap().to_owned())
        .collect()
}

fn provisioning() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for kind in ["datasources", "dashboards"] {
        let folder = repository().join("grafana/provisioning").join(kind);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            files.push((path.clone(), read(path)));
        }
    }
    files
}

#[test]
fn every_mount_exists_and_every_volume_is_declared() {
    let compose = Compose::read();
    for (name, service) in compose.services() {
        for mount in compose.mounts(name) {
            assert!(mount.source.exists(), "{name}: {}", mount.source.display());
        }
        for volume in strings(&service["volumes"]) {
            let source = volume.split(':').next().unwrap();
            let declared = compose.0["volumes"].get(source).is_some();
            assert!(source.starts_with('.') || declared, "{name}: {source}");
        }
    }
}

#[test]
fn every_file_that_a_service_is_told_to_read_is_mounted() {
    let compose = Compose::read();
    for service in ["prometheus", "alertmanager"] {
        compose.resolve(service, &compose.flag(service, "config.file"));
    }
    // Prometheus looks for its rules beside its configuration.
    let config = compose.flag("prometheus", "config.file");
    let folder = Path::new(&config).parent().unwrap();
    for file in strings(&yaml("prometheus.yml")["rule_files"]) {
        compose.resolve("prometheus", folder.join(&file).to_str().unwrap());
        assert!(repository().join(&file).exists(), "{file}");
    }
    let environment = compose.environment("grafana");
    compose.resolve(
        "grafana",
        &environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"],
    );
}

#[test]
fn grafana_gets_each_variable_that_it_reads_and_no_other() {
    let compose = Compose::read();
    let read: BTreeSet<String> = provisioning()
        .iter()
        .flat_map(|(_, text)| variables(text))
        .collect();
    let passed: BTreeSet<String> = compose
        .environment("grafana")
        .into_keys()
        // Grafana's own settings.
        .filter(|name| !name.starts_with("GF_"))
        .collect();
    assert_eq!(read, passed);
    let readme = self::read("README.md");
    for variable in read {
        assert!(
            readme.contains(&variable),
            "README does not name {variable}"
        );
    }
}

#[test]
fn every_provisioned_path_is_mounted() {
    let compose = Compose::read();
    let environment = compose.environment("grafana");
    for (path, text) in provisioning() {
        let folder = path
            .parent()
            .unwrap()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        compose.resolve(
            "grafana",
            &format!("/etc/grafana/provisioning/{folder}/{file}"),
        );
        let content: Value = serde_saphyr::from_str(&text).unwrap();
        for provider in content["providers"].as_array().into_iter().flatten() {
            let path = provider["options"]["path"].as_str().unwrap();
            let path = path.replace("${ELAOMS_DASHBOARDS}", &environment["ELAOMS_DASHBOARDS"]);
            let dashboards = compose.resolve("grafana", &path);
            assert!(dashboards.join("overview.json").exists());
        }
    }
}

#[test]
fn every_data_source_that_a_dashboard_asks_for_is_provisioned() {
    let mut provisioned: BTreeMap<String, Value> = BTreeMap::new();
    for (_, text) in provisioning() {
        let content: Value = serde_saphyr::from_str(&text).unwrap();
        for source in content["datasources"].as_array().into_iter().flatten() {
            provisioned.insert(source["uid"].as_str().unwrap().to_owned(), source.clone());
        }
    }
    let scrape = yaml("prometheus.yml")["global"]["scrape_interval"].clone();
    for source in provisioned.values() {
        assert_eq!(source["editable"], false, "{source}");
        if source["type"] == "prometheus" {
            assert_eq!(source["jsonData"]["timeInterval"], scrape);
            assert_eq!(source["jsonData"]["manageAlerts"], true);
            let alertmanager = source["jsonData"]["alertmanagerUid"].as_str().unwrap();
            assert_eq!(provisioned[alertmanager]["type"], "alertmanager");
        }
    }
    let default: Vec<&Value> = provisioned
        .values()
        .filter(|s| s["isDefault"] == true)
        .collect();
    assert_eq!(default.len(), 1);

    for (name, dashboard) in dashboards() {
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!(variable["name"], "datasource");
        let uid = variable["current"]["value"].as_str().unwrap();
        let source = provisioned
            .get(uid)
            .unwrap_or_else(|| panic!("{name} asks for {uid}"));
        assert_eq!(source["type"], variable["query"]);
        assert_eq!(source["name"], variable["current"]["text"]);
    }
}

#[test]
fn every_port_agrees() {
    let compose = Compose::read();
    let environment = compose.environment("grafana");
    let config = yaml("prometheus.yml");
    let prometheus = compose.flag("prometheus", "web.listen-address");
    assert_eq!(
        environment["PROMETHEUS_URL"],
        format!("http://{prometheus}")
    );
    let alertmanager = compose.flag("alertmanager", "web.listen-address");
    assert_eq!(
        environment["ALERTMANAGER_URL"],
        format!("http://{alertmanager}")
    );
    let named = &config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"][0];
    assert_eq!(named, &Value::from(alertmanager));
    let target = &config["scrape_configs"][0]["static_configs"][0]["targets"][0];
    let target = target.as_str().unwrap();
    assert!(read(".env.example").contains(&format!("OPS_ADDR={target}")));
    assert!(read("README.md").contains(&format!("(default `{target}`)")));
    let job = config["scrape_configs"][0]["job_name"].as_str().unwrap();
    assert!(rules("alerts.yml").contains(&format!("up{{job=\"{job}\"}}")));
}

#[test]
fn every_link_opens_the_runbook_at_its_section() {
    let compose = Compose::read();
    let runbook = read("grafana/RUNBOOK.md");
    let host = &compose.environment("grafana")["GF_SERVER_HTTP_ADDR"];
    let grafana = format!("http://{host}:3000");

    let mut links: Vec<String> = rules("alerts.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook_url: "))
        .map(|link| link.trim_matches('"').to_owned())
        .collect();
    assert!(links.len() > 15);
    for link in &links {
        assert!(link.starts_with(&grafana), "{link}");
    }
    for panel in panels() {
        // Relative: wherever Grafana is.
        let link = panel.panel["links"][0]["url"].as_str().unwrap();
        links.push(format!("{grafana}{link}"));
        for over in panel.panel["fieldConfig"]["overrides"].as_array().unwrap() {
            for property in over["properties"].as_array().unwrap() {
                for link in property["value"].as_array().into_iter().flatten() {
                    if let Some(url) = link["url"].as_str() {
                        let url = url.replace("${__value.text}", "ElaomsDown");
                        links.push(format!("{grafana}{url}"));
                    }
                }
            }
        }
    }
    for link in links {
        let path = link.strip_prefix(&grafana).unwrap();
        let (path, fragment) = path.split_once('#').unwrap_or((path, ""));
        let file = path.strip_prefix("/public").expect(path);
        let found = compose.resolve("grafana", &format!("{GRAFANA_PUBLIC}{file}"));
        assert_eq!(std::fs::read_to_string(found).unwrap(), runbook);
        if let Some(text) = fragment.strip_prefix(":~:text=") {
            let heading = text.replace("%23", "#").replace("%20", " ");
            assert!(runbook.lines().any(|l| l == heading), "{link}");
        } else {
            assert!(fragment.is_empty(), "{link}");
        }
    }
}

// --- Alertmanager ------------------------------------------------------------

fn amtool(arguments: &[&str]) {
    let output = Command::new("amtool").args(arguments).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "amtool {arguments:?}:\n{text}");
}

#[test]
fn alertmanager_pages_what_is_critical_and_leaves_the_rest_for_the_morning() {
    if !tools::installed(tools::AMTOOL) {
        return;
    }
    let path = repository().join("deploy/alertmanager.yml");
    let path = path.to_str().unwrap();
    amtool(&["check-config", path]);
    for rule in yaml("grafana/rules/alerts.yml")["groups"][0]["rules"]
        .as_array()
        .unwrap()
    {
        let severity = rule["labels"]["severity"].as_str().unwrap();
        let receiver = if severity == "critical" {
            "page"
        } else {
            "morning"
        };
        amtool(&[
            "config",
            "routes",
            "test",
            &format!("--config.file={path}"),
            &format!("--verify.receivers={receiver}"),
            &format!("alertname={}", rule["alert"].as_str().unwrap()),
            &format!("severity={severity}"),
            "job=elaoms",
        ]);
    }
}

#[test]
fn the_commented_receivers_are_valid_once_uncommented() {
    if !tools::installed(tools::AMTOOL) {
        return;
    }
    let text = read("deploy/alertmanager.yml");
    let (head, receivers) = text.split_once("\nreceivers:\n").unwrap();
    let uncommented = receivers.replace("\n    # ", "\n    ");
    assert_ne!(receivers, uncommented);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alertmanager.yml");
    std::fs::write(&path, format!("{head}\nreceivers:\n{uncommented}")).unwrap();
    amtool(&["check-config", path.to_str().unwrap()]);
}

#[test]
fn inhibition_names_alerts_that_exist_and_never_in_a_circle() {
    let all: Vec<String> = yaml("grafana/rules/alerts.yml")["groups"][0]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["alert"].as_str().unwrap().to_owned())
        .collect();
    let named = |matchers: &Value| -> Vec<String> {
        let matcher = strings(matchers).concat();
        let (operator, names) = matcher
            .trim_start_matches("alertname ")
            .split_once(' ')
            .unwrap();
        let names: Vec<String> = names
            .trim_matches('"')
            .split('|')
            .map(str::to_owned)
            .collect();
        for name in &names {
            assert!(all.contains(name), "there is no alert {name}");
        }
        if operator == "!=" {
            all.iter().filter(|a| !names.contains(a)).cloned().collect()
        } else {
            names
        }
    };
    let mut silences: BTreeSet<(String, String)> = BTreeSet::new();
    for rule in yaml("deploy/alertmanager.yml")["inhibit_rules"]
        .as_array()
        .unwrap()
    {
        for source in named(&rule["source_matchers"]) {
            for target in named(&rule["target_matchers"]) {
                silences.insert((source.clone(), target));
            }
        }
    }
    for (source, target) in &silences {
        assert!(
            !silences.contains(&(target.clone(), source.clone())),
            "{source} and {target} silence each other"
        );
    }
    for follows in ["ElaomsPostCallSlow", "ElaomsTierTwoFailing"] {
        let pair = ("ElaomsTierOneFailing".to_owned(), follows.to_owned());
        assert!(silences.contains(&pair), "{follows}");
    }
}

// --- dashboards show alerts --------------------------------------------------

#[test]
fn overview_begins_with_the_alerts_and_the_guides_targets_in_one_line() {
    let (_, overview) = dashboards()
        .into_iter()
        .find(|(name, _)| name == "overview")
        .unwrap();
    let first = &overview["panels"][0];
    assert_eq!(
        (&first["type"], &first["gridPos"]["y"]),
        (&"table".into(), &0.into())
    );
    let query = first["targets"][0]["expr"].as_str().unwrap();
    assert!(query.starts_with("ALERTS{"), "{query}");

    // One term a row of the guide, each compared with the guide's target.
    let query = overview["panels"][1]["targets"][0]["expr"]
        .as_str()
        .unwrap();
    for target in [
        ">= 0.2,", ">= 0.2)", ">= 30)", "<= 0.95)", "<= 0.8)", "<= 0.99)",
    ] {
        let found = query.contains(target);
        assert_eq!(found, target != ">= 0.2,", "{target} in {query}");
    }
    assert_eq!(query.matches("clamp_max(").count(), 6);

    for (name, dashboard) in dashboards() {
        let marked = dashboard["annotations"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|a| a["target"]["expr"].as_str())
            .any(|query| query.contains(r#"ALERTS{alertstate="firing""#));
        assert!(marked, "{name} does not mark alerts");
    }
}

/// Time series of what an alert watches: dashboard, title, alert, threshold.
const WATCHED: &[(&str, &str, &str, &str)] = &[
    (
        "calls",
        "Processing time by outcome (p95)",
        "ElaomsPostCallSlow",
        "60",
    ),
    (
        "calls",
        "Oldest open event",
        "ElaomsOldestPendingTooOld",
        "3600",
    ),
    ("calls", "Restarts of actors", "ElaomsActorRestarts", "5"),
    ("calls", "Disk of the database", "ElaomsDiskFilling", "0.05"),
    (
        "upstreams",
        "Wait for the rate limiter (p95)",
        "ElaomsOpenAiLimiterWait",
        "60",
    ),
];

#[test]
fn a_watched_figure_draws_its_alerts_threshold() {
    let alerts = yaml("grafana/rules/alerts.yml");
    let alerts = alerts["groups"][0]["rules"].as_array().unwrap();
    let all = panels();
    for (dashboard, title, alert, threshold) in WATCHED {
        let panel = all
            .iter()
            .find(|p| p.dashboard == *dashboard && p.title == *title)
            .unwrap_or_else(|| panic!("{dashboard} / {title}"));
        let rule = alerts.iter().find(|r| r["alert"] == *alert).unwrap();
        let expr = rule["expr"].as_str().unwrap();
        let compared =
            expr.contains(&format!("> {threshold}")) || expr.contains(&format!("< {threshold}"));
        assert!(compared, "{alert} is not at {threshold}: {expr}");
        let defaults = &panel.panel["fieldConfig"]["defaults"];
        let steps = defaults["thresholds"]["steps"].as_array().unwrap();
        let value: f64 = threshold.parse().unwrap();
        assert!(
            steps
                .iter()
                .any(|s| s["value"] == value || s["value"].as_f64() == Some(value)),
            "{title}"
        );
        assert_eq!(
            defaults["custom"]["thresholdsStyle"]["mode"], "dashed",
            "{title}"
        );
    }
    // The cap of sessions differs between instances: its alert is a series.
    let sessions = all.iter().find(|p| p.title == "Caller sessions").unwrap();
    let queries = sessions.panel["targets"].as_array().unwrap();
    let drawn = queries
        .iter()
        .filter_map(|t| t["expr"].as_str())
        .any(|q| q.starts_with("0.95 * ") && q.contains("elaoms_sessions_max"));
    assert!(drawn);
    for panel in &all {
        let defaults = &panel.panel["fieldConfig"]["defaults"];
        let steps = defaults["thresholds"]["steps"].as_array().unwrap().len();
        if panel.panel["type"] == "timeseries" && steps > 1 {
            let style = &defaults["custom"]["thresholdsStyle"]["mode"];
            assert_eq!(style, "dashed", "{} / {}", panel.dashboard, panel.title);
        }
    }
}
