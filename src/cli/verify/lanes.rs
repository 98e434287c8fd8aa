//! Judges nodes and says how far it is: one after the other on a device, on the emulator side by side.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use indicatif::ProgressBar;

use crate::backend::Placement;
use crate::error::{Error, Result};
use crate::ops::Node;
use crate::verify::{Judge, Progress, Stage, Verdict};

/// Nodes that the emulator judges at a time. A verdict has long stretches for one core (cases are drawn, a kernel is
/// compiled, outputs are pooled), in which the others have the next node's to do. More would cost memory only: where a
/// kernel runs, all cores are busy.
const LANES: usize = 2;

/// How often an interrupt is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// What the lanes do, on one line.
pub struct Board<'b> {
    bar: &'b ProgressBar,
    /// Of each lane its node and stage, and how far that is.
    at: Mutex<Vec<(String, String)>>,
}

impl<'b> Board<'b> {
    pub fn new(bar: &'b ProgressBar) -> Board<'b> {
        Board { bar, at: Mutex::default() }
    }

    fn say(&self, lane: usize, stage: Option<String>, far: String) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.len() <= lane {
            at.resize_with(lane + 1, Default::default);
        }
        at[lane] = (stage.unwrap_or_else(|| at[lane].0.clone()), far);
        let told = at.iter().filter(|(stage, _)| !stage.is_empty());
        let told: Vec<String> = told.map(|(stage, far)| format!("{stage} {far}").trim_end().to_string()).collect();
        self.bar.set_message(told.join(", "));
    }
}

/// One of those who judge.
pub struct Lane<'b> {
    pub board: &'b Board<'b>,
    pub index: usize,
}

impl Progress for Lane<'_> {
    fn stage(&self, node: &Node, stage: Stage) {
        self.board.say(self.index, Some(format!("{node}: {}", stage.name())), String::new());
    }

    fn tick(&self, done: usize, of: usize) {
        self.board.say(self.index, None, format!("{done}/{of}"));
    }
}

/// Judges `nodes` and gives their verdicts to `done`, in their order. The first error ends it, behind the verdicts of
/// the nodes before.
pub fn judge_each(
    judge: &Judge<'_, '_>,
    nodes: &[Node],
    board: &Board<'_>,
    done: &mut dyn FnMut(&Node, Verdict) -> Result<()>,
) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lanes = match judge.place.placement() {
        Placement::Emulator => LANES.min(cores).min(nodes.len()),
        _ => 1,
    };
    if lanes > 1 {
        return side_by_side(judge, nodes, board, lanes, done);
    }
    let mut proved: Vec<Node> = Vec::new();
    for node in nodes {
        // On a device what has passed runs there too, so that each prefill is nearer to the whole.
        let verdict = judge.judge(node, &proved)?;
        if verdict.is_green() {
            proved.push(node.clone());
        }
        done(node, verdict)?;
    }
    Ok(())
}

fn side_by_side(
    judge: &Judge<'_, '_>,
    nodes: &[Node],
    board: &Board<'_>,
    lanes: usize,
    done: &mut dyn FnMut(&Node, Verdict) -> Result<()>,
) -> Result<()> {
    let next = &AtomicUsize::new(0);
    // No node is begun any more; those that were are broken off.
    let (enough, halt) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let (send, verdicts) = mpsc::channel();
    std::thread::scope(|scope| {
        for index in 0..lanes {
            let send = send.clone();
            scope.spawn(move || {
                let lane = Lane { board, index };
                let judge = Judge { progress: &lane, numerics: judge.numerics.clone(), stop: halt, ..*judge };
                while !enough.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(node) = nodes.get(i) else { break };
                    let verdict = judge.judge(node, &[]);
                    enough.fetch_or(verdict.is_err(), Ordering::Relaxed);
                    if send.send((i, verdict)).is_err() {
                        break;
                    }
                }
                board.say(index, Some(String::new()), String::new());
            });
        }
        drop(send);
        let ended = in_order(&verdicts, nodes, judge.stop, halt, done);
        enough.store(true, Ordering::Relaxed);
        halt.store(true, Ordering::Relaxed);
        ended
    })
}

/// Gives verdicts to `done` as their turn comes. Sets `halt` when `stop` is.
fn in_order<V>(
    verdicts: &Receiver<(usize, Result<V>)>,
    nodes: &[Node],
    stop: &AtomicBool,
    halt: &AtomicBool,
    done: &mut dyn FnMut(&Node, V) -> Result<()>,
) -> Result<()> {
    let mut early: BTreeMap<usize, Result<V>> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        while !early.contains_key(&i) {
            match verdicts.recv_timeout(LOOK) {
                Ok((at, verdict)) => drop(early.insert(at, verdict)),
                Err(RecvTimeoutError::Timeout) => drop(halt.fetch_or(stop.load(Ordering::Relaxed), Ordering::Relaxed)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        match early.remove(&i) {
            Some(verdict) => done(node, verdict?)?,
            // A lane met an error with a later node, and nobody began this one.
            None => {
                let error = early.into_values().find_map(Result::err);
                return Err(error.unwrap_or_else(|| Error::internal("a thread that judges ended early")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(n: usize) -> Vec<Node> {
        (0..n).map(|i| Node { op: format!("op{i}"), types: Vec::new() }).collect()
    }

    /// How many were given on, all in turn, and how it ended.
    fn given(arrive: Vec<(usize, Result<usize>)>, n: usize, refuse: Option<usize>) -> (usize, Result<()>) {
        let (send, verdicts) = mpsc::channel();
        arrive.into_iter().for_each(|v| send.send(v).unwrap());
        drop(send);
        let mut seen = 0;
        let never = AtomicBool::new(false);
        let ended = in_order(&verdicts, &nodes(n), &never, &AtomicBool::new(false), &mut |node, i| {
            assert_eq!((node.op.clone(), i), (format!("op{seen}"), seen));
            seen += 1;
            if refuse == Some(seen) { Err(Error::internal("the disk is full")) } else { Ok(()) }
        });
        (seen, ended)
    }

    #[test]
    fn verdicts_that_come_out_of_turn_are_given_on_in_turn_up_to_the_first_error() {
        let passed = |i| (i, Ok(i));
        let broken = |i| (i, Err(Error::internal("no such kernel")));
        let (seen, ended) = given([2, 0, 1, 3].map(passed).into(), 4, None);
        assert_eq!((seen, ended.is_ok()), (4, true));
        let (seen, ended) = given(vec![passed(0), broken(2), passed(1)], 5, None);
        assert_eq!(seen, 2);
        assert!(ended.unwrap_err().to_string().contains("no such kernel"));
        // The one before was never begun.
        let (seen, ended) = given(vec![passed(0), broken(2)], 5, None);
        assert_eq!(seen, 1);
        assert!(ended.unwrap_err().to_string().contains("no such kernel"));
        let (seen, ended) = given([1, 0, 2].map(passed).into(), 3, Some(2));
        assert_eq!(seen, 2);
        assert!(ended.unwrap_err().to_string().contains("the disk is full"));
    }
}
