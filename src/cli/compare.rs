//! `assay run --compare`: two backends side by side.

use std::ops::RangeInclusive;

use clap::ValueEnum;
use serde_json::json;

use super::output;
use super::seat::{Backend, Seat, Terms};
use crate::backend::Placement;
use crate::engine::compare::{Difference, compare};
use crate::engine::{Session, SessionOptions};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::Numerics;
use crate::words::count;

pub struct Compare {
    a: Backend,
    b: Backend,
    layers: Option<RangeInclusive<usize>>,
}

impl Compare {
    pub fn new(sides: &[String], layers: Option<&str>, model: &Model) -> Result<Compare> {
        let wrong = || {
            Error::usage("--compare takes two backends")
                .expected("a=BACKEND b=BACKEND, each one of device, emulator, oracle or auto")
                .found(sides.join(" "))
                .hint("--compare a=device b=oracle")
        };
        let [a, b] = sides else { return Err(wrong()) };
        let side = |text: &str, name: &str| {
            let backend = text.strip_prefix(name).and_then(|t| t.strip_prefix('='));
            backend.and_then(|t| Backend::from_str(t, true).ok()).ok_or_else(wrong)
        };
        let layers = layers.map(|l| range(l, model.config.layers)).transpose()?;
        Ok(Compare { a: side(a, "a")?, b: side(b, "b")?, layers })
    }

    pub fn run(&self, model: &Model, tokens: &[u32], numerics: Numerics, terms: Terms, as_json: bool) -> Result<u8> {
        let options = SessionOptions { numerics, chunk: tokens.len(), context: tokens.len(), all_logits: false };
        let side = |backend| -> Result<(Seat, Session<'_>)> {
            let seat = Seat::take(backend, terms.mixed())?;
            let mut session = Session::new(model, options)?;
            seat.attach(&mut session)?;
            Ok((seat, session))
        };
        let ((seat_a, mut a), (seat_b, mut b)) = (side(self.a)?, side(self.b)?);
        let found = compare(&mut a, &mut b, tokens, self.layers.clone())?;
        if as_json {
            output::json(
                "assay.compare/1",
                json!({
                    "numerics": numerics, "tokens": tokens.len(),
                    "a": seat_a.placement(), "b": seat_b.placement(),
                    "differences": found,
                }),
            )?;
            return Ok(0);
        }
        output::println(format_args!(
            "prefill of {}, {} numerics: a = {} ({}), b = {} ({})\n\
             drift: a against b, each on what its own earlier ops gave. alone: a against the oracle on a's own inputs.\n",
            count(tokens.len(), "token"),
            numerics.name(),
            self.a.name(),
            place(seat_a.placement()),
            self.b.name(),
            place(seat_b.placement()),
        ))?;
        let mut table = output::table(&["layer", "instance", "node", "output", "a", "b", "alone", "drift", "max abs"]);
        for d in &found {
            table.add_row(row(d));
        }
        output::print(output::rows(&table))?;
        Ok(0)
    }
}

fn row(d: &Difference) -> [String; 9] {
    [
        d.layer.map_or("-".into(), |l| l.to_string()),
        d.instance.clone(),
        d.node.to_string(),
        d.output.into(),
        place(d.a).into(),
        place(d.b).into(),
        d.alone.map_or("-".into(), |v| format!("{v:.1e}")),
        format!("{:.1e}", d.drift),
        match d.not_finite {
            0 => format!("{:.1e}", d.max_abs),
            n => format!("{n} not finite"),
        },
    ]
}

fn place(placement: Placement) -> &'static str {
    match placement {
        Placement::Device => "device",
        Placement::Emulator => "emulator",
        Placement::Oracle => "oracle",
    }
}

/// `0-2`, or `5`.
fn range(text: &str, layers: usize) -> Result<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last && last < layers => Ok(first..=last),
        _ => Err(Error::usage("--layers names no layers of this model")
            .expected(format!("FIRST-LAST or one layer, of 0-{}", layers.saturating_sub(1)))
            .found(text)),
    }
}
