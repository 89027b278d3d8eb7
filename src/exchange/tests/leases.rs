//! What is wanted no longer, and wanted again.

use super::*;

#[test]
fn a_glob_nobody_wants_lingers_idles_and_is_evicted_with_its_members() {
    let glob = "xdstp://a/T/foo/*";
    let mut bench = Bench::wanting("lds", &[glob]);
    bench.apply(with("lds", "", &["xdstp://a/T/foo/b1"]));
    bench.want(ONE, "lds", &[]);
    bench.seconds(60);
    assert_eq!((bench.asks("lds"), bench.shows("lds")), ("".into(), "xdstp://a/T/foo/b1".into()));
    bench.want(ONE, "lds", &[glob]);
    assert_eq!(bench.awaits("lds"), glob);
    assert_eq!(bench.apply(with("lds", "", &["xdstp://a/T/foo/b1"])), [1]);
    assert_eq!(bench.awaits("lds"), "");
    bench.want(ONE, "lds", &[]);
    bench.seconds(60 + 3600);
    assert_eq!(bench.shows("lds"), "");
}

#[test]
fn the_union_lingers_while_the_upstream_is_synced() {
    let mut bench = Bench::wanting("eds", &["A", "B"]);
    bench.want(TWO, "eds", &["B", "C"]);
    assert_eq!(bench.asks("eds"), "A B C");
    bench.apply(with("eds", "", &["A1", "B1", "C1"]));
    assert!(bench.state.take_asks_changed());
    bench.state.leave(bench.now, TWO);
    assert_eq!(bench.asks("eds"), "A B C");
    bench.seconds(59);
    bench.lose();
    bench.seconds(1000);
    assert_eq!(bench.asks("eds"), "A B C", "away, nothing ends");
    assert!(!bench.state.take_asks_changed());
    bench.open();
    bench.seconds(1);
    assert_eq!(bench.asks("eds"), "A B");
    assert!(bench.state.take_asks_changed());
    assert_eq!(bench.shows("eds"), "A1 B1 C1", "held, unconfirmed");
    bench.seconds(3599);
    assert_eq!(bench.shows("eds"), "A1 B1 C1");
    bench.seconds(1);
    assert_eq!(bench.shows("eds"), "A1 B1");
}

#[test]
fn an_overdue_ask_stops_the_linger() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.state.asked(bench.now, &kind("eds"));
    bench.want(ONE, "eds", &[]);
    bench.seconds(500);
    assert_eq!(bench.asks("eds"), "A");
    bench.apply(update("eds", ""));
    bench.seconds(58);
    assert_eq!(bench.asks("eds"), "");
}

#[test]
fn wildcard_and_names_are_distinct() {
    let mut bench = Bench::wanting("cds", &["*"]);
    bench.want(TWO, "cds", &["A"]);
    assert_eq!(bench.asks("cds"), "* A");
    bench.want(ONE, "cds", &[]);
    bench.seconds(59);
    bench.reopen();
    assert_eq!(bench.asks("cds"), "* A");
    bench.seconds(60);
    assert_eq!(bench.asks("cds"), "* A", "not on the same stream");
    bench.reopen();
    assert_eq!(bench.asks("cds"), "A");
}

#[test]
fn unconfirmed_names_wait_for_the_upstream_for_a_second() {
    let idle = || {
        let mut bench = Bench::wanting("eds", &["A"]);
        bench.apply(with("eds", "", &["A1"]));
        bench.want(ONE, "eds", &[]);
        bench.seconds(60);
        bench
    };
    // Answered, also with the same bytes, or gone.
    for (answer, shows) in [(with("eds", "", &["A1"]), "A1"), (removing("eds", &["A"]), "A-")] {
        let mut bench = idle();
        bench.want(TWO, "eds", &["A"]);
        assert_eq!(bench.awaits("eds"), "A");
        assert_eq!(bench.apply(answer), [2]);
        assert_eq!((bench.awaits("eds"), bench.shows("eds")), ("".into(), shows.into()));
    }
    // Not answered.
    let mut bench = idle();
    bench.want(TWO, "eds", &["A"]);
    assert_eq!(bench.pass(Duration::from_millis(999)), [0; 0]);
    assert_eq!(bench.pass(Duration::from_millis(1)), [2]);
    assert_eq!(bench.awaits("eds"), "");
    // The upstream goes away meanwhile, or is away.
    let mut bench = idle();
    bench.want(TWO, "eds", &["A"]);
    bench.lose();
    assert_eq!((bench.awaits("eds"), bench.woken()), ("".into(), vec![2]));
    let mut bench = idle();
    bench.lose();
    bench.want(TWO, "eds", &["A"]);
    assert_eq!(bench.awaits("eds"), "");
    // Lingering is subscribed, so confirmed; so is what the wildcard covers.
    let mut bench = Bench::wanting("cds", &["*", "A"]);
    bench.apply(Update { answers_wildcard: true, ..with("cds", "", &["A1", "B1"]) });
    bench.want(ONE, "cds", &["*"]);
    bench.seconds(10);
    bench.want(ONE, "cds", &["*", "A", "B"]);
    assert_eq!(bench.awaits("cds"), "");
}

#[test]
fn types_that_nobody_wants_and_that_hold_nothing_are_forgotten() {
    let mut bench = Bench::wanting("cds", &["*"]);
    bench.want(TWO, "rtds", &[]);
    bench.want(TWO, "eds", &["A"]);
    assert_eq!((bench.asks("eds"), bench.state.served().types.len()), ("A".into(), 3));
    bench.state.leave(bench.now, TWO);
    assert!(bench.state.served().of(&kind("rtds")).is_none());
    bench.seconds(60);
    assert!(bench.state.served().of(&kind("eds")).is_some(), "the upstream side does not know yet");
    assert_eq!(bench.asks("eds"), "", "given up after its linger");
    bench.want(TWO, "cds", &["*"]);
    bench.state.leave(bench.now, TWO);
    assert_eq!(bench.state.served().types.len(), 1, "and forgotten when it idled");
    bench.want(TWO, "eds", &["A"]);
    assert_eq!(bench.asks("eds"), "A");
}

/// What went while nobody subscribed to it is told by no delta answer.
#[test]
fn a_wildcard_after_names_believes_nothing_that_was_not_subscribed() {
    let mut bench = Bench::wanting("cds", &["X", "Y"]);
    bench.state.asked(bench.now, &kind("cds"));
    bench.apply(with("cds", "", &["X1", "Y1"]));
    bench.want(ONE, "cds", &["Y"]);
    bench.seconds(60);
    assert_eq!((bench.asks("cds"), bench.shows("cds")), ("Y".into(), "X1 Y1".into()));
    bench.want(ONE, "cds", &["*", "Y"]);
    assert_eq!(bench.shows("cds"), "Y1", "X may be gone");
    bench.apply(Update { answers_wildcard: true, ..with("cds", "", &["Y1", "Z1"]) });
    assert_eq!(bench.shows("cds"), "Y1 Z1");
}

#[test]
fn a_wildcard_wanted_again_waits_too() {
    let mut bench = Bench::wanting("cds", &["*"]);
    let answer = || Update { answers_wildcard: true, ..with("cds", "", &["A1", "B1"]) };
    bench.apply(answer());
    bench.want(ONE, "cds", &[]);
    bench.seconds(60);
    assert!(bench.served("cds").complete, "still subscribed");
    bench.reopen();
    assert!(!bench.served("cds").complete, "its word is old");
    bench.want(ONE, "cds", &["A"]);
    assert_eq!(bench.awaits("cds"), "A");
    bench.want(ONE, "cds", &["*"]);
    assert!(bench.served("cds").wildcard_awaited && bench.served("cds").complete);
    assert_eq!(bench.apply(answer()), [1]);
    assert!(!bench.served("cds").wildcard_awaited);
    bench.want(ONE, "cds", &[]);
    bench.seconds(60);
    bench.reopen();
    bench.want(ONE, "cds", &["*"]);
    assert_eq!(bench.seconds(1), [1]);
    assert!(!bench.served("cds").wildcard_awaited);
    bench.want(ONE, "cds", &[]);
    bench.seconds(60);
    bench.reopen();
    bench.seconds(3600);
    assert_eq!(bench.shows("cds"), "");
    assert!(!bench.served("cds").complete);
}
