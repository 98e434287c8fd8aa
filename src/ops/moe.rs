//! What the two expert ops share.

/// (token, slot) pairs of every expert that has any, in ascending order.
pub(super) fn by_expert(sel: &[i32], experts: usize) -> Vec<(usize, Vec<usize>)> {
    let mut lists = vec![Vec::new(); experts];
    for (pair, expert) in sel.iter().enumerate() {
        if let Some(list) = usize::try_from(*expert).ok().and_then(|e| lists.get_mut(e)) {
            list.push(pair);
        }
    }
    lists.into_iter().enumerate().filter(|(_, l)| !l.is_empty()).collect()
}
