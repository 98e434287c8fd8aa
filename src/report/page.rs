//! A page before it has a format: headings, paragraphs and tables of [`Inline`]s.
//!
//! What can stand on a page is closed: words of the program, texts of others that are marked as such, counts of a plan,
//! and figures that carry their row ([`Cited`]). Formats only spell what is here.

use std::collections::BTreeSet;

use super::cited::{Cited, Tally};
use super::proof::{Proof, State};
use super::reconcile::{Outcome, Word};
use crate::ledger::Row;
use crate::ops::Node;
use crate::words::plain;

/// Longest text of somebody else's that is shown.
const MOST: usize = 400;

/// A text that was made when the program ran. Only [`Inline`]'s functions make one, each from something that is no
/// measurement or together with its row.
#[derive(Clone, Debug)]
pub struct Text(String);

impl Text {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug)]
pub enum Inline {
    /// The program's own words.
    Words(&'static str),
    /// A name: of a file, a device, a commit.
    Name(Text),
    /// What somebody claims: shown as a quotation, never as a figure.
    Quote(Text),
    /// What a row says in words.
    Said {
        text: Text,
        row: u64,
    },
    /// That no row says something, and why.
    Silence(Text),
    Figure(Cited),
    /// A number of things, with the rows that say them.
    Tally(Tally),
    /// How many nodes, layers or instances the opened file's plan has: no measurement.
    Plan(usize),
    /// How many of somebody's claims: no measurement either.
    Claims(usize),
    Row(u64),
    Node(Node),
    State(State),
    Outcome(Outcome),
}

impl Inline {
    pub fn name(text: &str) -> Inline {
        Inline::Name(Text(plain(text, MOST)))
    }

    pub fn quote(text: &str) -> Inline {
        Inline::Quote(Text(plain(text, MOST)))
    }

    pub fn said(row: &Row, text: &str) -> Inline {
        Inline::Said { text: Text(plain(text, MOST)), row: row.seq }
    }

    /// What rows say of a claim, or that none does.
    pub fn word(word: &Word) -> Inline {
        match word.row {
            Some(row) => Inline::Said { text: Text(plain(&word.text, MOST)), row },
            None => Inline::Silence(Text(plain(&word.text, MOST))),
        }
    }

    /// What a proof's row says, in the words that `status` uses.
    pub fn proof(proof: &Proof) -> Inline {
        Inline::Said { text: Text(plain(&proof.describe(), MOST)), row: proof.row }
    }

    fn rows(&self, out: &mut BTreeSet<u64>) {
        match self {
            Inline::Said { row, .. } | Inline::Row(row) => drop(out.insert(*row)),
            Inline::Figure(cited) => drop(out.insert(cited.row())),
            Inline::Tally(tally) => out.extend(tally.rows()),
            _ => {}
        }
    }
}

pub type Cell = Vec<Inline>;

pub enum Block {
    /// A heading of level 1 to 4; the anchor is made by the program.
    Heading(usize, Cell, String),
    Para(Cell),
    List(Vec<Cell>),
    Table {
        head: Vec<&'static str>,
        rows: Vec<Vec<Cell>>,
    },
    /// A drawing, with what it shows; formats without drawings leave it out.
    Picture {
        svg: String,
        about: Cell,
    },
    /// What the colours of a drawing mean.
    Legend(Vec<State>),
    /// To be written by a person.
    Blank(&'static str),
}

/// A text around the first place where it names its row itself, so that this can be the link: before, and behind.
pub fn around_row(text: &str, row: u64) -> Option<(&str, &str)> {
    let name = format!("row {row}");
    let whole = |at: &usize| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_digit());
    let at = text.match_indices(&name).map(|(at, _)| at).find(whole)?;
    Some((&text[..at], &text[at + name.len()..]))
}

/// A whole page.
#[derive(Default)]
pub struct Page {
    pub title: String,
    pub blocks: Vec<Block>,
}

impl Page {
    pub fn heading(&mut self, level: usize, text: Cell, anchor: impl Into<String>) {
        self.blocks.push(Block::Heading(level, text, anchor.into()));
    }

    pub fn para(&mut self, text: Cell) {
        self.blocks.push(Block::Para(text));
    }

    pub fn table(&mut self, head: Vec<&'static str>, rows: Vec<Vec<Cell>>) {
        if !rows.is_empty() {
            self.blocks.push(Block::Table { head, rows });
        }
    }

    /// Every row that something on the page links to.
    pub fn rows(&self) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        let mut cell = |cell: &Cell| cell.iter().for_each(|inline| inline.rows(&mut out));
        for block in &self.blocks {
            match block {
                Block::Heading(_, text, _) | Block::Para(text) | Block::Picture { about: text, .. } => cell(text),
                Block::List(items) => items.iter().for_each(&mut cell),
                Block::Table { rows, .. } => rows.iter().flatten().for_each(&mut cell),
                Block::Legend(_) | Block::Blank(_) => {}
            }
        }
        out
    }
}

/// Where a row stands on every page.
pub fn row_anchor(row: u64) -> String {
    format!("row-{row}")
}

/// Where a node stands.
pub fn node_anchor(node: &Node) -> String {
    format!("node-{}", node.file_stem().replace('.', "-"))
}
