//! `assay run --compare`: two backends side by side.

use std::ops::RangeInclusive;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::output;
use super::seat::{Backend, Seat, Terms};
use super::standing;
use crate::backend::Placement;
use crate::engine::{Session, SessionOptions};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::verify::sides::{Difference, Side, Sides, Why, compare};
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

    pub fn run(
        &self,
        model: &Model,
        tokens: &[u32],
        options: SessionOptions,
        terms: Terms,
        as_json: bool,
    ) -> Result<u8> {
        let side = |backend| -> Result<(Seat, Session<'_>)> {
            let seat = Seat::take(backend, terms)?;
            let mut session = Session::new(model, options)?;
            seat.attach(&mut session)?;
            Ok((seat, session))
        };
        let ((seat_a, mut a), (seat_b, mut b)) = (side(self.a)?, side(self.b)?);
        let found = compare(&mut a, &mut b, tokens, self.layers.clone())?;
        let code = u8::from(found.first_beyond().is_some());
        if as_json {
            output::json(
                "assay.compare/1",
                json!({
                    "numerics": options.numerics, "tokens": tokens.len(), "chunk": options.chunk,
                    "a": seat_a.placement(), "b": seat_b.placement(),
                    "first_beyond": found.first_beyond(),
                    "too_few_for_an_average": found.too_few,
                    "differences": found.differences,
                }),
            )?;
            return Ok(code);
        }
        output::println(format_args!(
            "prefill of {}, {} numerics: a = {} ({}), b = {} ({})\n\
             drift: a against b, each on what its own earlier ops gave; not judged. alone: the judged side against the \
             oracle on that side's own inputs, and how far off it may be.\n",
            count(tokens.len(), "token"),
            options.numerics.name(),
            self.a.name(),
            place(seat_a.placement()),
            self.b.name(),
            place(seat_b.placement()),
        ))?;
        let mut table = output::table(&[
            "layer", "instance", "node", "output", "a", "b", "drift", "max abs", "judged", "alone", "may be", "",
        ]);
        for d in &found.differences {
            table.add_row(row(d));
        }
        output::print(output::rows(&table))?;
        output::println(format_args!("\n{}", sentence(&found, model)))?;
        Ok(code)
    }
}

fn row(d: &Difference) -> [String; 12] {
    let figure = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.1e}"));
    [
        d.layer.map_or("-".into(), |l| l.to_string()),
        if d.position == 0 { d.instance.clone() } else { format!("{} @ {}", d.instance, d.position) },
        d.node.to_string(),
        d.output.into(),
        place(d.a).into(),
        place(d.b).into(),
        figure(Some(d.drift)),
        match d.not_finite {
            0 => format!("{:.1e}", d.max_abs),
            n => format!("{n} not finite"),
        },
        d.judged.map_or("-", Side::name).into(),
        figure(d.alone),
        figure(d.tolerance),
        d.first_bad.as_ref().map_or(String::new(), |bad| format!("BEYOND {}", bad.at)),
    ]
}

/// What the table comes to: the first op that is wrong, or that none is.
fn sentence(found: &Sides, model: &Model) -> String {
    let judged = found.differences.iter().filter(|d| d.alone.is_some()).count();
    let Some((d, bad)) = found.first_beyond().and_then(|d| Some((d, d.first_bad.as_ref()?))) else {
        return match (judged, found.too_few) {
            (0, _) => "Nothing was judged: no kernel ran. Every value is a number.".into(),
            (n, 0) => format!("Nothing is beyond tolerance: {} judged.", count(n, "output")),
            (n, few) => format!(
                "Nothing is beyond tolerance: {} judged, of which {few} value by value alone: too few values for an \
                 average, which a longer prompt has.",
                count(n, "output")
            ),
        };
    };
    let side = d.judged.map_or("a", Side::name);
    let layer = d.layer.map_or_else(String::new, |l| format!("layer {l}, "));
    let (expected, read) = (plain(&bad.expected), plain(&bad.found));
    let what = match bad.why {
        Why::Value => format!("{} should be {expected} and is {read}, on the inputs that it got there", bad.at),
        Why::Average => format!(
            "its values are off by {:.1e} on average where {:.1e} is allowed, most of all {}, which should be \
             {expected} and is {read}",
            d.alone.unwrap_or_default(),
            d.tolerance.unwrap_or_default(),
            bad.at
        ),
        Why::NoNumber => format!(
            "{} is {read}, and all that was read is numbers: the oracle has none there either, so it is in the weights",
            bad.at
        ),
        Why::Read => format!("{} is {read}, and so was something that it read: look at what comes before it", bad.at),
    };
    let beyond = found.differences.iter().filter(|d| d.beyond).count();
    let mut text = format!(
        "First beyond tolerance: {} ({}, {layer}side {side} on the {}, step from position {}): {what}.",
        d.instance,
        d.node,
        place(d.place()),
        d.position
    );
    if beyond > 1 {
        text += &format!(" {beyond} of {} are.", count(found.differences.len(), "output"));
    }
    if matches!(bad.why, Why::Value | Why::Average) {
        let there = if d.place() == Placement::Emulator { " --backend emulator" } else { "" };
        let of_file = standing::workbench().ok().flatten().map_or(String::new(), |w| w.model_option(model.path()));
        text += &format!("\nnext: assay verify {}{of_file}{there}", d.node.file_stem());
    }
    text
}

/// A number as the judge writes it, or a word.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => n.as_f64().map_or_else(String::new, |x| format!("{x:.6e}")),
        other => other.to_string(),
    }
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
