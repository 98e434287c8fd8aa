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

/// Bytes in decimal units, as disks and downloads are sold: `1.0 kB`, `553.6 MB`, `3.61 GB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for (unit, digits) in [("B", 0), ("kB", 1), ("MB", 1), ("GB", 2)] {
        // What would be rounded to 1000 of a unit is 1 of the next.
        if value < 1000.0 - 0.5 / 10f64.powi(digits) {
            return format!("{value:.*} {unit}", digits as usize);
        }
        value /= 1000.0;
    }
    format!("{value:.2} TB")
}

/// The verb that goes with `n` things: `agree(1, "is", "are")`.
pub fn agree<'a>(n: usize, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

/// A word of a command line that is to be pasted into a shell.
pub fn shell(text: &str) -> String {
    shell_bytes(text.as_bytes())
}

/// A path as a word of such a line.
pub fn shell_path(path: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    shell_bytes(path.as_os_str().as_bytes())
}

/// What cannot be shown as it is stands as octal numbers in `$'…'`, which POSIX has since 2024 and most shells had before.
fn shell_bytes(bytes: &[u8]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    let shows = |c: char| !c.is_control() && !is_hidden(c);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(plain) => return text.into(),
        Ok(text) if text.chars().all(shows) => return format!("'{}'", text.replace('\'', "'\\''")),
        _ => {}
    }
    let code = |bytes: &[u8]| bytes.iter().map(|b| format!("\\{b:03o}")).collect::<String>();
    let mut out = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '\\' => out.extend(['\\', c]),
                c if shows(c) => out.push(c),
                c => out += &code(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        out += &code(chunk.invalid());
    }
    out + "'"
}

/// A page of text with other people's words in it, without what would move a terminal's cursor or turn the writing
/// direction.
pub fn harmless(text: &str) -> String {
    text.split('\n').map(|line| plain(line, usize::MAX)).collect::<Vec<_>>().join("\n")
}

/// Characters that turn the writing direction, break a line or cannot be seen: nothing that a stranger's text needs.
pub fn is_hidden(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A text that somebody else wrote, fit for one line of a terminal or a page: what would move the cursor, turn the
/// writing direction or hide is written as its code, and it ends after `most` characters.
pub fn plain(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == most {
            out.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() || is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_stays_on_its_line() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{202e}d", 40), "a\\u{1b}[2Jb c\\u{202e}d");
        assert_eq!(plain("ünïcode", 3), "ünï…");
        assert_eq!(harmless("a\u{7}\nb\n"), "a\\u{7}\nb\n");
    }

    /// A command with a replacement character for a byte names another file, and one with an escape moves the cursor.
    #[test]
    fn any_name_can_be_pasted() {
        use std::os::unix::ffi::OsStrExt as _;
        for (name, word) in [
            (&b"a/b-1.x"[..], "a/b-1.x"),
            (b"", "''"),
            (b"my port's", "'my port'\\''s'"),
            ("ü $(id)".as_bytes(), "'ü $(id)'"),
            (b"a\x1b[31m\n1", "$'a\\033[31m\\0121'"),
            (b"it's\xff7\\", "$'it\\'s\\3777\\\\'"),
            ("a\u{202e}b".as_bytes(), "$'a\\342\\200\\256b'"),
        ] {
            let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name));
            assert_eq!(shell_path(path), word);
            let said = std::process::Command::new("bash").args(["-c", &format!("printf %s {word}")]).output();
            assert!(said.is_err() || said.is_ok_and(|said| said.stdout == name), "{word}");
        }
    }

    /// A limit of a kilobyte was one of "0.0 MB".
    #[test]
    fn sizes_have_a_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_960, "1.0 MB"),
            (600_000_000, "600.0 MB"),
            (3_612_000_000, "3.61 GB"),
            (81_000_000_000_000, "81.00 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

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
