//! Barriers: a question that has an answer, so that what did not come before
//! the answer did not come.
//!
//! On the aggregated stream a name of the runtime type is asked, which no
//! transcript speaks of. On a service of one type a name of that type is
//! asked and made to exist. Both are taken back; what they leave behind is
//! stripped from what the transcript sees.
//!
//! A service has no such question while its upstream is silent, or an answer of
//! the sidecar is owed. Then the line is noted, and the transcript is replayed once
//! more up to it, where the sidecar closes its side: the end of the stream (C-016)
//! is the answer that comes after everything else.

use super::compare::strip_probes;
use super::messages::{self, RUNTIME, Seen};
use super::parse::USUAL;
use super::run::Replay;
use super::script::*;
use super::world::PROBE;

impl Replay<'_> {
    /// Everything that came before the answer.
    pub(super) fn barrier(&mut self, stream: u32, time_passed: bool) -> Result<Vec<Seen>, String> {
        let state = self.streams.get(&stream).ok_or("no such stream")?;
        let wire = state.wire;
        let last_type = state.last_type.clone();
        let type_url = match &self.service {
            Some(type_url) => type_url.clone(),
            None => RUNTIME.to_owned(),
        };
        let old = state.types.get(&type_url).and_then(|of_type| of_type.last_probe.clone());
        let anyone =
            self.streams.values().filter_map(|state| state.types.get(&type_url)?.last_probe.clone()).next_back();
        let name = match (self.reachable, old.clone().or(anyone)) {
            (true, _) => {
                self.probes += 1;
                format!("{PROBE}{}", self.probes)
            }
            (false, Some(held)) => held,
            (false, None) => return Err("no barrier can be asked here: ask one before the upstream is lost".into()),
        };
        let before = if self.service.is_none() {
            self.ask_runtime(stream, wire, &name, old.as_deref() == Some(&name))?;
            self.until_answered(stream, &type_url, &name)?
        } else {
            self.on_service(stream, wire, &type_url, &name, time_passed)?
        };
        let state = self.streams.get_mut(&stream).ok_or("no such stream")?;
        state.last_type = last_type;
        if let Some(of_type) = state.types.get_mut(&type_url) {
            of_type.last_probe = Some(name);
        }
        Ok(before)
    }

    fn probe_ask(wire: Wire, type_url: &str, names: Vec<Locator>) -> Ask {
        Ask { wire: Some(wire), type_url: type_url.to_owned(), names, ..Ask::default() }
    }

    fn ask_runtime(&mut self, stream: u32, wire: Wire, name: &str, again: bool) -> Result<(), String> {
        if again && wire == Wire::Sotw {
            self.ask(stream, Self::probe_ask(wire, RUNTIME, Vec::new()))?;
        }
        self.ask(stream, Self::probe_ask(wire, RUNTIME, vec![plain(name)]))
    }

    fn on_service(
        &mut self,
        stream: u32,
        wire: Wire,
        type_url: &str,
        name: &str,
        time_passed: bool,
    ) -> Result<Vec<Seen>, String> {
        let state = self.streams.get(&stream).and_then(|state| state.types.get(type_url));
        let (names, named_once, unanswered) =
            state.map(|of_type| (of_type.names.clone(), of_type.named_once, of_type.unanswered)).unwrap_or_default();
        let legacy = names.is_empty() && !named_once && !self.legacy_off && messages::legacy_wildcard(type_url);
        let wildcard = legacy || names.iter().any(|one| one.name == "*");
        if self.held.contains(type_url) {
            return self.without_question(stream);
        }
        if wire == Wire::Delta {
            self.driver.control_plane(&mut |world| world.probe(type_url, name));
            self.ask(stream, Self::probe_ask(wire, type_url, vec![plain(name)]))?;
            let before = self.until_answered(stream, type_url, name)?;
            let ask = Ask { unsubscribe: vec![plain(name)], ..Self::probe_ask(wire, type_url, Vec::new()) };
            self.ask(stream, ask)?;
            return Ok(before);
        }
        if wildcard && !self.reachable || unanswered && !time_passed {
            return self.without_question(stream);
        }
        let mut more = names.clone();
        more.push(plain(name));
        if messages::full_state(type_url) {
            // Asking for a name that is not there would be answered already.
            self.driver.control_plane(&mut |world| world.probe(type_url, name));
        }
        if !wildcard {
            self.ask(stream, Self::probe_ask(wire, type_url, more))?;
        }
        if !messages::full_state(type_url) {
            self.driver.control_plane(&mut |world| world.probe(type_url, name));
        }
        let before = self.until_answered(stream, type_url, name)?;
        if !wildcard {
            let ask = Self::probe_ask(wire, type_url, names);
            self.ask(stream, ask)?;
        }
        if let Some(of_type) = self.streams.get_mut(&stream).and_then(|state| state.types.get_mut(type_url)) {
            of_type.named_once = named_once || !wildcard;
        }
        Ok(before)
    }

    /// Where nothing can be asked that has an answer: what came so far, and the line is
    /// noted; in the replay that is made for it, what came until the stream ended.
    fn without_question(&mut self, stream: u32) -> Result<Vec<Seen>, String> {
        if !self.closing {
            self.unproven.insert(self.line);
            let mut all = Vec::new();
            while let Some(seen) = self.hear(stream, false)? {
                all.push(seen);
            }
            return Ok(all);
        }
        self.driver.close_send(stream);
        let mut all = Vec::new();
        while let Some(seen) = self.hear(stream, true)? {
            all.push(seen);
        }
        match self.streams.get(&stream).and_then(|state| state.end.as_ref()) {
            Some((0, _)) => Ok(all),
            Some((code, message)) => Err(format!("the stream ended with code {code}: {message}")),
            None => Err("the stream did not end though its client had closed its side".into()),
        }
    }

    fn until_answered(&mut self, stream: u32, type_url: &str, name: &str) -> Result<Vec<Seen>, String> {
        let mut before = Vec::new();
        let mut left = USUAL * 20;
        loop {
            let Some(mut seen) = self.hear_all(stream, left.is_zero())? else {
                let end = self.streams.get(&stream).and_then(|state| state.end.clone());
                if let Some((code, message)) = end {
                    return Err(format!("the stream ended with code {code}: {message}"));
                }
                if left.is_zero() {
                    return Err("the barrier was not answered".into());
                }
                left -= self.driver.step(left).min(left);
                continue;
            };
            let answered = seen.type_url == type_url && seen.resources.iter().any(|resource| resource.name == name);
            let state = self.streams.get_mut(&stream).ok_or("no such stream")?;
            state.queue.pop_front();
            let (nonce, label) = (seen.nonce.clone(), seen.label.clone());
            let whole = seen.clone();
            let only_probes = strip_probes(&mut seen);
            if answered || only_probes || self.is_echo(stream, &whole, &seen) {
                self.answer_to(stream, &seen.type_url.clone(), nonce, label, None)?;
            } else {
                before.push(seen);
            }
            if answered {
                return Ok(before);
            }
        }
    }
}

fn plain(name: &str) -> Locator {
    Locator { name: name.to_owned(), ..Locator::default() }
}
