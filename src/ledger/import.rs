//! Evidence from elsewhere: reading a file of it, and whether it may come in.

use std::path::Path;

use super::{Chain, Class, Evidence, Ledger, SecretKey, Trust, VOID, canonical, confined, proposed_keys};
use crate::error::{Error, Result};
use crate::files;

/// Most bytes of a file of evidence: a row has some ten thousand, and a ledger is read as a whole.
const LARGEST: u64 = 1 << 30;

crate::codes! {
    EVIDENCE_FILE: "evidence-file", CouldNotRun, "An evidence file holds one signed envelope a line, as `assay` writes it on the judging host, or \
        is a whole ledger.";
    EVIDENCE_SIGNATURE: "evidence-signature", Integrity, "Evidence is not signed by the key that it names, or was changed after it was signed.";
    UNTRUSTED: "evidence-untrusted", No, "Evidence comes in only from keys that you trust. Trust is your word, kept in your own config \
        directory: compare the key with what the host itself shows (`assay key show` there), then `assay key trust KEY`.";
}

/// The file that a judging host sends back: its key's own evidence, then what it judged.
pub fn bundle(key: &SecretKey, evidence: &[Evidence]) -> Result<Vec<u8>> {
    let mut out = Evidence::join(key)?.to_line()?;
    for item in evidence {
        out.extend(item.to_line()?);
    }
    Ok(out)
}

/// All evidence of a file. A file that is a ledger is verified as one, and gives what counts in it.
pub fn read_evidence(path: &Path, root: &Path) -> Result<Vec<Evidence>> {
    let bytes = files::read_as(path, LARGEST, &EVIDENCE_FILE)?;
    let wrong = |line: usize, why: &str| {
        Error::new(&EVIDENCE_FILE, format!("{}, line {line}: {why}", path.display()))
            .expected("one signed envelope a line")
    };
    let lines: Vec<&[u8]> = bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|b| *b == b'\n').collect();
    let first = canonical::read(lines[0]).map_err(|why| wrong(1, &why))?;
    if first.get("seq").is_some() {
        let chain = Chain::read(&bytes, proposed_keys(root)?)?;
        // What counts for nothing there is nobody's evidence here.
        let counts = chain.rows.iter().filter(|row| chain.roll.void(row).is_none());
        return Ok(counts.map(|row| row.evidence.clone()).collect());
    }
    let read = |(i, line): (usize, &&[u8])| {
        canonical::read(line).and_then(|value| Evidence::from_value(&value)).map_err(|why| wrong(i + 1, &why))
    };
    lines.iter().enumerate().map(read).collect()
}

impl Ledger {
    /// Which of `evidence` is new here, after checking that every new piece is rightly signed by a key that the user
    /// trusts for its class.
    pub fn admit(&self, evidence: Vec<Evidence>, trust: &Trust) -> Result<Vec<Evidence>> {
        let mut ring = self.chain().ring.clone();
        let mut new = Vec::new();
        for item in evidence {
            // Keys are ended ledger by ledger.
            if self.chain().find(&item.digest()).is_some() || self.chain().roll.is_foreign(item.statement()) {
                continue;
            }
            let signer = item.signer();
            let known = ring.contains_key(&signer);
            ring.extend(item.statement().joining().map(|key| (key.id(), key.clone())));
            let name = item.digest().short();
            item.verify(&ring).map_err(|why| {
                Error::new(&EVIDENCE_SIGNATURE, format!("evidence {name} is refused: {why}"))
                    .hint("ask the host for the whole file: its key's own evidence comes first")
            })?;
            let shown = ring.get(&signer).map_or_else(|| signer.to_string(), |key| key.to_string());
            if !trust.trusts(&signer) {
                return Err(Error::new(
                    &UNTRUSTED,
                    format!("evidence {name} is signed by {shown}, whom you do not trust"),
                )
                .hint(format!("assay key trust '{shown}'")));
            }
            if item.statement().class() == Some(Class::Simulated) && !trust.counts(&signer, Class::Simulated) {
                return Err(Error::new(&UNTRUSTED, format!("evidence {name} is of class simulated: it is made up"))
                    .expected("a trust file outside the tree that lists its key as simulated (tests only)"));
            }
            let repeated = item.statement().kind() == "key" && known;
            if let Some(ended) = self.chain().roll.unkept(&item).filter(|_| !repeated) {
                return Err(Error::new(&VOID, format!("evidence {name} is signed by {shown}, which {}", ended.says()))
                    .expected("evidence of a key in force, or such as the row that ended the key keeps")
                    .hint("have the host make a key and judge again"));
            }
            confined::demand(&item, trust.sandbox())?;
            // A key that is known already need not join again: every file of a host begins with its key.
            if !repeated {
                new.push(item);
            }
        }
        Ok(new)
    }
}
