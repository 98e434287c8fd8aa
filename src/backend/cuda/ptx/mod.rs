//! Judging a kernel by the PTX it compiles to: is it a stub, and does its inline assembly only compute?
//!
//! A stub is an entry none of whose reachable stores can write an output argument, or scratch memory for a later
//! launch of the same implementation. This is shown on the compiled code, where dead branches are gone. It cannot show
//! that what is stored is right, or that it is stored at all for given sizes: the unit stage does.

mod flow;
mod parse;

use std::collections::BTreeSet;

use super::{PTX_ASM, PTX_STUB, PTX_SYNTAX, PTX_VARIABLE};
use crate::{
    error::{Error, Result},
    ops::{Access, Contract},
};

/// Where an entry's reachable stores can go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryStores {
    /// Stores to memory that outlives a block.
    pub count: usize,
    /// Byte offsets of the members of the argument struct that a store's address can come from, pointers and the
    /// dimensions in their index alike.
    pub members: BTreeSet<u32>,
    /// Some store's address cannot be traced to a member, so that it may be any.
    pub unknown: bool,
}

impl EntryStores {
    /// Whether a store may go through the pointer at `offset` of the argument struct.
    pub fn may_reach(&self, offset: u32) -> bool {
        self.unknown || self.members.contains(&offset)
    }
}

/// Follows the data flow of `entry` to its stores.
pub fn entry_stores(ptx: &str, entry: &str) -> Result<EntryStores> {
    let functions = parse::parse(ptx)?;
    if !functions.get(entry).is_some_and(|f| f.entry) {
        return Err(Error::new(&PTX_SYNTAX, format!("the PTX has no entry `{entry}`")));
    }
    let stores = flow::stores(&functions, &parse::globals(ptx), entry);
    Ok(EntryStores {
        count: stores.len(),
        members: stores.iter().flat_map(|s| s.address.offsets()).collect(),
        unknown: stores.iter().any(|s| s.address.is_unknown()),
    })
}

/// Names of the entries that the PTX defines.
pub fn entries(ptx: &str) -> Result<Vec<String>> {
    let functions = parse::parse(ptx)?;
    Ok(functions.into_iter().filter(|(_, f)| f.entry).map(|(name, _)| name).collect())
}

/// Refuses an implementation of `contract` (its entries, in launch order) that is a stub: an entry that stores to no
/// output and no scratch, or an output that no entry can write.
pub fn check_stub(contract: &Contract, ptx: &str, entries: &[String]) -> Result<()> {
    // The struct begins with pointers of eight bytes: arguments, weights, steps, scratch (see `ops::header`).
    let scratch = 8 * (contract.args.len() + contract.weights.len() + contract.steps.len()) as u32;
    let outputs: Vec<(u32, &str, bool)> = (0u32..)
        .zip(contract.args)
        .filter(|(_, arg)| arg.access != Access::Read)
        .map(|(i, arg)| (8 * i, arg.name, arg.optional))
        .collect();
    let mut stores = Vec::new();
    for entry in entries {
        let found = entry_stores(ptx, entry)?;
        let useful = found.may_reach(scratch) || outputs.iter().any(|(offset, ..)| found.may_reach(*offset));
        if found.count == 0 || !useful {
            let names: Vec<_> = outputs.iter().map(|(_, name, _)| format!("`{name}`")).collect();
            return Err(Error::new(
                &PTX_STUB,
                format!("`{entry}` is a stub: it can write no output of {}", contract.op),
            )
            .expected(format!("a reachable store to {}", names.join(" or ")))
            .found(match found.count {
                0 => "no store to global memory at all".into(),
                n => format!("{n} stores, none of which can go there"),
            }));
        }
        stores.push(found);
    }
    for (offset, name, optional) in outputs {
        if !optional && !stores.iter().any(|s| s.count > 0 && s.may_reach(offset)) {
            return Err(Error::new(&PTX_STUB, format!("no entry of {} can write its output `{name}`", contract.op))
                .expected(format!("a reachable store to `{name}`"))
                .found(format!("none in {}", entries.join(", "))));
        }
    }
    Ok(())
}

/// Refuses a store, by any function, to a variable in global memory: it keeps its value from launch to launch, so a
/// kernel could count its calls or remember their results. The source rules refuse such variables unless they are
/// const, and a cast takes that off. A function's pointer parameters are not followed to its callers.
pub fn check_variables(ptx: &str) -> Result<()> {
    let (functions, globals) = (parse::parse(ptx)?, parse::globals(ptx));
    for name in functions.keys() {
        if let Some(store) = flow::stores(&functions, &globals, name).iter().find(|s| s.address.is_lasting()) {
            return Err(Error::new(
                &PTX_VARIABLE,
                format!("`{name}` can write to a variable, at PTX line {}", store.line),
            )
            .expected("stores to outputs, scratch and block-local memory; tables that stay what they are")
            .found(globals.iter().cloned().collect::<Vec<_>>().join(", ")));
        }
    }
    Ok(())
}

/// Refuses inline assembly that holds a directive other than `.reg`, or whose braces reach outside it.
///
/// Where assembly may stand at all is the source's matter (`rules`). The compiler marks each piece with comments;
/// pieces that do not pair up are refused, but a piece that holds a whole forged pair is not seen: assembly is only
/// as good as the review of kernels/common.
pub fn check_assembly(ptx: &str) -> Result<()> {
    let refuse = |line: usize, what: String| {
        Err(Error::new(&PTX_ASM, format!("inline assembly at PTX line {line}: {what}"))
            .expected("instructions, and .reg declarations inside balanced braces"))
    };
    let mut depth = None;
    for (number, line) in (1..).zip(ptx.lines()) {
        let line = line.trim();
        match (line, depth) {
            ("// begin inline asm", None) => depth = Some(0),
            ("// end inline asm", Some(0)) => depth = None,
            ("// begin inline asm" | "// end inline asm", _) => {
                return refuse(number, "it is cut into pieces that do not close".into());
            }
            (_, None) => {}
            (_, Some(mut open)) => {
                let code = line.split("//").next().unwrap_or_default();
                if code.contains("/*") {
                    return refuse(number, "a comment that could hide something".into());
                }
                for statement in code.split_inclusive([';', '{', '}']) {
                    // A label may stand before a statement.
                    let words: Vec<&str> = statement
                        .split(|c: char| c.is_whitespace() || matches!(c, ':' | ';'))
                        .filter(|w| !w.is_empty())
                        .collect();
                    let directive = words.iter().find(|w| w.starts_with('.'));
                    if let Some(directive) = directive.filter(|_| words[0] != ".reg") {
                        return refuse(number, format!("the directive `{directive}`"));
                    }
                    open += i32::from(statement.ends_with('{')) - i32::from(statement.ends_with('}'));
                    if open < 0 {
                        return refuse(number, "a brace that closes what it did not open".into());
                    }
                }
                depth = Some(open);
            }
        }
    }
    match depth {
        None => Ok(()),
        Some(_) => refuse(ptx.lines().count(), "it does not end".into()),
    }
}

#[cfg(test)]
mod tests;
