//! The unit for systemd: that systemd takes it, and how little it lets a
//! service do that is taken over.

use std::process::Command;

use crate::tools;

/// Most exposure, of 10. What is left needs the network.
const MOST: f64 = 1.5;

#[test]
fn the_unit_is_valid_and_exposes_little() {
    if !tools::installed(tools::SYSTEMD_ANALYZE) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("elaoms.service");
    let text = std::fs::read_to_string("deploy/elaoms.service").unwrap();
    // The program is not installed here.
    let text = text.replace(
        "ExecStart=elaoms",
        concat!("ExecStart=", env!("CARGO_BIN_EXE_elaoms")),
    );
    std::fs::write(&unit, text).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&unit)
            .output()
            .unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{printed}");
        printed
    };
    let complaints = analyze(&["verify", "--man=no"]);
    assert_eq!(complaints.trim(), "");
    let security = analyze(&["security", "--offline=true", "--no-pager"]);
    let exposure = security.lines().find_map(|line| {
        let (_, level) = line.split_once("exposure level for elaoms.service: ")?;
        level.split(' ').next()?.parse::<f64>().ok()
    });
    assert!(exposure.is_some_and(|level| level <= MOST), "{security}");
}
