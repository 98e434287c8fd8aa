//! Blocks that cannot go on: who waits where, and which mistake that is.

use super::codes;
use super::runner::{Failure, State};

/// `threads 0-31, 40 wait at kernels/a.cu:7; …`, one group per place, in order of the first thread.
fn groups(states: &[State]) -> Vec<(String, Vec<u32>)> {
    let mut groups: Vec<(String, Vec<u32>)> = Vec::new();
    for (thread, &state) in states.iter().enumerate() {
        // SAFETY: sites are literals of a module that is loaded while a block runs.
        let what = unsafe {
            match state {
                State::Idle => "returned".to_string(),
                State::Ready => "can go on".to_string(),
                State::Barrier { site, .. } => format!("wait at the barrier at {}", site.text()),
                State::Warp { mask, site, .. } => {
                    format!("wait at the warp operation at {} with mask {mask:#010x}", site.text())
                }
            }
        };
        match groups.iter_mut().find(|(w, _)| *w == what) {
            Some((_, threads)) => threads.push(thread as u32),
            None => groups.push((what, vec![thread as u32])),
        }
    }
    groups
}

/// `0-31, 40`
fn ranges(threads: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &t in threads {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == t => *end = t,
            _ => parts.push((t, t)),
        }
    }
    let shown: Vec<String> =
        parts.iter().take(6).map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    let more = if parts.len() > 6 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn list(states: &[State]) -> String {
    let text: Vec<String> =
        groups(states).iter().map(|(what, threads)| format!("threads {} {what}", ranges(threads))).collect();
    text.join("; ")
}

/// Where a waiting thread stands.
pub fn place(state: State) -> Option<String> {
    match state {
        // SAFETY: as in `groups`.
        State::Barrier { site, .. } | State::Warp { site, .. } => Some(unsafe { site.text() }),
        State::Idle | State::Ready => None,
    }
}

pub fn different_barriers(states: Vec<State>) -> Failure {
    Failure { site: first_site(&states), ..Failure::new(&codes::BARRIER_SITES, list(&states)) }
}

/// Nothing in the block can be resumed.
pub fn diagnose(states: Vec<State>) -> Failure {
    let barrier = states.iter().any(|s| matches!(s, State::Barrier { .. }));
    let returned = states.iter().any(|s| matches!(s, State::Idle));
    let warp = states.iter().any(|s| matches!(s, State::Warp { .. }));
    // A warp operation whose missing lanes are gone, or wait at another one, can never complete.
    let torn = states.iter().enumerate().any(|(thread, s)| {
        let State::Warp { mask, .. } = *s else { return false };
        (0..32).filter(|l| mask >> l & 1 == 1).any(|lane| {
            !matches!(states.get((thread & !31) + lane), Some(State::Barrier { .. }))
                && !matches!(states.get((thread & !31) + lane), Some(State::Warp { mask: m, .. }) if *m == mask)
        })
    });
    let code = match (barrier, warp, returned) {
        (true, false, true) => &codes::BARRIER,
        (_, true, _) if torn => &codes::WARP_MASK,
        _ => &codes::DEADLOCK,
    };
    Failure { site: first_site(&states), ..Failure::new(code, list(&states)) }
}

fn first_site(states: &[State]) -> Option<String> {
    states.iter().copied().find_map(place)
}
