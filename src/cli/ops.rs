use serde_json::json;

use super::output;
use crate::error::{Error, Result};
use crate::ops::{OPS, header};
use crate::words::count;
use crate::workbench::Workbench;

/// List every op: contract, OPS ids, upstream names
#[derive(clap::Args)]
pub struct Ops {
    /// Print the contracts as JSON
    #[arg(long)]
    json: bool,
    /// Write the generated argument headers to kernels/args/
    #[arg(long)]
    write_headers: bool,
}

impl Ops {
    pub fn run(&self) -> Result<u8> {
        if self.write_headers {
            let dir = Workbench::find(".".as_ref())?.kernels().join("args");
            std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
            for op in OPS {
                let path = dir.join(format!("{}.h", op.contract().op));
                std::fs::write(&path, header::generate(op.contract())).map_err(|e| Error::io(&path, e))?;
            }
            output::println(format_args!("{} in {}", count(OPS.len(), "header"), dir.display()))?;
            return Ok(0);
        }
        if self.json {
            let ops: Vec<_> = OPS
                .iter()
                .map(|op| {
                    let c = op.contract();
                    Ok(json!({
                        "name": c.op,
                        "ops_ids": c.ops_ids,
                        "aliases": c.aliases,
                        "contract": serde_json::to_value(c).map_err(|e| Error::internal(e.to_string()))?,
                    }))
                })
                .collect::<Result<_>>()?;
            output::json("assay.ops/1", json!({ "ops": ops }))?;
            return Ok(0);
        }
        let mut table = output::table(&["op", "ids", "weights", "what it computes"]);
        for op in OPS {
            let c = op.contract();
            let types: Vec<_> =
                c.typed_slots().map(|(_, s)| s.types.iter().map(|t| t.name()).collect::<Vec<_>>().join("|")).collect();
            table.add_row([c.op.to_string(), c.ops_ids.join(" "), types.join(" "), c.summary.into()]);
        }
        output::print(output::rows(&table))?;
        Ok(0)
    }
}
