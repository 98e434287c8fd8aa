//! `assay key`: private keys and whom to trust.

use std::path::Path;

use serde_json::json;

use super::ledger::{self, answer};
use super::output;
use crate::error::{Error, Result};
use crate::ledger::{Config, Evidence, KeyId, PublicKey, TRUST_UNKNOWN, Trust};

/// Make keys and say whom to trust
///
/// Both are kept in your config directory, outside every workbench.
#[derive(clap::Args)]
pub struct Key {
    #[command(subcommand)]
    action: Action,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a private key, and trust it here.
    New {
        /// What others will see it called, e.g. this host's name.
        name: String,
        /// Do not trust what it signs.
        #[arg(long)]
        no_trust: bool,
    },
    /// List your keys, the ones you trust, and those that sign in this workbench.
    List,
    /// Print a public key as others need it to trust it.
    Show {
        /// A name or the first digits of an id; the only private key otherwise.
        key: Option<String>,
        /// Print the evidence by which your private key asks to join a ledger (for `assay import` elsewhere).
        #[arg(long)]
        join: bool,
    },
    /// Believe what this key signs.
    Trust {
        /// NAME+HASH+BASE64, or the name or first digits of the id of a key that signs in this workbench.
        key: String,
        /// Count evidence of class simulated too. For tests.
        #[arg(long)]
        simulated: bool,
    },
    /// Stop believing what this key signs.
    Untrust { key: String },
}

impl Key {
    pub fn run(&self, root: &Path) -> Result<u8> {
        let config = Config::of_user()?.outside(root)?;
        let mut trust = Trust::load(&config, None, root)?;
        match &self.action {
            Action::New { name, no_trust } => {
                let key = config.new_key(name)?;
                if !no_trust {
                    trust.trust(key.public().clone(), false)?;
                }
                self.one(key.public(), !no_trust)
            }
            Action::List => self.list(root, &config, &trust),
            Action::Show { key, join } => {
                if *join {
                    let line = Evidence::join(&config.key(key.as_deref())?)?.to_line()?;
                    output::print(format_args!("{}", String::from_utf8_lossy(&line)))?;
                    return Ok(0);
                }
                let key = match key {
                    None => config.key(None)?.public().clone(),
                    Some(text) => find(text, root, &config, &trust)?,
                };
                self.one(&key, trust.trusts(&key.id()))
            }
            Action::Trust { key, simulated } => {
                let key = find(key, root, &config, &trust)?;
                trust.trust(key.clone(), *simulated)?;
                self.one(&key, true)
            }
            Action::Untrust { key } => {
                let key = find(key, root, &config, &trust)?;
                if trust.untrust(&key.id())?.is_none() {
                    return Err(Error::new(&TRUST_UNKNOWN, format!("{key} was not trusted")).hint("assay key list"));
                }
                self.one(&key, false)
            }
        }
    }

    fn one(&self, key: &PublicKey, trusted: bool) -> Result<u8> {
        if self.json {
            let body = json!({ "id": key.id(), "name": key.name(), "key": key, "trusted": trusted });
            return answer("assay.key/1", body);
        }
        output::println(format_args!("{key}"))?;
        let said = if trusted { "trusted here" } else { "not trusted here" };
        anstream::eprintln!("{} is key {}, {said}", key.name(), key.id().short());
        Ok(0)
    }

    fn list(&self, root: &Path, config: &Config, trust: &Trust) -> Result<u8> {
        let ledger = ledger::open(root)?;
        let own = config.key_names()?;
        let mut keys = ledger.chain().ring.clone();
        keys.extend(trust.keys().map(|t| (t.key.id(), t.key.clone())));
        let mut lines = Vec::new();
        let mut owned = Vec::new();
        for name in &own {
            let key = config.key(Some(name))?.public().clone();
            owned.push(key.id());
            keys.insert(key.id(), key);
        }
        for (id, key) in &keys {
            let trusted = trust.get(id);
            lines.push(json!({
                "id": id, "name": key.name(), "key": key, "private": owned.contains(id), "trusted": trusted.is_some(),
                "simulated": trusted.is_some_and(|t| t.simulated), "signs_here": ledger.chain().ring.contains_key(id),
            }));
        }
        if self.json {
            return answer("assay.keys/1", json!({ "keys": lines }));
        }
        if keys.is_empty() {
            output::println(format_args!("no keys yet: assay key new NAME"))?;
        }
        for (id, key) in &keys {
            let trusted = match trust.get(id) {
                Some(t) if t.simulated => "trusted here, also when simulated",
                Some(_) => "trusted here",
                None => "not trusted here",
            };
            let private = if owned.contains(id) { ", yours" } else { "" };
            let signs = if ledger.chain().ring.contains_key(id) { ", signs in this workbench" } else { "" };
            output::println(format_args!("{}  {}  {trusted}{private}{signs}", id.short(), key.name()))?;
        }
        Ok(0)
    }
}

/// A key by its text, its name, or the first digits of its id, among those that are known here.
fn find(text: &str, root: &Path, config: &Config, trust: &Trust) -> Result<PublicKey> {
    if text.contains('+') {
        return text.parse();
    }
    let mut known: Vec<PublicKey> = trust.keys().map(|t| t.key.clone()).collect();
    for name in config.key_names()? {
        known.push(config.key(Some(&name))?.public().clone());
    }
    known.extend(ledger::open(root)?.chain().ring.values().cloned());
    let named = |id: &KeyId, name: &str| name == text || (text.len() >= 6 && id.to_string().starts_with(text));
    known.retain(|key| named(&key.id(), key.name()));
    known.sort_by_key(PublicKey::id);
    known.dedup();
    match known.as_slice() {
        [key] => Ok(key.clone()),
        [] => Err(Error::new(&TRUST_UNKNOWN, format!("no key goes by `{}`", text.escape_debug()))
            .expected("NAME+HASH+BASE64, a name, or at least 6 digits of an id")
            .hint("assay key list")),
        several => Err(Error::new(&TRUST_UNKNOWN, format!("several keys go by `{text}`"))
            .found(several.iter().map(PublicKey::to_string).collect::<Vec<_>>().join(", "))),
    }
}
