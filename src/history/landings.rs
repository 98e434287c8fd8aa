//! Whether a commit holds the kernels that the evidence it claims was judged on: their closures, computed anew from the
//! files that git keeps.
//!
//! A signature holds for a row, and nothing in a row names its commit, so a commit can be written anew with the same
//! trailers and other files. A closure binds the contract too, which is this program's and no file of the commit:
//! where that may have been another one, nothing can be computed, and that is said and counted apart.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use git2::{ObjectType, Oid};

use super::LANDED_OTHERWISE;
use super::audit::Report;
use super::bisect::Checkout;
use super::extend::{LEDGER_PATH, line_hashes};
use super::repo::{Commit, Repo, git};
use crate::error::{Error, Result};
use crate::ledger::{Chain, Digest, Row, Target, Verdict};
use crate::ops::{self, Node, header};
use crate::plan::kernels::KernelTree;
use crate::words::{agree, count};

/// Computes what the kernels of one tree come to. No model is asked: a closure is of files and a contract.
pub trait Recompute {
    /// The closure of each node in the folder `kernels`, or why it has none.
    fn closures(&self, kernels: &Path, nodes: &BTreeSet<Node>) -> Result<BTreeMap<Node, Result<Digest, String>>>;
}

/// By the contracts of this program.
pub struct Contracts;

impl Recompute for Contracts {
    fn closures(&self, kernels: &Path, nodes: &BTreeSet<Node>) -> Result<BTreeMap<Node, Result<Digest, String>>> {
        let tree = KernelTree::open(kernels)?;
        let closure = |node: &Node| {
            let text = tree.require(node).and_then(|kernel| tree.closure(node, &kernel)).map_err(|e| {
                // The folder is a scratch one, which says nothing to anybody.
                e.what().replace(&format!("{}/", kernels.display()), "kernels/")
            })?;
            text.parse()
        };
        Ok(nodes.iter().map(|node| (node.clone(), closure(node))).collect())
    }
}

/// Rows of which it could not be found out whether their commit holds what was judged.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unchecked {
    pub why: String,
    pub rows: Vec<u64>,
}

/// A node that a commit says it landed, by a row of its own or as a part of a whole schedule's.
struct Claim<'l> {
    node: Node,
    closure: Digest,
    row: &'l Row,
    verdict: &'l Verdict,
}

/// Looks at every commit that claims evidence of `chain`.
pub(super) fn check(
    repo: &Repo,
    commits: &[Commit],
    chain: &Chain,
    recompute: &dyn Recompute,
    report: &mut Report,
) -> Result<()> {
    let mut look = Look { repo, recompute, checkout: Checkout::new()?, known: HashMap::new() };
    let (mut wrong, mut claimed, mut apart) = (Vec::new(), HashSet::new(), BTreeMap::<String, BTreeSet<u64>>::new());
    for commit in commits {
        let rows: Vec<&Row> =
            commit.trailers("Assay-Evidence").filter_map(|text| chain.find(&text.parse().ok()?)).collect();
        if rows.is_empty() {
            continue;
        }
        claimed.extend(rows.iter().map(|row| row.seq));
        for row in &rows {
            if !passed_on_device(row) {
                let short = commit.short();
                report.findings.push(format!("commit {short} claims row {}, which is no pass on a device", row.seq));
            }
        }
        let named = commit.trailers("Assay-Node").filter_map(|text| text.parse::<Target>().ok());
        for target in named.filter(|named| !rows.iter().any(|row| row.statement().target() == Some(named))) {
            let what = format!("commit {} names {target}, and no evidence that it claims is of it", commit.short());
            wrong.push((commit.short(), what));
        }
        let claims = claims(&rows);
        let nodes = claims.iter().map(|claim| claim.node.clone()).collect();
        let held = look
            .at(commit, nodes)
            .map_err(|e| Error::new(e.code(), format!("in commit {}: {}", commit.short(), e.what())))?;
        for claim in &claims {
            let found = &held[&claim.node];
            if *found == Ok(claim.closure) {
                report.landed += 1;
                continue;
            }
            let squashed = claims
                .iter()
                .find(|other| other.node == claim.node && *found == Ok(other.closure))
                .map(|other| other.row.seq);
            if let Some(other) = squashed {
                report.findings.push(format!(
                    "history was rewritten: commit {} claims {} in row {} and in row {other}, and holds the kernel of row \
                     {other} alone, as when commits are squashed",
                    commit.short(),
                    claim.node,
                    claim.row.seq
                ));
            } else if let Some(why) = look.other_contract(commit, claim)? {
                apart.entry(why).or_default().insert(claim.row.seq);
            } else {
                wrong.push((commit.short(), difference(commit, claim, found)));
            }
        }
    }
    if !report.shallow {
        report.notes.extend(judged_elsewhere(commits, chain));
    } else {
        let before = cut_off(repo, commits, chain, &claimed)?;
        if !before.is_empty() {
            let why = "the commits that landed them, if any did, lie before the end of this shallow clone";
            apart.entry(why.into()).or_default().extend(before);
        }
    }
    report.unchecked =
        apart.into_iter().map(|(why, rows)| Unchecked { why, rows: rows.into_iter().collect() }).collect();
    refuse(&wrong)
}

/// Rows whose verdict names a commit that is not here. It is where HEAD stood, and no part of what was judged.
fn judged_elsewhere(commits: &[Commit], chain: &Chain) -> Option<String> {
    let here: HashSet<String> = commits.iter().map(|commit| commit.id.to_string()).collect();
    let gone = |row: &&Row| {
        let commit = row.statement().informative().map_or("", |how| how.commit.as_str());
        !commit.is_empty() && !here.contains(commit)
    };
    let n = chain.rows.iter().filter(gone).count();
    (n > 0).then(|| {
        let rows = count(n, "row");
        format!(
            "{rows} {} judged on commits that this history does not have: on another line, or it was rewritten since",
            agree(n, "was", "were")
        )
    })
}

/// What was found wrong, each with its commit.
fn refuse(wrong: &[(String, String)]) -> Result<()> {
    const SHOWN: usize = 10;
    let Some((first, _)) = wrong.first() else { return Ok(()) };
    let more = match wrong.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!("\n  and {n} more"),
    };
    let shown: Vec<&str> = wrong.iter().take(SHOWN).map(|(_, what)| what.as_str()).collect();
    Err(Error::new(
        &LANDED_OTHERWISE,
        format!(
            "{} {} not what the rows say was judged:\n  {}{more}",
            count(wrong.len(), "landing"),
            agree(wrong.len(), "is", "are"),
            shown.join("\n  ")
        ),
    )
    .expected("the files of every landed kernel as they were judged")
    .hint(format!(
        "git show {first} -- kernels/ shows what the commit holds; what is new in it lands in a commit of its own"
    )))
}

fn claims<'l>(rows: &[&'l Row]) -> Vec<Claim<'l>> {
    let mut out = Vec::new();
    for row in rows {
        let Some(verdict) = row.statement().verdict() else { continue };
        let mut claim = |node: Node, closure| out.push(Claim { node, closure, row, verdict });
        match &verdict.node {
            Target::Node(node) => claim(node.clone(), verdict.binding.closure),
            Target::Schedule => {
                let parts = verdict.parts.iter().filter_map(|(name, closure)| Some((name.parse().ok()?, *closure)));
                parts.for_each(|(node, closure)| claim(node, closure));
            }
        }
    }
    out
}

fn difference(commit: &Commit, claim: &Claim<'_>, found: &Result<Digest, String>) -> String {
    let (commit, node, row) = (commit.short(), &claim.node, claim.row.seq);
    match found {
        Ok(found) => format!(
            "commit {commit} does not hold the {node} that row {row} judged: its files come to the closure {}, not {}",
            found.short(),
            claim.closure.short()
        ),
        Err(why) => format!("commit {commit} does not hold the {node} that row {row} judged: {why}"),
    }
}

struct Look<'r> {
    repo: &'r Repo,
    recompute: &'r dyn Recompute,
    checkout: Checkout,
    /// By the tree that `kernels/` is: many commits change `state/` alone.
    known: HashMap<(Option<Oid>, Node), Result<Digest, String>>,
}

impl Look<'_> {
    /// The closures of nodes in a commit.
    fn at(&mut self, commit: &Commit, nodes: BTreeSet<Node>) -> Result<BTreeMap<Node, Result<Digest, String>>> {
        let kernels = self.repo.contents(commit.id, "kernels")?;
        let unknown: BTreeSet<Node> =
            nodes.iter().filter(|node| !self.known.contains_key(&(kernels, (*node).clone()))).cloned().collect();
        if !unknown.is_empty() {
            self.checkout.to(self.repo, commit.id)?;
            let new = self.recompute.closures(&self.checkout.kernels(), &unknown)?;
            self.known.extend(new.into_iter().map(|(node, found)| ((kernels, node), found)));
        }
        let found = |node: Node| {
            let key = (kernels, node.clone());
            let found = self.known.get(&key).cloned();
            (node, found.unwrap_or_else(|| Err("its closure cannot be computed".into())))
        };
        Ok(nodes.into_iter().map(found).collect())
    }

    /// Why another contract than this program's may have been bound. That is the signed row's word, or the tree's where
    /// the commit found its argument header there and did not bring it.
    fn other_contract(&self, commit: &Commit, claim: &Claim<'_>) -> Result<Option<String>> {
        let (op, judge) = (&claim.node.op, claim.verdict.informative.assay.as_str());
        let this = env!("CARGO_PKG_VERSION");
        if !judge.is_empty() && judge != this {
            return Ok(Some(format!("assay {judge} judged them, whose contracts may be others than those of {this}")));
        }
        let Some(known) = ops::find(op) else { return Ok(Some(format!("this program knows no op `{op}`"))) };
        let path = format!("kernels/args/{op}.h");
        let ours = Oid::hash_object(ObjectType::Blob, header::generate(known.contract()).as_bytes()).map_err(git)?;
        let theirs = self.repo.file(commit.tree, &path)?;
        if theirs == Some(ours) || theirs.is_none() {
            return Ok(None);
        }
        let Some(parent) = commit.parents.first().copied() else { return Ok(None) };
        if !self.repo.exists(parent)? {
            return Ok(Some(format!(
                "{path} is of another contract than this program's, and what it was before lies beyond the end of this \
                 shallow clone"
            )));
        }
        let before = self.repo.file(self.repo.commit(parent)?.tree, &path)?;
        Ok((before == theirs).then(|| format!("they were judged by another contract of `{op}` than this program's")))
    }
}

/// What can be landed: tests' simulated devices are devices here.
fn passed_on_device(row: &Row) -> bool {
    row.statement().verdict().is_some_and(|v| v.complete() && v.binding.arch != "emulator")
}

/// The rows of device passes that were there where history is cut off, and that no commit on this side claims.
fn cut_off(repo: &Repo, commits: &[Commit], chain: &Chain, claimed: &HashSet<u64>) -> Result<BTreeSet<u64>> {
    let mut there = HashSet::new();
    for commit in commits {
        let mut cut = false;
        for parent in &commit.parents {
            cut |= !repo.exists(*parent)?;
        }
        if cut && let Some(blob) = repo.file(commit.tree, LEDGER_PATH)? {
            there.extend(line_hashes(&repo.blob(blob)?));
        }
    }
    let could = |row: &&Row| passed_on_device(row) && there.contains(&row.hash) && !claimed.contains(&row.seq);
    Ok(chain.rows.iter().filter(could).map(|row| row.seq).collect())
}
