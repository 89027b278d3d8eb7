//! Requests that are passed on as they are, and their answers: health
//! information (C-192) and debug types (C-193). Neither is a subscription, and no
//! answer to them is acknowledged.

use crate::session::{Pass, Passed};
use crate::xds::envelope::{Envelope, Request, RequestBody};
use crate::xds::wire::WireError;
use crate::xds::{Moment, Name, TypeUrl, Variant};
use std::collections::VecDeque;

/// What nobody has: see [`Passing::request`].
const NOBODY: &str = "outpost-health-information";

/// What is passed on over one stream.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// The newest that this stream was told of.
    told: u64,
    unwritten: VecDeque<Pass>,
    /// In the order in which they were written, which is that of their answers.
    unanswered: VecDeque<(TypeUrl, u64)>,
    answers: VecDeque<Passed>,
}

impl Passing {
    pub(super) fn set(&mut self, passes: &[Pass]) {
        // Nobody waits any more for an answer to what is not stated.
        let stated = |number: u64| passes.iter().any(|pass| pass.number == number);
        self.unwritten.retain(|pass| stated(pass.number));
        self.unanswered.retain(|(_, number)| stated(*number));
        let told = self.told;
        for pass in passes.iter().filter(|pass| pass.number > told) {
            self.told = pass.number;
            if !pass.is_answered() {
                // Of health information the newest counts.
                self.unwritten.retain(Pass::is_answered);
            }
            self.unwritten.push_back(pass.clone());
        }
    }

    /// The next request to write. Control planes take the node from the first
    /// subscription of a stream, and istiod skips health information that comes
    /// before. So a stream that has nothing else to say asks `first` for the
    /// endpoints of a name that nobody has.
    pub(super) fn request(&mut self, variant: Variant, first: bool) -> Option<Request> {
        let next = self.unwritten.front()?;
        if first && !next.is_answered() {
            let endpoints = TypeUrl::from_short("eds")?;
            return Some(request(variant, &endpoints, vec![NOBODY.into()]));
        }
        let pass = self.unwritten.pop_front()?;
        let answered = pass.is_answered();
        let Pass { number, type_url, names, error } = pass;
        let made = request(variant, &type_url, names);
        if answered {
            self.unanswered.push_back((type_url, number));
        }
        Some(Request { error, ..made })
    }

    /// Takes a response that answers the oldest request of its type.
    pub(super) fn take_answer(&mut self, now: Moment, read: &Result<Envelope, WireError>) -> Option<TypeUrl> {
        let envelope = read.as_ref().ok()?;
        let at = self.unanswered.iter().position(|(type_url, _)| type_url.as_str() == envelope.type_url)?;
        let (type_url, number) = self.unanswered.remove(at)?;
        self.answers.push_back(Passed { number, resources: envelope.resources.clone(), received: now });
        Some(type_url)
    }

    pub(super) fn poll_answer(&mut self) -> Option<Passed> {
        self.answers.pop_front()
    }
}

fn request(variant: Variant, type_url: &TypeUrl, names: Vec<Name>) -> Request {
    let body = match variant {
        Variant::Sotw => RequestBody::Sotw { version_info: String::new(), names },
        Variant::Delta => RequestBody::Delta { subscribe: names, unsubscribe: Vec::new(), initial: Vec::new() },
    };
    Request { node: None, type_url: type_url.as_str().into(), nonce: String::new(), error: None, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::client::{ClientSession, Heard};
    use crate::xds::wire::Writer;
    use crate::xds::{Status, Timing};

    fn pass(number: u64, url: &str, name: &str, error: bool) -> Pass {
        let error = error.then(|| Status::new(2, "sick"));
        Pass { number, type_url: TypeUrl::new(url), names: vec![name.into()], error }
    }

    fn written(session: &mut ClientSession) -> Vec<(String, bool, bool)> {
        let requests = std::iter::from_fn(|| session.poll_request(Moment::START));
        requests.map(|request| (request.type_url, request.node.is_some(), request.error.is_some())).collect()
    }

    const DEBUG: &str = "istio.io/debug/syncz";
    const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";

    #[test]
    fn health_information_follows_a_subscription() {
        let mut session = ClientSession::new(Variant::Delta, "node".into(), &Timing::default());
        session.set_passes(&[pass(1, HEALTH, "", true)]);
        let eds = TypeUrl::from_short("eds").unwrap().as_str().to_owned();
        assert_eq!(written(&mut session), [(eds, true, false), (HEALTH.into(), false, true)]);
        session.set_passes(&[pass(1, HEALTH, "", true)]);
        assert!(written(&mut session).is_empty(), "once a stream");
        session.set_passes(&[pass(2, HEALTH, "", false)]);
        assert_eq!(written(&mut session), [(HEALTH.into(), false, false)]);
    }

    #[test]
    fn of_health_information_the_newest_waits_and_of_debug_requests_who_is_stated() {
        let mut passing = Passing::default();
        for number in 1..100 {
            passing.set(&[pass(number, HEALTH, "", true)]);
        }
        assert_eq!(passing.unwritten.len(), 1);
        let waiting = [pass(100, DEBUG, "a", false), pass(101, DEBUG, "b", false)];
        passing.set(&waiting);
        while passing.request(Variant::Delta, false).is_some() {}
        passing.set(&waiting[1..]);
        assert_eq!(passing.unanswered.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [101]);
    }

    #[test]
    fn each_debug_request_has_one_answer_and_no_ack() {
        let mut session = ClientSession::new(Variant::Sotw, "node".into(), &Timing::default());
        session.set_passes(&[pass(1, DEBUG, "a", false), pass(2, DEBUG, "b", false)]);
        assert_eq!(written(&mut session), [(DEBUG.into(), true, false), (DEBUG.into(), false, false)]);
        let mut out = Writer::default();
        out.string(4, DEBUG);
        out.string(5, "nonce");
        out.message(2, |out| out.bytes(2, b"{}"));
        let message = out.finish();
        for want in [1, 2] {
            let heard = session.handle_response(Moment::START, message.clone());
            assert!(matches!(heard, Ok(Heard::Passed { .. })));
            assert_eq!(session.poll_passed().map(|passed| passed.number), Some(want));
        }
        assert!(matches!(session.handle_response(Moment::START, message), Ok(Heard::Unasked { .. })));
        assert!(written(&mut session).is_empty());
    }
}
