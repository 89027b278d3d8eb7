//! Whether the standard `OTEL_*` variables ask for traces. What they say beside
//! that (endpoint, headers, sampler, resource) is read by the library that sends them, and
//! refused here where that would pass over it.

/// What they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traces {
    /// The service has a name there already.
    pub named: bool,
}

/// Why they cannot be followed: the variable, and what it may say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {value:?}: {what}")]
pub struct TracesError {
    variable: &'static str,
    value: String,
    what: &'static str,
}

impl Traces {
    /// Reads the environment. `None`: no traces are asked for.
    pub fn asked() -> Result<Option<Self>, TracesError> {
        Self::of(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, TracesError> {
        if env("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        let asked = match env("OTEL_TRACES_EXPORTER") {
            None => endpoints.iter().any(|name| env(name).is_some()),
            Some(value) if value == "otlp" => true,
            Some(value) if value == "none" => false,
            Some(value) => {
                let what = "traces are sent by otlp, or by none";
                return Err(TracesError { variable: "OTEL_TRACES_EXPORTER", value, what });
            }
        };
        if !asked {
            return Ok(None);
        }
        let named = endpoints.iter().find_map(|name| Some((*name, env(name)?)));
        if let Some((variable, value)) = named.filter(|(_, value)| !is_endpoint(value)) {
            let what = "this is no address of a collector; write http://HOST:4317, or https";
            return Err(TracesError { variable, value, what });
        }
        for variable in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match env(variable) {
                Some(value) if value == "grpc" => break,
                Some(value) => {
                    return Err(TracesError { variable, value, what: "OTLP is spoken over grpc only; name that port" });
                }
                None => {}
            }
        }
        sampler(&env)?;
        Ok(Some(Self { named: env("OTEL_SERVICE_NAME").is_some() }))
    }
}

/// Of all patches or a share of them; the library would take all for what it does not know.
fn sampler(env: &impl Fn(&str) -> Option<String>) -> Result<(), TracesError> {
    const VARIABLE: &str = "OTEL_TRACES_SAMPLER";
    let Some(value) = env(VARIABLE) else { return Ok(()) };
    let name = value.strip_prefix("parentbased_").unwrap_or(&value);
    if !["always_on", "always_off", "traceidratio"].contains(&name) {
        let what = "this is no sampler; say always_on, always_off or traceidratio, or parentbased_ and one of these";
        return Err(TracesError { variable: VARIABLE, value, what });
    }
    let is_share = |text: &str| text.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share));
    match env("OTEL_TRACES_SAMPLER_ARG").filter(|share| name == "traceidratio" && !is_share(share)) {
        None => Ok(()),
        Some(value) => {
            let what = "this is no share of the traces; write a number from 0 to 1";
            Err(TracesError { variable: "OTEL_TRACES_SAMPLER_ARG", value, what })
        }
    }
}

fn is_endpoint(text: &str) -> bool {
    let is_web = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    text.parse().is_ok_and(|uri| is_web(&uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Traces>, String> {
        let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Traces::of(env).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_or_the_exporter_asks_for_them() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let plain = Ok(Some(Traces { named: false }));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[endpoint]), plain);
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317")]), plain);
        assert_eq!(of(&[("OTEL_TRACES_EXPORTER", "otlp")]), plain);
        assert_eq!(of(&[endpoint, ("OTEL_SERVICE_NAME", "edge")]), Ok(Some(Traces { named: true })));
        assert_eq!(of(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        assert_eq!(of(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(None));
        assert_eq!(of(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), plain);
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let told = of(&[("OTEL_TRACES_EXPORTER", "zipkin")]).unwrap_err();
        assert_eq!(told, "OTEL_TRACES_EXPORTER \"zipkin\": traces are sent by otlp, or by none");
        let told = of(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap_err();
        assert!(told.starts_with("OTEL_EXPORTER_OTLP_PROTOCOL \"http/protobuf\": OTLP is spoken over grpc"), "{told}");
        for bad in ["collector:4317", "ftp://collector", "http://", "a b"] {
            let told = of(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", bad), endpoint]).unwrap_err();
            assert!(told.contains(&format!("_TRACES_ENDPOINT {bad:?}: this is no address of a collector")), "{told}");
        }
        for bad in ["alwayson", "ALWAYS_ON", "jaeger_remote", "parentbased_", "xray"] {
            let told = of(&[endpoint, ("OTEL_TRACES_SAMPLER", bad)]).unwrap_err();
            assert!(
                told.starts_with(&format!("OTEL_TRACES_SAMPLER {bad:?}: this is no sampler; say always_on")),
                "{told}"
            );
        }
        for sampler in ["traceidratio", "parentbased_traceidratio"] {
            let of = |share| of(&[endpoint, ("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", share)]);
            for bad in ["much", "1.5", "-1", "NaN", "10%"] {
                let told = of(bad).unwrap_err();
                assert!(told.contains(&format!("_SAMPLER_ARG {bad:?}: this is no share of the traces")), "{told}");
            }
            assert!(["0", "0.25", "1"].iter().all(|share| of(share).is_ok()));
        }
        let unused = [endpoint, ("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_TRACES_SAMPLER_ARG", "much")];
        assert!(of(&unused).is_ok(), "it has no meaning there");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
        assert!(of(&[endpoint, own, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]).is_ok(), "its own variable wins");
    }
}
