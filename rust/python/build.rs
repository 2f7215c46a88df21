//! Copies the control plane's sources to cargo's output folder, from where maturin takes them into the wheel.
//!
//! The folder is `control/` at the top of the repository and `pymesh.control` in Python; maturin follows no folder
//! links, so that a file tree has to stand where it looks. What is copied is exactly what is there now: the target is
//! emptied first, and every folder is watched, so that neither an old nor a new file is missed.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let source = manifest.join("../../control");
    let target = out.join("pymesh/control");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    copy(&source, &target)
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    println!("cargo:rerun-if-changed={}", source.display());
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "__pycache__" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target.join(&name))?;
        } else {
            println!("cargo:rerun-if-changed={}", entry.path().display());
            fs::copy(entry.path(), target.join(&name))?;
        }
    }
    Ok(())
}
