//! When a connection is replaced because our certificate was. Pure.
//!
//! Many servers end a connection with the certificate that it was made with, or
//! may. So once there is a newer one, each connection is replaced at a moment of
//! its own, in the first half of what is left. Without a newer one nothing helps.

use crate::transport::tls::Own;
use crate::xds::Moment;
use std::time::{Duration, SystemTime};

/// Of one connection.
#[derive(Debug)]
pub(super) struct Renewal {
    /// What was presented.
    with: Option<Own>,
    due: Option<Moment>,
}

impl Renewal {
    pub(super) fn new(with: Option<Own>) -> Self {
        Self { with, due: None }
    }

    /// `newest` is what a connection made now would present; `random` is in 0..1.
    pub(super) fn look(
        &mut self,
        (now, wall): (Moment, SystemTime),
        newest: Option<Own>,
        within: Duration,
        random: f64,
    ) {
        let (Some(with), Some(newest)) = (self.with, newest) else { return };
        if with.number == newest.number || self.due.is_some() {
            return;
        }
        let left = with.expires.map(|expires| expires.duration_since(wall).unwrap_or_default());
        let within = left.map_or(within, |left| within.min(left / 2));
        self.due = Some(now + within.mul_f64(random));
    }

    pub(super) fn due(&self) -> Option<Moment> {
        self.due
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_certificate_replaces_connections_before_the_old_one_ends() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let own = |number, left: u64| Some(Own { number, expires: Some(wall + Duration::from_secs(left)) });
        let forever = Some(Own { number: 0, expires: None });
        let table = [
            ("no certificate", None, None, None),
            ("the same, though it ends soon", own(0, 1), own(0, 1), None),
            ("a newer one", own(0, 86_400), own(1, 90_000), Some(150)),
            ("the old one ends soon", own(0, 60), own(1, 90_000), Some(15)),
            ("the old one has ended", own(0, 0), own(1, 90_000), Some(0)),
            ("the old one says no end", forever, own(1, 90_000), Some(150)),
            ("there is none any more", own(0, 60), None, None),
        ];
        for (case, with, newest, after) in table {
            let mut renewal = Renewal::new(with);
            renewal.look((Moment::START, wall), newest, Duration::from_secs(300), 0.5);
            let due = after.map(|after| Moment::START + Duration::from_secs(after));
            assert_eq!(renewal.due(), due, "{case}");
            renewal.look((Moment::START, wall), own(2, 90_000), Duration::from_secs(300), 0.9);
            if due.is_some() {
                assert_eq!(renewal.due(), due, "{case}: it stays");
            }
        }
    }
}
