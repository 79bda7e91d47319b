//! `ltq-node token`: a new token and what the configuration says of it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;

use super::{ToolError, args::TokenArgs, writing};
use crate::{
    config::{TokenHash, TokenSettings},
    output,
};

/// Prints the token to standard error, once and for ever, and the lines for the configuration to
/// standard output, so that they can be appended to the file.
pub(super) fn run(args: TokenArgs) -> Result<(), ToolError> {
    let token = random_token();
    let text = lines(args, &token)?;
    output::line(text.trim_end()).map_err(writing)?;
    output::note(token);
    Ok(())
}

fn lines(args: TokenArgs, token: &str) -> Result<String, ToolError> {
    #[derive(Serialize)]
    struct File {
        tokens: [TokenSettings; 1],
    }
    let TokenArgs { name, publish, consume, administer } = args;
    let sha256 = TokenHash::of(token);
    let name = name.as_str().to_owned();
    let file = File { tokens: [TokenSettings { name, sha256, publish, consume, administer }] };
    toml::to_string(&file).map_err(|error| ToolError::Failed(error.to_string()))
}

/// 256 bits of chance. The beginning makes a token that got lost easy to search for.
fn random_token() -> String {
    format!("ltq_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_printed_is_what_the_configuration_takes() {
        let args = TokenArgs {
            name: "kitchen".parse().unwrap(),
            publish: vec!["orders.*".parse().unwrap()],
            consume: Vec::new(),
            administer: Vec::new(),
        };
        let token = random_token();
        assert_eq!(token.len(), 4 + 43);
        assert_ne!(token, random_token());
        let text = lines(args, &token).unwrap();
        assert!(text.starts_with("[[tokens]]\n") && !text.contains(&token), "{text}");
        let config: Config = toml::from_str(&text).unwrap();
        config.check().unwrap();
        assert_eq!(config.tokens[0].sha256, TokenHash::of(&token));
        assert_eq!(config.tokens[0].publish[0].as_str(), "orders.*");
    }
}
