//! What `graph`, `next` and `status` share: the workbench's kernels and the ledger's word on the opened model.

use std::path::{Path, PathBuf};

use crate::backend::Device;
use crate::backend::cuda::Cuda;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::plan::graph::Graph;
use crate::plan::kernels::KernelTree;
use crate::report::proof::Proof;
use crate::report::status::{Here, Status};
use crate::workbench::{WORKBENCH_MISSING, Workbench};

/// The workbench around the current folder; `None` outside of any.
pub fn workbench() -> Result<Option<Workbench>> {
    match Workbench::find(".".as_ref()) {
        Err(e) if e.code().id == WORKBENCH_MISSING.id => Ok(None),
        found => found.map(Some),
    }
}

pub fn status(bench: &Workbench, model: &Model, graph: &Graph<'_>) -> Result<Status> {
    let tree = KernelTree::open(&bench.kernels())?;
    let proofs = proofs(bench)?;
    Status::of(model, graph, &tree, proofs, here())
}

/// The ledger's last words on the nodes of the opened model. No ledger: no words.
fn proofs(bench: &Workbench) -> Result<Vec<Proof>> {
    let ledger = bench.state().join("ledger.jsonl");
    match ledger.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(&ledger, e)),
        Ok(_) => Err(Error::internal(format!("{}: this build of assay cannot read ledgers", ledger.display()))),
    }
}

/// The CUDA device of this machine, or why there is none.
fn here() -> Here {
    match Cuda::open() {
        Ok(cuda) => Here { arch: Some(cuda.info().arch.clone()), device: cuda.info().name.clone() },
        Err(e) => Here { arch: None, device: e.what().to_string() },
    }
}

/// A path as the user would type it from here.
pub fn short(path: &Path) -> PathBuf {
    let here = std::env::current_dir().and_then(|d| d.canonicalize());
    match here.ok().and_then(|d| path.strip_prefix(d).ok()) {
        Some(relative) => relative.into(),
        None => path.into(),
    }
}
