//! What an entry costs a multiprocessor, from ptxas's report in the compiler's log.

use serde::{Deserialize, Serialize};

/// Resources of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryResources {
    pub entry: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes written to, and read back from, local memory for want of registers; called functions included.
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Bytes of stack frame a thread: local arrays and spills, called functions included.
    pub stack: u32,
    /// Static shared memory, bytes a block.
    pub shared: u32,
}

/// Reads the report of `--ptxas-options=-v`. Lines that are none of its are passed over.
pub fn parse(log: &str) -> Vec<EntryResources> {
    let mut out: Vec<EntryResources> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let entry = rest.split('\'').next().unwrap_or_default().to_owned();
            out.push(EntryResources { entry, ..EntryResources::default() });
            continue;
        }
        let Some(last) = out.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            last.stack += number_before(line, " bytes stack frame");
            last.spill_stores += number_before(line, " bytes spill stores");
            last.spill_loads += number_before(line, " bytes spill loads");
        } else if line.contains("Used ") {
            last.registers = number_before(line, " registers");
            last.shared = number_before(line, " bytes smem");
        }
    }
    out
}

fn number_before(line: &str, words: &str) -> u32 {
    let Some(end) = line.find(words) else { return 0 };
    let digits = line[..end].rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_report_are_read() {
        let log = "matmul.cu(5): warning #177-D: variable \"Used 9 registers\" was declared but never referenced\n\
            ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'foo' for 'sm_90'\n\
            ptxas info    : Function properties for foo\n\
            ptxas         .     48 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 1 barriers, 48 bytes cumulative stack size, 1024 bytes smem\n\
            ptxas info    : Compiling entry function 'bar' for 'sm_90'\n\
            ptxas info    : Function properties for bar\n    0 bytes stack frame, 0 bytes spill stores\n\
            ptxas info    : Used 255 registers, 372 bytes cmem[0]\n";
        let got = parse(log);
        assert_eq!(got.len(), 2);
        assert_eq!(
            got[0],
            EntryResources {
                entry: "foo".into(),
                registers: 40,
                spill_stores: 12,
                spill_loads: 16,
                stack: 48,
                shared: 1024
            }
        );
        assert_eq!((got[1].registers, got[1].shared, got[1].stack), (255, 0, 0));
    }
}
