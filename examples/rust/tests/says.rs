// SPDX-License-Identifier: Apache-2.0
//! What the example says when it cannot work.

use std::process::Command;

#[test]
fn without_a_token_it_names_the_variable() {
    let core = Command::new(env!("CARGO_BIN_EXE_trunkline-example"))
        .env_clear()
        .output()
        .expect("the example starts");
    assert!(!core.status.success());
    let said = String::from_utf8_lossy(&core.stderr);
    assert!(said.contains("TRUNKLINE_TOKEN"), "{said}");
}
