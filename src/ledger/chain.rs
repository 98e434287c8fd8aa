//! Rows: evidence in the order in which one ledger took it, each row pointing back at the one before.
//!
//! A row is one line of canonical JSON: `{"evidence", "prev", "seq", "sig", "writer"}`. `prev` is the SHA-256 of the
//! line before (zeros for row 0), `sig` the writer's over everything else. [`Chain::read`] takes a whole file or refuses
//! it with the row named; it skips and repairs nothing.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::keys::{KeyId, KeyRing, SecretKey};
use super::statement::Statement;
use super::{DAMAGED, Digest, ENDED, Evidence, NO_FORCE, Roll, UNKNOWN_SIGNER, VOID, canonical};
use crate::error::{Error, Result};

/// What a row signature is over, before the row: no other signature of these keys can be taken for one.
const DOMAIN: &[u8] = b"assay ledger row 1\n";

/// One row of a ledger.
#[derive(Clone, Debug)]
pub struct Row {
    pub seq: u64,
    /// Hash of the row before.
    pub prev: Digest,
    pub evidence: Evidence,
    /// Who put the evidence here; says nothing of who made it.
    pub writer: KeyId,
    /// SHA-256 of the row's line.
    pub hash: Digest,
}

impl Row {
    pub fn statement(&self) -> &Statement {
        self.evidence.statement()
    }
}

/// A whole ledger, verified row by row.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    pub rows: Vec<Row>,
    /// Every key that was ever let sign here: those that `assay.toml` proposes and those that joined.
    pub ring: KeyRing,
    /// Which of them are ended, by which rows.
    pub roll: Roll,
    /// Digest of each row's line as a Merkle leaf, for checkpoints.
    pub(super) leaves: Vec<Digest>,
    /// Bytes of the complete rows.
    pub(super) length: usize,
    /// What follows the last newline: a write that was cut short, or damage; [`super::Ledger`] decides.
    pub(super) torn: Vec<u8>,
    by_digest: HashMap<Digest, u64>,
}

impl Chain {
    /// An empty ledger in which the `proposed` keys may sign.
    pub fn new(proposed: KeyRing) -> Chain {
        Chain { ring: proposed, ..Chain::default() }
    }

    /// Reads and verifies a ledger file.
    pub fn read(bytes: &[u8], proposed: KeyRing) -> Result<Chain> {
        let mut chain = Chain::new(proposed);
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            chain.take(&rest[..end]).map_err(|why| chain.damaged(&why))?;
            rest = &rest[end + 1..];
        }
        chain.torn = rest.to_vec();
        Ok(chain)
    }

    fn damaged(&self, why: &str) -> Error {
        Error::new(&DAMAGED, format!("row {} of the ledger is damaged: {why}", self.rows.len()))
            .hint("git diff state/ledger.jsonl shows what changed; nothing was overwritten (docs/ledger.md, damage)")
    }

    /// The first `rows` rows, in which the `proposed` keys and those that had joined by then may sign.
    pub fn prefix(&self, rows: usize, proposed: KeyRing) -> Chain {
        let mut chain = Chain::new(proposed);
        chain.rows = self.rows[..rows].to_vec();
        chain.leaves = self.leaves[..rows].to_vec();
        for row in &chain.rows {
            chain.by_digest.insert(row.evidence.digest(), row.seq);
            chain.ring.extend(row.statement().joining().map(|key| (key.id(), key.clone())));
        }
        chain.roll = Roll::of(&chain.rows);
        chain
    }

    /// Checks the checkpoint and the progress file that stand beside this ledger, as for a work tree.
    pub fn check_beside(&self, checkpoint: Option<&[u8]>, progress: Option<&[u8]>) -> Result<()> {
        super::store::covered(self, checkpoint, progress).map(|_| ())
    }

    /// Hash of the last row, zeros before the first.
    pub fn head(&self) -> Digest {
        self.rows.last().map_or(Digest::ZERO, |row| row.hash)
    }

    /// The row that holds this evidence.
    pub fn find(&self, evidence: &Digest) -> Option<&Row> {
        self.by_digest.get(evidence).map(|seq| &self.rows[*seq as usize])
    }

    /// The line of the next row, without its newline.
    fn next_line(&self, evidence: &Evidence, writer: &SecretKey) -> Result<Vec<u8>> {
        let mut row = json!({
            "seq": self.rows.len(),
            "prev": self.head(),
            "evidence": evidence.to_value()?,
            "writer": writer.public().id(),
        });
        let signature = writer.sign(&signed_bytes(&row)?);
        row["sig"] = Value::String(STANDARD.encode(signature));
        canonical::write(&row)
    }

    /// Takes one more row in, and gives its line: a row that readers would refuse, or unless this is a merge one
    /// that would count for nothing, is not written in the first place.
    pub(super) fn write(&mut self, evidence: &Evidence, writer: &SecretKey, merging: bool) -> Result<Vec<u8>> {
        self.in_force(writer)?;
        let name = evidence.digest().short();
        let ends = matches!(evidence.statement(), Statement::Rotation(_) | Statement::Revocation(_));
        if let Some(ended) = self.roll.unkept(evidence).filter(|_| !merging && !ends) {
            let signer = evidence.signer().short();
            return Err(Error::new(
                &VOID,
                format!("evidence {name} is signed by key {signer}, which {}", ended.says()),
            )
            .expected("evidence of a key in force, or such as the row that ended the key keeps")
            .hint("judge again and sign with another key: assay key list"));
        }
        let line = self.next_line(evidence, writer)?;
        let row = self.rows.len() as u64;
        self.take(&line).map_err(|why| match evidence.statement() {
            Statement::Revocation(_) => Error::new(&NO_FORCE, format!("evidence {name} is refused: {why}"))
                .hint("assay key untrust KEY, if you alone are to disbelieve it"),
            _ => Error::new(&UNKNOWN_SIGNER, format!("evidence {name} cannot be appended: {why}"))
                .hint("import the file that holds the signing key's own evidence first"),
        })?;
        match self.roll.idle().get(&row).filter(|_| !merging) {
            None => Ok(line),
            Some(why) => {
                Err(Error::new(&NO_FORCE, format!("evidence {name} would end a key and has no force here: {why}"))
                    .expected("a signer in force, and this ledger's row 0"))
            }
        }
    }

    /// Whether `writer` must join before it can write `item`, which may be its own key row.
    pub(super) fn lacks(&self, writer: &SecretKey, item: &Evidence) -> bool {
        let id = writer.public().id();
        let joins = matches!(item.statement(), Statement::Key(join) if join.key.id() == id);
        !self.ring.contains_key(&id) && !joins
    }

    /// Refuses a key that some row ended.
    pub(super) fn in_force(&self, key: &SecretKey) -> Result<()> {
        let id = key.public().id();
        match self.roll.ended(&id) {
            None => Ok(()),
            Some(ended) => {
                Err(Error::new(&ENDED, format!("key {} ({}) {}", key.public().name(), id.short(), ended.says()))
                    .expected("a key that no row has ended")
                    .hint(match ended.to {
                        Some(to) => format!("--key NAME names another: its successor is {}", to.short()),
                        None => "--key NAME names another; assay key new NAME makes one".into(),
                    }))
            }
        }
    }

    /// Verifies one more line and takes it in; an error says what is wrong with the row.
    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let row = self.verify(line)?;
        self.ring.extend(row.statement().joining().map(|key| (key.id(), key.clone())));
        self.roll.take(&row);
        self.by_digest.insert(row.evidence.digest(), row.seq);
        self.leaves.push(super::checkpoint::leaf(line));
        self.length += line.len() + 1;
        self.rows.push(row);
        Ok(())
    }

    fn verify(&self, line: &[u8]) -> Result<Row, String> {
        let mut value = canonical::read(line)?;
        let fields = value.as_object_mut().ok_or("the line is no object")?;
        let sig = fields.remove("sig").ok_or("it has no `sig`")?;
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        if names != ["evidence", "prev", "seq", "writer"] {
            return Err(format!("its fields are {names:?} beside `sig`"));
        }
        let seq = self.rows.len() as u64;
        let text = |name: &str| value[name].as_str().ok_or(format!("`{name}` is no string"));
        if value["seq"].as_u64() != Some(seq) {
            return Err(format!("it says it is row {}: rows are missing, doubled or out of order", value["seq"]));
        }
        let prev: Digest = text("prev")?.parse()?;
        if prev != self.head() {
            return Err(format!(
                "it follows a row with hash {}, the row before has {}",
                prev.short(),
                self.head().short()
            ));
        }
        let writer: KeyId = text("writer")?.parse()?;
        let evidence = Evidence::from_value(&value["evidence"])?;
        if let Some(first) = self.find(&evidence.digest()) {
            return Err(format!("its evidence is that of row {} again", first.seq));
        }
        let joining = match evidence.statement() {
            Statement::Key(join) if join.key.id() == writer => Some(&join.key),
            _ => None,
        };
        let Some(key) = self.ring.get(&writer).or(joining) else {
            return Err(format!("it is signed by key {}, which never joined", writer.short()));
        };
        if let Some(ended) = self.roll.ended(&writer) {
            return Err(format!("it is written by {} ({}), which {}", key.name(), writer.short(), ended.says()));
        }
        let signature: Option<[u8; 64]> =
            sig.as_str().and_then(|s| STANDARD.decode(s).ok()).and_then(|bytes| bytes.try_into().ok());
        let signature = signature.ok_or("`sig` is no base64 of 64 bytes")?;
        let message = signed_bytes(&value).map_err(|e| e.to_string())?;
        if !key.verifies(&message, &signature) {
            return Err(format!("its signature by {} ({}) is wrong", key.name(), writer.short()));
        }
        evidence.verify(&self.ring)?;
        self.roll.admits(&evidence)?;
        Ok(Row { seq, prev, evidence, writer, hash: Digest::of(line) })
    }
}

/// What the writer signs of a row that has no `sig` yet.
fn signed_bytes(row: &Value) -> Result<Vec<u8>> {
    let mut out = DOMAIN.to_vec();
    out.extend(canonical::write(row)?);
    Ok(out)
}
