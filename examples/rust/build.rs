// SPDX-License-Identifier: Apache-2.0
//! Generates the client from the definition of the API, without a protoc binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let services = ["event_service", "message_service"];
    let files = services.map(|name| format!("trunkline/v1/{name}.proto"));
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(protox::compile(files, ["../../proto"])?)?;
    Ok(())
}
