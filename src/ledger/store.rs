//! The ledger on disk: reading it as a whole, and the one way to append to it.
//!
//! Order of an append, under an exclusive lock: verify the whole file, write one line with one `write`, `fdatasync`,
//! replace the checkpoint, replace `progress.json`. Killed anywhere, it leaves at most one line cut short (*torn*), or
//! one row that the checkpoint does not cover yet, or a progress file that is behind; all three are recognised here.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::files::Dir;
use super::keys::{KeyRing, PublicKey, SecretKey};
use super::{
    BUSY, CHECKPOINT, Chain, Checkpoint, DAMAGED, Digest, Evidence, KeyId, PROPOSED, Progress, ROLLED_BACK, Row,
    Statement, UNKNOWN_SIGNER,
};
use crate::error::{Error, Kind, Result};
use crate::workbench::Workbench;

pub const LEDGER_FILE: &str = "ledger.jsonl";
pub const CHECKPOINT_FILE: &str = "checkpoint";
pub const PROGRESS_FILE: &str = "progress.json";

/// The points of an append between which a kill can fall. Tests kill at each; nothing else looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    LedgerCreated,
    Locked,
    TornKept,
    TornCut,
    RowWritten,
    RowSynced,
    CheckpointWritten,
    CheckpointNamed,
    ProgressWritten,
    ProgressNamed,
}

impl Step {
    pub const ALL: [Step; 10] = [
        Step::LedgerCreated,
        Step::Locked,
        Step::TornKept,
        Step::TornCut,
        Step::RowWritten,
        Step::RowSynced,
        Step::CheckpointWritten,
        Step::CheckpointNamed,
        Step::ProgressWritten,
        Step::ProgressNamed,
    ];
}

/// A workbench's ledger, verified.
#[derive(Debug)]
pub struct Ledger {
    root: PathBuf,
    chain: Chain,
    notes: Vec<String>,
}

/// What was found on disk at one moment.
struct Found {
    chain: Chain,
    /// Rows that the checkpoint covers.
    checkpointed: usize,
    /// Rows that `progress.json` was derived from.
    derived: usize,
}

/// The bytes of `state/` at one moment: read under a lock, verified after it is let go.
struct Bytes {
    ledger: Vec<u8>,
    checkpoint: Option<Vec<u8>>,
    progress: Option<Vec<u8>>,
}

impl Bytes {
    fn read(dir: &Dir, ledger: &File) -> Result<Bytes> {
        Ok(Bytes {
            ledger: dir.read_open(LEDGER_FILE, ledger)?,
            checkpoint: dir.read(CHECKPOINT_FILE)?,
            progress: dir.read(PROGRESS_FILE)?,
        })
    }

    /// `None` where there is no ledger yet. One that is gone while its other files are there is refused.
    fn of(root: &Path) -> Result<Option<Bytes>> {
        let Some(dir) = Dir::open(root)? else { return Ok(None) };
        // The ledger is looked for last: another process may be making the first one.
        let others = [CHECKPOINT_FILE, PROGRESS_FILE].into_iter();
        let others = others.filter_map(|name| dir.read(name).map(|found| found.map(|_| name)).transpose());
        let other = others.collect::<Result<Vec<_>>>()?.pop();
        if let Some(file) = dir.open_shared(LEDGER_FILE)? {
            return Bytes::read(&dir, &file).map(Some);
        }
        match other {
            None => Ok(None),
            Some(name) => Err(Error::new(&ROLLED_BACK, "row 0 of the ledger is missing, and all after it")
                .expected(format!("state/{LEDGER_FILE}, since state/{name} is there"))
                .found("no such file")
                .hint("restore state/ from git; nothing was overwritten")),
        }
    }
}

impl Found {
    fn verify(bytes: &Bytes, proposed: KeyRing) -> Result<Found> {
        let chain = Chain::read(&bytes.ledger, proposed)?;
        let (checkpointed, derived) = covered(&chain, bytes.checkpoint.as_deref(), bytes.progress.as_deref())?;
        Ok(Found { chain, checkpointed, derived })
    }

    fn progress_behind(&self) -> bool {
        self.derived < self.chain.rows.len()
    }

    fn notes(&self, healed: bool) -> Vec<String> {
        let rows = self.chain.rows.len();
        let mut notes = Vec::new();
        if !self.chain.torn.is_empty() {
            let bytes = self.chain.torn.len();
            notes.push(match healed {
                true => format!(
                    "row {rows} was cut short by an interrupted append: its {bytes} bytes were moved to state/{}",
                    torn_name(&self.chain.torn)
                ),
                false => format!("row {rows} was cut short by an interrupted append: its {bytes} bytes are ignored"),
            });
        }
        if self.checkpointed < rows {
            notes.push(format!(
                "row {} is past the checkpoint (an append was interrupted); it verifies and counts",
                rows - 1
            ));
        }
        if self.progress_behind() {
            let done = if healed { "it was derived anew" } else { "it could not be written here" };
            notes.push(format!("state/progress.json was behind ({} of {rows} rows): {done}", self.derived));
        }
        notes
    }
}

/// How many rows the checkpoint and the progress file beside `chain` cover; what an interrupted append cannot have left is
/// refused.
pub(super) fn covered(chain: &Chain, checkpoint: Option<&[u8]>, progress: Option<&[u8]>) -> Result<(usize, usize)> {
    let rows = chain.rows.len();
    let checkpointed = checkpoint.map_or(Ok(0), |note| Checkpoint::read_beside(note, chain).map(|c| c.rows))?;
    // A writer that joins over an interrupted append cannot checkpoint before its own key row is written.
    let last = chain.rows.last();
    let joined = last.is_some_and(|row| row.statement().kind() == "key" && row.evidence.signer() == row.writer);
    if rows - checkpointed > 1 + usize::from(joined) {
        return Err(Error::new(&CHECKPOINT, format!("no checkpoint covers row {checkpointed} and the rows after it"))
            .expected("a checkpoint of all rows but the last: that is all an interrupted append leaves open")
            .found(format!("{checkpointed} of {rows} rows covered"))
            .hint("state/checkpoint was removed or rolled back: restore it from git"));
    }
    let derived = progress.map_or(Ok(0), |bytes| Progress::check(bytes, chain))?;
    Ok((checkpointed, derived))
}

impl Ledger {
    /// Reads and verifies the ledger of the workbench `root`. A torn last line is moved aside and a progress file that
    /// is behind is derived anew, where that can be written; [`Ledger::notes`] says so. No `state/` is an empty ledger.
    pub fn open(root: &Path) -> Result<Ledger> {
        let (mut ledger, found) = Ledger::look(root)?;
        if !found.chain.torn.is_empty() || found.progress_behind() {
            let healed = Session::begin(root, &mut |_| ()).and_then(|session| session.heal(&mut |_| ()));
            match healed {
                Ok((chain, notes)) => (ledger.chain, ledger.notes) = (chain, notes),
                Err(e) if e.kind() == Kind::CouldNotRun => ledger.notes = found.notes(false),
                Err(e) => return Err(e),
            }
        } else {
            ledger.notes = found.notes(false);
        }
        Ok(ledger)
    }

    /// Reads and verifies without ever writing.
    pub fn read(root: &Path) -> Result<Ledger> {
        let (mut ledger, found) = Ledger::look(root)?;
        ledger.notes = found.notes(false);
        Ok(ledger)
    }

    fn look(root: &Path) -> Result<(Ledger, Found)> {
        let proposed = proposed_keys(root)?;
        let found = match Bytes::of(root)? {
            None => Found { chain: Chain::new(proposed), checkpointed: 0, derived: 0 },
            Some(bytes) => Found::verify(&bytes, proposed)?,
        };
        Ok((Ledger { root: root.into(), chain: found.chain.clone(), notes: Vec::new() }, found))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn rows(&self) -> &[Row] {
        &self.chain.rows
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// One thing more that a reader should be told.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// What a reader should be told: an interrupted append, a progress file that was behind.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the rows prove, whoever signed them.
    pub fn progress(&self) -> Progress {
        Progress::derive(&self.chain, self.chain.rows.len())
    }

    /// The files of `state/` that belong in a commit, by name, as they are on disk and as this ledger was read.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let Some(mut bytes) = Bytes::of(&self.root)? else { return Ok(Vec::new()) };
        let found = Found::verify(&bytes, proposed_keys(&self.root)?)?;
        if found.chain.head() != self.chain.head() || found.progress_behind() {
            return Err(Error::new(&BUSY, "the ledger grew while this command ran").hint("run the command again"));
        }
        bytes.ledger.truncate(found.chain.length);
        let mut files = vec![(LEDGER_FILE, bytes.ledger)];
        files.extend(bytes.checkpoint.map(|note| (CHECKPOINT_FILE, note)));
        files.extend(bytes.progress.map(|progress| (PROGRESS_FILE, progress)));
        Ok(files)
    }

    /// [`Ledger::files`] as they were when the ledger had its first `rows` rows (at least one), with a checkpoint that
    /// `writer` signs: the writers' own checkpoints of those rows are gone.
    pub fn files_of(&self, rows: usize, writer: &SecretKey) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = self.files()?;
        let chain = self.chain.prefix(rows, proposed_keys(&self.root)?);
        chain.in_force(writer)?;
        if !chain.ring.contains_key(&writer.public().id()) {
            return Err(Error::new(
                &UNKNOWN_SIGNER,
                format!("key {} has not joined the ledger by row {}", writer.public().name(), rows - 1),
            )
            .expected("the key that wrote these rows")
            .hint("name it with --key"));
        }
        for (name, bytes) in &mut files {
            match *name {
                LEDGER_FILE => bytes.truncate(bytes.split_inclusive(|b| *b == b'\n').take(rows).map(<[u8]>::len).sum()),
                CHECKPOINT_FILE => *bytes = Checkpoint::sign(&chain, writer).into_bytes(),
                _ => *bytes = Progress::derive(&chain, rows).to_bytes()?,
            }
        }
        Ok(files)
    }

    /// Appends evidence under `writer`'s signature and gives each one's row number; evidence that is there already
    /// keeps its row. A writer that is new here joins first, with a key row of its own. What an ended key signed, and
    /// what would end a key without the right to, is refused.
    pub fn append(&mut self, evidence: &[Evidence], writer: &SecretKey) -> Result<Vec<u64>> {
        self.append_observed(evidence, writer, &mut |_| ())
    }

    /// The same with all evidence of another branch, which a merge must not lose: what counts for nothing here is held
    /// all the same.
    pub fn adopt(&mut self, evidence: &[Evidence], writer: &SecretKey) -> Result<Vec<u64>> {
        self.append_all(evidence, writer, Append { merging: true, ..Append::default() }, &mut |_| ())
    }

    /// The same in a folder that nobody sees before its maker is done, and that is thrown away where it does not get so far:
    /// nothing there needs to outlive a kill, so that one sync at the end is enough for all rows.
    pub fn append_unseen(
        &mut self,
        evidence: &[Evidence],
        writer: &SecretKey,
        observe: &mut dyn FnMut(Step),
    ) -> Result<Vec<u64>> {
        self.append_all(evidence, writer, Append { unseen: true, ..Append::default() }, observe)
    }

    /// Why new evidence of this key would count for nothing here, if so.
    pub fn may_sign(&self, key: &SecretKey) -> Result<()> {
        self.chain.in_force(key)
    }

    /// What goes on counting of what `key` signed when it is ended now: all that lies in the first `rows` rows.
    pub fn kept(&self, key: &KeyId, rows: usize) -> Vec<Digest> {
        let judged = |row: &&Row| row.statement().class().is_some() && row.evidence.signer() == *key;
        let rows = self.rows().iter().take(rows).filter(judged);
        let mut kept: Vec<Digest> = rows
            .filter(|row| self.chain.roll.unkept(&row.evidence).is_none())
            .map(|row| row.evidence.digest())
            .collect();
        kept.sort_unstable();
        kept
    }

    /// [`Ledger::append`], with `observe` called at every point where a kill leaves another state on disk.
    pub fn append_observed(
        &mut self,
        evidence: &[Evidence],
        writer: &SecretKey,
        observe: &mut dyn FnMut(Step),
    ) -> Result<Vec<u64>> {
        self.append_all(evidence, writer, Append::default(), observe)
    }

    fn append_all(
        &mut self,
        evidence: &[Evidence],
        writer: &SecretKey,
        how: Append,
        observe: &mut dyn FnMut(Step),
    ) -> Result<Vec<u64>> {
        let merging = how.merging;
        let mut session = Session::begin(&self.root, observe)?;
        let seen = self.chain.rows.len();
        if seen > session.found.chain.rows.len()
            || (seen > 0 && session.found.chain.rows[seen - 1].hash != self.chain.head())
        {
            return Err(Error::new(&ROLLED_BACK, "the ledger was replaced while this command ran")
                .hint("run the command again"));
        }
        session.found.chain.in_force(writer)?;
        // Where a row ends a key, what follows it may be refused: then nothing is written.
        if evidence.iter().any(|e| matches!(e.statement(), Statement::Rotation(_) | Statement::Revocation(_))) {
            let mut trial = session.found.chain.clone();
            for item in evidence {
                if trial.find(&item.digest()).is_some() {
                    continue;
                }
                if trial.lacks(writer, item) {
                    trial.write(&Evidence::join(writer)?, writer, merging)?;
                }
                trial.write(item, writer, merging)?;
            }
        }
        session.set_torn_aside(observe)?;
        if session.found.checkpointed < session.found.chain.rows.len()
            && session.found.chain.ring.contains_key(&writer.public().id())
        {
            session.checkpoint(writer, observe)?;
        }
        let mut seqs = Vec::new();
        for item in evidence {
            if let Some(row) = session.found.chain.find(&item.digest()) {
                seqs.push(row.seq);
                continue;
            }
            if session.found.chain.lacks(writer, item) {
                session.push(&Evidence::join(writer)?, writer, how, observe)?;
            }
            seqs.push(session.push(item, writer, how, observe)?);
        }
        if how.unseen {
            session.cover(writer, observe)?;
        }
        session.derive(observe)?;
        self.notes.extend(session.notes());
        self.chain = session.found.chain;
        Ok(seqs)
    }
}

/// How rows are appended.
#[derive(Clone, Copy, Default)]
struct Append {
    /// What counts for nothing here is held all the same.
    merging: bool,
    /// Nobody reads it before it is whole.
    unseen: bool,
}

/// The exclusive lock on a ledger that has been read and verified under it.
struct Session {
    dir: Dir,
    file: File,
    found: Found,
    torn: Option<String>,
}

impl Session {
    fn begin(root: &Path, observe: &mut dyn FnMut(Step)) -> Result<Session> {
        // Nothing is created beside damage: a missing ledger with a checkpoint is refused here.
        Bytes::of(root)?;
        let dir = Dir::create(root)?;
        let (file, created) = dir.open_append(LEDGER_FILE)?;
        if created {
            observe(Step::LedgerCreated);
        }
        observe(Step::Locked);
        let found = Found::verify(&Bytes::read(&dir, &file)?, proposed_keys(root)?)?;
        for name in [CHECKPOINT_FILE, PROGRESS_FILE] {
            dir.sweep(name);
        }
        Ok(Session { dir, file, found, torn: None })
    }

    fn heal(mut self, observe: &mut dyn FnMut(Step)) -> Result<(Chain, Vec<String>)> {
        let mut notes = self.found.notes(true);
        notes.dedup();
        self.set_torn_aside(observe)?;
        self.derive(observe)?;
        Ok((self.found.chain, notes))
    }

    fn notes(&self) -> Option<String> {
        let name = self.torn.as_ref()?;
        Some(format!("the last row was cut short by an interrupted append: its bytes were moved to state/{name}"))
    }

    /// Copies an unterminated last line to a file of its own, then cuts it off.
    fn set_torn_aside(&mut self, observe: &mut dyn FnMut(Step)) -> Result<()> {
        let torn = std::mem::take(&mut self.found.chain.torn);
        if torn.is_empty() {
            return Ok(());
        }
        let name = torn_name(&torn);
        self.dir.replace(&name, &torn, || ())?;
        observe(Step::TornKept);
        let path = self.dir.path(LEDGER_FILE);
        let cut = self.file.set_len(self.found.chain.length as u64).and_then(|()| self.file.sync_all());
        cut.map_err(|e| Error::io(path, e))?;
        observe(Step::TornCut);
        self.torn = Some(name);
        Ok(())
    }

    /// Writes one row and its checkpoint; where nobody sees it yet the row alone.
    fn push(
        &mut self,
        evidence: &Evidence,
        writer: &SecretKey,
        how: Append,
        observe: &mut dyn FnMut(Step),
    ) -> Result<u64> {
        let before = self.found.chain.length as u64;
        let path = self.dir.path(LEDGER_FILE);
        let mut line = self.found.chain.write(evidence, writer, how.merging)?;
        line.push(b'\n');
        let length = self.file.metadata().map_err(|e| Error::io(&path, e))?.len();
        if length != before {
            return Err(Error::new(&DAMAGED, "the ledger grew while it was locked: something else writes to it")
                .expected(format!("{before} bytes"))
                .found(format!("{length} bytes")));
        }
        let written = (&self.file).write(&line);
        if !matches!(written, Ok(n) if n == line.len()) {
            // A full disk: take the part back, so that no later reader has to.
            let _ = self.file.set_len(before).and_then(|()| self.file.sync_all());
            let error = written.err().unwrap_or_else(|| std::io::Error::other("the row did not fit (disk full?)"));
            return Err(Error::io(&path, error));
        }
        observe(Step::RowWritten);
        if !how.unseen {
            self.cover(writer, observe)?;
        }
        Ok(self.found.chain.rows.len() as u64 - 1)
    }

    /// Has what was written on the disk, and under a checkpoint.
    fn cover(&mut self, writer: &SecretKey, observe: &mut dyn FnMut(Step)) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io(self.dir.path(LEDGER_FILE), e))?;
        observe(Step::RowSynced);
        self.checkpoint(writer, observe)
    }

    fn checkpoint(&mut self, writer: &SecretKey, observe: &mut dyn FnMut(Step)) -> Result<()> {
        let note = Checkpoint::sign(&self.found.chain, writer);
        self.dir.replace(CHECKPOINT_FILE, note.as_bytes(), || observe(Step::CheckpointWritten))?;
        observe(Step::CheckpointNamed);
        self.found.checkpointed = self.found.chain.rows.len();
        Ok(())
    }

    fn derive(&mut self, observe: &mut dyn FnMut(Step)) -> Result<()> {
        let rows = self.found.chain.rows.len();
        if self.found.progress_behind() {
            let bytes = Progress::derive(&self.found.chain, rows).to_bytes()?;
            self.dir.replace(PROGRESS_FILE, &bytes, || observe(Step::ProgressWritten))?;
            observe(Step::ProgressNamed);
            self.found.derived = rows;
        }
        Ok(())
    }
}

fn torn_name(torn: &[u8]) -> String {
    format!("torn-{}", Digest::of(torn).short())
}

/// The keys that `assay.toml` proposes (`verifiers = […]`). They may sign here; whether they count is the user's word
/// alone ([`super::Trust`]). A plain directory without the file proposes none.
pub fn proposed_keys(root: &Path) -> Result<KeyRing> {
    if !root.join(Workbench::FILE).exists() {
        return Ok(KeyRing::new());
    }
    let mut ring = KeyRing::new();
    for text in Workbench::open(root)?.settings.verifiers {
        let key: PublicKey = text.parse().map_err(|e: Error| {
            Error::new(&PROPOSED, format!("{} proposes a key that is none: {}", Workbench::FILE, e.what()))
        })?;
        ring.insert(key.id(), key);
    }
    Ok(ring)
}
