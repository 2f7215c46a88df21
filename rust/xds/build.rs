//! Rust types for the messages of the pinned descriptor set. No protoc: the set
//! is already compiled.

use std::error::Error;
use std::path::Path;

use prost::Message;
use prost_types::FileDescriptorSet;

const DESCRIPTOR_SET: &str = "../../control/xds/proto/envoy.binpb";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={DESCRIPTOR_SET}");
    println!("cargo:rerun-if-changed=build.rs");
    let set = FileDescriptorSet::decode(std::fs::read(DESCRIPTOR_SET)?.as_slice())?;
    let out = std::env::var("OUT_DIR")?;
    prost_build::Config::new()
        .out_dir(&out)
        .include_file("envoy_api.rs")
        .enable_type_names()
        // Comments of foreign files would be doc tests and lints of this crate.
        .disable_comments(["."])
        .compile_fds(set)?;
    std::fs::copy(DESCRIPTOR_SET, Path::new(&out).join("envoy.binpb"))?;
    Ok(())
}
