//! Where the model is: the user's `agent.toml`, the environment and the command line; never the tree.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::codes::{ENDPOINT_CONFIG, ENDPOINT_KEY, ENDPOINT_NONE};
use crate::agent::redact::{Redactor, Secret};
use crate::error::{Error, Result};
use crate::files;
use crate::ledger::Config;

/// The file in the user's config directory.
const FILE: &str = "agent.toml";
/// The variable that holds the key where none is named.
const KEY_VARIABLE: &str = "ASSAY_AGENT_KEY";

/// What the command line and the environment say over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub url: Option<String>,
    pub model: Option<String>,
    /// Name of the variable that holds the key.
    pub key: Option<String>,
    pub stream: Option<bool>,
}

/// Everything about a server, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of chat completions.
    pub url: reqwest::Url,
    pub model: String,
    pub key: Option<Secret>,
    /// The variable that holds the key, or would.
    pub key_name: String,
    pub stream: bool,
    /// Longest silence, and longest answer.
    pub idle: Duration,
    pub total: Duration,
    pub tries: u32,
    pub backoff: Duration,
    /// Tokens that an answer may have, and that the conversation and it may have together.
    pub answer_tokens: u64,
    pub context_tokens: u64,
    pub temperature: Option<f64>,
    pub price: Option<Price>,
}

/// In 10⁻⁶ of the currency per million tokens, which is 10⁻¹² per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    pub input: u64,
    pub output: u64,
}

impl Price {
    /// In 10⁻¹² of the currency.
    pub fn of(&self, prompt: u64, completion: u64) -> u64 {
        prompt.saturating_mul(self.input).saturating_add(completion.saturating_mul(self.output))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    endpoint: Endpoint,
    #[serde(default)]
    price: Vec<PriceRow>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Endpoint {
    url: Option<String>,
    model: Option<String>,
    key: Option<String>,
    stream: Option<bool>,
    idle_s: Option<f64>,
    total_s: Option<f64>,
    tries: Option<u32>,
    backoff_ms: Option<u64>,
    answer_tokens: Option<u64>,
    context_tokens: Option<u64>,
    temperature: Option<f64>,
}

/// Per million tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceRow {
    model: String,
    input: f64,
    output: f64,
}

impl Settings {
    /// The user's settings; the config directory must lie outside of the workbench at `root`.
    pub fn load(config: &Config, root: &Path, over: &Overrides) -> Result<Settings> {
        let path = config.clone().outside(root)?.dir().join(FILE);
        let text = files::read_text_if_any(&path, files::SETTINGS)?.unwrap_or_default();
        let wrong = |what: String| {
            Error::new(&ENDPOINT_CONFIG, format!("{}: {what}", path.display())).hint("docs/agents.md lists its fields")
        };
        // The message without the line that it quotes: somebody may have put a key there.
        let File { endpoint, price } = toml::from_str(&text).map_err(|e| wrong(e.message().to_string()))?;
        let none = |what: &str, flag: &str| {
            Error::new(&ENDPOINT_NONE, format!("no {what} is configured"))
                .expected(format!("[endpoint] in {}", path.display()))
                .hint(format!("assay agent {flag}"))
        };
        let url = over.url.clone().or(endpoint.url).ok_or_else(|| none("server", "--url http://localhost:8080/v1"))?;
        let model = over.model.clone().or(endpoint.model).ok_or_else(|| none("model", "--llm NAME"))?;
        let seconds = |value: Option<f64>, usual: u64, name: &str| match value {
            None => Ok(Duration::from_secs(usual)),
            Some(s) if s > 0.0 && s <= 1e6 => Ok(Duration::from_secs_f64(s)),
            Some(s) => Err(wrong(format!("{name} = {s} is no time to wait"))),
        };
        let mut priced = None;
        for row in price.into_iter().filter(|row| row.model == model) {
            let micro = |value: f64| match (value * 1e6).round() {
                micro if (0.0..1e12).contains(&micro) => Ok(micro as u64),
                _ => Err(wrong(format!("{value} is no price per million tokens"))),
            };
            priced = Some(Price { input: micro(row.input)?, output: micro(row.output)? });
        }
        let named = over.key.clone().or(endpoint.key);
        Ok(Settings {
            url: address(&url)?,
            model,
            key_name: named.clone().unwrap_or_else(|| KEY_VARIABLE.into()),
            key: key(named)?,
            stream: over.stream.or(endpoint.stream).unwrap_or(true),
            idle: seconds(endpoint.idle_s, 300, "idle_s")?,
            total: seconds(endpoint.total_s, 1800, "total_s")?,
            tries: endpoint.tries.unwrap_or(6).clamp(1, 100),
            backoff: Duration::from_millis(endpoint.backoff_ms.unwrap_or(1000)),
            answer_tokens: endpoint.answer_tokens.unwrap_or(8192).max(1),
            context_tokens: endpoint.context_tokens.unwrap_or(65_536).max(1),
            temperature: endpoint.temperature.filter(|t| t.is_finite()),
            price: priced,
        })
    }

    pub fn redactor(&self) -> Redactor {
        Redactor::new(self.key.clone())
    }

    /// Scheme, host and port, for people.
    pub fn host(&self) -> String {
        let port = self.url.port().map_or(String::new(), |p| format!(":{p}"));
        format!("{}://{}{port}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }
}

/// `BASE` or `BASE/chat/completions`. A key belongs in a variable: an address is printed.
fn address(text: &str) -> Result<reqwest::Url> {
    let wrong = |why: &str| {
        Error::new(&ENDPOINT_CONFIG, format!("the server's address {why}"))
            .expected("http://HOST:PORT/v1 or https://HOST/v1")
            .hint("assay agent --url http://localhost:8080/v1")
    };
    let mut url = reqwest::Url::parse(text.trim()).map_err(|e| wrong(&format!("is no URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("holds a user, a password or a query, where keys would be shown"));
    }
    let path = url.path().trim_end_matches('/').trim_end_matches("/chat/completions").to_string();
    url.set_path(&format!("{path}/chat/completions"));
    Ok(url)
}

fn key(named: Option<String>) -> Result<Option<Secret>> {
    let name = named.clone().unwrap_or_else(|| KEY_VARIABLE.into());
    // Whoever writes the key where its variable's name belongs must not find it in the message.
    let plain = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !plain {
        return Err(Error::new(&ENDPOINT_KEY, "`key` is to be the name of an environment variable, not a key")
            .expected("capital letters, digits and _, as in MY_SERVER_KEY"));
    }
    match std::env::var(&name) {
        Ok(value) if !value.trim().is_empty() => Secret::new(&value)
            .map(Some)
            .map_err(|why| Error::new(&ENDPOINT_KEY, format!("the key in the variable {name} {why}"))),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::new(&ENDPOINT_KEY, format!("the key in the variable {name} is not text")))
        }
        _ if named.is_some() => Err(Error::new(&ENDPOINT_KEY, format!("the variable {name} is not set"))
            .expected("the server's key in it")
            .hint(format!("export {name}=…"))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_and_one_with_a_secret_refused() {
        for (text, want) in [
            ("http://localhost:8080/v1", "http://localhost:8080/v1/chat/completions"),
            ("https://h/v1/", "https://h/v1/chat/completions"),
            ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
            ("http://h", "http://h/chat/completions"),
        ] {
            assert_eq!(address(text).unwrap().as_str(), want);
        }
        for text in ["ftp://h", "h:80", "http://u:p@h/v1", "http://h/v1?key=sk-12345678", ""] {
            assert!(!address(text).unwrap_err().to_string().contains("sk-12345678"), "{text}");
        }
    }
}
