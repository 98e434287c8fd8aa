//! Whether a run fits a device: kernels for every node, memory for everything. Asked before anything is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::backend::Placement;
use crate::backend::executor::scratch_bytes;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::{Elem, Node};
use crate::plan::kernels::KernelTree;
use crate::plan::schedule::Schedule;
use crate::plan::{Instance, Plan, PlanOptions, Role};
use crate::words::{agree, count, size};

crate::codes! {
    NO_KERNEL: "no-kernel", No, "A node of the model's plan has no kernel for this architecture, these numerics and these \
        step lengths, or the file holds a tensor in a type that no kernel reads. Nothing is computed elsewhere unless \
        --allow-oracle says so.";
    BUDGET: "device-budget", CouldNotRun, "The device has not enough free memory for this run: its weights, its caches for \
        the context asked for, the temporaries of its longest step, and a margin. Nothing was loaded. A shorter context \
        (--ctx) or shorter steps (--chunk) need less.";
}

/// Memory that the driver takes for modules, graphs and stacks of threads, and that a report cannot foresee.
const MARGIN: u64 = 256 << 20;
/// The driver hands out memory in such pieces, and shares one among small buffers only.
const PIECE: u64 = 2 << 20;
const SMALL: u64 = 1 << 20;

/// Bytes of device memory by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// Every tensor once, however many layers share it.
    pub weights: u64,
    pub caches: u64,
    /// Copies of the caches, which a saved sequence is.
    pub copies: u64,
    /// What lives within a step; inputs, outputs and tables too.
    pub temporaries: u64,
    pub scratch: u64,
    pub margin: u64,
}

impl Budget {
    /// What a plan under these schedules needs; instances without a kernel need nothing.
    pub fn of(model: &Model, plan: &Plan, schedules: &[Schedule], saved: u64) -> Result<Budget> {
        let mut out = Budget { scratch: piece(scratch_bytes(plan, schedules)?), ..Budget::default() };
        let (mut buffers, mut tensors) = (BTreeSet::new(), BTreeSet::new());
        for i in (0..plan.instances.len()).filter(|i| schedules.iter().any(|s| s.choices[*i].is_some())) {
            let instance = &plan.instances[i];
            for buffer in instance.args.iter().flatten().filter(|b| buffers.insert(**b)) {
                let bytes = piece((plan.capacity(*buffer).max(1) * Elem::BYTES) as u64);
                match plan.buffers[buffer.0].role {
                    Role::Cache { .. } => out.caches += bytes,
                    _ => out.temporaries += bytes,
                }
            }
            for name in instance.weights.iter().flatten() {
                let tensor = model.tensor(name).ok_or_else(|| Error::internal(format!("no tensor {name}")))?;
                if tensors.insert((tensor.bytes.as_ptr().addr(), tensor.bytes.len())) {
                    out.weights += piece(tensor.bytes.len() as u64);
                }
            }
        }
        out.copies = out.caches * saved;
        out.margin = MARGIN + out.weights / 100;
        Ok(out)
    }

    pub fn total(&self) -> u64 {
        self.weights + self.caches + self.copies + self.temporaries + self.scratch + self.margin
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("weights", self.weights),
            ("caches", self.caches),
            ("copies of the caches", self.copies),
            ("temporaries", self.temporaries),
            ("scratch", self.scratch),
            ("margin", self.margin),
        ];
        let text: Vec<String> =
            parts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what} {}", size(*n))).collect();
        write!(f, "{} = {}", text.join(" + "), size(self.total()))
    }
}

fn piece(bytes: u64) -> u64 {
    if bytes < SMALL { bytes.next_multiple_of(512) } else { bytes.next_multiple_of(PIECE) }
}

/// Where a session is to run.
#[derive(Clone, Copy)]
pub struct Seating<'a> {
    pub tree: &'a KernelTree,
    pub arch: &'a str,
    /// Compute what has no kernel on the oracle.
    pub allow_oracle: bool,
    /// Most bytes of device memory to use, besides what is free.
    pub memory: Option<u64>,
    /// Saved sequences that the device will hold at once.
    pub saved: u64,
    /// The shortest context that the run could do with: none below it is worth a hint.
    pub shortest: usize,
}

impl Seating<'_> {
    /// The schedules of a plan, for single tokens and for longer steps: a decode's variants differ from a prefill's.
    pub fn schedules(&self, plan: &Plan) -> Result<Vec<Schedule>> {
        let mut schedules = vec![Schedule::lower(plan, self.tree, self.arch, 1)?];
        if plan.options.max_tokens > 1 {
            schedules.push(Schedule::lower(plan, self.tree, self.arch, plan.options.max_tokens)?);
        }
        Ok(schedules)
    }

    /// Errors: `device-budget`, with all the numbers and what would fit.
    pub fn check_memory(
        &self,
        model: &Model,
        plan: &Plan,
        schedules: &[Schedule],
        free: u64,
        name: &str,
    ) -> Result<Budget> {
        let budget = Budget::of(model, plan, schedules, self.saved)?;
        let usable = self.memory.map_or(free, |most| most.min(free));
        if budget.total() <= usable {
            return Ok(budget);
        }
        let which = if usable < free { "the memory that --memory leaves it" } else { "what is free" };
        let error = Error::new(&BUDGET, format!("this run needs more memory of {name} than {which}"))
            .expected(format!("at most {} (of {} free)", size(usable), size(free)))
            .found(budget);
        let fits = |context: usize, chunk: usize| -> Result<bool> {
            let options = PlanOptions { context, max_tokens: chunk, ..plan.options };
            let plan = Plan::build(model, options)?;
            Ok(Budget::of(model, &plan, &self.schedules(&plan)?, self.saved)?.total() <= usable)
        };
        let PlanOptions { context, max_tokens: chunk, .. } = plan.options;
        let (mut ways, mut shorter) = (Vec::new(), None);
        let (mut low, mut high) = (self.shortest.clamp(1, context), context);
        if low < high && fits(low, chunk.min(low))? {
            shorter = Some(low);
        }
        // Halving: what is too long stays too long.
        while shorter.is_some() && high - low > (low / 64).max(1) {
            let middle = low.midpoint(high);
            if fits(middle, chunk.min(middle))? {
                (low, shorter) = (middle, Some(middle));
            } else {
                high = middle;
            }
        }
        ways.extend(shorter.map(|n| format!("a context of {n} (--ctx {n})")));
        let mut steps = chunk / 2;
        while steps > 0 && !fits(context, steps)? {
            steps /= 2;
        }
        if steps > 0 {
            ways.push(format!("steps of {} (--chunk {steps})", count(steps, "token")));
        }
        Err(match ways.as_slice() {
            [] => error.hint("no shorter context or step would do: free memory, or use a larger device"),
            ways => error.hint(format!("{} would fit", ways.join(", or "))),
        })
    }
}

/// Nodes that some step has no kernel for, each with its first instance.
pub fn missing<'p>(plan: &'p Plan, schedules: &[Schedule]) -> BTreeMap<&'p Node, &'p Instance> {
    let mut out = BTreeMap::new();
    for (i, instance) in plan.instances.iter().enumerate() {
        if schedules.iter().any(|s| s.choices[i].is_none()) {
            out.entry(&instance.node).or_insert(instance);
        }
    }
    out
}

/// Refuses a plan with nodes that have no kernel: the first one's tensor, its type and the node, then all nodes.
pub fn refuse(model: &Model, plan: &Plan, arch: &str, missing: &BTreeMap<&Node, &Instance>) -> Error {
    let place = if arch == crate::plan::manifest::EMULATOR { "the emulator" } else { arch };
    // In the plan's order: the first that a step would have met.
    let first = plan.instances.iter().find(|i| missing.contains_key(&i.node));
    let what = first.map_or_else(String::new, |instance| {
        let node = &instance.node;
        let tensors = instance.weights.iter().flatten().filter_map(|name| model.tensor(name));
        let tensors: Vec<String> = tensors.map(|t| format!("{} ({})", t.name, t.dtype.name())).collect();
        let numerics = plan.numerics.name();
        match tensors.as_slice() {
            [] => format!("no kernel computes {node} on {place} ({numerics} numerics): {}", instance.label),
            names => format!("no kernel computes {node} on {place} ({numerics} numerics): {}", names.join(", ")),
        }
    });
    let nodes: Vec<String> = missing.keys().map(|n| n.to_string()).collect();
    Error::new(&NO_KERNEL, what)
        .expected("a kernel for every node of the plan")
        .found(format!(
            "{} that {} none: {}",
            count(nodes.len(), "node"),
            agree(nodes.len(), "has", "have"),
            nodes.join(", ")
        ))
        .hint("assay next says what to write; --allow-oracle computes these in plain Rust meanwhile, slowly")
}

/// What a device calls itself in messages.
pub fn title(placement: Placement, name: &str) -> &str {
    if placement == Placement::Emulator { "the emulator" } else { name }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::manifest::EMULATOR;
    use crate::plan::{BufferIx, Numerics};

    fn with_seating<T>(memory: Option<u64>, body: impl FnOnce(&Model, &Seating<'_>) -> T) -> T {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let model = Model::open(&root.join("reference/tiny/model.gguf")).unwrap();
        let tree = KernelTree::open(&root.join("kernels")).unwrap();
        body(&model, &Seating { tree: &tree, arch: EMULATOR, allow_oracle: true, memory, saved: 0, shortest: 1 })
    }

    fn touched(plan: &Plan) -> BTreeSet<BufferIx> {
        plan.instances.iter().flat_map(|i| i.args.iter().flatten().copied()).collect()
    }

    fn plan(model: &Model, context: usize, max_tokens: usize) -> Plan {
        Plan::build(model, PlanOptions { numerics: Numerics::Ds4, max_tokens, max_outputs: 1, context }).unwrap()
    }

    #[test]
    fn a_budget_counts_every_tensor_once_and_every_buffer() {
        with_seating(None, |model, seating| {
            let plan = plan(model, 4096, 512);
            let schedules = seating.schedules(&plan).unwrap();
            let budget = Budget::of(model, &plan, &schedules, 2).unwrap();
            let file = model.gguf.file_len();
            assert!(budget.weights > file * 9 / 10 && budget.weights < file * 5 / 4, "{budget} of {file}");
            let buffers: u64 = touched(&plan).iter().map(|b| plan.capacity(*b) as u64 * 4).sum();
            let counted = budget.caches + budget.temporaries;
            assert!(counted >= buffers && counted < buffers * 3 / 2, "{budget}: {buffers}");
            assert_eq!(budget.copies, 2 * budget.caches);
            assert!(budget.to_string().ends_with(&format!("= {}", size(budget.total()))));
        });
    }

    /// What the refusal names does fit, and hardly more does.
    #[test]
    fn a_refusal_names_what_would_fit() {
        let (context, chunk) = (200_000, 4096);
        let needs = |model: &Model, seating: &Seating<'_>, context: usize, chunk: usize| {
            let plan = plan(model, context, chunk);
            Budget::of(model, &plan, &seating.schedules(&plan).unwrap(), 0).unwrap().total()
        };
        let (short, long) = with_seating(None, |m, s| (needs(m, s, 20_000, chunk), needs(m, s, context, chunk)));
        with_seating(Some(short), |model, seating| {
            let asked = plan(model, context, chunk);
            let schedules = seating.schedules(&asked).unwrap();
            let refuse = |free| seating.check_memory(model, &asked, &schedules, free, "a device").unwrap_err();
            let error = refuse(u64::MAX);
            assert_eq!((error.code().id, error.kind().exit_code()), ("device-budget", 3));
            let number = |after: &str| -> usize {
                let text = error.hint_text().unwrap();
                let text = text.split_once(after).unwrap_or_else(|| panic!("{text}")).1;
                text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
            };
            let fits = number("--ctx ");
            assert!((19_000..25_000).contains(&fits), "{error}");
            assert!(needs(model, seating, fits, chunk) <= short);
            assert!(error.found_text().unwrap().contains("weights "), "{error}");
            assert!(refuse(1 << 20).hint_text().unwrap().contains("larger device"));
            // What the run cannot do with is no way out.
            let seating = Seating { shortest: 30_000, ..*seating };
            let error = seating.check_memory(model, &asked, &schedules, u64::MAX, "a device").unwrap_err();
            assert!(!error.hint_text().unwrap().contains("--ctx"), "{error}");
        });
        with_seating(Some(long), |model, seating| {
            let asked = plan(model, context, chunk);
            let schedules = seating.schedules(&asked).unwrap();
            seating.check_memory(model, &asked, &schedules, u64::MAX, "a device").unwrap();
        });
    }

    #[test]
    fn a_node_without_a_kernel_is_named_with_its_tensor() {
        with_seating(None, |model, seating| {
            let plan = plan(model, 64, 16);
            let mut schedules = seating.schedules(&plan).unwrap();
            assert!(missing(&plan, &schedules).is_empty());
            let gone = plan.instances.iter().position(|i| i.node.op == "moe_down").unwrap();
            schedules[1].choices[gone] = None;
            let error = refuse(model, &plan, "sm_90", &missing(&plan, &schedules));
            assert_eq!((error.code().id, error.kind().exit_code()), ("no-kernel", 1));
            let text = error.to_string();
            for part in
                ["moe_down[q2_k] on sm_90", "ffn_down_exps.weight (q2_k)", "1 node that has none", "--allow-oracle"]
            {
                assert!(text.contains(part), "{part}: {text}");
            }
        });
    }
}
