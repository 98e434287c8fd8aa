use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use npyz::WriterBuilder;
use serde_json::json;

use super::interrupt::{Interrupt, interrupted};
use super::seat::{Backend, Seat, Terms};
use super::standing::verified;
use super::{ModelArg, output};
use crate::engine::{Session, SessionOptions, argmax};
use crate::error::{Error, Result};
use crate::files;
use crate::model::tokenizer::Special;
use crate::model::{Model, Tokenizer};
use crate::plan::Numerics;
use crate::words::{count, shell_path};

/// Compute logits of a token sequence and write them as .npy
///
/// The default numerics, `exact`, leave out the model's own roundings, so that the numbers can be compared with those of
/// other implementations in f32.
#[derive(clap::Args)]
pub struct Logits {
    #[command(flatten)]
    model: ModelArg,
    #[command(flatten)]
    input: Input,
    /// Which of the model's own roundings are applied
    #[arg(long, value_enum, default_value_t = Numerics::Exact)]
    numerics: Numerics,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    #[command(flatten)]
    terms: Terms,
    /// Logits of every position, not of the last alone
    #[arg(long)]
    all: bool,
    /// Most tokens of one step; the rest follows in further chunks
    #[arg(long, default_value_t = 2048, value_name = "N", value_parser = super::run::chunk)]
    chunk: usize,
    /// Feed the last K tokens one by one, as decoding does
    #[arg(long, default_value_t = 0, value_name = "K")]
    decode_last: usize,
    /// Where the f32 array goes: [vocab], or [n, vocab] with --all
    #[arg(long, value_name = "FILE.npy", required_unless_present = "json")]
    out: Option<PathBuf>,
    /// Print one JSON object (schema assay.logits/1)
    #[arg(long)]
    json: bool,
}

/// Most bytes of a file of token ids: more than any model's context.
const TOKENS_FILE: u64 = 64 << 20;

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "1,2,…")]
    tokens: Option<Vec<u32>>,
    /// A file of token ids, separated by commas or blanks
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Text as it stands, behind the token that begins every sequence and without any turns; `run` lays out a
    /// conversation
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
}

impl Input {
    fn tokens(&self, model: &Model) -> Result<Vec<u32>> {
        if let Some(text) = &self.prompt {
            let tokenizer = Tokenizer::from_gguf(&model.gguf)?;
            let bos = tokenizer.require(Special::Bos)?;
            let ids = tokenizer.encode(text)?;
            // A text that begins with it already gets no second one.
            let first = (ids.first() != Some(&bos)).then_some(bos);
            return Ok(first.into_iter().chain(ids).collect());
        }
        if let Some(tokens) = &self.tokens {
            return Ok(tokens.clone());
        }
        let path = self.tokens_file.as_ref().ok_or_else(|| Error::usage("no tokens were given"))?;
        let text = files::read_text(path, TOKENS_FILE)?;
        text.split(|c: char| c == ',' || c.is_whitespace() || c == '[' || c == ']')
            .filter(|w| !w.is_empty())
            .map(|w| w.parse().map_err(|_| Error::usage(format!("{}: `{w}` is no token id", path.display()))))
            .collect()
    }
}

impl Logits {
    pub fn run(&self) -> Result<u8> {
        let interrupt = Interrupt::watch(self.json);
        let model = self.model.open()?;
        let tokens = self.input.tokens(&model)?;
        if self.decode_last >= tokens.len().max(1) {
            return Err(Error::usage("--decode-last leaves no token for the prefill")
                .expected(format!("less than {}", tokens.len())));
        }
        // Before minutes of work that could not be written.
        let out = self.out.as_deref().map(Destination::of).transpose()?;
        let seat = Seat::take(self.backend, self.terms)?;
        let options = SessionOptions {
            numerics: self.numerics,
            chunk: self.chunk.min(tokens.len().max(1)),
            context: tokens.len().max(1),
            all_logits: self.all,
        };
        let mut session = Session::new(&model, options)?;
        session.check(&tokens)?;
        seat.attach(&mut session)?;
        let (first, last) = tokens.split_at(tokens.len() - self.decode_last);
        let mut logits = session.feed(first)?;
        for token in last {
            let next = session.feed(std::slice::from_ref(token))?;
            if self.all { logits.extend(next) } else { logits = next }
        }
        interrupt.hold();
        let vocab = model.config.vocab;
        if let Some(out) = out {
            let rows = (logits.len() / vocab) as u64;
            let shape: Vec<u64> = if self.all { vec![rows, vocab as u64] } else { vec![vocab as u64] };
            out.write(&logits, &shape, vocab, &interrupt)?;
        }
        let last = &logits[logits.len() - vocab..];
        let best = argmax(last);
        let tally = session.tally();
        if self.json {
            output::json(
                "assay.logits/1",
                json!({
                    "numerics": self.numerics, "placement": seat.json(tally), "verified": verified(&model, self.numerics, tally),
                    "tokens": tokens, "positions": logits.len() / vocab, "argmax": best, "out": self.out,
                    "finite": logits.iter().all(|v| v.is_finite()),
                }),
            )?;
        } else {
            let best = best.map_or("none: there are NaNs".into(), |b| format!("{b} ({})", last[b]));
            output::println(format_args!(
                "{}, {} numerics; argmax of the last position: {best}\n{}\n{}",
                count(tokens.len(), "token"),
                self.numerics.name(),
                seat.sentence(tally),
                verified(&model, self.numerics, tally)
            ))?;
        }
        Ok(u8::from(best.is_none()))
    }
}

/// Where the array goes. A file is replaced once the new one is whole; a pipe or a device gets the bytes as they come.
enum Destination {
    File { path: PathBuf, folder: PathBuf, permissions: Permissions },
    Stream(PathBuf),
}

impl Destination {
    /// Refuses what cannot be written to.
    fn of(path: &Path) -> Result<Destination> {
        let (path, permissions) = match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(Error::usage(format!("{} is a directory", path.display()))
                    .expected("a file to write the logits to")
                    .hint(format!("--out {}", shell_path(&path.join("logits.npy")))));
            }
            Ok(found) if found.permissions().readonly() => {
                return Err(Error::io(path, std::io::ErrorKind::PermissionDenied.into()));
            }
            Ok(found) if !found.is_file() => return Ok(Destination::Stream(path.into())),
            // Where a link leads, so that the link stays.
            Ok(found) => (path.canonicalize().map_err(|e| Error::io(path, e))?, found.permissions()),
            Err(_) => (path.into(), Permissions::from_mode(0o666)),
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let out = Destination::File { path, folder, permissions };
        out.temporary()?;
        Ok(out)
    }

    fn temporary(&self) -> Result<Option<tempfile::NamedTempFile>> {
        let Destination::File { path, folder, permissions } = self else { return Ok(None) };
        let made = tempfile::Builder::new().permissions(permissions.clone()).tempfile_in(folder);
        // By its kind: the error itself names the temporary file.
        made.map(Some).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let what = format!("{} cannot be written: there is no folder {}", path.display(), folder.display());
                Error::new(&crate::error::IO, what).hint(format!("mkdir -p {}", shell_path(folder)))
            }
            kind => Error::io(path, kind.into()),
        })
    }

    fn write(self, logits: &[f32], shape: &[u64], vocab: usize, interrupt: &Interrupt) -> Result<()> {
        let temporary = self.temporary()?;
        let path = match &self {
            Destination::File { path, .. } | Destination::Stream(path) => path,
        };
        let io = |e: std::io::Error| Error::io(path, e);
        let mut file = match &temporary {
            Some(temporary) => BufWriter::new(temporary.as_file().try_clone().map_err(io)?),
            None => BufWriter::new(File::options().write(true).open(path).map_err(io)?),
        };
        let mut npy =
            npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut file).begin_nd().map_err(io)?;
        for row in logits.chunks(vocab) {
            if interrupt.came() {
                return Err(interrupted(&format!("interrupted: {} is not written", path.display())));
            }
            npy.extend(row.iter().copied()).map_err(io)?;
        }
        npy.finish().map_err(io)?;
        file.flush().map_err(io)?;
        match temporary {
            Some(temporary) => temporary.persist(path).map(drop).map_err(|e| io(e.error)),
            None => Ok(()),
        }
    }
}
