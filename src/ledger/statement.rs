//! What is signed: an in-toto Statement about a node, a bench run or a key (docs/evidence.schema.json).
//!
//! A verdict's digests are of two sorts. *Binding* ones ([`Binding`]) say what was judged: change one and the verdict no
//! longer speaks of what you have. *Informative* ones ([`Informative`]) say how it came about and never make it stale.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::keys::PublicKey;
use super::roll::{Revocation, Rotation};
use super::{Digest, Figure, Seed, canonical};
use crate::error::Result;
use crate::ops::Node;
use crate::plan::Numerics;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// The major version of this module's records, as predicate types name them.
const VERDICT: &str = "urn:assay:verdict:1";
const BENCH: &str = "urn:assay:bench:1";
const KEY: &str = "urn:assay:key:1";
const ROTATION: &str = "urn:assay:rotation:1";
const REVOCATION: &str = "urn:assay:revocation:1";

/// What a verdict or a bench run is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Node(Node),
    /// The whole schedule of a file, written `*`: a Pass is prefill_working(file, arch). Its binding holds the whole
    /// schedule's digest as `schedule_slice` and the digest of all closures as `closure`.
    Schedule,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Node(node) => node.fmt(f),
            Target::Schedule => f.write_str("*"),
        }
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        match text {
            "*" => Ok(Target::Schedule),
            node => node.parse().map(Target::Node),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Target, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What kind of place the evidence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A GPU of the binding's architecture. Alone can turn a node green.
    Device,
    /// The CPU emulator. A test instrument: never green, never timed.
    Emulated,
    /// Made up, for tests of the ledger itself: counts only where a trust file outside the tree says so.
    Simulated,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Device => "device",
            Class::Emulated => "emulated",
            Class::Simulated => "simulated",
        }
    }
}

/// The stages of a verdict, in order (docs/design.md, how a kernel becomes green).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Weights = 1,
    Source,
    Build,
    Unit,
    Teeth,
    Prefill,
    Graph,
    Sanitizer,
}

impl Stage {
    pub const ALL: [Stage; 8] = [
        Stage::Weights,
        Stage::Source,
        Stage::Build,
        Stage::Unit,
        Stage::Teeth,
        Stage::Prefill,
        Stage::Graph,
        Stage::Sanitizer,
    ];

    /// Its number in what people read; rows hold its name.
    pub fn number(self) -> u8 {
        self as u8
    }

    pub fn name(self) -> &'static str {
        match self {
            Stage::Weights => "weights",
            Stage::Source => "source",
            Stage::Build => "build",
            Stage::Unit => "unit",
            Stage::Teeth => "teeth",
            Stage::Prefill => "prefill",
            Stage::Graph => "graph",
            Stage::Sanitizer => "sanitizer",
        }
    }

    /// What must have passed before `target` is green: stages 1 to 7 for a node; a whole schedule has no unit of its own.
    pub fn required(target: &Target) -> &'static [Stage] {
        match target {
            Target::Node(_) => {
                &[Stage::Weights, Stage::Source, Stage::Build, Stage::Unit, Stage::Teeth, Stage::Prefill, Stage::Graph]
            }
            Target::Schedule => &[Stage::Weights, Stage::Build, Stage::Prefill, Stage::Graph],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageOutcome {
    Pass,
    Red,
    Indeterminate,
    /// Could not run here (no device, no sanitizer): neither pass nor failure.
    NotRun,
}

/// What one stage found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    pub name: Stage,
    pub outcome: StageOutcome,
    pub figures: BTreeMap<String, Figure>,
    pub note: String,
}

/// What was judged. Two verdicts with equal bindings speak of the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Kernel, headers, the manifest entries that the node selects, contract, generated header (SHA-256).
    pub closure: Digest,
    /// The node's launches and the layout of the buffers they touch.
    pub schedule_slice: Digest,
    pub numerics: Numerics,
    pub weights: Digest,
    /// `sm_90`, or `emulator`.
    pub arch: String,
    /// Major version of the verifier's comparison and tolerance rules.
    pub protocol: u32,
    /// The canonical list of cases.
    pub cases: Digest,
    /// The oracle's outputs on fixed inputs.
    pub oracle_outputs: Digest,
}

impl Binding {
    /// Whether both speak of the same kernel on the same weights in the same place, whatever was asked of it.
    pub fn is_same_work(&self, other: &Binding) -> bool {
        let how = ["protocol", "cases", "oracle_outputs"];
        self.differences(other).iter().all(|field| how.contains(field))
    }

    /// The names of the fields in which two bindings differ: what made a verdict stale.
    pub fn differences(&self, other: &Binding) -> Vec<&'static str> {
        [
            ("closure", self.closure != other.closure),
            ("schedule_slice", self.schedule_slice != other.schedule_slice),
            ("numerics", self.numerics != other.numerics),
            ("weights", self.weights != other.weights),
            ("arch", self.arch != other.arch),
            ("protocol", self.protocol != other.protocol),
            ("cases", self.cases != other.cases),
            ("oracle_outputs", self.oracle_outputs != other.oracle_outputs),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// How the evidence came about. Free text, but for the digests of what ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Informative {
    /// assay's own version.
    pub assay: String,
    /// RFC 3339, UTC ([`super::clock::now`]).
    pub time: String,
    /// The commit that the kernels came from, or empty.
    pub commit: String,
    pub host: String,
    /// `NVIDIA H200`, or the emulator's compiler.
    pub device: String,
    pub driver: String,
    pub nvrtc: String,
    /// The model file's name and what kind of weights it holds (`trained`, `synthetic, aliased`).
    pub model: String,
    /// The confinement that the worker ran under.
    pub sandbox: String,
    /// Digests of the prompt that asked for the kernel and of the transcript that led to it, where an agent wrote it.
    pub prompt: String,
    pub transcript: String,
    /// What was loaded, by kernel: cubins, or the emulator's shared objects.
    pub cubins: BTreeMap<String, Digest>,
    /// Pinned libraries that were launched, by name: version.
    pub libraries: BTreeMap<String, String>,
}

/// The end of a judgement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Outcome {
    Pass,
    /// `first_bad` is the first wrong coordinate with its case, or empty.
    Red {
        stage: Stage,
        reason: String,
        first_bad: String,
    },
    /// Could not be decided.
    Indeterminate {
        reason: String,
    },
}

impl Outcome {
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Red { .. } => "red",
            Outcome::Indeterminate { .. } => "indeterminate",
        }
    }
}

/// One node, or one whole schedule, judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    pub node: Target,
    pub class: Class,
    pub outcome: Outcome,
    pub binding: Binding,
    pub stages: Vec<StageRecord>,
    /// What the subject wrote, per case.
    pub outputs: BTreeMap<String, Digest>,
    pub seed: Seed,
    pub informative: Informative,
    /// Of a whole schedule: the nodes that it consists of, each with its closure. The binding's closure is their digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Digest>,
}

/// The closure of a whole schedule: the digest of its nodes' closures, by name.
pub fn closure_of(parts: &BTreeMap<String, Digest>) -> Digest {
    let lines: Vec<String> = parts.iter().map(|(node, closure)| format!("{closure} {node}\n")).collect();
    Digest::of(lines.concat().as_bytes())
}

impl Verdict {
    /// A Pass through every stage that green needs. Class and trust are the reader's business.
    pub fn complete(&self) -> bool {
        let passed = |stage: &Stage| self.stages.iter().any(|s| s.name == *stage && s.outcome == StageOutcome::Pass);
        self.outcome == Outcome::Pass && Stage::required(&self.node).iter().all(passed)
    }

    /// The largest figure of this name over all stages, whether of the whole node or of a variant (`variant.name`); a NaN
    /// is larger than everything.
    pub fn worst(&self, name: &str) -> Option<f64> {
        let of_name = |key: &str| key.rsplit('.').next() == Some(name);
        let figures =
            self.stages.iter().flat_map(|s| &s.figures).filter(|(key, _)| of_name(key)).map(|(_, f)| f.as_f64());
        figures.reduce(|a, b| if a.is_nan() || a > b { a } else { b })
    }

    fn check(&self) -> Result<(), String> {
        check_place(self.class, &self.binding)?;
        match &self.node {
            Target::Node(_) if !self.parts.is_empty() => return Err("it is of one node and lists parts".into()),
            Target::Schedule if self.parts.keys().any(|part| part.parse::<Node>().is_err()) => {
                return Err("a part of its schedule is no node".into());
            }
            Target::Schedule if closure_of(&self.parts) != self.binding.closure => {
                return Err("its closure is not that of the parts that it lists".into());
            }
            _ => {}
        }
        if let Some(pair) = self.stages.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            return Err(format!("stage {} is recorded after {}", pair[1].name.name(), pair[0].name.name()));
        }
        let with = |outcome| self.stages.iter().filter(move |s| s.outcome == outcome).map(|s| s.name);
        match &self.outcome {
            Outcome::Pass => {
                if let Some(stage) = with(StageOutcome::Red).chain(with(StageOutcome::Indeterminate)).next() {
                    return Err(format!("it is a Pass although stage {} did not pass", stage.name()));
                }
                if with(StageOutcome::Pass).next().is_none() {
                    return Err("it is a Pass although no stage passed".into());
                }
            }
            Outcome::Red { stage, .. } if !with(StageOutcome::Red).any(|s| s == *stage) => {
                return Err(format!("it is Red in stage {}, which is not recorded so", stage.name()));
            }
            Outcome::Indeterminate { .. } if with(StageOutcome::Red).next().is_some() => {
                return Err("it is Indeterminate although a stage is Red".into());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Class and architecture must go together.
fn check_place(class: Class, binding: &Binding) -> Result<(), String> {
    let arch = binding.arch.as_str();
    let number = arch.strip_prefix("sm_").map(|n| n.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(n));
    let device = number.is_some_and(|n| matches!(n.len(), 2..=3) && n.bytes().all(|c| c.is_ascii_digit()));
    match class {
        Class::Device if device => Ok(()),
        Class::Emulated if arch == "emulator" => Ok(()),
        Class::Simulated if device || arch == "emulator" => Ok(()),
        _ => Err(format!("class {} does not go with the architecture `{arch}`", class.name())),
    }
}

/// Timings of a node or a whole schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    pub node: Target,
    pub class: Class,
    pub binding: Binding,
    /// By what was run (`pp512`, `tg128@d8192`).
    pub runs: BTreeMap<String, BTreeMap<String, Figure>>,
    pub informative: Informative,
}

/// A key that joins the ledger; it signs this itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyJoin {
    pub key: PublicKey,
    /// RFC 3339, informative.
    pub time: String,
}

/// A Statement, by its predicate.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    Verdict(Box<Verdict>),
    Bench(Box<Bench>),
    Key(Box<KeyJoin>),
    Rotation(Box<Rotation>),
    Revocation(Box<Revocation>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: String,
    digest: BTreeMap<String, Digest>,
}

impl Statement {
    /// `verdict`, `bench`, `key`, `rotation` or `revocation`.
    pub fn kind(&self) -> &'static str {
        match self {
            Statement::Verdict(_) => "verdict",
            Statement::Bench(_) => "bench",
            Statement::Key(_) => "key",
            Statement::Rotation(_) => "rotation",
            Statement::Revocation(_) => "revocation",
        }
    }

    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            Statement::Verdict(v) => Some(v),
            _ => None,
        }
    }

    pub fn class(&self) -> Option<Class> {
        match self {
            Statement::Verdict(v) => Some(v.class),
            Statement::Bench(b) => Some(b.class),
            _ => None,
        }
    }

    pub fn target(&self) -> Option<&Target> {
        match self {
            Statement::Verdict(v) => Some(&v.node),
            Statement::Bench(b) => Some(&b.node),
            _ => None,
        }
    }

    /// How what was judged or timed came about.
    pub fn informative(&self) -> Option<&Informative> {
        match self {
            Statement::Verdict(v) => Some(&v.informative),
            Statement::Bench(b) => Some(&b.informative),
            _ => None,
        }
    }

    /// The key that this brings into a ledger.
    pub fn joining(&self) -> Option<&PublicKey> {
        match self {
            Statement::Key(k) => Some(&k.key),
            Statement::Rotation(r) => Some(&r.to),
            _ => None,
        }
    }

    /// The Statement as JSON.
    pub fn to_value(&self) -> Result<Value> {
        let internal = |e: serde_json::Error| crate::Error::internal(format!("a statement has no JSON form: {e}"));
        let (predicate_type, predicate, name, digest) = match self {
            Statement::Verdict(v) => (VERDICT, serde_json::to_value(v), v.node.to_string(), v.binding.closure),
            Statement::Bench(b) => (BENCH, serde_json::to_value(b), b.node.to_string(), b.binding.closure),
            Statement::Key(k) => (KEY, serde_json::to_value(k), k.key.name().to_string(), k.key.id()),
            Statement::Rotation(r) => (ROTATION, serde_json::to_value(r), r.from.name().to_string(), r.from.id()),
            Statement::Revocation(r) => (REVOCATION, serde_json::to_value(r), r.key.name().to_string(), r.key.id()),
        };
        serde_json::to_value(Wire {
            kind: STATEMENT.into(),
            subject: vec![Subject { name, digest: [("sha256".to_string(), digest)].into() }],
            predicate_type: predicate_type.into(),
            predicate: predicate.map_err(internal)?,
        })
        .map_err(internal)
    }

    /// The canonical bytes, as they are signed. Refuses a statement that contradicts itself.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check().map_err(|why| crate::Error::internal(format!("a statement contradicts itself: {why}")))?;
        canonical::write(&self.to_value()?)
    }

    /// Reads canonical bytes; what is accepted is written back as the same bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Statement, String> {
        let wire: Wire = serde_json::from_value(canonical::read(bytes)?).map_err(|e| e.to_string())?;
        let statement = match wire.predicate_type.as_str() {
            VERDICT => serde_json::from_value(wire.predicate).map(|v| Statement::Verdict(Box::new(v))),
            BENCH => serde_json::from_value(wire.predicate).map(|b| Statement::Bench(Box::new(b))),
            KEY => serde_json::from_value(wire.predicate).map(|k| Statement::Key(Box::new(k))),
            ROTATION => serde_json::from_value(wire.predicate).map(|r| Statement::Rotation(Box::new(r))),
            REVOCATION => serde_json::from_value(wire.predicate).map(|r| Statement::Revocation(Box::new(r))),
            other => return Err(format!("`{other}` is no predicate type of this version of assay")),
        }
        .map_err(|e| e.to_string())?;
        statement.check()?;
        match statement.to_bytes() {
            Ok(again) if again == bytes => Ok(statement),
            _ => Err("a field is unknown, or written in another way than assay writes it".into()),
        }
    }

    /// Refuses a statement that contradicts itself.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Statement::Verdict(v) => v.check(),
            Statement::Bench(b) => check_place(b.class, &b.binding),
            Statement::Key(_) => Ok(()),
            Statement::Rotation(r) => r.check(),
            Statement::Revocation(r) => r.check(),
        }
    }
}
