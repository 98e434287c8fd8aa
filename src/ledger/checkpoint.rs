//! Checkpoints: a signed note of how long the ledger is and what it holds (C2SP tlog-checkpoint).
//!
//! Three lines — origin, number of rows, RFC 6962 Merkle root over the rows' lines in base64 — an empty line, and the
//! writer's signature. A checkpoint kept where the writer cannot reach shows later whether the ledger still extends it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use super::keys::{KeyId, KeyRing, SecretKey};
use super::{CHECKPOINT, Chain, Digest, ROLLED_BACK};
use crate::error::{Error, Result};

/// A checkpoint whose signature has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    pub rows: usize,
    root: Digest,
}

impl Checkpoint {
    /// The checkpoint of the first `rows` rows (at least one).
    fn of(chain: &Chain, rows: usize) -> Checkpoint {
        Checkpoint { origin: origin(chain), rows, root: merkle(&chain.leaves[..rows]) }
    }

    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.rows, STANDARD.encode(self.root.0))
    }

    /// The signed note of the whole of `chain`, which has a row.
    pub(super) fn sign(chain: &Chain, key: &SecretKey) -> String {
        let text = Checkpoint::of(chain, chain.rows.len()).text();
        let mut signature = key.public().note_hash().to_vec();
        signature.extend_from_slice(&key.sign(text.as_bytes()));
        format!("{text}\n\u{2014} {} {}\n", key.public().name(), STANDARD.encode(signature))
    }

    /// Reads a signed note. Signatures of keys that are not `known` (witnesses) are passed over; one of a known key that
    /// is wrong, or none that is right, is an error.
    pub fn read(bytes: &[u8], known: &KeyRing) -> Result<Checkpoint> {
        let (checkpoint, signers) = Checkpoint::parse(bytes, known)?;
        checkpoint.signed(!signers.is_empty())
    }

    /// Reads the note beside `chain`. A ledger cut before the rows that name its keys is reported as cut. A key that an
    /// earlier row had ended signs no checkpoint; the row that ends it may be its last.
    pub(super) fn read_beside(bytes: &[u8], chain: &Chain) -> Result<Checkpoint> {
        let (checkpoint, signers) = Checkpoint::parse(bytes, &chain.ring)?;
        checkpoint.reaches(chain)?;
        if let [only] = signers.as_slice()
            && let Some(ended) = chain.roll.ended(only)
            && !chain.roll.may_checkpoint(only, checkpoint.rows)
        {
            return Err(Error::new(
                &CHECKPOINT,
                format!("the checkpoint is signed by key {}, which {}", only.short(), ended.says()),
            )
            .expected("a key that still signed here when its last row was written"));
        }
        let signed = signers.iter().any(|key| chain.roll.may_checkpoint(key, checkpoint.rows));
        let checkpoint = checkpoint.signed(signed)?;
        checkpoint.holds_in(chain)?;
        Ok(checkpoint)
    }

    fn signed(self, signed: bool) -> Result<Checkpoint> {
        match signed {
            true => Ok(self),
            false => {
                Err(Error::new(&CHECKPOINT, "the checkpoint is not to be believed: no key of this ledger signed it")
                    .hint("assay key list shows the keys that joined"))
            }
        }
    }

    /// The note, and the known keys that signed it.
    fn parse(bytes: &[u8], known: &KeyRing) -> Result<(Checkpoint, Vec<KeyId>)> {
        let wrong = |why: &str| Error::new(&CHECKPOINT, format!("the checkpoint is not to be believed: {why}"));
        let note = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
        let (body, signatures) = note.split_once("\n\n").ok_or_else(|| wrong("it has no signature"))?;
        let text = format!("{body}\n");
        let mut lines = body.split('\n');
        let (Some(origin), Some(rows), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(wrong("it does not have three lines"));
        };
        let root = STANDARD.decode(root).ok().and_then(|b| b.try_into().ok()).map(Digest);
        let checkpoint = Checkpoint {
            origin: origin.into(),
            rows: rows.parse().map_err(|_| wrong("its number of rows is no number"))?,
            root: root.ok_or_else(|| wrong("its root is no base64 of 32 bytes"))?,
        };
        if checkpoint.text() != text || !signatures.ends_with('\n') || note.contains(['\0', '\r']) {
            return Err(wrong("it is written in another way than assay writes it"));
        }
        let mut good = Vec::new();
        for line in signatures.lines() {
            let parts = line.strip_prefix("\u{2014} ").and_then(|l| l.split_once(' '));
            let (name, signature) = parts.ok_or_else(|| wrong("a line after the text is no signature"))?;
            let signature = STANDARD.decode(signature).map_err(|_| wrong("a signature is no base64"))?;
            let Some((hash, signature)) = signature.split_first_chunk::<4>() else {
                return Err(wrong("a signature is too short"));
            };
            let Some(key) = known.values().find(|key| key.name() == name && key.note_hash() == *hash) else {
                continue;
            };
            let signature: &[u8; 64] = signature.try_into().map_err(|_| wrong("a signature is not 64 bytes"))?;
            if !key.verifies(text.as_bytes(), signature) {
                return Err(wrong(&format!("its signature by {name} is wrong")));
            }
            good.push(key.id());
        }
        Ok((checkpoint, good))
    }

    fn reaches(&self, chain: &Chain) -> Result<()> {
        if self.rows > chain.rows.len() {
            return Err(Error::new(&ROLLED_BACK, format!("row {} of the ledger is missing", chain.rows.len()))
                .expected(format!("{} rows, as the checkpoint says", self.rows))
                .found(format!("{} complete rows", chain.rows.len()))
                .hint("restore state/ from git; nothing was overwritten"));
        }
        Ok(())
    }

    /// Whether `chain` extends what was checkpointed.
    pub fn holds_in(&self, chain: &Chain) -> Result<()> {
        self.reaches(chain)?;
        if self.rows == 0 || *self != Checkpoint::of(chain, self.rows) {
            return Err(Error::new(
                &CHECKPOINT,
                "the checkpoint is of another ledger, or rows up to it were rewritten",
            )
            .expected(format!("{} with root {} over {} rows", self.origin, self.root.short(), self.rows))
            .found(match self.rows {
                0 => "a checkpoint of no rows".into(),
                rows => format!("{} with root {}", origin(chain), Checkpoint::of(chain, rows).root.short()),
            }));
        }
        Ok(())
    }
}

/// What this ledger is called: after its first row, so that a rewritten one is another ledger.
fn origin(chain: &Chain) -> String {
    chain.rows.first().map_or_else(String::new, |row| format!("assay-ledger/{}", &row.hash.to_string()[..32]))
}

/// RFC 6962: a leaf's hash.
pub(super) fn leaf(line: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(line).finalize().into())
}

/// RFC 6962: the root over leaf hashes; the left half is the largest power of two below the whole.
fn merkle(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::of(b""),
        [one] => *one,
        _ => {
            let left = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(left);
            let node = Sha256::new().chain_update([1]).chain_update(merkle(left).0).chain_update(merkle(right).0);
            Digest(node.finalize().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Roots of the well-known test leaves of certificate-transparency implementations.
    #[test]
    fn roots_are_those_of_rfc_6962() {
        let inputs: [&[u8]; 4] = [b"", b"\x00", b"\x10", b"\x20\x21"];
        let leaves: Vec<Digest> = inputs.iter().map(|i| leaf(i)).collect();
        for (n, root) in [
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ] {
            assert_eq!(merkle(&leaves[..n]).to_string(), root, "{n} leaves");
        }
    }
}
