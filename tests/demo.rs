//! The demonstration as somebody runs it who has just built the program.

use std::process::{Command, Output};

fn demo(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outpost")).arg("demo").args(flags).output().expect("the program starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_small_one_shows_all_modes_and_passes() {
    let output = demo(&["--sidecars", "20", "--seconds", "9"]);
    let text = text(&output);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "WAN: connections",
        "WAN bytes a change",
        "endpoints: p50",
        "PASS  direct: 20 of 20 sidecars",
        "PASS  group per node: while the WAN was cut nothing changed for 15 running sidecars",
        "PASS  group per node: 5 of 5 restarted while it was cut were served",
        "PASS  group per workload: 5 of 5 new ones while it was cut were served",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains('\x1b'), "no terminal, no control codes:\n{text}");
}

#[test]
fn it_says_what_it_needs() {
    let output = demo(&["--sidecars", "5000"]);
    assert_eq!(output.status.code(), Some(2));
}
