//! Where stores go: which members of the argument struct the address of each reachable store can come from.
//!
//! The analysis over-approximates. A value may come from everything that any reachable definition of its register
//! came from, whatever the order; what went through memory, a call or an address of the parameters themselves is
//! *unknown*. Unknown counts as an output, so that no honest kernel is refused: a stub is only what can be shown to
//! store nothing that anybody asked for.

use std::collections::{BTreeMap, BTreeSet};

use super::parse::{Function, Instruction, Operand};

/// Bytes of the argument struct that origins tell apart, four at a time.
const TRACKED: u64 = 512;

/// Where a value can come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Bit i: bytes 4i..4i+4 of the argument struct.
    parameters: u128,
    /// Read from memory: an index, or a pointer that was kept there.
    loaded: bool,
    /// A variable of the module or of the function.
    variable: bool,
    /// One in global memory, which keeps its value from launch to launch.
    lasting: bool,
    unknown: bool,
}

impl Origins {
    const NONE: Origins = Origins { parameters: 0, loaded: false, variable: false, lasting: false, unknown: false };
    const LOADED: Origins = Origins { loaded: true, ..Origins::NONE };
    const VARIABLE: Origins = Origins { variable: true, ..Origins::NONE };
    const UNKNOWN: Origins = Origins { unknown: true, ..Origins::NONE };

    fn parameter(offset: u64) -> Origins {
        match offset < TRACKED {
            true => Origins { parameters: 1 << (offset / 4), ..Origins::default() },
            false => Origins::UNKNOWN,
        }
    }

    fn join(&mut self, other: Origins) -> bool {
        let before = *self;
        self.parameters |= other.parameters;
        self.loaded |= other.loaded;
        self.variable |= other.variable;
        self.lasting |= other.lasting;
        self.unknown |= other.unknown;
        before != *self
    }

    /// Offsets of struct members among the origins.
    pub fn offsets(&self) -> impl Iterator<Item = u32> {
        let bits = self.parameters;
        (0..128).filter(move |i| bits >> i & 1 == 1).map(|i| i * 4)
    }

    /// Whether it may be the address of a variable that outlives a launch.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// Whether the pointer itself may be one that the analysis lost sight of. A value read from memory beside a known
    /// pointer is its index.
    pub fn is_unknown(&self) -> bool {
        self.unknown || (self.loaded && self.parameters == 0 && !self.variable)
    }
}

/// One reachable store to memory that outlives the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    pub line: u32,
    pub address: Origins,
}

/// The stores of function `name`, with those of the functions that it calls. `globals` are the module's variables in
/// global memory.
pub fn stores(functions: &BTreeMap<String, Function>, globals: &BTreeSet<String>, name: &str) -> Vec<Store> {
    let Some(function) = functions.get(name) else { return Vec::new() };
    Flow::new(functions, globals, function, name).run()
}

struct Flow<'a> {
    functions: &'a BTreeMap<String, Function>,
    globals: &'a BTreeSet<String>,
    function: &'a Function,
    /// Functions whose calls are being followed, against recursion.
    name: &'a str,
    registers: BTreeMap<&'a str, Origins>,
    /// What was ever put into local or shared memory, and into the arguments of calls.
    kept: Origins,
    passed: Origins,
}

impl<'a> Flow<'a> {
    fn new(
        functions: &'a BTreeMap<String, Function>,
        globals: &'a BTreeSet<String>,
        function: &'a Function,
        name: &'a str,
    ) -> Self {
        let none = Origins::default();
        Flow { functions, globals, function, name, registers: BTreeMap::new(), kept: none, passed: none }
    }

    fn run(mut self) -> Vec<Store> {
        let reachable = reachable(self.function);
        let body: Vec<&Instruction> = reachable.iter().map(|i| &self.function.body[*i]).collect();
        loop {
            let mut changed = false;
            for instruction in &body {
                changed |= self.step(instruction);
            }
            if !changed {
                break;
            }
        }
        body.iter().filter_map(|i| self.store(i)).collect()
    }

    /// Applies one instruction; true if anything new was learnt.
    fn step(&mut self, i: &'a Instruction) -> bool {
        let space = Space::of(i);
        match i.name() {
            "st" if space == Space::Parameter => {
                let value = self.sources(&i.operands[1..]);
                self.passed.join(value)
            }
            "st" | "red" => {
                // Pointers kept in memory come back as what they were only from block-local memory; elsewhere a load
                // gives "loaded".
                let value = self.sources(i.operands.get(1..).unwrap_or_default());
                space != Space::Global && self.kept.join(value)
            }
            "ld" | "ldu" | "ldmatrix" | "atom" => self.load(i, space),
            "call" => false,
            // A comparison's result chooses between values, it is none of them.
            "setp" | "set" => false,
            name if writes_nothing(name) => false,
            _ => {
                let value = self.sources(i.operands.get(1..).unwrap_or_default());
                self.define(i, |_| value)
            }
        }
    }

    fn load(&mut self, i: &'a Instruction, space: Space) -> bool {
        let Some(address) = i.operands.get(1) else { return false };
        if space == Space::Parameter {
            let symbol = address.words.first().map_or("", String::as_str);
            let place = self.function.parameters.iter().position(|p| p == symbol);
            let width = element_bytes(i);
            let offset: Option<u64> = address.words.get(1).map_or(Some(0), |n| n.parse().ok());
            return match (place, offset) {
                (Some(0), Some(offset)) if self.function.entry => {
                    self.define(i, |n| Origins::parameter(offset + n as u64 * width))
                }
                // A call's result.
                (None, _) if !symbol.starts_with('%') => {
                    let mut value = self.passed;
                    value.join(Origins::LOADED);
                    self.define(i, |_| value)
                }
                // Parameters of a called function, further ones of an entry, or through a register.
                _ => self.define(i, |_| Origins::UNKNOWN),
            };
        }
        let mut value = Origins::LOADED;
        if space != Space::Global {
            value.join(self.kept);
        }
        // A generic load may read the parameters themselves.
        if space == Space::Generic && self.sources(&i.operands[1..2]).unknown {
            value = Origins::UNKNOWN;
        }
        self.define(i, |_| value)
    }

    /// Joins a value to the registers of the first operand; `value` is given a register's place in a vector.
    fn define(&mut self, i: &'a Instruction, value: impl Fn(usize) -> Origins) -> bool {
        let Some(target) = i.operands.first().filter(|o| !o.address) else { return false };
        let mut changed = false;
        for (n, register) in target.words.iter().enumerate() {
            if !is_predicate(register) {
                changed |= self.registers.entry(register).or_default().join(value(n));
            }
        }
        changed
    }

    fn sources(&self, operands: &[Operand]) -> Origins {
        let mut out = Origins::default();
        for word in operands.iter().flat_map(|o| &o.words) {
            out.join(self.word(word));
        }
        out
    }

    fn word(&self, word: &str) -> Origins {
        match word.chars().next() {
            Some('%') if is_predicate(word) => Origins::default(),
            Some('%') => self.registers.get(word).copied().unwrap_or_default(),
            Some(c) if c.is_alphabetic() || c == '_' || c == '$' => {
                // An inline block's own registers have no percent sign.
                match self.registers.get(word) {
                    Some(register) => *register,
                    None if self.function.parameters.iter().any(|p| p == word) => Origins::UNKNOWN,
                    None => Origins { lasting: self.globals.contains(word), ..Origins::VARIABLE },
                }
            }
            _ => Origins::default(),
        }
    }

    fn store(&self, i: &Instruction) -> Option<Store> {
        let space = Space::of(i);
        let address = match i.name() {
            "st" | "red" | "multimem" if matches!(space, Space::Global | Space::Generic) => i.operands.first(),
            "atom" if matches!(space, Space::Global | Space::Generic) => i.operands.get(1),
            // Bulk copies name the target's space first.
            "cp" if i.is("bulk") && Space::of(i) == Space::Global => i.operands.first(),
            "wmma" if i.is("store") && matches!(space, Space::Global | Space::Generic) => i.operands.first(),
            "call" => return self.call(i),
            _ => None,
        }?;
        Some(Store { line: i.line, address: self.sources(std::slice::from_ref(address)) })
    }

    /// A call stores to whatever it was passed, if the function called (or one that it calls) stores at all.
    fn call(&self, i: &Instruction) -> Option<Store> {
        let words = i.operands.iter().flat_map(|o| &o.words);
        let known: Vec<&String> = words.clone().filter(|w| self.functions.contains_key(*w)).collect();
        let indirect = i.operands.iter().any(|o| o.words.iter().any(|w| w.starts_with('%')));
        let mut seen = BTreeSet::from([self.name]);
        let may_store =
            indirect || known.iter().any(|callee| calls_store(self.functions, self.globals, callee, &mut seen));
        may_store.then_some(Store { line: i.line, address: self.passed })
    }
}

fn calls_store<'a>(
    functions: &'a BTreeMap<String, Function>,
    globals: &'a BTreeSet<String>,
    name: &'a str,
    seen: &mut BTreeSet<&'a str>,
) -> bool {
    let Some(function) = functions.get(name).filter(|_| seen.insert(name)) else { return false };
    let flow = Flow::new(functions, globals, function, name);
    reachable(function).into_iter().map(|i| &function.body[i]).any(|i| match i.name() {
        "call" => i
            .operands
            .iter()
            .flat_map(|o| &o.words)
            .any(|w| w.starts_with('%') || calls_store(functions, globals, w, seen)),
        _ => flow.store(i).is_some(),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Global,
    /// Local, shared or constant: nothing there outlives the block.
    Block,
    Parameter,
    Generic,
}

impl Space {
    fn of(i: &Instruction) -> Space {
        let space = i.op.iter().skip(1).find_map(|part| match part.split("::").next().unwrap_or_default() {
            "global" => Some(Space::Global),
            "shared" | "local" | "const" => Some(Space::Block),
            "param" => Some(Space::Parameter),
            _ => None,
        });
        match (space, i.name()) {
            (Some(space), _) => space,
            (None, "stmatrix" | "ldmatrix") => Space::Block,
            (None, _) => Space::Generic,
        }
    }
}

/// Instructions whose first operand is no result.
fn writes_nothing(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "bra",
        "brx",
        "ret",
        "exit",
        "trap",
        "brkpt",
        "bar",
        "barrier",
        "membar",
        "fence",
        "prefetch",
        "prefetchu",
        "cp",
        "mbarrier",
        "nanosleep",
        "stmatrix",
        "discard",
        "applypriority",
        "setmaxnreg",
        "griddepcontrol",
        "pmevent",
        "multimem",
        "tensormap",
        "createpolicy",
    ];
    NAMES.contains(&name)
}

fn is_predicate(register: &str) -> bool {
    register.strip_prefix("%p").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

/// Bytes of one element of a load: the number in its type.
fn element_bytes(i: &Instruction) -> u64 {
    let last = i.op.last().map_or("", String::as_str);
    let bits: u64 = last.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(32);
    (bits / 8).max(1)
}

/// Indices of the instructions that control can reach, in order.
fn reachable(function: &Function) -> Vec<usize> {
    let count = function.body.len();
    let mut seen = vec![false; count];
    let mut work = vec![0];
    while let Some(at) = work.pop() {
        if at >= count || std::mem::replace(&mut seen[at], true) {
            continue;
        }
        let i = &function.body[at];
        let words = || i.operands.iter().flat_map(|o| &o.words);
        let falls_through = match i.name() {
            "bra" => {
                work.extend(words().filter_map(|label| function.labels.get(label)));
                i.guarded
            }
            "brx" => {
                let lists = words().filter_map(|list| function.targets.get(list));
                work.extend(lists.flatten().filter_map(|label| function.labels.get(label)));
                i.guarded
            }
            "ret" | "exit" | "trap" => i.guarded,
            _ => true,
        };
        if falls_through {
            work.push(at + 1);
        }
    }
    (0..count).filter(|i| seen[*i]).collect()
}
