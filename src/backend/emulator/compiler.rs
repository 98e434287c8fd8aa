//! Finding the host's C++ compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::codes;
use crate::error::{Error, Result};

/// A C++ compiler that answered `--version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    pub path: PathBuf,
    /// First line of `--version`, part of every cache key.
    pub version: String,
}

impl Compiler {
    /// `$CXX` alone when it is set, else the first of g++, clang++ and c++ on the path.
    pub fn find() -> Result<Self> {
        Self::find_with(std::env::var_os("CXX").filter(|v| !v.is_empty()).map(PathBuf::from))
    }

    fn find_with(cxx: Option<PathBuf>) -> Result<Self> {
        let names = match cxx {
            Some(cxx) => vec![cxx],
            None => ["g++", "clang++", "c++"].map(PathBuf::from).to_vec(),
        };
        let mut tried = Vec::new();
        for name in names {
            match Self::probe(&name) {
                Ok(compiler) => return Ok(compiler),
                Err(why) => tried.push(format!("{} ({why})", name.display())),
            }
        }
        Err(Error::new(&codes::NO_COMPILER, "no C++ compiler to run kernels on the CPU with")
            .expected("a C++17 compiler in $CXX or on the path")
            .found(format!("tried {}", tried.join(", ")))
            .hint("apt install g++   (or set CXX)"))
    }

    fn probe(name: &Path) -> Result<Self, String> {
        let path = lookup(name).ok_or("not found")?;
        let output = Command::new(&path).arg("--version").output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        match text.lines().next() {
            Some(line) if output.status.success() && !line.trim().is_empty() => {
                Ok(Compiler { path, version: line.trim().to_string() })
            }
            _ => Err(format!("--version failed: {}", output.status)),
        }
    }

    pub fn is_clang(&self) -> bool {
        self.version.contains("clang")
    }

    /// Everything but the file names. Part of every cache key.
    pub fn flags(&self) -> Vec<&'static str> {
        // Contraction off: see kernels/emu/cuda.h. Aliasing and overflow as device compilers treat them. Line tables give
        // faults a line. The two sanitizers report through functions of the shim, at no more than a compare each. Not with
        // -mtls-dialect=gnu2, though it spares a tenth of the time: the loader then does not tell where an object's
        // thread-locals lie, and static shared memory stays as it was (the exhibit `uninitialised_shared`).
        let mut flags = vec![
            "-std=c++17",
            "-O2",
            "-g1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-fwrapv",
            "-fno-exceptions",
            "-fno-rtti",
            "-fno-stack-protector",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-fsanitize=bounds,alignment",
            "-w",
        ];
        if !self.is_clang() {
            // Templates' static shared arrays would else be one object for the whole process.
            flags.push("-fno-gnu-unique");
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            flags.extend(["-mavx2", "-mfma"]);
        }
        flags
    }
}

/// `name` itself when it has a directory, else its first executable match on the path.
fn lookup(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_path_buf());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_tried() {
        let error = Compiler::find_with(Some("/nowhere/c++".into())).unwrap_err();
        assert_eq!(error.code().id, "emulator-no-compiler");
        assert_eq!(error.kind(), crate::error::Kind::CouldNotRun);
        assert!(error.found_text().unwrap().contains("/nowhere/c++ (not found)"), "{error}");
    }
}
