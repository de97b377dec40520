//! Machines without an NCCL that will do.

use std::path::Path;

use tessera_collective::{CollectiveError, nccl_id};

use crate::{
    child::say,
    fakes,
    ranks::{Rank, command},
};

pub(crate) fn ask_for_an_id() {
    match nccl_id() {
        Ok(_) => say("answer", "an id"),
        Err(CollectiveError::Missing(sentence)) => say("answer", sentence),
        Err(error) => say("answer", format!("{error:?}")),
    }
}

/// What the child says that finds its libraries in a folder.
fn answer(libraries: &Path) -> String {
    Rank::start(command("ask for an id").env("LD_LIBRARY_PATH", libraries)).says("answer")
}

#[test]
fn a_missing_library_is_named_with_where_it_was_sought() {
    let answer = answer(Path::new("/no/such/folder"));
    // A machine for GPUs may have one of its own.
    if answer != "an id" {
        assert!(answer.starts_with("NCCL is needed to join GPUs, and libnccl.so.2 cannot be opened"), "{answer}");
        assert!(answer.contains("LD_LIBRARY_PATH, which is /no/such/folder"), "{answer}");
        assert!(answer.contains("cannot open shared object file"), "the loader's words: {answer}");
    }
}

#[test]
fn a_library_that_is_too_old_is_refused_with_its_version() {
    let old = fakes::library("int ncclGetVersion(int *version) { *version = 21703; return 0; }");
    assert_eq!(answer(old.path()), "NCCL 2.18.0 or newer is needed to join GPUs, and libnccl.so.2 is version 2.17.3");
}

#[test]
fn a_library_that_is_something_else_is_refused_with_what_it_lacks() {
    let other = fakes::library("int ncclGetVersion(int *version) { *version = 22809; return 0; }");
    let answer = answer(other.path());
    assert!(answer.contains("libnccl.so.2 is no NCCL that can join GPUs") && answer.contains("ncclGetUniqueId"), "{answer}");
}

#[test]
fn with_the_library_there_is_an_id() {
    let mut child = command("ask for an id");
    assert_eq!(Rank::start(child.envs(tessera_test_gpu::environment(1))).says("answer"), "an id");
}
