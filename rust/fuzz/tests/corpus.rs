//! Every target over its corpus and over the inputs that once broke it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use pymesh_fuzz::{Run, TARGETS};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What is in a folder, in order; nothing if there is none.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn names(folder: &str) -> BTreeSet<String> {
    let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries(&root().join(folder)).iter().map(stem).collect()
}

/// The inputs of a folder that break their target.
fn broken(folder: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, run) in TARGETS {
        for file in entries(&root().join(folder).join(name)) {
            let data = std::fs::read(&file).unwrap();
            if catch_unwind(AssertUnwindSafe(|| run(&data))).is_err() {
                broken.push(file.display().to_string());
            }
        }
    }
    broken
}

#[test]
fn no_input_of_the_corpora_breaks_its_target() {
    assert_eq!(broken("corpus"), Vec::<String>::new());
}

#[test]
fn what_once_broke_a_target_does_not_break_it_again() {
    assert_eq!(broken("regressions"), Vec::<String>::new());
}

#[test]
fn each_target_has_its_binary_and_its_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _): &(&str, Run)| (*name).to_owned()).collect();
    assert_eq!(names("libfuzzer/fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    assert!(names("regressions").is_subset(&targets));
    for name in &targets {
        assert!(entries(&root().join("corpus").join(name)).len() > 2, "{name} has no corpus");
    }
}
