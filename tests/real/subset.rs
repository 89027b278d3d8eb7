//! Our own protobuf files, held against the public API's.

use crate::Test;
use std::process::Command;

pub(crate) async fn agrees(test: Test) {
    let descriptors = test.dir.join("descriptors.bin");
    std::fs::write(&descriptors, outpost::proto::DESCRIPTORS).expect("write the descriptors");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/compare_protos.py");
    let output = Command::new(&test.clients.python).arg(script).arg(&descriptors).output().expect("run python");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    test.measured(format_args!("{} fields and values agree with the public API", said.trim()));
}
