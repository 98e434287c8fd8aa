//! Numbers in sentences.

use std::fmt::Display;

/// `1 node`, `2 nodes`; of several words the one before ` of ` takes the plural: `2 pieces of evidence`.
pub fn count(n: impl Display, what: &str) -> String {
    let n = n.to_string();
    if n == "1" {
        return format!("1 {what}");
    }
    let (head, tail) = what.find(" of ").map_or((what, ""), |at| what.split_at(at));
    let plural = if head.ends_with("ch") { "es" } else { "s" };
    format!("{n} {head}{plural}{tail}")
}

/// The verb that goes with `n` things: `agree(1, "is", "are")`.
pub fn agree<'a>(n: usize, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_nothing_else_is() {
        assert_eq!(count(0, "row"), "0 rows");
        assert_eq!(count(1u64, "row"), "1 row");
        assert_eq!(count(21, "op instance"), "21 op instances");
        assert_eq!(count(3, "launch"), "3 launches");
        assert_eq!(count(2, "piece of evidence"), "2 pieces of evidence");
        assert_eq!((agree(1, "is", "are"), agree(0, "is", "are")), ("is", "are"));
    }
}
