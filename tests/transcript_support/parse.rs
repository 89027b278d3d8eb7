//! Reads the text of a transcript.

use super::script::*;
use std::time::Duration;

/// How long a response may take where its line does not say: room for asks to
/// be gathered, and less than any timer that a transcript is about.
pub const USUAL: Duration = Duration::from_millis(100);

const SHORT_TYPES: &[(&str, &str)] = &[
    ("C", "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
    ("E", "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("L", "type.googleapis.com/envoy.config.listener.v3.Listener"),
    ("R", "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
    ("SR", "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"),
    ("VH", "type.googleapis.com/envoy.config.route.v3.VirtualHost"),
    ("S", "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"),
    ("X", "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"),
    ("RT", "type.googleapis.com/envoy.service.runtime.v3.Runtime"),
    ("NDS", "type.googleapis.com/istio.networking.nds.v1.NameTable"),
    ("PCDS", "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig"),
    ("ADDR", "type.googleapis.com/istio.workload.Address"),
    ("WL", "type.googleapis.com/istio.workload.Workload"),
    ("AUTHZ", "type.googleapis.com/istio.security.Authorization"),
    ("HEALTH", "type.googleapis.com/istio.v1.HealthInformation"),
];

const CODES: &[(&str, i32)] = &[
    ("OK", 0),
    ("INVALID_ARGUMENT", 3),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("UNAVAILABLE", 14),
    ("UNAUTHENTICATED", 16),
];

/// The full type URL of a short name.
pub fn type_url(short: &str) -> Result<String, String> {
    if short == "\"\"" {
        return Ok(String::new());
    }
    if short.contains('/') {
        return Ok(short.to_owned());
    }
    let known = SHORT_TYPES.iter().find(|(name, _)| *name == short);
    known.map(|(_, url)| (*url).to_owned()).ok_or_else(|| format!("no type is called {short}"))
}

pub fn script(id: String, text: &str) -> Result<Script, String> {
    let mut script = Script { id, rules: Vec::new(), forms: Vec::new(), upstreams: Vec::new(), lines: Vec::new() };
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        if let Some(comment) = line.strip_prefix('#') {
            header(&mut script, number, comment).map_err(|error| format!("line {number}: {error}"))?;
        } else if !line.trim().is_empty() {
            let step = step(line).map_err(|error| format!("line {number}: {line}: {error}"))?;
            script.lines.push(Line { number, text: line.to_owned(), step });
        }
    }
    if script.rules.is_empty() || script.forms.is_empty() || script.upstreams.is_empty() || script.lines.is_empty() {
        return Err("the head must state rules, form and upstream, and lines must follow".into());
    }
    Ok(script)
}

fn header(script: &mut Script, number: usize, comment: &str) -> Result<(), String> {
    let comment = comment.trim();
    if number == 1 {
        let sentence = comment.strip_prefix(&format!("{}: ", script.id));
        return sentence.map(|_| ()).ok_or_else(|| format!("must begin with {}: and a sentence", script.id));
    }
    let Some((key, value)) = comment.split_once(':') else { return Ok(()) };
    for word in value.split([',', ' ']).filter(|word| !word.is_empty()) {
        match (key, word) {
            ("rules", rule) => script.rules.push(rule.to_owned()),
            ("form", "ads") => script.forms.push(Form::Ads),
            ("form", "service") => script.forms.push(Form::Service),
            ("form", "socket") => script.forms.push(Form::Socket),
            ("upstream", "delta") => script.upstreams.push(Wire::Delta),
            ("upstream", "sotw") => script.upstreams.push(Wire::Sotw),
            ("sidecars", "delta" | "sotw") => {}
            (key, word) => return Err(format!("{word} is no {key}")),
        }
    }
    Ok(())
}

/// Words, where brackets, braces and quotes hold together what is in them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut depth, mut quoted) = (Vec::new(), String::new(), 0, false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            ' ' if !quoted && depth == 0 => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(letter);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn unquote(word: &str) -> Option<String> {
    word.strip_prefix('"')?.strip_suffix('"').map(str::to_owned)
}

fn span(word: &str) -> Result<Duration, String> {
    let bad = || format!("{word} is no span of time");
    if let Some(number) = word.strip_suffix("ms") {
        return number.parse().map(Duration::from_millis).map_err(|_| bad());
    }
    let number = word.strip_suffix('s').ok_or_else(bad)?;
    number.parse().map(Duration::from_secs).map_err(|_| bad())
}

fn bytes(word: &str) -> Result<usize, String> {
    let bad = || format!("{word} is no size");
    let (number, unit) = match (word.strip_suffix("KiB"), word.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1 << 10),
        (_, Some(number)) => (number, 1 << 20),
        _ => return Err(bad()),
    };
    number.parse::<usize>().map(|number| number * unit).map_err(|_| bad())
}

fn number<T: std::str::FromStr>(word: Option<&String>) -> Result<T, String> {
    let word = word.ok_or("a number is missing")?;
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn streams(prefix: &str) -> Result<Vec<u32>, String> {
    if prefix.is_empty() {
        return Ok(vec![1]);
    }
    let bad = |_| format!("{prefix} names no streams");
    match prefix.split_once('-') {
        Some((first, last)) => Ok((first.parse().map_err(bad)?..=last.parse().map_err(bad)?).collect()),
        None => Ok(vec![prefix.parse().map_err(bad)?]),
    }
}

fn step(line: &str) -> Result<Step, String> {
    let words = words(line);
    let head = words.first().ok_or("empty")?.as_str();
    let optional = head.ends_with('?');
    let mark = head.trim_end_matches('?');
    if let Some(prefix) = mark.strip_suffix('>') {
        return sidecar(streams(prefix)?, &words[1..], optional);
    }
    if let Some(prefix) = mark.strip_suffix('<') {
        return expected(streams(prefix)?, &words[1..], optional);
    }
    let rest = &words[1..];
    let first = rest.first();
    Ok(match head {
        "^" => Step::Upstream(upstream(rest)?),
        "heard" => Step::Heard { stream: 1, kind: first.ok_or("heard what?")?.clone() },
        "silence" | "quiet" => silence(rest, head == "silence")?,
        "advance" => Step::Advance(span(first.ok_or("how far?")?)?),
        "start" => start(rest)?,
        "world" => world(rest)?,
        "hold" | "release" => Step::Hold { type_url: type_url(first.ok_or("which type?")?)?, on: head == "hold" },
        "down" | "up" => Step::Reachable(head == "up"),
        "node" => Step::Node(node(rest)?),
        "stream" => Step::Service { stream: number(first)?, type_url: type_url(rest.get(2).ok_or("which type?")?)? },
        "option" => Step::Setting(rest.to_vec()),
        "stall" | "read" => {
            Step::Stall { stream: if rest.is_empty() { 1 } else { number(first)? }, on: head == "stall" }
        }
        "streams" => Step::Streams(number(first)?),
        "pushes" => Step::Pushes {
            count: number(first)?,
            type_url: type_url(rest.get(1).ok_or("which type?")?)?,
            resource: resource(rest.get(2).ok_or("which resource?")?)?,
            reader: number(rest.last())?,
        },
        "flood" => Step::Flood {
            stream: number(first)?,
            count: number(rest.get(1))?,
            type_url: type_url(rest.get(2).ok_or("which type?")?)?,
        },
        "pings" => Step::Pings { count: number(first)?, every: span(rest.get(2).ok_or("every how long?")?)? },
        "drain" => Step::Drain,
        "window" => Step::Window(bytes(first.ok_or("how large?")?)?),
        "memory" => Step::Memory(bytes(rest.get(1).ok_or("under what?")?)?),
        other => return Err(format!("no line begins with {other}")),
    })
}

fn sidecar(streams: Vec<u32>, words: &[String], after_optional: bool) -> Result<Step, String> {
    let first = words.first().ok_or("says nothing")?.as_str();
    Ok(match first {
        "end" => Step::CloseSend { streams },
        "lost" => Step::Lost { streams },
        "ack" | "nack" => {
            let text = words.iter().find_map(|word| unquote(word));
            let type_url = match words.get(1) {
                Some(word) if !word.starts_with('"') => Some(type_url(word)?),
                _ => None,
            };
            let error = (first == "nack").then(|| (13, text.unwrap_or_default()));
            Step::Answer { streams, answer: Answer { type_url, error }, after_optional }
        }
        "Q" | "DQ" => Step::Ask { streams, ask: ask(first, &words[1..])?, after_optional },
        other => return Err(format!("a sidecar does not say {other}")),
    })
}

fn ask(kind: &str, words: &[String]) -> Result<Ask, String> {
    let sotw = kind == "Q";
    let mut ask = Ask {
        wire: Some(if sotw { Wire::Sotw } else { Wire::Delta }),
        type_url: type_url(words.first().ok_or("which type?")?)?,
        ..Ask::default()
    };
    let mut version_stated = !sotw;
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        if let Some(list) = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')) {
            ask.names = self::words(list).iter().map(|name| plain(name)).collect();
        } else if let Some(list) = word.strip_prefix('+') {
            ask.names.extend(locators(list)?);
        } else if let Some(list) = word.strip_prefix('-') {
            ask.unsubscribe.extend(locators(list)?);
        } else if let Some(list) = word.strip_prefix("irv{").and_then(|word| word.strip_suffix('}')) {
            ask.initial = self::words(list).iter().map(|pair| initial(pair)).collect::<Result<_, _>>()?;
        } else if word == "error" {
            let code = number(rest.next())?;
            ask.error = Some((code, rest.next().and_then(|word| unquote(word)).ok_or("an error has a text")?));
        } else if word == "no" {
            rest.next();
            ask.node = AskNode::Without;
        } else if word == "node" {
            ask.node = AskNode::Named(rest.next().ok_or("which node?")?.clone());
        } else if !version_stated {
            ask.version_info = unquote(word).unwrap_or_else(|| word.clone());
            version_stated = true;
        } else {
            ask.nonce = unquote(word).map_or_else(|| Nonce::Mark(word.clone()), Nonce::Literal);
        }
    }
    Ok(ask)
}

fn plain(word: &str) -> Locator {
    Locator { name: unquote(word).unwrap_or_else(|| word.to_owned()), ..Locator::default() }
}

fn locators(list: &str) -> Result<Vec<Locator>, String> {
    let Some(inside) = list.strip_prefix("locator(") else {
        return Ok(list.split(',').map(plain).collect());
    };
    let mut parts = inside.strip_suffix(')').ok_or("locator( has no end")?.split(',');
    let name = parts.next().unwrap_or_default().to_owned();
    let pair = |part: &str| part.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let params =
        parts.map(|part| pair(part).ok_or_else(|| format!("{part} is no parameter"))).collect::<Result<_, _>>();
    Ok(vec![Locator { name, params: params?, is_locator: true }])
}

fn initial(pair: &str) -> Result<(String, Version), String> {
    let (name, version) = pair.split_once('=').unwrap_or((pair, "\"\""));
    let version = match version.strip_prefix('@') {
        Some(content) => Version::Of(resource(content)?),
        None => Version::Literal(unquote(version).ok_or("a version is quoted or begins with @")?),
    };
    Ok((name.to_owned(), version))
}

fn expected(streams: Vec<u32>, words: &[String], optional: bool) -> Result<Step, String> {
    let mut how = How { optional, ..How::usual() };
    let mut message = Vec::new();
    let mut rest = words.iter().peekable();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "within" => how.within = span(rest.next().ok_or("within what?")?)?,
            "under" => how.most_bytes = Some(bytes(rest.next().ok_or("under what?")?)?),
            "skipping" => how.skipping = true,
            "split" => {
                let least = rest.peek().and_then(|word| word.strip_suffix("..")?.parse().ok());
                if least.is_some() {
                    rest.next();
                }
                how.split = Some(least.unwrap_or(1));
            }
            _ => message.push(word.clone()),
        }
    }
    if message.first().is_some_and(|word| word == "end") {
        let name = message.get(1).ok_or("which code?")?;
        let code = CODES.iter().find(|(known, _)| known == name).ok_or("no such code")?.1;
        return Ok(Step::ExpectEnd { streams, code, within: how.within });
    }
    let any_of = message.split(|word| word == "|").map(self::message).collect::<Result<_, _>>()?;
    Ok(Step::Expect { streams, any_of, how })
}

fn message(words: &[String]) -> Result<Message, String> {
    let wire = match words.first().map(String::as_str) {
        Some("R") => Wire::Sotw,
        Some("DR") => Wire::Delta,
        _ => return Err("a response is R or DR".into()),
    };
    let mut message = Message::new(wire, type_url(words.get(1).ok_or("which type?")?)?);
    for word in &words[2..] {
        let inside = |prefix: &str| word.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('}'));
        if let Some(list) = inside("{") {
            message.resources = resources(self::words(list).iter())?;
        } else if let Some(list) = inside("-{") {
            message.removed = self::words(list);
        } else if let Some(list) = inside("errors{") {
            message.errors = Some(self::words(list).iter().map(|pair| error(pair)).collect::<Result<_, _>>()?);
        } else if let Some(mark) = word.strip_prefix("v=") {
            message.label_mark = Some(mark.to_owned());
        } else if word.starts_with('v') {
            message.label = Some(word.clone());
        } else if word.starts_with('n') {
            message.nonce_mark = Some(word.clone());
        } else {
            return Err(format!("{word} is no part of a response"));
        }
    }
    Ok(message)
}

fn error(pair: &str) -> Result<(String, i32), String> {
    let (name, code) = pair.rsplit_once(':').ok_or("an error is name:code")?;
    Ok((name.to_owned(), code.parse().map_err(|_| format!("{code} is no code"))?))
}

fn resources<'a>(words: impl Iterator<Item = &'a String>) -> Result<Vec<Resource>, String> {
    let mut all = Vec::new();
    for word in words {
        let Some((name, rest)) = word.split_once('*').filter(|(name, _)| !name.contains(':')) else {
            all.push(resource(word)?);
            continue;
        };
        let (count, attributes) = rest.split_once('(').map_or((rest, String::new()), |(a, b)| (a, format!("({b}")));
        for at in 0..count.parse::<usize>().map_err(|_| format!("{count} is no number"))? {
            all.push(resource(&format!("{name}{at}:1{attributes}"))?);
        }
    }
    Ok(all)
}

/// `A1`, `name:1`, with attributes in parentheses and `?` where it may be left out.
fn resource(word: &str) -> Result<Resource, String> {
    let optional = word.ends_with('?');
    let word = word.trim_end_matches('?');
    let (base, attributes) = match word.strip_suffix(')').and_then(|word| word.split_once('(')) {
        Some((base, attributes)) => (base, attributes),
        None => (word, ""),
    };
    let (name, content) = match base.rsplit_once(':') {
        Some((name, content)) => (unquote(name).unwrap_or_else(|| name.to_owned()), content),
        None => {
            let name = base.trim_end_matches(|letter: char| letter.is_ascii_digit());
            (name.to_owned(), &base[name.len()..])
        }
    };
    let content = if content.is_empty() { 1 } else { content.parse().map_err(|_| format!("{word} has no content"))? };
    let mut resource = Resource {
        name,
        content,
        optional,
        ttl: None,
        aliases: Vec::new(),
        eds: None,
        unknown: false,
        heartbeat: false,
        nobody: false,
        size: 0,
        only: None,
        uncached: false,
        version: None,
    };
    for attribute in attributes.split(',').filter(|attribute| !attribute.is_empty()) {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        match key {
            "ttl" => resource.ttl = Some(span(value)?),
            "alias" => resource.aliases.push(value.to_owned()),
            "eds" => resource.eds = Some(value.to_owned()),
            "unknown" => resource.unknown = true,
            "heartbeat" => resource.heartbeat = true,
            "nobody" => resource.nobody = true,
            "uncached" => resource.uncached = true,
            "size" => resource.size = bytes(value)?,
            "only" => {
                resource.only = value.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned()));
            }
            "version" => resource.version = unquote(value),
            other => return Err(format!("{other} is no attribute of a resource")),
        }
    }
    Ok(resource)
}

fn silence(words: &[String], time_passes: bool) -> Result<Step, String> {
    let at = words.iter().position(|word| word == "allowing").unwrap_or(words.len());
    let streams = words[..at].iter().map(|word| number(Some(word))).collect::<Result<_, _>>()?;
    let allowing = match words.get(at + 1..) {
        Some(rest) => rest.split(|word| word == "|").map(message).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(Step::Silence { streams, allowing, time_passes })
}

fn start(words: &[String]) -> Result<Step, String> {
    let at = words.iter().position(|word| word == "for").unwrap_or(words.len());
    let of = words.get(at + 1).cloned();
    let type_url = type_url(words.first().ok_or("which type?")?)?;
    let (mut errors, mut put) = (Vec::new(), Vec::new());
    for word in &words[1..at] {
        match word.strip_prefix("error(").and_then(|word| word.strip_suffix(')')) {
            Some(pair) => errors.push(error(pair)?),
            None => put.push(word),
        }
    }
    Ok(Step::Start { of, type_url, resources: resources(put.into_iter())?, errors })
}

fn world(words: &[String]) -> Result<Step, String> {
    let type_of = |words: &[String]| type_url(words.first().ok_or("which type?")?);
    match words.get(1).map(String::as_str) {
        Some("says") => {
            let list = words.get(2).and_then(|word| word.strip_prefix('{')?.strip_suffix('}')).ok_or("says what?")?;
            return Ok(Step::Says { type_url: type_of(words)?, resources: resources(self::words(list).iter())? });
        }
        Some("touch") => return Ok(Step::Touch { type_url: type_of(words)?, names: words[2..].to_vec() }),
        _ => {}
    }
    let mut edits = Vec::new();
    for part in words.split(|word| word == ";") {
        let at = part.iter().position(|word| word == "as").unwrap_or(part.len());
        let (mut put, mut remove) = (Vec::new(), Vec::new());
        for word in part.get(1..at).ok_or("which type?")? {
            match word.strip_prefix('-') {
                Some(name) => remove.push(name.to_owned()),
                None => put.push(word.strip_prefix('+').unwrap_or(word).to_owned()),
            }
        }
        let put = resources(put.iter())?;
        edits.push(Edit { type_url: type_of(part)?, put, remove, label: part.get(at + 1).cloned() });
    }
    Ok(Step::World(edits))
}

fn node(words: &[String]) -> Result<Node, String> {
    let name = words.first().ok_or("which node?")?.clone();
    let mut node = Node { id: name.clone(), name, ..Node::default() };
    for word in &words[1..] {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "id" => node.id = value.to_owned(),
            "features" => node.features = value.split(',').map(str::to_owned).collect(),
            "generator" => node.generator = Some(value.to_owned()),
            "agent" => node.agent = Some(value.replace('_', " ")),
            "unknown" => node.unknown = true,
            other => return Err(format!("{other} is no part of a node")),
        }
    }
    Ok(node)
}

fn upstream(words: &[String]) -> Result<Upstream, String> {
    Ok(match words.first().map(String::as_str) {
        Some("never") => Upstream::Never(upstream_request(&words[1..])?),
        Some("streams") => Upstream::Streams(number(words.get(1))?),
        Some("once") => {
            let change = words.get(2).ok_or("which name?")?;
            let name = change.trim_start_matches(['+', '-']).to_owned();
            Upstream::Once { type_url: type_url(&words[1])?, subscribe: change.starts_with('+'), name }
        }
        _ => Upstream::Request(upstream_request(words)?),
    })
}

fn upstream_request(words: &[String]) -> Result<UpstreamRequest, String> {
    let mut request = UpstreamRequest {
        type_url: type_url(words.get(1).ok_or("which type?")?)?,
        error: match words.first().map(String::as_str) {
            Some("ack") => Some(false),
            Some("nack") => Some(true),
            _ => None,
        },
        ..UpstreamRequest::default()
    };
    for word in &words[2..] {
        if let Some(name) = word.strip_prefix('+') {
            request.subscribe.push(name.to_owned());
        } else if let Some(name) = word.strip_prefix('-') {
            request.unsubscribe.push(name.to_owned());
        } else if let Some(list) = word.strip_prefix("irv{").and_then(|word| word.strip_suffix('}')) {
            request.initial = self::words(list);
        } else if let Some(list) = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')) {
            request.subscribe.extend(self::words(list));
        } else if word == "error" {
            request.failing = true;
        } else if word == "plain" {
            request.plain = true;
        } else if word == "node(unknown)" {
            request.node_unknown = true;
        } else {
            return Err(format!("{word} is no part of an upstream request"));
        }
    }
    Ok(request)
}
