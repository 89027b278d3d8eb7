//! Default < file < environment < flags: which value counts, and whence.
//!
//! [`Given`] is what the command line and the environment gave, as the parser
//! of the command line saw it. [`Layers`] lays the file below it, so that the
//! checks see one set of [`Flags`], and says what is wrong in the words of
//! where it came from.

use super::check::{Finding, key_of};
use super::file::File;
use super::problem::{Problem, Problems};
use super::settings::{Setting, reword};
use super::{Config, Flags};
use crate::yaml::Place;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The flags of `outpost serve` and the environment, with the name of the file
/// that stands below both.
#[derive(Clone, Debug)]
pub struct Given {
    flags: Flags,
    matches: ArgMatches,
    /// Its name, and how it was given.
    file: Option<(String, &'static str)>,
}

#[derive(Args, Clone, Debug)]
struct Whence {
    /// Configuration file (YAML); the environment and flags win over it. See outpost config
    #[arg(long, env = CONFIG, value_name = "FILE")]
    config: Option<String>,
}

pub(super) const CONFIG: &str = "OUTPOST_CONFIG";

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(Whence::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let asked = if matches.value_source("config") == Some(ValueSource::EnvVariable) { CONFIG } else { "--config" };
        let file = Whence::from_arg_matches(matches)?.config.map(|name| (name, asked));
        Ok(Self { flags: Flags::from_arg_matches(matches)?, matches: matches.clone(), file })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Given {
    /// The configuration file, where one is named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_ref().map(|(name, _)| name.as_str())
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Unset,
    Default,
    /// Line of the file.
    File {
        name: String,
        line: usize,
    },
    /// The variable.
    Environment(String),
    /// The flag.
    Flag(String),
}

/// A setting with what counts.
#[derive(Clone, Debug)]
pub struct Value {
    pub setting: Setting,
    pub texts: Vec<String>,
    pub origin: Origin,
}

impl Value {
    /// The texts as they may be shown to whoever asks.
    pub fn shown(&self) -> Vec<String> {
        let hidden = |text: &String| match key_of(text) {
            Some(key) => format!("{key}={REDACTED}"),
            None => REDACTED.into(),
        };
        if self.setting.is_secret() { self.texts.iter().map(hidden).collect() } else { self.texts.clone() }
    }
}

/// In the place of what must not be shown.
const REDACTED: &str = "[redacted]";

/// Everything that was given, one layer over the other.
#[derive(Debug)]
pub struct Layers {
    flags: Flags,
    settings: Vec<Setting>,
    values: Vec<Value>,
    file: Option<File>,
}

impl Layers {
    /// Reads the file, if there is one. What is wrong with it is told by
    /// [`check`](Self::check).
    pub fn read(given: &Given) -> Self {
        let settings = Setting::all();
        let mut file = given.file.as_ref().map(|(name, asked)| File::open(name, asked, &settings));
        let values: Vec<_> =
            settings.iter().map(|setting| value(setting.clone(), &given.matches, file.as_ref())).collect();
        let flags = flags(&values).unwrap_or_else(|error| {
            if let Some(file) = &mut file {
                let (at, what) = (format!("{}:", file.name), format!("cannot be used: {error}"));
                file.problems.push((Place::default(), Problem { at, what, excerpt: None }));
            }
            given.flags.clone()
        });
        Self { flags, settings, values, file }
    }

    /// What counts in a process that was started with `started`, now that these are
    /// given: of these what is [live](Setting::is_live), and what it was started with for
    /// the rest. So nothing is derived from a mixture that was not checked.
    #[must_use]
    pub fn live_over(self, started: &Self) -> Self {
        let value = |value: Value| match started.value(&value.setting.flag) {
            Some(before) if !Setting::is_live(value.setting.key) => before.clone(),
            _ => value,
        };
        let values: Vec<_> = self.values.into_iter().map(value).collect();
        let flags = flags(&values).unwrap_or(self.flags);
        Self { flags, settings: self.settings, values, file: self.file }
    }

    /// The configuration, or all that is wrong: with the file first.
    pub fn check(&self) -> Result<Config, Problems> {
        let (config, findings) = Config::examine(&self.flags);
        let mut problems: Vec<_> = self.file.iter().flat_map(|file| file.problems.iter().cloned()).collect();
        problems.extend(findings.iter().filter(|finding| !self.follows(finding)).map(|finding| self.problem(finding)));
        // In the order of the file; what has no place in it comes last.
        problems.sort_by_key(|(place, _)| (place.line == 0 && !self.is_unread(), *place));
        let problems: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// All settings, with what counts and whence.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// `text` with the flags that it names in the words of where each value
    /// came from.
    pub fn reword(&self, text: &str) -> String {
        reword(text, &self.settings, |setting| self.word(setting))
    }

    fn is_unread(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.unread)
    }

    fn value(&self, flag: &str) -> Option<&Value> {
        self.values.iter().find(|value| value.setting.flag == flag)
    }

    fn word(&self, setting: &Setting) -> String {
        match self.value(&setting.flag).map(|value| &value.origin) {
            Some(Origin::Flag(_)) | None => setting.flag.clone(),
            Some(Origin::Environment(name)) => name.clone(),
            Some(Origin::File { .. }) => setting.key.into(),
            Some(Origin::Unset | Origin::Default) if self.file.is_some() => setting.key.into(),
            Some(Origin::Unset | Origin::Default) => setting.flag.clone(),
        }
    }

    /// What is only found because something in the file could not be used.
    fn follows(&self, finding: &Finding) -> bool {
        let Some(file) = &self.file else { return false };
        let names = |setting: &&Setting| {
            let mentioned =
                || finding.what.split(' ').any(|word| word.trim_end_matches([';', ',', '.']) == setting.flag);
            setting.flag == finding.flag || mentioned()
        };
        let unset = |setting: &&Setting| {
            let origin = self.value(&setting.flag).map(|value| &value.origin);
            matches!(origin, Some(Origin::Unset | Origin::Default))
        };
        let mut named = self.settings.iter().filter(names).filter(unset);
        named.any(|setting| file.unread || file.refused.contains(setting.id))
    }

    fn problem(&self, finding: &Finding) -> (Place, Problem) {
        let what = self.reword(&finding.what);
        let given = finding.given();
        let Some(value) = self.value(finding.flag) else {
            let at = format!("{}{given}", finding.flag);
            return (Place::default(), Problem { at, what, excerpt: None });
        };
        let key = value.setting.key;
        match (&value.origin, &self.file) {
            (Origin::File { .. }, Some(file)) => {
                let place = file.values.get(value.setting.id).map_or(Place::default(), |found| {
                    let is = |text: &str| finding.value.as_deref().is_some_and(|value| text.contains(value));
                    // Of what is given twice, the second is one too many.
                    found.texts.iter().rev().find(|(text, _)| is(text)).map_or(found.place, |(_, place)| *place)
                });
                let at = format!("{}: {key}{given}", file.at(place));
                let excerpt = file.excerpt(place).filter(|_| !value.setting.is_secret());
                (place, Problem { at, what, excerpt })
            }
            (Origin::Unset | Origin::Default, Some(file)) => {
                (Place::default(), Problem { at: format!("{}: {key}{given}", file.name), what, excerpt: None })
            }
            _ => {
                let at = format!("{}{given}", self.word(&value.setting));
                (Place::default(), Problem { at, what, excerpt: None })
            }
        }
    }
}

fn value(setting: Setting, matches: &ArgMatches, file: Option<&File>) -> Value {
    let raw = || {
        let raw = matches.get_raw(setting.id).into_iter().flatten();
        raw.map(|text| text.to_string_lossy().into_owned()).collect()
    };
    let found = file.and_then(|file| Some((file, file.values.get(setting.id)?)));
    let (origin, texts) = match (matches.value_source(setting.id), found) {
        (Some(ValueSource::CommandLine), _) => (Origin::Flag(setting.flag.clone()), raw()),
        (Some(ValueSource::EnvVariable), _) => (Origin::Environment(setting.env.clone()), raw()),
        (_, Some((file, found))) => {
            let origin = Origin::File { name: file.name.clone(), line: found.place.line };
            (origin, found.texts.iter().map(|(text, _)| text.clone()).collect())
        }
        _ if setting.default.is_empty() => (Origin::Unset, Vec::new()),
        _ => (Origin::Default, setting.default.clone()),
    };
    Value { setting, texts, origin }
}

/// The values as one command line. No commas are split: that has been done.
fn flags(values: &[Value]) -> Result<Flags, clap::Error> {
    let mut command = Flags::augment_args(Command::new("outpost").no_binary_name(true));
    command = command.mut_args(|arg| arg.value_delimiter(None::<char>));
    let mut line = Vec::new();
    for value in values.iter().filter(|value| !matches!(value.origin, Origin::Unset | Origin::Default)) {
        if value.texts.is_empty() {
            command = command.mut_arg(value.setting.id, |arg| arg.default_value(None::<&'static str>));
        }
        line.extend(value.texts.iter().map(|text| format!("{}={text}", value.setting.flag)));
    }
    Flags::from_arg_matches(&command.try_get_matches_from(line)?)
}
