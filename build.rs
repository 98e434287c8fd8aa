//! Lists the files that `assay new` puts into a workbench, so that the program carries them: shared headers, prompts and the
//! port's record. A new file in one of these folders is carried without being named anywhere.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const FOLDERS: [&str; 6] =
    ["kernels/common", "kernels/emu", "kernels/many", "kernels/quant", "prompts", "reference/port"];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut list = String::from("pub static CARRIED: &[(&str, &str)] = &[\n");
    for folder in FOLDERS {
        println!("cargo::rerun-if-changed={folder}");
        let entries = std::fs::read_dir(root.join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let mut names: Vec<_> = entries.map(|e| e.expect("a folder's entry").file_name()).collect();
        names.sort();
        for name in names {
            let name = format!("{folder}/{}", name.to_str().expect("a UTF-8 name"));
            if root.join(&name).is_file() {
                // Not this folder's path: the crate may be built again from another one with this file as it is.
                let path = format!("concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/{name}\")");
                writeln!(list, "    ({name:?}, include_str!({path})),").expect("a String takes all");
            }
        }
    }
    list.push_str("];\n");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&out).join("carried.rs"), list).expect("cargo's own folder can be written");
}
