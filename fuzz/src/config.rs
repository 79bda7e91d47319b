use ltq_node::config::Config;

/// Any text is a configuration or is refused, without telling the secrets in it; one that is taken
/// is printed as a text that says the same.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = Config::from_text("a file", text)
        && !shows_less(&config)
    {
        let printed = config.to_toml();
        let again = Config::from_text("what was printed", &printed);
        let again = again.unwrap_or_else(|error| panic!("{error}:\n{printed}"));
        // The default is printed as what it comes to.
        let config = Config { durability: again.durability, ..config };
        assert_eq!(again, config);
        assert_eq!(again.durability(), config.durability());
    }
    let with_secret = format!("token = \"{SECRET}\"\n{text}");
    if let Err(error) = Config::from_text("a file", &with_secret) {
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
}

/// Whether there is a secret in it, in place of which something else is printed.
fn shows_less(config: &Config) -> bool {
    let (drain, discovery) = (&config.drain, &config.discovery);
    config.token.is_some()
        || drain.token.is_some()
        || discovery.token.is_some()
        || discovery.etcd_password.is_some()
}

const SECRET: &str = "gNfYw5bX0d";
