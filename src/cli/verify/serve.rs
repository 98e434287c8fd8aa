//! The other end of `--runner`: judges what comes over stdin.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::seat::Backend;
use super::replay::Silent;
use crate::error::{Error, Kind, Result};
use crate::ledger::{self as records, ClosureSource, Config, SecretKey, Target};
use crate::model::Model;
use crate::plan::Numerics;
use crate::plan::kernels::KernelTree;
use crate::verify::binding::Workshop;
use crate::verify::places::NvrtcCompilers;
use crate::verify::prefill::Baselines;
use crate::verify::remote::{Ask, BUNDLE, Bundle, Hello, MODEL, REMOTE, SPEECH, Say, lay_out};
use crate::verify::{Compilers, Judge, PROTOCOL, record, weights};
use crate::workbench::Workbench;

/// How often a host that is at work says so.
const PULSE: Duration = Duration::from_secs(2);

/// What is said goes out line by line, from whichever thread.
#[derive(Clone)]
struct Voice(Arc<Mutex<std::io::Stdout>>);

impl Voice {
    fn say(&self, say: &Say) -> Result<()> {
        let mut line = serde_json::to_vec(say).map_err(|e| Error::internal(e.to_string()))?;
        line.push(b'\n');
        let mut out = self.0.lock().unwrap_or_else(|e| e.into_inner());
        out.write_all(&line).and_then(|()| out.flush()).map_err(|e| Error::io("stdout", e))
    }

    /// Says that work goes on, until the result is there. When nobody listens any more the work is pointless.
    fn over<T>(&self, work: impl FnOnce() -> T) -> T {
        let (done, waits) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = waits.recv_timeout(PULSE) {
                    if self.say(&Say::Busy).is_err() {
                        std::process::exit(i32::from(Kind::Interrupted.exit_code()));
                    }
                }
            });
            let result = work();
            drop(done);
            result
        })
    }
}

/// Serves until stdin ends. What went wrong is said to whoever asked as well.
pub fn serve() -> Result<u8> {
    let voice = Voice(Arc::new(Mutex::new(std::io::stdout())));
    match session(&voice) {
        Ok(()) => Ok(0),
        Err(e) => {
            let _ = voice.say(&Say::failed(&e));
            Err(e)
        }
    }
}

fn session(voice: &Voice) -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let bundle =
        |e: String| Error::new(&BUNDLE, format!("the first line is no bundle: {e}")).hint("assay verify --runner");
    let first = lines.next().ok_or_else(|| bundle("there is none".into()))?.map_err(|e| Error::io("stdin", e))?;
    let versions: serde_json::Value = serde_json::from_str(&first).map_err(|e| bundle(e.to_string()))?;
    // Of another version not even the fields are known.
    let (remote, verifier) = (versions["remote"].as_u64(), versions["verifier"].as_u64());
    if (remote, verifier) != (Some(REMOTE.into()), Some(PROTOCOL.into())) {
        let say = |n: Option<u64>| n.map_or("none".into(), |n| n.to_string());
        return Err(Error::new(&SPEECH, "this host has another version of assay")
            .expected(format!("messages {REMOTE}, verifier protocol {PROTOCOL}"))
            .found(format!("messages {}, verifier protocol {}", say(remote), say(verifier)))
            .hint("install the same version on both sides"));
    }
    let bundle: Bundle = serde_json::from_str(&first).map_err(|e| bundle(e.to_string()))?;
    let model = voice.over(|| model(&bundle))?;
    let root = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
    lay_out(&bundle, model.path(), root.path())?;
    let bench = Workbench::open(root.path())?;
    let backend = <Backend as clap::ValueEnum>::from_str(&bundle.backend, false).map_err(Error::usage)?;
    let place = voice.over(|| backend.place(&bench))?;
    let key = key(root.path())?;
    let workshop = voice.over(|| Workshop::new(&model)?.tree(&bench.kernels()))?;
    let tree = KernelTree::open(&bench.kernels())?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    voice.say(&Say::Hello(Box::new(Hello {
        remote: REMOTE,
        verifier: PROTOCOL,
        nonce: bundle.nonce.clone(),
        assay: env!("CARGO_PKG_VERSION").into(),
        host,
        weights: weights::digest(&model)?,
        arch: place.arch().into(),
        key: key.public().clone(),
    })))?;
    let nvrtc = NvrtcCompilers::new(&bench.settings.architectures);
    for line in lines {
        let line = line.map_err(|e| Error::io("stdin", e))?;
        let ask: Ask =
            serde_json::from_str(&line).map_err(|e| Error::new(&BUNDLE, format!("a line is no question: {e}")))?;
        if !ask.is_plain() {
            return Err(Error::new(
                &BUNDLE,
                "a question's prompt and transcript are digests, and nothing else is signed",
            ));
        }
        let share = records::Seed::random()?;
        let seed = ask.seed_with(&share).0;
        let (stop, baselines) = (AtomicBool::new(false), Baselines::new(&model, seed));
        let judge = Judge {
            model: &model,
            tree: &tree,
            place: &*place,
            compilers: nvrtc.as_ref().ok().map(|c| c as &dyn Compilers),
            baselines: &baselines,
            numerics: bundle.numerics.map_or(vec![Numerics::Exact, Numerics::Ds4], |n| vec![n]),
            thorough: bundle.thorough,
            seed,
            stop: &stop,
            progress: &Silent,
            sanitize: Some(root.path()),
            shared: None,
            through: crate::verify::Stage::Sanitizer,
        };
        let verdict = match voice.over(|| judge.judge(&ask.node, &[])) {
            Ok(verdict) => verdict,
            // Of one node; the next may be judged.
            Err(e) => {
                voice.say(&Say::failed(&e))?;
                continue;
            }
        };
        let numerics = bundle.numerics.unwrap_or(Numerics::Ds4);
        let binding = match workshop.binding(&ask.node, &verdict.arch, numerics) {
            Ok(binding) => binding,
            Err(e) => {
                // What has no usable kernel binds nothing, and no row can be made of it.
                voice.say(&Say::failed(&e))?;
                continue;
            }
        };
        let about = record::About { commit: bundle.commit.clone(), ..super::sign::about(&bench, &model) };
        let target = Target::Node(ask.node.clone());
        let mut statement = record::statement(&verdict, target, binding, BTreeMap::new(), &about)?;
        (statement.informative.prompt, statement.informative.transcript) = (ask.prompt, ask.transcript);
        let evidence = [records::Evidence::join(&key)?, record::evidence(statement, &key)?];
        let evidence = evidence.iter().map(records::Evidence::to_value).collect::<Result<_>>()?;
        voice.say(&Say::Evidence { share, evidence })?;
    }
    Ok(())
}

/// The file with the weights that are asked for: where we were told, or where this host keeps its own.
fn model(bundle: &Bundle) -> Result<Model> {
    let own = Workbench::find(Path::new(".")).ok().map(|bench| bench.model());
    let mut tried: Vec<String> = Vec::new();
    let places: Vec<PathBuf> = bundle.models.iter().cloned().chain(own).collect();
    for path in places {
        let found = match Model::open(&path) {
            Err(e) => e.what().to_string(),
            Ok(model) => match weights::digest(&model)? {
                digest if digest == bundle.weights => return Ok(model),
                digest => format!("{} holds weights {}", path.display(), digest.short()),
            },
        };
        if !tried.contains(&found) {
            tried.push(found);
        }
    }
    Err(Error::new(&MODEL, "there is no model with these weights here")
        .expected(format!("weights {}", bundle.weights.short()))
        .found(tried.join("; "))
        .hint("--remote-model FILE says where it lies on the host"))
}

/// This host's own key; its first one is made when it is first asked.
fn key(root: &Path) -> Result<SecretKey> {
    let config = Config::of_user()?.outside(root)?;
    if !config.key_names()?.is_empty() {
        return config.key(None);
    }
    let name: String = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().filter(|c| fits(*c)).take(64).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    config.new_key(if name.is_empty() { "host" } else { name })
}
