//! `assay key`: private keys and whom to trust.

use std::path::Path;

use serde_json::json;

use super::ledger::{self, answer, summary};
use super::output;
use crate::error::{Error, Result};
use crate::ledger::{
    Config, Digest, Evidence, KeyId, Ledger, NO_FORCE, PublicKey, Revocation, Rotation, SecretKey, Statement,
    TRUST_UNKNOWN, Trust, clock,
};
use crate::words::{agree, count, plain};
use crate::workbench::Workbench;

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
    /// Hand over from one of your keys to a new one, by a row that both sign: the old one signs nothing here any more.
    Rotate {
        /// The successor: one of your private keys, or the name of one to be made.
        to: String,
        /// The key that hands over; your only other one otherwise.
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
    },
    /// End a key by a row: what it signs from now on counts for nothing. The key itself may say so, a successor of it, or
    /// the key of row 0 and its successors.
    Revoke {
        /// A key that signs in this workbench: its name, the first digits of its id, or NAME+HASH+BASE64.
        key: String,
        /// What happened, for everybody to read.
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// What it signed in this row and later counts for nothing either; 0 for all [default: what it signed so far
        /// goes on counting]
        #[arg(long, value_name = "ROW")]
        from: Option<usize>,
        /// Private key to sign with.
        #[arg(long = "key", value_name = "NAME")]
        by: Option<String>,
    },
}

impl Key {
    /// `root`: of the workbench around here, if there is one.
    pub fn run(&self, root: Option<&Path>) -> Result<u8> {
        let config = Config::of_user()?;
        let (config, mut trust) = match root {
            Some(root) => {
                let config = config.outside(root)?;
                let trust = Trust::load(&config, None, root)?;
                (config, trust)
            }
            None => {
                let trust = Trust::of_user(&config)?;
                (config, trust)
            }
        };
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
            Action::Rotate { to, key } => self.rotate(here(root)?, &config, &mut trust, to, key.as_deref()),
            Action::Revoke { key, why, from, by } => {
                let (root, key) = (here(root)?, find(key, root, &config, &trust)?);
                self.revoke(root, key, why, *from, &config.key(by.as_deref())?)
            }
        }
    }

    fn rotate(&self, root: &Path, config: &Config, trust: &mut Trust, to: &str, from: Option<&str>) -> Result<u8> {
        let mut ledger = ledger::open(root)?;
        let mut names = config.key_names()?;
        let exists = names.iter().any(|name| name == to);
        names.retain(|name| name != to);
        let only = match names.as_slice() {
            [only] => Some(only.as_str()),
            _ => None,
        };
        let old = config.key(from.or(only))?;
        let first = first(&ledger)?;
        ledger.may_sign(&old)?;
        let id = old.public().id();
        if !ledger.chain().ring.contains_key(&id) {
            return Err(Error::new(&NO_FORCE, format!("key {} never signed here", old.public().name()))
                .expected("a key that signs in this workbench")
                .hint("assay key list; a key that nobody knows needs no successor: assay key new NAME"));
        }
        let new = if exists { config.key(Some(to))? } else { config.new_key(to)? };
        let keeps = ledger.kept(&id, ledger.rows().len());
        let (from, to) = (old.public().clone(), new.public().clone());
        let kept = keeps.len();
        let rotation = Rotation { from, to, ledger: first, keeps, time: clock::now() };
        let mut evidence = Vec::new();
        // Its own key row as well: with that alone its evidence can be read in other ledgers, where a rotation has no force.
        if !ledger.chain().ring.contains_key(&new.public().id()) {
            evidence.push(Evidence::join(&new)?);
        }
        evidence.push(Evidence::sign(Statement::Rotation(Box::new(rotation)), &old)?.welcomed_by(&new)?);
        let row = append(&mut ledger, &evidence, &old)?;
        // The successor is as much the user's as the old key was.
        if let Some(simulated) = trust.get(&id).map(|old| old.simulated)
            && !trust.trusts(&new.public().id())
        {
            trust.trust(new.public().clone(), simulated)?;
        }
        if self.json {
            let body = json!({ "row": row, "from": old.public(), "to": new.public(), "keeps": kept });
            return answer("assay.key-rotate/1", body);
        }
        said(&ledger, row, kept, 0)
    }

    fn revoke(&self, root: &Path, key: PublicKey, why: &str, from: Option<usize>, by: &SecretKey) -> Result<u8> {
        let mut ledger = ledger::open(root)?;
        let (first, rows) = (first(&ledger)?, ledger.rows().len());
        let end = from.unwrap_or(rows);
        if end > rows {
            return Err(Error::usage(format!("there is no row {end}")).found(format!("rows 0 to {}", rows - 1)));
        }
        if !ledger.chain().ring.contains_key(&key.id()) {
            // Also one that never signed here, so that it never will.
            anstream::eprintln!("note: key {} never joined this ledger", key.id().short());
        }
        let id = key.id();
        let (keeps, all) = (ledger.kept(&id, end), ledger.kept(&id, rows).len());
        let kept = keeps.len();
        let revocation = Revocation { key: key.clone(), why: why.into(), ledger: first, keeps, time: clock::now() };
        let statement = Statement::Revocation(Box::new(revocation));
        statement.check().map_err(|why| Error::usage(format!("no such revocation can be written: {why}")))?;
        let row = append(&mut ledger, &[Evidence::sign(statement, by)?], by)?;
        if self.json {
            let body =
                json!({ "row": row, "key": key, "by": by.public(), "why": why, "keeps": kept, "void": all - kept });
            return answer("assay.key-revoke/1", body);
        }
        said(&ledger, row, kept, all - kept)
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

    fn list(&self, root: Option<&Path>, config: &Config, trust: &Trust) -> Result<u8> {
        let ledger = root.map(ledger::open).transpose()?;
        let signs_here = |id: &KeyId| ledger.as_ref().is_some_and(|ledger| signs_here(ledger, id));
        let ended = |id: &KeyId| ledger.as_ref().and_then(|ledger| Some(ledger.chain().roll.ended(id)?.says()));
        let own = config.key_names()?;
        let mut keys = ledger.as_ref().map(|ledger| ledger.chain().ring.clone()).unwrap_or_default();
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
                "simulated": trusted.is_some_and(|t| t.simulated), "signs_here": signs_here(id), "ended": ended(id),
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
            let signs = match ended(id) {
                Some(ended) => format!(", {}", plain(&ended, 400)),
                None if signs_here(id) => ", signs in this workbench".into(),
                None => String::new(),
            };
            output::println(format_args!("{}  {}  {trusted}{private}{signs}", id.short(), key.name()))?;
        }
        Ok(0)
    }
}

/// The workbench for what is written into a ledger.
fn here(root: Option<&Path>) -> Result<&Path> {
    root.map_or_else(|| Err(Workbench::missing(".".as_ref())), Ok)
}

fn signs_here(ledger: &Ledger, id: &KeyId) -> bool {
    ledger.chain().ring.contains_key(id) && ledger.chain().roll.ended(id).is_none()
}

/// What a row that ends a key must name: it has force in this ledger alone.
fn first(ledger: &Ledger) -> Result<Digest> {
    let first = ledger.rows().first().map(|row| row.hash);
    first.ok_or_else(|| {
        Error::new(&NO_FORCE, "the ledger has no rows, so no key signs here")
            .expected("a row that the key signed")
            .hint("assay key untrust KEY, if you are not to believe it")
    })
}

fn append(ledger: &mut Ledger, evidence: &[Evidence], writer: &SecretKey) -> Result<u64> {
    let rows = ledger.append(evidence, writer)?;
    rows.last().copied().ok_or_else(|| Error::internal("a row was appended and has no number"))
}

fn said(ledger: &Ledger, row: u64, kept: usize, void: usize) -> Result<u8> {
    let line = ledger.rows().get(row as usize).map_or(String::new(), summary);
    output::println(format_args!("row {row}  {}", plain(&line, 400)))?;
    output::println(format_args!(
        "{} that it had signed {} on counting, {void} {} for nothing, and so does what it signs from now on",
        count(kept, "piece of evidence"),
        agree(kept, "goes", "go"),
        agree(void, "counts", "count"),
    ))?;
    Ok(0)
}

/// A key by its text, its name, or the first digits of its id, among those that are known here.
fn find(text: &str, root: Option<&Path>, config: &Config, trust: &Trust) -> Result<PublicKey> {
    if text.contains('+') {
        return text.parse();
    }
    let mut known: Vec<PublicKey> = trust.keys().map(|t| t.key.clone()).collect();
    for name in config.key_names()? {
        known.push(config.key(Some(&name))?.public().clone());
    }
    if let Some(root) = root {
        known.extend(ledger::open(root)?.chain().ring.values().cloned());
    }
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
