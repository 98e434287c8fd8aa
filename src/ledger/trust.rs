//! Whose evidence counts: the user's word, never the tree's.
//!
//! A trust file (`trust.toml` in the user's config directory, or `--trust FILE`) lists public keys. It must lie outside
//! the tree. A key marked `simulated = true` may also sign evidence of that class; tests need it and nothing else does.
//! `sandbox = "partial"` above the keys lowers the confinement that verdicts need, for this user. Nothing in the tree can:
//! whoever edits a kernel can edit `assay.toml`, which therefore may only ask for more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::keys::{self, Config, KeyId, PublicKey};
use super::statement::Class;
use super::{Row, confined};
use crate::backend::worker::Level;
use crate::error::{Error, Result};
use crate::files;
use crate::workbench::Workbench;

crate::codes! {
    TRUST_FILE: "trust-file", CouldNotRun, "A trust file is TOML with one [[key]] table per trusted key: `key = \"NAME+HASH+BASE64\"`, \
        and `simulated = true` where evidence of class simulated may count (tests only); before them `sandbox = \"partial\"` or `\"none\"`, \
        where less than full confinement is enough for you.";
    TRUST_UNKNOWN: "trust-unknown-key", Usage, "No key that assay knows of goes by this id or name.";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trusted {
    pub key: PublicKey,
    /// Evidence of class simulated counts too when this key signed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulated: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sandbox: Option<Level>,
    #[serde(default)]
    key: Vec<Trusted>,
}

/// The keys that the user trusts.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    keys: BTreeMap<KeyId, Trusted>,
    file: PathBuf,
    /// The confinement that the workbench asks for, which only adds, and the user's own word.
    asked: Option<Level>,
    own: Option<Level>,
}

impl Trust {
    /// Nobody is trusted.
    pub fn nobody() -> Trust {
        Trust::default()
    }

    /// Nobody is trusted, and the workbench `root` says which confinement it asks for.
    pub fn nobody_in(root: &Path) -> Result<Trust> {
        Ok(Trust { asked: asked_by(root)?, ..Trust::default() })
    }

    /// `--trust FILE` if given, else the user's own trust file, which may be absent. Refuses a file inside `root`.
    pub fn load(config: &Config, flag: Option<&Path>, root: &Path) -> Result<Trust> {
        let file = flag.map_or_else(|| config.trust_file(), PathBuf::from);
        keys::refuse_inside(&file, root)?;
        Trust::read(file, flag.is_some(), asked_by(root)?)
    }

    /// The user's own, where there is no workbench for it to lie outside of.
    pub fn of_user(config: &Config) -> Result<Trust> {
        Trust::read(config.trust_file(), false, None)
    }

    fn read(file: PathBuf, named: bool, asked: Option<Level>) -> Result<Trust> {
        let text = match named {
            true => files::read_text(&file, files::SETTINGS)?,
            false => files::read_text_if_any(&file, files::SETTINGS)?.unwrap_or_default(),
        };
        let parsed: File = toml::from_str(&text)
            .map_err(|e| Error::new(&TRUST_FILE, format!("{} is no trust file: {}", file.display(), e.message())))?;
        let keys = parsed.key.into_iter().map(|t| (t.key.id(), t)).collect();
        Ok(Trust { keys, file, asked, own: parsed.sandbox })
    }

    pub fn keys(&self) -> impl Iterator<Item = &Trusted> {
        self.keys.values()
    }

    pub fn get(&self, id: &KeyId) -> Option<&Trusted> {
        self.keys.get(id)
    }

    pub fn trusts(&self, id: &KeyId) -> bool {
        self.keys.contains_key(id)
    }

    /// The same trust in a workbench that asks for this confinement too.
    pub fn asking(&self, level: Level) -> Trust {
        Trust { asked: Some(self.asked.map_or(level, |asked| asked.or(level))), ..self.clone() }
    }

    /// The confinement that a verdict needs to count: the user's word, or more where the tree asks for more.
    pub fn sandbox(&self) -> Level {
        let own = self.own.unwrap_or(confined::ASKED);
        self.asked.map_or(own, |asked| own.or(asked))
    }

    /// That the workbench asks for less than is asked anyway, which has no effect and should not look as if it had.
    pub fn overruled(&self) -> Option<String> {
        let asked = self.asked.filter(|asked| !asked.reaches(self.sandbox()))?;
        Some(format!(
            "`sandbox = \"{}\"` in {} has no effect: a tree may ask for more confinement than `{}`, and not for less; \
             your own trust file may",
            asked.name(),
            Workbench::FILE,
            self.sandbox().name()
        ))
    }

    /// Why the row's kernel was not confined as it should have been.
    pub fn unconfined(&self, row: &Row) -> Option<String> {
        confined::check(row.statement(), self.sandbox()).err()
    }

    /// Whether evidence of this class counts when `signer` signed it.
    pub fn counts(&self, signer: &KeyId, class: Class) -> bool {
        self.keys.get(signer).is_some_and(|t| class != Class::Simulated || t.simulated)
    }

    /// Adds a key, or changes what it is trusted for, and writes the file.
    pub fn trust(&mut self, key: PublicKey, simulated: bool) -> Result<()> {
        self.keys.insert(key.id(), Trusted { key, simulated });
        self.save()
    }

    /// Removes a key and writes the file.
    pub fn untrust(&mut self, id: &KeyId) -> Result<Option<Trusted>> {
        let gone = self.keys.remove(id);
        self.save()?;
        Ok(gone)
    }

    fn save(&self) -> Result<()> {
        let file = File { sandbox: self.own, key: self.keys.values().cloned().collect() };
        let text = toml::to_string(&file).map_err(|e| Error::internal(format!("trust has no TOML form: {e}")))?;
        keys::replace_private(&self.file, &text)
    }
}

/// `sandbox` of the workbench's `assay.toml`; a plain directory asks for nothing of its own.
fn asked_by(root: &Path) -> Result<Option<Level>> {
    match root.join(Workbench::FILE).exists() {
        true => Ok(Workbench::open(root)?.settings.sandbox),
        false => Ok(None),
    }
}
