//! Where boxes go: ranks by longest path, order within a rank by the median of the neighbours above.
//!
//! Edges over several ranks are led through invisible boxes, so that they run between boxes instead of across them.

use super::{Cluster, Shape};

const LINE: f64 = 15.0;
/// Width of a character of the 11px monospace font.
const CHAR: f64 = 6.7;
const PAD: f64 = 8.0;
/// Distance between boxes of a rank, and between ranks.
const GAP: (f64, f64) = (14.0, 22.0);
const MARGIN: f64 = 16.0;
const TITLE: f64 = 24.0;
const SWEEPS: usize = 8;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

/// A cluster with its upper left corner at the origin.
pub struct Laid {
    pub size: (f64, f64),
    /// One per box.
    pub boxes: Vec<Rect>,
    /// One per edge: points from the writer's lower edge to the reader's upper edge.
    pub edges: Vec<Vec<(f64, f64)>>,
}

struct Cell {
    rank: usize,
    width: f64,
    above: Vec<usize>,
    below: Vec<usize>,
    x: f64,
}

pub fn lay(cluster: &Cluster) -> Laid {
    let mut cells: Vec<Cell> = cluster.boxes.iter().map(|b| cell(0, width(b))).collect();
    // Boxes stand in plan order and edges go forward, so that one pass finds the longest paths.
    for (to, _) in cluster.boxes.iter().enumerate() {
        let above = cluster.edges.iter().filter(|e| e.1 == to).map(|e| cells[e.0].rank + 1);
        cells[to].rank = above.max().unwrap_or(0);
    }
    let chains: Vec<Vec<usize>> = cluster.edges.iter().map(|&(from, to)| chain(&mut cells, from, to)).collect();
    let ranks = cells.iter().map(|c| c.rank + 1).max().unwrap_or(0);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); ranks];
    for (i, c) in cells.iter().enumerate() {
        rows[c.rank].push(i);
    }
    place(&mut cells, &mut rows);
    let left = cells.iter().map(|c| c.x - c.width / 2.0).fold(f64::INFINITY, f64::min);
    let right = cells.iter().map(|c| c.x + c.width / 2.0).fold(0.0, f64::max);
    let shift = if left.is_finite() { MARGIN - left } else { MARGIN };
    let height = 2.0 * LINE + PAD;
    let top = |rank: usize| TITLE + MARGIN + rank as f64 * (height + GAP.1);
    let rect = |i: usize| Rect {
        x: cells[i].x - cells[i].width / 2.0 + shift,
        y: top(cells[i].rank),
        w: cells[i].width,
        h: height,
    };
    let boxes = (0..cluster.boxes.len()).map(rect).collect();
    let through = |chain: &Vec<usize>| {
        let (first, last) = (chain[0], chain[chain.len() - 1]);
        let mut points = vec![(cells[first].x + shift, top(cells[first].rank) + height)];
        for &i in &chain[1..chain.len() - 1] {
            points.push((cells[i].x + shift, top(cells[i].rank)));
            points.push((cells[i].x + shift, top(cells[i].rank) + height));
        }
        points.push((cells[last].x + shift, top(cells[last].rank)));
        points
    };
    let title = cluster.title.chars().count() as f64 * CHAR * 1.15 + 2.0 * MARGIN;
    let size = ((right + shift + MARGIN).max(title), top(ranks) - GAP.1 + MARGIN);
    Laid { size, boxes, edges: chains.iter().map(through).collect() }
}

fn cell(rank: usize, width: f64) -> Cell {
    Cell { rank, width, above: Vec::new(), below: Vec::new(), x: 0.0 }
}

fn width(shape: &Shape) -> f64 {
    let longest = shape.label.chars().count().max(shape.detail().chars().count());
    longest as f64 * CHAR + 2.0 * PAD
}

/// Connects two cells, with an invisible one in every rank between them.
fn chain(cells: &mut Vec<Cell>, from: usize, to: usize) -> Vec<usize> {
    let mut chain = vec![from];
    for rank in cells[from].rank + 1..cells[to].rank {
        cells.push(cell(rank, 2.0));
        chain.push(cells.len() - 1);
    }
    chain.push(to);
    for pair in chain.windows(2) {
        cells[pair[0]].below.push(pair[1]);
        cells[pair[1]].above.push(pair[0]);
    }
    chain
}

/// Sweeps down and up: every cell moves towards its neighbours, and rows are packed without overlap in that order.
fn place(cells: &mut [Cell], rows: &mut [Vec<usize>]) {
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        for r in 0..rows.len() {
            let row = if down {
                &mut rows[r]
            } else {
                let last = rows.len() - 1;
                &mut rows[last - r]
            };
            let wanted = |i: usize| {
                let near = if down { &cells[i].above } else { &cells[i].below };
                let sum: f64 = near.iter().map(|n| cells[*n].x).sum();
                if near.is_empty() { cells[i].x } else { sum / near.len() as f64 }
            };
            let mut order: Vec<(f64, usize)> = row.iter().map(|i| (wanted(*i), *i)).collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0));
            pack(cells, &order);
            *row = order.into_iter().map(|(_, i)| i).collect();
        }
    }
}

/// Gives a row its places: as wanted where there is room, and on average where there is not.
fn pack(cells: &mut [Cell], order: &[(f64, usize)]) {
    let (mut edge, mut off) = (f64::NEG_INFINITY, 0.0);
    for &(wanted, i) in order {
        let x = wanted.max(edge + GAP.0 + cells[i].width / 2.0);
        edge = x + cells[i].width / 2.0;
        off += x - wanted;
        cells[i].x = x;
    }
    let off = off / order.len().max(1) as f64;
    for (_, i) in order {
        cells[*i].x -= off;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::graph::Part;

    #[test]
    fn boxes_of_a_rank_do_not_overlap_and_edges_run_down() {
        let shape = |n: usize| Shape { label: "x".repeat(n), node: None, when: None, state: None };
        let boxes: Vec<Shape> = [3, 30, 9, 17, 4, 12].map(shape).into();
        let edges = vec![(0, 1), (0, 2), (0, 3), (1, 4), (3, 4), (0, 5), (4, 5)];
        let cluster = Cluster { part: Part::Head, title: "t".into(), boxes, edges };
        let laid = lay(&cluster);
        for (i, a) in laid.boxes.iter().enumerate() {
            assert!(a.x >= 0.0 && a.x + a.w <= laid.size.0 && a.y + a.h <= laid.size.1, "box {i} is outside: {a:?}");
            for b in &laid.boxes[..i] {
                assert!(a.y != b.y || a.x >= b.x + b.w || b.x >= a.x + a.w, "{a:?} and {b:?} overlap");
            }
        }
        for (edge, points) in cluster.edges.iter().zip(&laid.edges) {
            assert!(points.windows(2).all(|p| p[1].1 > p[0].1), "{edge:?}: {points:?}");
        }
    }
}
