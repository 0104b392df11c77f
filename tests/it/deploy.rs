//! The examples in `deploy/` fit the program: settings, ports, routes, files.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::observability::repository;
use crate::service::Service;

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The documents of the manifests, by kind.
fn manifest(kind: &str) -> Value {
    let text = read("deploy/kubernetes.yaml");
    let all = text
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    let mut found = all.filter(|document| document["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind}"))
}

/// What `.env.example` explains.
fn settings() -> BTreeSet<String> {
    let text = read(".env.example");
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let names = lines.map(|(name, _)| name.trim_start_matches('#').to_owned());
    names.collect()
}

#[test]
fn every_setting_in_the_examples_is_one() {
    let known = settings();
    let deployment = manifest("Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let named = container["env"].as_array().unwrap().iter();
    let mut used: Vec<String> = named
        .map(|e| e["name"].as_str().unwrap().to_owned())
        .collect();
    let secret = manifest("Secret");
    used.extend(secret["stringData"].as_object().unwrap().keys().cloned());
    let image = read("deploy/Dockerfile");
    let environment = image.split("ENV ").nth(1).unwrap();
    let lines = environment.lines().take_while(|line| line.contains('='));
    used.extend(lines.map(|line| line.trim().split_once('=').unwrap().0.to_owned()));
    assert!(used.len() > 12, "{used:?}");
    for name in used {
        assert!(known.contains(&name), "{name} is no setting");
    }
}

#[tokio::test]
async fn probes_ask_for_routes_that_there_are_at_ports_that_are_open() {
    let service = Service::start().await;
    let deployment = manifest("Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let ports = container["ports"].as_array().unwrap();
    let number = |name: &Value| {
        let port = ports.iter().find(|port| port["name"] == *name);
        port.unwrap_or_else(|| panic!("{name}"))["containerPort"].clone()
    };
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(number(&get["port"]), 9464, "{probe}");
        let url = format!("{}{}", service.ops, get["path"].as_str().unwrap());
        let answer = service.http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{probe}");
    }
    let address = |name: &str| {
        let all = container["env"].as_array().unwrap();
        let entry = all.iter().find(|e| e["name"] == name).unwrap();
        entry["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(address("BIND_ADDR"), "0.0.0.0:8000");
    assert_eq!(address("OPS_ADDR"), "0.0.0.0:9464");
    let reached = manifest("Service");
    let reached = &reached["spec"]["ports"][0]["targetPort"];
    assert_eq!(number(reached), 8000);
}

#[test]
fn every_selector_finds_the_pods() {
    let deployment = manifest("Deployment");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&manifest("Service")["spec"]["selector"], labels);
    let budget = manifest("PodDisruptionBudget");
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    let policy = manifest("NetworkPolicy");
    assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], labels);
}

#[test]
fn the_fleet_mounts_what_there_is_and_sets_what_is_known() {
    let known = settings();
    for file in ["deploy/compose.yaml", "deploy/fleet/compose.yaml"] {
        let compose: Value = serde_saphyr::from_str(&read(file)).unwrap();
        let volumes = compose["volumes"].as_object().unwrap();
        let folder = repository().join(file).parent().unwrap().to_owned();
        let mut mounts = 0;
        for (name, service) in compose["services"].as_object().unwrap() {
            for mount in service["volumes"].as_array().into_iter().flatten() {
                let source = mount.as_str().unwrap().split(':').next().unwrap();
                let is_there = if source.starts_with('.') {
                    folder.join(source).exists()
                } else {
                    volumes.contains_key(source)
                };
                assert!(is_there, "{file}: {name} mounts {source}");
                mounts += 1;
            }
            if name.starts_with("elaoms") {
                let environment = service["environment"].as_object().unwrap();
                assert!(environment.len() > 5, "{environment:?}");
                for setting in environment.keys() {
                    assert!(known.contains(setting), "{setting} is no setting");
                }
                assert_eq!(service["build"]["dockerfile"], "deploy/Dockerfile");
            }
        }
        assert!(mounts > 6, "{file}");
    }
}

#[test]
fn the_image_gets_what_the_build_reads() {
    let image = read("deploy/Dockerfile");
    let ignored = read(".dockerignore");
    for line in image
        .lines()
        .filter(|line| line.starts_with("COPY ") && !line.contains("--from"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        for path in &words[1..words.len() - 1] {
            assert!(repository().join(path).exists(), "{path}");
            assert!(!ignored.lines().any(|i| i == *path), "{path} is ignored");
        }
    }
    assert!(
        ignored.lines().any(|line| line == ".env"),
        "secrets stay out of images"
    );
}
