//! Inputs that once broke a rule, and those that the fuzzer begins with, are
//! tried again.

use std::fs;

#[path = "../../fuzz/src/properties.rs"]
mod properties;

#[test]
fn every_input_of_the_corpus_keeps_the_rules() {
    let mut folders = 0;
    for folder in fs::read_dir("fuzz/corpus").unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        let target = properties::TARGETS
            .iter()
            .find(|(target, _)| *target == name);
        let property = target
            .unwrap_or_else(|| panic!("no rule is called {name}"))
            .1;
        folders += 1;
        for input in fs::read_dir(folder.path()).unwrap() {
            let path = input.unwrap().path();
            // Said only if it fails.
            println!("{}", path.display());
            property(&fs::read(&path).unwrap());
        }
    }
    assert_eq!(folders, properties::TARGETS.len());
}
