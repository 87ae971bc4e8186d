//! Generates the gRPC code and the descriptor set for reflection from `proto/`, without a protoc binary.

use std::path::PathBuf;
use std::{env, fs, io};

const ROOT: &str = "proto";
const PACKAGE: &str = "proto/trunkline/v1";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let files = proto_files()?;
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("trunkline.v1.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    // Ordered maps: the encoding of a request is what its request_id is remembered with.
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Every file of the package, sorted so that the output is reproducible.
fn proto_files() -> io::Result<Vec<PathBuf>> {
    let mut files = fs::read_dir(PACKAGE)?
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(
            |path| !matches!(path, Ok(path) if path.extension().is_none_or(|ext| ext != "proto")),
        )
        .collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
