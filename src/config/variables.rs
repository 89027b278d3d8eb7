//! Variables of the environment that look like ours and are none: a misspelt one
//! would be passed over in silence.

use super::layers::CONFIG;
use super::settings::Setting;

/// Of the verbs that ask, and of the tests.
const OTHERS: &[&str] = &["OUTPOST_BREAKS", "OUTPOST_BREAKS_SEED"];

/// A warning for each variable of the environment that begins as ours do and is none.
pub fn unknown_variables() -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    unknown(names)
}

fn unknown(names: impl Iterator<Item = String>) -> Vec<String> {
    let settings = Setting::all();
    let known: Vec<&str> = settings.iter().map(|setting| setting.env.as_str()).chain([CONFIG]).collect();
    let is_known = |name: &str| known.contains(&name) || OTHERS.contains(&name);
    let mut strange: Vec<_> = names
        .filter(|name| name.starts_with("OUTPOST_") && !is_known(name) && !is_of_a_service(name))
        .map(|name| {
            let near = known.iter().min_by_key(|known| strsim::damerau_levenshtein(&name, known));
            let near = near.filter(|near| strsim::damerau_levenshtein(&name, near) <= 3);
            let hint =
                near.map_or("outpost config defaults names all".to_owned(), |near| format!("did you mean {near}?"));
            format!("{name:?} is no variable of Outpost, and changes nothing; {hint}")
        })
        .collect();
    strange.sort();
    strange
}

/// Kubernetes sets such for each service, and one may be called outpost, or outpost-admin.
fn is_of_a_service(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // OUTPOST_PORT, OUTPOST_PORT_18000_TCP_ADDR
    let of_port = |rest: &str| {
        rest.is_empty() || rest.strip_prefix('_').and_then(|rest| rest.split('_').next()).is_some_and(is_number)
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, port)| name.get(at + port.len()..).is_some_and(of_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_with_the_nearest() {
        let table = [
            ("OUTPOST_MAX_NAME", Some("did you mean OUTPOST_MAX_NAMES?")),
            ("OUTPOST_UPSTREM", Some("did you mean OUTPOST_UPSTREAM?")),
            ("OUTPOST_LOGLEVEL", Some("did you mean OUTPOST_LOG_LEVEL?")),
            ("OUTPOST_COLOUR_OF_THE_SKY", Some("outpost config defaults names all")),
            ("OUTPOST_MAX_NAMES", None),
            ("OUTPOST_ADMIN", None),
            ("OUTPOST_CONFIG", None),
            ("OUTPOST_PORT", None),
            ("OUTPOST_PORT_18000_TCP", None),
            ("OUTPOST_PORT_18000_TCP_ADDR", None),
            ("OUTPOST_SERVICE_HOST", None),
            ("OUTPOST_SERVICE_PORT_XDS", None),
            ("OUTPOST_ADMIN_PORT_19901_TCP_PORT", None),
            ("PATH", None),
        ];
        for (name, want) in table {
            let told = unknown([name.to_owned()].into_iter());
            assert_eq!(told.len(), usize::from(want.is_some()), "{told:?}");
            assert!(
                told.iter().all(|told| told.contains(name) && told.ends_with(want.unwrap_or_default())),
                "{told:?}"
            );
        }
    }
}
