//! Whether a landing that was cut short had come to its commit.

use std::path::Path;

use super::repo::Repo;
use crate::error::Result;
use crate::ops::Node;

/// HEAD's commit, if it is the green commit of `node` and holds exactly these files, by their paths in the workbench.
pub fn landed_as(root: &Path, node: &Node, files: &[(String, String)]) -> Result<Option<String>> {
    let Some(repo) = Repo::find(root)? else { return Ok(None) };
    let Some(head) = repo.head()? else { return Ok(None) };
    if !head.trailers("Assay-Node").any(|n| n == node.to_string()) {
        return Ok(None);
    }
    for (path, text) in files {
        match repo.file(head.tree, path)? {
            Some(blob) if repo.blob(blob)? == text.as_bytes() => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(head.id.to_string()))
}
