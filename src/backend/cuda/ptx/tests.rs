//! `golden.ptx` is what NVRTC 13.5 made of `golden.cu` for compute_90; tests/cuda.rs compiles the source anew where
//! there is an NVRTC, and expects the same.

use super::*;

const GOLDEN: &str = include_str!("golden.ptx");

/// Offsets in `XArgs` of golden.cu: x, out, T, scratch, K.
const X: u32 = 0;
const OUT: u32 = 8;
const SCRATCH: u32 = 24;
const K: u32 = 32;

fn stores(entry: &str) -> EntryStores {
    entry_stores(GOLDEN, entry).unwrap()
}

#[test]
fn stores_to_outputs_are_found_however_they_are_made() {
    for entry in ["honest", "by_call", "by_atomic", "vec"] {
        let found = stores(entry);
        assert!(found.count > 0 && found.members.contains(&OUT) && !found.unknown, "{entry}: {found:?}");
        assert!(!found.may_reach(X) && !found.may_reach(SCRATCH), "{entry}: {found:?}");
    }
    assert!(stores("honest").members.contains(&K), "the dimension in the index is seen too");
    assert!(stores("by_asm").may_reach(OUT));
}

#[test]
fn pointers_that_go_through_memory_count_as_any() {
    let chosen = stores("chosen");
    assert!(chosen.may_reach(OUT) && chosen.may_reach(SCRATCH), "{chosen:?}");
    let shared = stores("pointer_in_shared");
    assert!(shared.may_reach(OUT), "{shared:?}");
}

#[test]
fn stubs_store_nothing_or_elsewhere() {
    for entry in ["no_store", "dead", "to_shared", "by_call_nothing"] {
        assert_eq!(stores(entry), EntryStores::default(), "{entry}");
    }
    for entry in ["wrong_member", "to_scratch", "to_variable"] {
        let found = stores(entry);
        assert!(found.count == 1 && !found.may_reach(OUT), "{entry}: {found:?}");
    }
    assert!(stores("wrong_member").may_reach(X) && stores("to_scratch").may_reach(SCRATCH));
}

#[test]
fn an_unreachable_store_does_not_count() {
    let ptx = ".visible .entry k(\n.param .align 8 .b8 k_param_0[40]\n)\n{\nld.param.u64 %rd1, [k_param_0+8];\n\
        @%p1 bra $L1;\nbra.uni $L2;\n$L0: st.global.u32 [%rd1], 1;\n$L1:\nmov.u32 %r1, 1;\n$L2:\nret;\n\
        st.global.u32 [%rd1], 2;\n}";
    assert_eq!(entry_stores(ptx, "k").unwrap(), EntryStores::default());
    let reached = ptx.replace("bra.uni $L2", "bra.uni $L0");
    let found = entry_stores(&reached, "k").unwrap();
    assert_eq!((found.count, found.may_reach(OUT)), (1, true));
    let table = ptx.replace("bra.uni $L2;", "$T: .branchtargets $L2, $L0;\nbrx.idx %r1, $T;");
    assert_eq!(entry_stores(&table, "k").unwrap().count, 1);
}

#[test]
fn vector_loads_of_the_struct_are_told_apart() {
    let ptx = ".entry k(.param .align 16 .b8 k_param_0[40]) .maxntid 256, 1, 1\n{\n\
        ld.param.v2.u64 {%rd1, %rd2}, [k_param_0];\nst.global.v2.f32 [%rd2+8], {%f1, %f2};\nret;\n}";
    let found = entry_stores(ptx, "k").unwrap();
    assert_eq!(found.members, BTreeSet::from([OUT]));
}

#[test]
fn an_implementation_is_judged_over_its_launches() {
    let contract = crate::ops::find("rms_norm").unwrap().contract();
    // rms_norm: x, out, weight, T, scratch: scratch stands at 32 and out at 8.
    let kernel = |name: &str, offset: u32| {
        format!(
            ".entry {name}(.param .align 8 .b8 {name}_param_0[48]) {{ ld.param.u64 %rd1, [{name}_param_0+{offset}]; \
             st.global.f32 [%rd1], %f1; ret; }}\n"
        )
    };
    let offset = |name: &str| 8 * contract.arg(name).unwrap() as u32;
    let out = contract.args.iter().find(|a| a.access != Access::Read).unwrap().name;
    let scratch = 8 * (contract.args.len() + contract.weights.len() + contract.steps.len()) as u32;
    let ptx = kernel("first", scratch) + &kernel("second", offset(out)) + &kernel("bad", 0);
    let check = |entries: &[&str]| {
        let entries: Vec<_> = entries.iter().map(|e| (*e).to_owned()).collect();
        check_stub(contract, &ptx, &entries)
    };
    check(&["second"]).unwrap();
    check(&["first", "second"]).unwrap();
    for stub in [&["first"][..], &["bad"], &["second", "bad"]] {
        assert_eq!(check(stub).unwrap_err().code().id, "ptx-stub", "{stub:?}");
    }
    assert_eq!(check(&["gone"]).unwrap_err().code().id, "ptx-syntax");
}

#[test]
fn assembly_that_only_computes_passes() {
    check_assembly(GOLDEN).unwrap();
    check_assembly("// begin inline asm\n{.reg .pred p;\n.reg .b32 a, b;\n L1: @p bra L1;}\n// end inline asm")
        .unwrap();
}

#[test]
fn assembly_that_defines_or_escapes_is_refused() {
    let cases = [
        ".incbin \"/etc/passwd\";",
        "mov.u32 %r1, 0; .global .b32 x;",
        "L1:.shared .b8 s[4];",
        "L1 : .shared .b8 s[4];",
        "ret; } .visible .entry other() {",
        "{ ret;",
        "// begin inline asm\n// end inline asm",
        "/* */ .global .b8 y;",
    ];
    for text in cases {
        let ptx = format!("// begin inline asm\n{text}\n// end inline asm\n");
        assert_eq!(check_assembly(&ptx).expect_err(text).code().id, "ptx-asm", "{text}");
    }
}

#[test]
fn damaged_text_is_an_error_not_a_panic() {
    for n in (0..GOLDEN.len()).step_by(7).filter(|n| GOLDEN.is_char_boundary(*n)) {
        let _ = entry_stores(&GOLDEN[..n], "honest");
        let _ = check_assembly(&GOLDEN[..n]);
    }
    for text in ["{", "}", ".entry", ".entry k(", ".entry k() {", ".entry k() { @ }", ".section", ".entry k() { a [; }"]
    {
        assert!(entry_stores(text, "k").is_err(), "{text}");
    }
}

#[test]
fn a_store_to_a_variable_of_the_module_is_refused() {
    let error = check_variables(GOLDEN).unwrap_err();
    assert!(error.what().contains("to_variable"), "{error}");
    // What NVRTC makes of `++*const_cast<int*>(&launches)` on a `__device__ const int`, and of reading it.
    let kernel = |body: &str| {
        format!(
            ".visible .global .align 4 .u32 launches = 1;\n.visible .entry k(\n.param .align 8 .b8 k_param_0[40]\n)\n{{\n\
             ld.param.u64 %rd1, [k_param_0+8];\n{body}\nret;\n}}"
        )
    };
    let reads = "mov.u64 %rd2, launches; ld.global.u32 %r1, [%rd2]; st.global.u32 [%rd1], %r1;";
    check_variables(&kernel(reads)).unwrap();
    let writes = [
        "st.global.u32 [launches], 2;",
        "mov.u64 %rd2, launches; add.s64 %rd3, %rd2, 4; st.u32 [%rd3], 2;",
        "atom.global.add.u32 %r1, [launches], 1; st.global.u32 [%rd1], %r1;",
        "red.global.add.u32 [launches], 1;",
    ];
    for body in writes {
        assert_eq!(check_variables(&kernel(body)).unwrap_err().code().id, "ptx-variable", "{body}");
    }
}
