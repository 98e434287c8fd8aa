//! The generated C header of a contract: `kernels/args/<op>.h`.

use std::fmt::Write;

use super::contract::{Access, Contract, Elem};

/// `moe_gate_up` → `MoeGateUpArgs`.
pub fn struct_name(op: &str) -> String {
    let mut out = String::new();
    for word in op.split('_') {
        let mut chars = word.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out + "Args"
}

/// The header's text. A kernel that expects other arguments does not compile against it.
pub fn generate(contract: &Contract) -> String {
    let mut out = String::new();
    let w = &mut out;
    let _ =
        writeln!(w, "// Generated from the contract of `{}` by `assay ops --write-headers`. Do not edit.", contract.op);
    let _ = writeln!(w, "#pragma once\n");
    let _ = writeln!(w, "// {}", contract.summary);
    let _ = writeln!(w, "struct {} {{", struct_name(contract.op));
    let mut line = |decl: String, doc: String| {
        let _ = writeln!(w, "  {decl:<28} // {doc}");
    };
    for arg in contract.args {
        let constness = if arg.access == Access::Read { "const " } else { "" };
        let access = match arg.access {
            Access::Read => "",
            Access::Write => ", written",
            Access::Update => ", updated in place",
        };
        let null = if arg.optional { ", may be null" } else { "" };
        line(
            format!("{constness}{}* {};", arg.elem.c_name(), arg.name),
            format!("[{}]{access}{null}: {}", arg.shape.join(", "), arg.doc),
        );
    }
    for slot in contract.weights {
        let types = slot.types.iter().map(|t| t.name()).collect::<Vec<_>>().join("|");
        let null = if slot.optional { ", may be null" } else { "" };
        line(
            format!("const void* {};", slot.name),
            format!("weight {types}, dims [{}], first contiguous{null}: {}", slot.dims.join(", "), slot.doc),
        );
    }
    for step in contract.steps {
        line(format!("const int* {step};"), "this step's value, one int".into());
    }
    line("unsigned char* scratch;".into(), "as many bytes as the manifest asks for; null when none".into());
    for dim in contract.dims {
        line(format!("int {dim};"), "dimension".into());
    }
    for scalar in contract.scalars {
        let ty = match scalar.elem {
            Elem::F32 => "float",
            Elem::I32 => "int",
        };
        line(format!("{ty} {};", scalar.name), scalar.doc.into());
    }
    out.push_str("};\n");
    out
}
