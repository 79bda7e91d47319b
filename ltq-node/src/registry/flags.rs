//! The command line of `ltq-node registry`.

use std::path::PathBuf;

use clap::{Args, builder::PossibleValuesParser};
use toml::Value;

use crate::config::{LogFormat, LogLevel, Token};

/// The flags of `ltq-node registry`.
#[derive(Clone, Debug, Default, Args)]
pub struct RegistryFlags {
    /// Reads settings from this TOML file. There is none by default. [variable: LTQ_REGISTRY_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listens for nodes and clients on tcp://HOST:PORT, tls://HOST:PORT or quic://HOST:PORT, or on
    /// unix:///PATH. Give it several times to listen in several places; port 0 takes any free one. Beyond
    /// this machine it asks for tokens. [default: tcp://127.0.0.1:7450] [variable: LTQ_REGISTRY_LISTEN,
    /// separated by commas]
    #[arg(long, value_name = "URL")]
    pub listen: Vec<String>,

    /// Serves HTTP here: health, metrics and the nodes that there are. "off" serves none. [default:
    /// 127.0.0.1:7451] [variable: LTQ_REGISTRY_HTTP]
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,

    /// Lets only those in who know this secret, or a token of the file. A variable or the file keeps it
    /// from the list of processes. There is none by default. [variable: LTQ_REGISTRY_TOKEN]
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    pub token: Option<Token>,

    /// How often nodes show that they are there. One that misses two beats is avoided, and one that
    /// misses thirty is forgotten. [default: 1s] [variable: LTQ_REGISTRY_HEARTBEAT]
    #[arg(long, value_name = "TIME")]
    pub heartbeat: Option<String>,

    /// Proves with the certificate in this PEM file, at tls:// and quic:// addresses, who the registry is.
    /// [variable: LTQ_REGISTRY_TLS_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: Option<String>,

    /// The certificate's key is in this PEM file. [variable: LTQ_REGISTRY_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,

    /// Writes logs to standard error as lines for people or as one JSON object a line. [default:
    /// human] [variable: LTQ_REGISTRY_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(LogFormat::WORDS.iter().copied()))]
    pub log_format: Option<String>,

    /// Logs what is at least this severe. [default: info] [variable: LTQ_REGISTRY_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL", value_parser = PossibleValuesParser::new(LogLevel::WORDS.iter().copied()))]
    pub log_level: Option<String>,

    /// Prints the configuration that would be used as TOML, and ends. The token is not printed.
    #[arg(long)]
    pub print_config: bool,
}

impl RegistryFlags {
    /// The settings that were given, by their keys.
    pub(super) fn values(&self) -> Vec<(&'static str, Value)> {
        let text = |key, value: &Option<String>| Some((key, Value::from(value.as_deref()?)));
        let listen =
            (!self.listen.is_empty()).then(|| ("listen", Value::from(self.listen.clone())));
        [
            listen,
            text("http", &self.http),
            text("token", &self.token.as_ref().map(|token| token.0.clone())),
            text("heartbeat", &self.heartbeat),
            text("tls.certificate", &self.tls_certificate),
            text("tls.key", &self.tls_key),
            text("log_format", &self.log_format),
            text("log_level", &self.log_level),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn token(text: &str) -> Result<Token, std::convert::Infallible> {
    Ok(text.into())
}
