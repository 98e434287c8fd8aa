//! A transcript: one event a line, each line holding the digest of the line before. A run of the loop has one, and so has
//! each client of the desk.
//!
//! A line is written with one write and synced before anything acts on it, so that a process killed at any moment leaves
//! a transcript that says all that it did. What a kill can leave beside that is an unterminated last line: it is moved
//! aside and the run goes on. Any other damage is refused, at the end too: [`head`] says where that is. A line that could
//! not be written whole, to a disk that is full, is taken back at once: the next would be glued to it.

mod head;

pub(super) use head::open;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use head::Head;

use super::codes::TRANSCRIPT;
use super::kept::unopened;
use super::redact::Redactor;
use crate::error::{Error, IO, Result};
use crate::ledger::{Digest, clock};

pub const FILE: &str = "transcript.jsonl";

/// No event is longer: what a model says is cut before.
const MOST_LINE: u64 = 32 << 20;

#[derive(Serialize, Deserialize)]
struct Line<E> {
    seq: u64,
    prev: Digest,
    time: String,
    /// Milliseconds that the run had been at work, over all of its processes.
    ms: u64,
    #[serde(flatten)]
    event: E,
}

/// An event where it stands.
#[derive(Clone, Debug)]
pub struct Record<E> {
    pub seq: u64,
    pub time: String,
    pub ms: u64,
    pub event: E,
    /// Of its line: what the next line and the rows that it led to hold.
    pub digest: Digest,
}

/// What the lines of a transcript tell of, and what is left to do where they cannot.
pub trait Story: Serialize + DeserializeOwned {
    /// What it was written for, and cannot be used for where it is damaged; and what begins another.
    const DAMAGED: &'static str;
    /// What to do where the system refuses to write it.
    const UNWRITTEN: &'static str;
}

/// Whoever looks at any transcript for its digests.
impl Story for serde_json::Value {
    const DAMAGED: &'static str = "its lines can be read as text";
    const UNWRITTEN: &'static str = "look after the disk";
}

/// Appends to a transcript. Only one process does at a time: the run's lock sees to that.
pub struct Transcript {
    file: File,
    path: PathBuf,
    redactor: Redactor,
    seq: u64,
    head: Digest,
    /// Bytes of its whole lines.
    length: u64,
    end: head::Writer,
    /// Why a line that failed could not be taken back. Nothing can follow it.
    lost: Option<String>,
}

impl Transcript {
    pub fn create(dir: &Path, redactor: Redactor) -> Result<Transcript> {
        let path = dir.join(FILE);
        // First, so that there is none without it.
        let end = head::Writer::create(dir)?;
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| Error::io(&path, e))?;
        let synced = File::open(dir).and_then(|d| d.sync_all());
        synced.map_err(|e| Error::io(dir, e))?;
        Ok(Transcript { file, path, redactor, seq: 0, head: Digest::ZERO, length: 0, end, lost: None })
    }

    /// Opens one to go on with it; each event there is given to `each`. Says what was moved aside, if anything was.
    pub fn resume<E: Story>(
        dir: &Path,
        redactor: Redactor,
        mut each: impl FnMut(Record<E>),
    ) -> Result<(Transcript, Option<String>)> {
        let path = dir.join(FILE);
        let mut last = (0, Digest::ZERO);
        let whole = read(&path, |record| {
            last = (record.seq + 1, record.digest);
            each(record);
        })?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&path).map_err(|e| unopened(&path, e))?;
        let mut note = None;
        let length = file.metadata().map_err(|e| Error::io(&path, e))?.len();
        if length > whole {
            let mut torn = Vec::new();
            let read = file.seek(SeekFrom::Start(whole)).and_then(|_| file.read_to_end(&mut torn));
            read.map_err(|e| Error::io(&path, e))?;
            let aside = set_aside(dir, last.0, &torn)?;
            file.set_len(whole).and_then(|()| file.sync_all()).map_err(|e| Error::io(&path, e))?;
            note = Some(format!("an unfinished last line of {} bytes was moved to {}", torn.len(), aside.display()));
        }
        let (lines, digest) = last;
        let end = head::Writer::open(dir, Head { lines, digest })?;
        let transcript = Transcript { file, path, redactor, seq: lines, head: digest, length: whole, end, lost: None };
        Ok((transcript, note))
    }

    /// Writes an event; it is on the disk when this returns. The event comes back as it was written: redacted. Of one that
    /// could not be written nothing is left.
    pub fn append<E: Story>(&mut self, ms: u64, event: &E) -> Result<Record<E>> {
        if let Some(why) = &self.lost {
            let what = format!(
                "{}: nothing more is written here: a line failed, and what was written of it could not be taken back ({why})",
                self.path.display()
            );
            return Err(Error::new(&IO, what).hint(E::UNWRITTEN));
        }
        let internal = |e: serde_json::Error| Error::internal(format!("an event has no JSON form: {e}"));
        let value = self.redactor.value(serde_json::to_value(event).map_err(internal)?);
        let time = clock::now();
        let line = Line { seq: self.seq, prev: self.head, time: time.clone(), ms, event: &value };
        let mut bytes = serde_json::to_vec(&line).map_err(internal)?;
        let digest = Digest::of(&bytes);
        bytes.push(b'\n');
        let record =
            Record { seq: self.seq, time, ms, event: serde_json::from_value(value).map_err(internal)?, digest };
        let line = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        if let Err(e) = line {
            self.take_back(false);
            return Err(Error::io(&self.path, e).hint(E::UNWRITTEN));
        }
        if let Err(e) = self.end.write(Head { lines: self.seq + 1, digest }) {
            self.take_back(true);
            return Err(e.hint(E::UNWRITTEN));
        }
        (self.seq, self.head, self.length) = (self.seq + 1, digest, self.length + bytes.len() as u64);
        Ok(record)
    }

    /// Cuts off what was written of a line that failed. `head`: that may say already that the line is there; it is put right
    /// first, since lines may be one ahead of it and never behind.
    fn take_back(&mut self, head: bool) {
        let head = if head { self.end.write(Head { lines: self.seq, digest: self.head }) } else { Ok(()) };
        let cut = || self.file.set_len(self.length).and_then(|()| self.file.sync_data());
        let back = head.and_then(|()| cut().map_err(|e| Error::io(&self.path, e)));
        self.lost = back.err().map(|e| e.what().to_string());
    }

    pub fn head(&self) -> Digest {
        self.head
    }
}

/// Keeps what was torn off in a file of its own: never in one that is there, nor through a link.
fn set_aside(dir: &Path, line: u64, torn: &[u8]) -> Result<PathBuf> {
    const MOST: u32 = 100;
    for n in 0..MOST {
        let again = if n == 0 { String::new() } else { format!("-{n}") };
        let path = dir.join(format!("torn-{line}{again}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match file.and_then(|mut file| file.write_all(torn)) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            written => return written.map(|()| path.clone()).map_err(|e| Error::io(&path, e)),
        }
    }
    let what =
        format!("{}: an unfinished last line can be kept nowhere: torn-{line} and so on are taken", dir.display());
    Err(Error::new(&IO, what).hint("move them away"))
}

/// Reads and checks a transcript, line by line, to where its head says that it ends. Gives the bytes of its whole lines; an
/// unterminated last one is left out.
pub fn read<E: Story>(path: &Path, mut each: impl FnMut(Record<E>)) -> Result<u64> {
    let mut reader = BufReader::new(head::open(path).map_err(|e| unopened(path, e))?);
    let dir = path.parent().unwrap_or(Path::new("."));
    let end = head::read::<E>(dir)?;
    let (mut seq, mut head, mut whole) = (0, Digest::ZERO, 0);
    loop {
        let mut bytes = Vec::new();
        let read = (&mut reader).take(MOST_LINE + 1).read_until(b'\n', &mut bytes).map_err(|e| Error::io(path, e))?;
        let damaged = |what: &str| {
            Error::new(&TRANSCRIPT, format!("{}: line {}: {what}", path.display(), seq + 1)).hint(E::DAMAGED)
        };
        if read as u64 > MOST_LINE {
            return Err(damaged("longer than any event"));
        }
        if bytes.pop() != Some(b'\n') {
            if seq < end.lines {
                return Err(damaged("it and what followed it are missing").expected(end.lines).found(seq));
            }
            // One line may be ahead of its head, and a process may have written more since that was looked at.
            return match head::read::<E>(dir)?.lines {
                lines if seq <= lines + 1 => Ok(whole),
                lines => Err(damaged("there are lines behind the last one").expected(lines).found(seq)),
            };
        }
        let line: Line<E> = serde_json::from_slice(&bytes).map_err(|e| damaged(&format!("no event ({e})")))?;
        if line.seq != seq {
            return Err(damaged("out of order").expected(seq).found(line.seq));
        }
        if line.prev != head {
            return Err(damaged("the line before it is not the one that it followed").expected(line.prev).found(head));
        }
        head = Digest::of(&bytes);
        if seq + 1 == end.lines && head != end.digest {
            return Err(damaged("the last one that was written said something else").expected(end.digest).found(head));
        }
        whole += read as u64;
        each(Record { seq, time: line.time, ms: line.ms, event: line.event, digest: head });
        seq += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::redact::Secret;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "event", rename_all = "snake_case")]
    enum Event {
        Told { text: String },
    }

    impl Story for Event {
        const DAMAGED: &'static str = "begin another";
        const UNWRITTEN: &'static str = "make room";
    }

    fn told(text: &str) -> Event {
        Event::Told { text: text.into() }
    }

    fn texts(path: &Path) -> Result<Vec<String>> {
        let mut out = Vec::new();
        read(path, |r: Record<Event>| out.push(format!("{:?}", r.event))).map(|_| out)
    }

    #[test]
    fn a_chain_is_written_and_read_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let redactor = Redactor::new([Secret::new("sk-0123456789").unwrap()]);
        let mut transcript = Transcript::create(dir.path(), redactor).unwrap();
        transcript.append(1, &told("the key is sk-0123456789, \"ä\0\u{1F980}\n")).unwrap();
        let head = transcript.append(2, &told("second")).unwrap().digest;
        assert_eq!(head, transcript.head());
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("sk-0123456789") && text.contains("[redacted]"));
        assert_eq!(texts(&path).unwrap().len(), 2);
    }

    /// What was left of a line that failed had the next one glued to it, and nobody could read the transcript again.
    #[test]
    fn a_line_that_failed_and_could_not_be_taken_back_was_written_on_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut transcript = Transcript::create(dir.path(), Redactor::default()).unwrap();
        transcript.append(0, &told("first")).unwrap();
        // Neither to be written nor to be cut.
        let good = std::mem::replace(&mut transcript.file, File::open(&path).unwrap());
        let failed = transcript.append(1, &told("second")).unwrap_err();
        assert!(failed.code().id == "io" && failed.hint_text() == Some("make room"), "{failed}");
        transcript.file = good;
        let refused = transcript.append(2, &told("third")).unwrap_err().to_string();
        assert!(refused.contains("nothing more is written here") && refused.contains("make room"), "{refused}");
        assert_eq!(texts(&path).unwrap().len(), 1);
        // The head failed: the line is taken back, and may come again.
        let mut transcript = Transcript::resume(dir.path(), Redactor::default(), |_: Record<Event>| ()).unwrap().0;
        let before = std::fs::read(&path).unwrap();
        let good = std::mem::replace(&mut transcript.end, head::Writer::spoilt(dir.path()));
        transcript.append(3, &told("second")).unwrap_err();
        assert!(transcript.lost.is_some(), "the head may say anything now");
        transcript.end = good;
        transcript.take_back(true);
        assert_eq!((transcript.lost.as_ref(), std::fs::read(&path).unwrap()), (None, before));
        transcript.append(4, &told("second")).unwrap();
        assert_eq!(texts(&path).unwrap().len(), 2);
    }

    #[test]
    fn any_change_is_seen_and_a_torn_line_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut transcript = Transcript::create(dir.path(), Redactor::default()).unwrap();
        for i in 0..4 {
            transcript.append(i, &told(&format!("event {i}"))).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for damaged in [
            text.replace("event 1", "event 7"),
            [lines[0], lines[2], lines[3]].concat(),
            [lines[0], lines[2], lines[1], lines[3]].concat(),
            [lines[1], lines[2], lines[3]].concat(),
            [lines[0], lines[0], lines[1]].concat(),
            format!("{text}\n"),
            format!("{text}{{}}\n"),
            // At the end a chain holds together.
            text.replace("event 3", "event 7"),
            lines[..3].concat(),
            lines[..1].concat(),
            String::new(),
        ] {
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(texts(&path).unwrap_err().code().id, "transcript-damaged", "{damaged}");
        }
        // A kill between a line and its head leaves it one line ahead, and no more.
        let head = dir.path().join("head");
        let whole = std::fs::read(&head).unwrap();
        let at = |n: u64| Head { lines: n, digest: Digest::of(lines[n as usize - 1].trim_end().as_bytes()) };
        let writer = head::Writer::open(dir.path(), at(4)).unwrap();
        std::fs::write(&path, &text).unwrap();
        writer.write(at(3)).unwrap();
        assert_eq!(texts(&path).unwrap().len(), 4);
        writer.write(at(2)).unwrap();
        assert_eq!(texts(&path).unwrap_err().code().id, "transcript-damaged");
        std::fs::write(&head, "nonsense").unwrap();
        assert_eq!(texts(&path).unwrap_err().code().id, "transcript-damaged");
        std::fs::remove_file(&head).unwrap();
        assert_eq!(texts(&path).unwrap_err().code().id, "transcript-damaged");
        std::fs::write(&head, &whole).unwrap();
        std::fs::write(&path, format!("{text}{}", &lines[3][..20])).unwrap();
        let mut seen = 0;
        let (mut transcript, note) =
            Transcript::resume(dir.path(), Redactor::default(), |_: Record<Event>| seen += 1).unwrap();
        assert!(seen == 4 && note.unwrap().contains("torn-4"));
        transcript.append(9, &told("after")).unwrap();
        assert_eq!(texts(&path).unwrap().len(), 5);
        assert_eq!(std::fs::read_to_string(dir.path().join("torn-4")).unwrap(), &lines[3][..20]);
        // What stood under that name, a link too, was written over.
        let outside = dir.path().join("outside");
        std::os::unix::fs::symlink(&outside, dir.path().join("torn-5")).unwrap();
        let mut more = std::fs::read(&path).unwrap();
        more.extend_from_slice(b"{\"seq\"");
        std::fs::write(&path, more).unwrap();
        let (_, note) = Transcript::resume(dir.path(), Redactor::default(), |_: Record<Event>| ()).unwrap();
        assert!(note.unwrap().contains("torn-5-1") && !outside.exists());
        // A pipe was waited for.
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(texts(&path).unwrap_err().code().id, "transcript-damaged");
    }
}
