//! Where NVRTC may be: a setting, a CUDA toolkit, a Python `nvidia/` folder, the loader's path.
//!
//! Python is never run: its sites are derived from where its executable stands. Every place that was looked at is
//! remembered with what was wrong with it, since "not found" helps nobody.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Where the hint installs NVRTC to, below the home folder: found without any setting, and needs no virtual environment.
const OWN_SITE: &str = ".local/share/assay/python";
/// The line that installs NVRTC there.
pub const INSTALL: &str = "python3 -m pip install --target ~/.local/share/assay/python nvidia-cuda-nvrtc";

/// Environment in which tools of NVIDIA are searched; [`Places::from_env`] outside tests.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `$ASSAY_NVRTC`: the library, or a folder that holds it. Nothing else is tried when it is set.
    pub setting: Option<PathBuf>,
    /// `$CUDA_HOME`, `$CUDA_PATH`.
    pub toolkits: Vec<PathBuf>,
    /// `$VIRTUAL_ENV`, `$CONDA_PREFIX`.
    pub environments: Vec<PathBuf>,
    /// `$PYTHONPATH`.
    pub python_path: Vec<PathBuf>,
    /// `$PATH`.
    pub path: Vec<PathBuf>,
    pub home: Option<PathBuf>,
    /// Folders with toolkits in subfolders `cuda*`: `/usr/local`, `/opt`.
    pub roots: Vec<PathBuf>,
    /// Ask the dynamic loader too.
    pub loader: bool,
}

impl Places {
    pub fn from_env() -> Places {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let dirs = |names: &[&str]| names.iter().filter_map(|n| var(n)).map(PathBuf::from).collect::<Vec<_>>();
        let list = |name: &str| {
            let split = |v: OsString| std::env::split_paths(&v).filter(|p| p.is_absolute()).collect();
            var(name).map(split).unwrap_or_default()
        };
        Places {
            setting: var("ASSAY_NVRTC").map(PathBuf::from),
            toolkits: dirs(&["CUDA_HOME", "CUDA_PATH"]),
            environments: dirs(&["VIRTUAL_ENV", "CONDA_PREFIX"]),
            python_path: list("PYTHONPATH"),
            path: list("PATH"),
            home: var("HOME").map(PathBuf::from),
            roots: vec!["/usr/local".into(), "/opt".into()],
            loader: true,
        }
    }

    /// Toolkit folders, the named ones first, then those under the roots, newest name first.
    pub fn toolkit_dirs(&self) -> Vec<PathBuf> {
        let mut out = self.toolkits.clone();
        for root in &self.roots {
            let mut found: Vec<_> = children(root, |name| name.starts_with("cuda"));
            found.sort_by_key(|p| std::cmp::Reverse(version_key(p)));
            // `/usr/local/cuda` is the administrator's choice among the versions beside it.
            found.sort_by_key(|p| p.file_name().is_none_or(|n| n != "cuda"));
            out.extend(found);
        }
        unique(out)
    }

    /// `site-packages` folders of the active environment and of the `python3` on the path.
    fn python_sites(&self) -> Vec<PathBuf> {
        let mut prefixes = self.environments.clone();
        for dir in &self.path {
            for name in ["python3", "python"] {
                let exe = dir.join(name);
                if !exe.is_file() {
                    continue;
                }
                // Both where the link stands (a virtual environment) and where it points (the installation).
                for exe in [Some(exe.clone()), exe.canonicalize().ok()].into_iter().flatten() {
                    prefixes.extend(exe.parent().and_then(Path::parent).map(Path::to_path_buf));
                }
                // A pyenv shim is a script that chooses among the versions beside it.
                if let Some(root) = dir.parent().filter(|_| dir.ends_with("shims")) {
                    prefixes.extend(children(&root.join("versions"), |_| true));
                }
            }
        }
        if let Some(home) = &self.home {
            prefixes.push(home.join(".local"));
        }
        let mut sites = self.python_path.clone();
        sites.extend(self.home.iter().map(|home| home.join(OWN_SITE)));
        for prefix in unique(prefixes) {
            for lib in [prefix.join("lib"), prefix.join("local/lib")] {
                for python in children(&lib, |name| name.starts_with("python3")) {
                    sites.push(python.join("site-packages"));
                    sites.push(python.join("dist-packages"));
                }
            }
        }
        unique(sites).into_iter().filter(|s| s.is_dir()).collect()
    }

    /// Where the loader may find a library that is asked for by its bare name, besides its own folders.
    pub(super) fn loader_folders(&self) -> Vec<PathBuf> {
        let lists = children(Path::new("/etc/ld.so.conf.d"), |name| name.ends_with(".conf"));
        let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let text: String = lists.iter().chain([&PathBuf::from("/etc/ld.so.conf")]).map(|p| text(p) + "\n").collect();
        let mut out: Vec<_> = text.lines().map(|l| PathBuf::from(l.trim())).filter(|p| p.is_absolute()).collect();
        out.extend(self.toolkit_dirs());
        unique(out)
    }

    /// Libraries to try, best first, and what was wrong with the places that hold none.
    pub fn candidates(&self) -> (Vec<Candidate>, Vec<Attempt>) {
        let mut out = Search::default();
        if let Some(path) = &self.setting {
            let (dir, root) = if path.is_dir() { (path.clone(), path.clone()) } else { parents(path) };
            if path.is_dir() {
                out.folder("ASSAY_NVRTC", &dir, &[root]);
            } else if path.is_file() {
                out.found.push(Candidate {
                    path: path.clone(),
                    from: "ASSAY_NVRTC".into(),
                    includes: includes(&root).into_iter().collect(),
                });
            } else {
                out.tried.push(Attempt::new(path.display(), "ASSAY_NVRTC names no file or folder"));
            }
            return (out.found, out.tried);
        }
        let toolkits = self.toolkit_dirs();
        let (named, installed): (Vec<_>, Vec<_>) = toolkits.iter().partition(|t| self.toolkits.contains(t));
        let toolkit = |out: &mut Search, root: &PathBuf| {
            let multi = ["x86_64-linux", "sbsa-linux", "aarch64-linux"];
            let mut libs = vec![root.join("lib64"), root.join("lib")];
            libs.extend(multi.iter().map(|m| root.join("targets").join(m).join("lib")));
            let roots: Vec<_> =
                std::iter::once(root.clone()).chain(multi.map(|m| root.join("targets").join(m))).collect();
            out.first_folder("CUDA toolkit", root, &libs, &roots);
        };
        named.into_iter().for_each(|root| toolkit(&mut out, root));
        let sites = self.python_sites();
        for site in &sites {
            let nvidia = site.join("nvidia");
            let mut roots = children(&nvidia, |name| name.starts_with("cu") && !name.contains('_'));
            roots.sort_by_key(|p| std::cmp::Reverse(version_key(p)));
            roots.push(nvidia.join("cuda_nvrtc"));
            let libs: Vec<_> = roots.iter().map(|r| r.join("lib")).collect();
            roots.push(nvidia.join("cuda_runtime"));
            out.first_folder("Python", &nvidia, &libs, &roots);
        }
        if sites.is_empty() {
            out.tried.push(Attempt::new("Python", "no site-packages of a python3 on the path"));
        }
        let none_installed = installed.is_empty();
        installed.into_iter().for_each(|root| toolkit(&mut out, root));
        if none_installed {
            for root in &self.roots {
                out.tried.push(Attempt::new(root.join("cuda*").display(), "no such folder"));
            }
        }
        if self.loader {
            let roots: Vec<_> = toolkits.into_iter().chain([PathBuf::from("/usr")]).collect();
            for name in (12..=16).rev().map(|n| format!("libnvrtc.so.{n}")).chain(["libnvrtc.so".to_owned()]) {
                let includes = roots.iter().flat_map(|r| includes(r)).collect();
                out.found.push(Candidate { path: name.into(), from: "the loader's path".into(), includes });
            }
        }
        (out.found, out.tried)
    }
}

/// A library to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Absolute, or a bare name for the loader.
    pub path: PathBuf,
    /// Which kind of place this is, for people.
    pub from: String,
    /// Folders beside it that hold `cuda_fp16.h`; used by an NVRTC that brings no headers of its own.
    pub includes: Vec<PathBuf>,
}

/// A place that was looked at in vain.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attempt {
    pub place: String,
    pub why: String,
}

impl Attempt {
    pub fn new(place: impl std::fmt::Display, why: impl std::fmt::Display) -> Attempt {
        Attempt { place: place.to_string(), why: why.to_string() }
    }
}

#[derive(Default)]
struct Search {
    found: Vec<Candidate>,
    tried: Vec<Attempt>,
}

impl Search {
    fn first_folder(&mut self, from: &str, place: &Path, libs: &[PathBuf], roots: &[PathBuf]) {
        if !place.is_dir() {
            return self.tried.push(Attempt::new(place.display(), "no such folder"));
        }
        let before = self.found.len();
        for lib in libs {
            self.collect(from, lib, roots);
        }
        if self.found.len() == before {
            self.tried.push(Attempt::new(place.display(), "holds no libnvrtc.so"));
        }
    }

    fn folder(&mut self, from: &str, lib: &Path, roots: &[PathBuf]) {
        self.first_folder(from, lib, &[lib.to_path_buf(), lib.join("lib"), lib.join("lib64")], roots);
    }

    fn collect(&mut self, from: &str, lib: &Path, roots: &[PathBuf]) {
        let mut names = children(lib, |name| {
            name.strip_prefix("libnvrtc.so").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        names.sort_by_key(|p| std::cmp::Reverse(version_key(p)));
        // One library under its several names is one candidate.
        let mut seen = Vec::new();
        for path in names {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !seen.contains(&real) && !self.found.iter().any(|c| c.path == path) {
                seen.push(real);
                let includes = roots.iter().flat_map(|r| includes(r)).collect();
                self.found.push(Candidate { path, from: from.to_owned(), includes });
            }
        }
    }
}

/// NVRTC's second library, which stands beside the first.
pub(super) fn builtins(library: &Path) -> Vec<PathBuf> {
    let dir = library.parent().filter(|dir| dir.is_absolute());
    dir.map(|dir| children(dir, |name| name.starts_with("libnvrtc-builtins.so"))).unwrap_or_default()
}

/// The folder of a library, and the folder above it: `…/lib64/libnvrtc.so` stands beside `…/include`.
fn parents(library: &Path) -> (PathBuf, PathBuf) {
    let dir = library.parent().unwrap_or(Path::new("/")).to_path_buf();
    let root = dir.parent().unwrap_or(&dir).to_path_buf();
    (dir, root)
}

fn includes(root: &Path) -> Option<PathBuf> {
    Some(root.join("include")).filter(|dir| dir.join("cuda_fp16.h").is_file())
}

/// Subfolders and files of `dir` by name, sorted; none when it cannot be read.
fn children(dir: &Path, keep: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut out: Vec<_> =
        entries.flatten().filter(|e| e.file_name().to_str().is_some_and(&keep)).map(|e| e.path()).collect();
    out.sort();
    out
}

/// The numbers in a file name, so that `cuda-13.0` is newer than `cuda-12.9` and `cu13` than `cu9`.
fn version_key(path: &Path) -> Vec<u64> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

fn unique(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = Vec::with_capacity(paths.len());
    for path in paths {
        if !out.contains(&path) {
            out.push(path);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: PathBuf) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        path
    }

    fn places(root: &Path) -> Places {
        Places { roots: vec![root.join("usr/local")], path: vec![root.join("bin")], ..Places::default() }
    }

    #[test]
    fn both_wheel_layouts_and_toolkits_are_found_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        touch(root.join("bin/python3"));
        let site = root.join("lib/python3.11/site-packages/nvidia");
        let new = touch(site.join("cu13/lib/libnvrtc.so.13"));
        let old = touch(site.join("cuda_nvrtc/lib/libnvrtc.so.12"));
        touch(site.join("cu13/lib/libnvrtc-builtins.so.13.5"));
        let toolkit_old = touch(root.join("usr/local/cuda-12.9/lib64/libnvrtc.so.12"));
        let toolkit_new = touch(root.join("usr/local/cuda-13.0/lib64/libnvrtc.so.13"));
        touch(root.join("usr/local/cuda-13.0/include/cuda_fp16.h"));
        let (found, tried) = places(root).candidates();
        let paths: Vec<_> = found.iter().map(|c| c.path.clone()).collect();
        assert_eq!(paths, [new, old, toolkit_new, toolkit_old]);
        assert_eq!(found[2].includes, [root.join("usr/local/cuda-13.0/include")]);
        assert!(tried.is_empty(), "{tried:?}");
    }

    #[test]
    fn a_setting_is_the_only_place_tried() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        touch(root.join("usr/local/cuda/lib64/libnvrtc.so.13"));
        let mine = touch(root.join("mine/libnvrtc.so.13"));
        let set = |setting| Places { setting: Some(setting), ..places(root) }.candidates();
        assert_eq!(set(mine.clone()).0[0].path, mine);
        assert_eq!(set(root.join("mine")).0[0].path, mine);
        let (found, tried) = set(root.join("nowhere"));
        assert!(found.is_empty() && tried[0].why.contains("ASSAY_NVRTC"));
    }

    #[test]
    fn what_was_tried_in_vain_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("home-of-cuda")).unwrap();
        let search = Places {
            toolkits: vec![root.join("home-of-cuda"), root.join("gone")],
            environments: vec![root.join("venv")],
            ..places(root)
        };
        let (found, tried) = search.candidates();
        assert!(found.is_empty());
        let why: Vec<_> = tried.iter().map(|a| a.why.as_str()).collect();
        assert_eq!(
            why,
            ["holds no libnvrtc.so", "no such folder", "no site-packages of a python3 on the path", "no such folder"]
        );
    }

    #[test]
    fn what_the_hint_installs_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let target = INSTALL.split("~/").nth(1).unwrap().split(' ').next().unwrap();
        let lib = touch(dir.path().join(target).join("nvidia/cu13/lib/libnvrtc.so.13"));
        let (found, _) = Places { home: Some(dir.path().to_path_buf()), ..Places::default() }.candidates();
        assert_eq!(found[0].path, lib);
    }

    #[test]
    fn a_pyenv_shim_leads_to_the_versions_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        touch(root.join("pyenv/shims/python3"));
        let lib = root.join("pyenv/versions/3.12.1/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13");
        touch(lib.clone());
        let (found, _) = Places { path: vec![root.join("pyenv/shims")], ..Places::default() }.candidates();
        assert_eq!(found[0].path, lib);
    }
}
