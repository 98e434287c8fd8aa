//! The ledger from outside: what is appended is found again, what is tampered with is refused, a kill loses at most
//! the row being written, and git history holds what the ledger says.

#[path = "ledger/append.rs"]
mod append;
#[path = "ledger/attempts.rs"]
mod attempts;
#[path = "ledger/binary.rs"]
mod binary;
#[path = "ledger/confined.rs"]
mod confined;
#[path = "ledger/ended.rs"]
mod ended;
#[path = "ledger/fixture.rs"]
mod fixture;
#[path = "ledger/git.rs"]
mod git;
#[path = "ledger/land.rs"]
mod land;
#[path = "ledger/landings.rs"]
mod landings;
#[path = "ledger/odd.rs"]
mod odd;
#[path = "ledger/schema.rs"]
mod schema;
#[path = "ledger/standing.rs"]
mod standing;
#[path = "ledger/statement.rs"]
mod statement;
#[path = "ledger/syscalls.rs"]
mod syscalls;
#[path = "ledger/tamper.rs"]
mod tamper;
