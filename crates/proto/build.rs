//! Compiles every `.proto` file of the repository's `proto/` into one tree of modules by package name.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto_dir = PathBuf::from("../../proto");
    println!("cargo::rerun-if-changed={}", proto_dir.display());

    let mut files = Vec::new();
    for entry in std::fs::read_dir(&proto_dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    // The order of a directory is not a fact to build on.
    files.sort();

    let descriptors = protox::compile(&files, [&proto_dir])?;
    prost_build::Config::new()
        .bytes([".warren.agent.v1.Data", ".warren.agent.v1.Output", ".warren.peer.v1"])
        // Keys and tokens are in these.
        .skip_debug([
            ".warren.peer.v1.AuthorityRecord",
            ".warren.peer.v1.JoinAccepted",
            ".warren.peer.v1.JoinReply",
            ".warren.peer.v1.JoinReply.answer",
            ".warren.peer.v1.JoinRequest",
        ])
        // The digest of a spec is taken over its bytes, so a map must have one order.
        .btree_map(["."])
        .include_file("packages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
