//! What a process tells, and where; the one place that reads the environment for it.

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What to tell, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Name of the process in traces.
    pub service: String,
    /// Which log lines, as `tracing`'s filter says it: `info`, `tessera_router=debug`.
    pub filter: String,
    /// How they look.
    pub format: LogFormat,
    /// Where spans go by OTLP over gRPC; nowhere when `None`.
    pub otlp_endpoint: Option<String>,
}

impl TelemetryConfig {
    /// From `TESSERA_LOG`, `TESSERA_LOG_FORMAT` (`human`, `json`) and `OTEL_EXPORTER_OTLP_ENDPOINT`.
    /// `filter` holds where the first is unset.
    pub fn from_env(service: &str, filter: &str) -> Self {
        Self::from_variables(service, filter, |name| std::env::var(name).ok())
    }

    fn from_variables(service: &str, filter: &str, read: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name| read(name).filter(|value| !value.is_empty());
        let json = variable("TESSERA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("json"));
        Self {
            service: service.to_owned(),
            filter: variable("TESSERA_LOG").unwrap_or_else(|| filter.to_owned()),
            format: if json { LogFormat::Json } else { LogFormat::Human },
            otlp_endpoint: variable("OTEL_EXPORTER_OTLP_ENDPOINT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> TelemetryConfig {
        let read = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        TelemetryConfig::from_variables("tessera-router", "info", read)
    }

    #[test]
    fn what_the_environment_says_is_taken() {
        let endpoint = "http://collector:4317";
        let variables = [("TESSERA_LOG", "debug"), ("TESSERA_LOG_FORMAT", "JSON"), ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)];
        let config = from(&variables);
        assert_eq!((config.filter.as_str(), config.format), ("debug", LogFormat::Json));
        assert_eq!(config.otlp_endpoint.as_deref(), Some(endpoint));
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let config = from(&[("TESSERA_LOG", ""), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")]);
        assert_eq!(config, from(&[]));
        assert_eq!((config.filter.as_str(), config.otlp_endpoint), ("info", None));
    }
}
