//! The kernels of a workbench: which file covers a node, and what that file's digest is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::Numerics;
use super::manifest::{Manifest, Variant};
use super::source::{SourceSet, hex, read_plain};
use crate::error::{Error, Result};
use crate::ops::{self, Node, header};

crate::codes! {
    KERNELS_MISSING: "kernels-missing", CouldNotRun, "There is no kernels/ folder here. assay looks for it beside assay.toml, in the \
        current folder and its parents.";
    KERNELS_LINK: "kernels-link", No, "kernels/ is a symlink. What it leads to is in no commit, so whatever is judged there could neither be \
        landed nor looked at again.";
    KERNEL_ABSENT: "kernel-absent", No, "The node has no kernel yet: neither kernels/<op>.<types>.toml nor a variant for its types \
        in kernels/<op>.toml.";
}

/// All manifests below `kernels/`, read once.
pub struct KernelTree {
    root: PathBuf,
    /// By stem; a manifest that cannot be read keeps its error.
    manifests: BTreeMap<String, Result<Manifest, String>>,
    /// Stems that are another tree's, and where it lies.
    lent: BTreeMap<String, PathBuf>,
}

/// A kernel that covers a node.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'t> {
    pub stem: &'t str,
    pub manifest: &'t Manifest,
}

impl Kernel<'_> {
    /// Variants that some schedule of this node may select, in order of preference.
    pub fn selectable(&self, node: &Node, numerics: Numerics, arch: &str) -> Vec<&Variant> {
        let mut out = Vec::new();
        for v in self.manifest.variants.iter().filter(|v| v.covers(node, numerics, arch)) {
            out.push(v);
            if v.tokens.is_none() {
                break;
            }
        }
        out
    }
}

impl KernelTree {
    pub fn open(root: &Path) -> Result<KernelTree> {
        if let Some(why) = linked(root) {
            return Err(Error::new(&KERNELS_LINK, why)
                .expected("a folder of this workbench, as git keeps it")
                .hint(format!("put the folder itself in the place of {}", root.display())));
        }
        let mut manifests = BTreeMap::new();
        let entries = std::fs::read_dir(root).map_err(|e| {
            Error::new(&KERNELS_MISSING, format!("{}: {e}", root.display()))
                .hint("run assay inside a clone, or `assay new DIR`")
        })?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(root, e))?;
            let name = entry.file_name();
            let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(".toml")) else { continue };
            let path = format!("kernels/{stem}.toml");
            let op = stem.split('.').next().unwrap_or(stem);
            let manifest = match ops::find(op) {
                None => Err(format!("{path}: there is no op `{op}`")),
                Some(op) => match read_plain(&entry.path()) {
                    Ok(text) => Manifest::parse(&path, &text, op.contract()).map_err(|e| e.to_string()),
                    Err(e) => Err(format!("{path}: {}", e.what())),
                },
            };
            manifests.insert(stem.to_string(), manifest);
        }
        Ok(KernelTree { root: root.into(), manifests, lent: BTreeMap::new() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The kernel that covers the node: `<op>.<types>` before `<op>`. `None`: nobody has written one.
    pub fn kernel(&self, node: &Node) -> Option<Result<Kernel<'_>>> {
        for stem in [node.file_stem(), node.op.clone()] {
            let Some((stem, manifest)) = self.manifests.get_key_value(&stem) else { continue };
            match manifest {
                Err(what) => return Some(Err(Error::new(&super::manifest::MANIFEST, what.clone()))),
                Ok(manifest) if manifest.variants.iter().any(|v| v.covers_types(node)) => {
                    return Some(Ok(Kernel { stem, manifest }));
                }
                Ok(_) => {}
            }
        }
        None
    }

    /// Like [`KernelTree::kernel`], with an absent kernel as an error.
    pub fn require(&self, node: &Node) -> Result<Kernel<'_>> {
        self.kernel(node).unwrap_or_else(|| {
            Err(Error::new(&KERNEL_ABSENT, format!("{node} has no kernel"))
                .expected(format!("kernels/{}.cu and kernels/{}.toml", node.file_stem(), node.file_stem()))
                .hint("assay next shows its contract and the port's source"))
        })
    }

    pub fn source(&self, kernel: &Kernel<'_>) -> Result<SourceSet> {
        self.source_of(kernel.stem)
    }

    /// The source of a stem, with the headers of the tree that it is from.
    pub fn source_of(&self, stem: &str) -> Result<SourceSet> {
        SourceSet::load(self.lent.get(stem).unwrap_or(&self.root), &format!("{stem}.cu"))
    }

    /// This tree with `other`'s word on `stems`: a stem that `other` lacks is gone. Each kernel keeps the headers of its
    /// own tree, so that two may include different versions of one.
    pub fn with(&self, other: &KernelTree, stems: &BTreeSet<String>) -> KernelTree {
        let (mut manifests, mut lent) = (self.manifests.clone(), self.lent.clone());
        for stem in stems {
            lent.remove(stem);
            match other.manifests.get(stem) {
                None => drop(manifests.remove(stem)),
                Some(manifest) => {
                    manifests.insert(stem.clone(), manifest.clone());
                    lent.insert(stem.clone(), other.lent.get(stem).unwrap_or(&other.root).clone());
                }
            }
        }
        KernelTree { root: self.root.clone(), manifests, lent }
    }

    /// Digest of everything that decides what the node's kernel is: sources, the manifest's entries for it, the
    /// contract and the argument header that the contract generates.
    pub fn closure(&self, node: &Node, kernel: &Kernel<'_>) -> Result<String> {
        self.closure_of(node, kernel, &self.source(kernel)?)
    }

    /// The same with the kernel's source as it was read before: what was judged is what is bound.
    pub fn closure_of(&self, node: &Node, kernel: &Kernel<'_>, source: &SourceSet) -> Result<String> {
        let op = ops::find(&node.op).ok_or_else(|| Error::internal(format!("no op {}", node.op)))?;
        let variants: Vec<_> =
            kernel.manifest.variants.iter().filter(|v| v.covers_types(node)).map(Variant::describe).collect();
        let parts = json!({
            "node": node.to_string(),
            "source": source.digest().to_hex().as_str(),
            "variants": variants,
            "contract": serde_json::to_value(op.contract()).map_err(|e| Error::internal(e.to_string()))?,
            "header": header::generate(op.contract()),
        });
        Ok(digest_json(&parts))
    }

    /// Stems whose manifest is broken or names no op, with the reason.
    pub fn broken(&self) -> impl Iterator<Item = (&str, &str)> {
        self.manifests.iter().filter_map(|(stem, m)| m.as_ref().err().map(|e| (stem.as_str(), e.as_str())))
    }

    /// Manifests that could be read, by stem.
    pub fn manifests(&self) -> impl Iterator<Item = (&str, &Manifest)> {
        self.manifests.iter().filter_map(|(stem, m)| m.as_ref().ok().map(|m| (stem.as_str(), m)))
    }

    pub fn stems(&self) -> impl Iterator<Item = &str> {
        self.manifests.keys().map(String::as_str)
    }

    /// Stems of `.cu` files beside which no manifest stands.
    pub fn without_manifest(&self) -> Result<Vec<String>> {
        let mut stems = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(|e| Error::io(&self.root, e))? {
            let name = entry.map_err(|e| Error::io(&self.root, e))?.file_name();
            let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(".cu")) else { continue };
            if !self.manifests.contains_key(stem) {
                stems.push(stem.to_string());
            }
        }
        stems.sort();
        Ok(stems)
    }
}

/// Whether somebody has begun a kernel of the node: there is a manifest that would be its own.
pub fn is_begun(kernels: &Path, node: &Node) -> bool {
    [node.file_stem(), node.op.clone()].iter().any(|stem| kernels.join(format!("{stem}.toml")).is_file())
}

/// Why the folder of kernels is none, if it is a link to one.
pub fn linked(root: &Path) -> Option<String> {
    let target = std::fs::read_link(root).ok()?;
    Some(format!("{} is a symlink to {}", root.display(), target.display()))
}

/// sha256 of a JSON value whose keys stand in sorted order.
pub fn digest_json(value: &serde_json::Value) -> String {
    fn sorted(v: &serde_json::Value) -> serde_json::Value {
        match v {
            serde_json::Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(k, _)| k.as_str());
                serde_json::Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect())
            }
            serde_json::Value::Array(items) => serde_json::Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    hex(&Sha256::digest(sorted(value).to_string().as_bytes()))
}
