//! Keys: what signs evidence, rows and checkpoints.
//!
//! A public key has one text form everywhere (`assay.toml`, trust files, key rows, `assay key show`): the C2SP note
//! verifier key `NAME+HASH+BASE64`. Its id is the SHA-256 of its 32 bytes, so a name is only a name. Private keys lie
//! in the user's config directory, never in a tree that an agent may edit.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::Digest;
use crate::error::{Error, Result};

crate::codes! {
    KEY_NAME: "key-name", Usage, "A key's name has 1 to 64 of the characters a-z A-Z 0-9 . _ - and starts with a letter or a digit.";
    KEY_TEXT: "key-text", Usage, "A public key is written NAME+HASH+BASE64, as `assay key show` prints it. HASH is the first four \
        bytes of SHA-256 over the name, a newline, the byte 1 and the key.";
    KEY_EXISTS: "key-exists", Usage, "A private key of this name exists already. assay never overwrites one.";
    KEY_NONE: "key-none", CouldNotRun, "Something has to be signed and no private key was found in the user's config directory.";
    KEY_MANY: "key-many", Usage, "The user's config directory holds several private keys; say which one is to sign with --key NAME.";
    KEY_UNREADABLE: "key-unreadable", CouldNotRun, "A private key file is no PKCS#8 PEM with an ed25519 key.";
    KEY_EXPOSED: "key-exposed", Integrity, "Others than the owner may read or replace a private key. Whoever read it can sign in your name.";
    KEY_IN_TREE: "key-in-tree", Usage, "Keys and trust must lie outside the tree that they judge: whoever edits the tree could edit them too.";
}

/// SHA-256 of a public key's 32 bytes.
pub type KeyId = Digest;

/// A public key and the name it goes by.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> KeyId {
        Digest::of(self.key.as_bytes())
    }

    /// The four bytes by which a signed note names this key (C2SP signed-note).
    pub(super) fn note_hash(&self) -> [u8; 4] {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(&self.name)
            .chain_update(b"\n\x01")
            .chain_update(self.key.as_bytes())
            .finalize()
            .into();
        [digest[0], digest[1], digest[2], digest[3]]
    }

    /// Whether `signature` is this key's over `message`; the strict rule, so that a signature has one spelling.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![1];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.note_hash()), STANDARD.encode(bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<PublicKey> {
        let wrong =
            |why: &str| Error::new(&KEY_TEXT, format!("`{text}` is no public key: {why}")).expected("NAME+HASH+BASE64");
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(body)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong("it does not have three parts"));
        };
        check_name(name)?;
        let bytes = STANDARD.decode(body).map_err(|e| wrong(&e.to_string()))?;
        let Some((1, key)) = bytes.split_first() else {
            return Err(wrong("its type is not 1 (ed25519)"));
        };
        let key: [u8; 32] = key.try_into().map_err(|_| wrong("it does not hold 32 bytes"))?;
        let key = VerifyingKey::from_bytes(&key).map_err(|e| wrong(&e.to_string()))?;
        if key.is_weak() {
            return Err(wrong("it is one of the weak points of the curve"));
        }
        let key = PublicKey { name: name.into(), key };
        match key.to_string() == text {
            true => Ok(key),
            false => Err(wrong("its hash is not that of its name and key").found(key)),
        }
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<PublicKey, D::Error> {
        String::deserialize(d)?.parse().map_err(|e: Error| serde::de::Error::custom(e.what()))
    }
}

/// Public keys by id.
pub type KeyRing = BTreeMap<KeyId, PublicKey>;

/// A private key with its public half.
pub struct SecretKey {
    signing: SigningKey,
    public: PublicKey,
}

impl SecretKey {
    /// A fresh key from the operating system's randomness, in memory only.
    pub fn generate(name: &str) -> Result<SecretKey> {
        check_name(name)?;
        Ok(SecretKey::from_seed(name, super::Seed::random()?.0))
    }

    fn from_seed(name: &str, seed: [u8; 32]) -> SecretKey {
        let signing = SigningKey::from_bytes(&seed);
        let public = PublicKey { name: name.into(), key: signing.verifying_key() };
        SecretKey { signing, public }
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

fn check_name(name: &str) -> Result<()> {
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name.len() <= 64 && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::new(&KEY_NAME, format!("`{}` cannot name a key", name.escape_debug())))
}

/// The user's config directory: private keys in `keys/NAME.pem`, trust in `trust.toml`.
#[derive(Clone, Debug)]
pub struct Config {
    dir: PathBuf,
}

impl Config {
    /// `$ASSAY_CONFIG_DIR`, else `$XDG_CONFIG_HOME/assay`, else `~/.config/assay`.
    pub fn of_user() -> Result<Config> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("ASSAY_CONFIG_DIR")
            .or_else(|| set("XDG_CONFIG_HOME").map(|dir| dir.join("assay")))
            .or_else(|| set("HOME").map(|dir| dir.join(".config/assay")))
            .map(|dir| Config { dir })
            .ok_or_else(|| Error::new(&KEY_NONE, "there is no user config directory").hint("set ASSAY_CONFIG_DIR"))
    }

    pub fn at(dir: impl Into<PathBuf>) -> Config {
        Config { dir: dir.into() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn trust_file(&self) -> PathBuf {
        self.dir.join("trust.toml")
    }

    fn key_file(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(format!("{name}.pem"))
    }

    /// Refuses a config directory inside the workbench `root`.
    pub fn outside(self, root: &Path) -> Result<Config> {
        refuse_inside(&self.dir, root)?;
        Ok(self)
    }

    /// Makes a private key, readable by the owner alone.
    pub fn new_key(&self, name: &str) -> Result<SecretKey> {
        let key = SecretKey::generate(name)?;
        let path = self.key_file(name);
        let pem = key
            .signing
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|e| Error::internal(format!("a key has no PEM form: {e}")))?;
        create_private_dirs(&self.dir.join("keys"))?;
        let mut file = match private_file().create_new(true).open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::new(&KEY_EXISTS, format!("{} exists", path.display())).hint("choose another name"));
            }
            file => file.map_err(|e| Error::io(&path, e))?,
        };
        file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| Error::io(&path, e))?;
        Ok(key)
    }

    /// Names of the private keys, sorted.
    pub fn key_names(&self) -> Result<Vec<String>> {
        let dir = self.dir.join("keys");
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Error::io(&dir, e))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| Error::io(&dir, e))?.file_name();
            names.extend(name.to_str().and_then(|n| n.strip_suffix(".pem")).map(String::from));
        }
        names.sort();
        Ok(names)
    }

    /// The private key to sign with: the named one, else the only one.
    pub fn key(&self, name: Option<&str>) -> Result<SecretKey> {
        let names = self.key_names()?;
        let name = match (name, names.as_slice()) {
            (Some(name), _) if names.iter().any(|n| n == name) => name,
            (None, [only]) => only,
            (Some(name), _) => {
                return Err(Error::new(&KEY_NONE, format!("no private key is called `{}`", name.escape_debug()))
                    .expected(if names.is_empty() { "none exist".into() } else { names.join(", ") })
                    .hint("assay key list"));
            }
            (None, []) => {
                return Err(Error::new(&KEY_NONE, format!("no private key in {}", self.dir.display()))
                    .hint("assay key new NAME"));
            }
            (None, _) => {
                return Err(Error::new(&KEY_MANY, "several private keys could sign")
                    .found(names.join(", "))
                    .hint("--key NAME"));
            }
        };
        self.load_key(name)
    }

    fn load_key(&self, name: &str) -> Result<SecretKey> {
        check_name(name)?;
        let path = self.key_file(name);
        refuse_exposed(&path)?;
        let pem = crate::files::read_text(&path, crate::files::SETTINGS)?;
        let signing = SigningKey::from_pkcs8_pem(&pem)
            .map_err(|e| Error::new(&KEY_UNREADABLE, format!("{} holds no ed25519 key: {e}", path.display())))?;
        Ok(SecretKey::from_seed(name, signing.to_bytes()))
    }
}

/// Refuses a `path` that lies in `root`, also by way of symlinks.
pub(super) fn refuse_inside(path: &Path, root: &Path) -> Result<()> {
    let root = root.canonicalize().map_err(|e| Error::io(root, e))?;
    let absolute = std::path::absolute(path).map_err(|e| Error::io(path, e))?;
    let existing = absolute.ancestors().find_map(|p| p.canonicalize().ok()).unwrap_or_default();
    if existing.starts_with(&root) || absolute.starts_with(&root) {
        return Err(Error::new(&KEY_IN_TREE, format!("{} lies in the workbench {}", path.display(), root.display()))
            .expected("a place outside the tree")
            .hint("set ASSAY_CONFIG_DIR, or pass --trust FILE, to a place that no agent may edit"));
    }
    Ok(())
}

/// Replaces a private file in one step.
pub(super) fn replace_private(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    create_private_dirs(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|e| Error::io(dir, e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::io(path, e))?;
    file.persist(path).map_err(|e| Error::io(path, e.error))?;
    Ok(())
}

#[cfg(unix)]
fn private_file() -> fs::OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(unix)]
fn create_private_dirs(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io(dir, e))
}

/// A private key is a plain file that its owner alone may read.
#[cfg(unix)]
fn refuse_exposed(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::symlink_metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() || meta.mode() & 0o077 != 0 {
        return Err(Error::new(&KEY_EXPOSED, format!("the private key {} is not its owner's alone", path.display()))
            .expected("a plain file with mode 600")
            .found(format!(
                "{} with mode {:o}",
                if meta.is_file() { "a file" } else { "no plain file" },
                meta.mode() & 0o777
            ))
            .hint(format!(
                "make a new key, or if you are sure that nobody read it: chmod 600 {}",
                crate::words::shell_path(path)
            )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_has_one_text() {
        let key = SecretKey::generate("host-1").unwrap();
        let text = key.public().to_string();
        assert_eq!(text.parse::<PublicKey>().unwrap(), *key.public());
        for broken in
            [text.replace("host-1", "host-2"), text[..text.len() - 1].into(), format!("{text} "), "a+b".into()]
        {
            assert!(broken.parse::<PublicKey>().is_err(), "{broken}");
        }
    }

    /// The example key of the C2SP signed-note specification.
    #[test]
    fn the_note_key_of_the_specification_parses() {
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!((key.name(), key.to_string().as_str()), ("PeterNeumann", text));
        let body =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let line = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let bytes = STANDARD.decode(line).unwrap();
        assert_eq!(bytes[..4], key.note_hash());
        assert!(key.verifies(body.as_bytes(), bytes[4..].try_into().unwrap()));
    }
}
