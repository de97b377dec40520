//! Which images of the kernels a device may run, in the order in which they are tried.

use std::path::{Path, PathBuf};

/// The oldest and newest compute capabilities of a major version for which there may be images: the kernels want 8.0.
const OLDEST_MAJOR: u32 = 8;
const NEWEST_MINOR: u32 = 9;

/// Images for a device of this compute capability: those in the first folder before those in the next, and of a folder the
/// one made for it, then cubins for older devices of its major version, the newest first, then PTX that its driver compiles.
/// Cubins for one device alone, whose names end with a letter, are not for others.
pub(super) fn candidates(folders: &[PathBuf], capability: (u32, u32)) -> Vec<PathBuf> {
    let (major, minor) = capability;
    let exact = format!("tessera.sm_{major}{minor}a.cubin");
    let cubins = (0..=minor).rev().map(|minor| format!("tessera.sm_{major}{minor}.cubin"));
    let older = (OLDEST_MAJOR..major).rev().flat_map(|major| (0..=NEWEST_MINOR).rev().map(move |minor| (major, minor)));
    let ptx = (0..=minor).rev().map(|minor| (major, minor)).chain(older);
    let ptx = ptx.map(|(major, minor)| format!("tessera.compute_{major}{minor}.ptx"));
    let names: Vec<String> = [exact].into_iter().chain(cubins).chain(ptx).collect();
    folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).collect()
}

/// The folders to look in: the one that was asked for, then `cubins` beside the program.
pub(super) fn folders(asked: Option<&Path>) -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("cubins")));
    asked.map(Path::to_owned).into_iter().chain(beside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tools/build.py` makes.
    const BUILT: [&str; 5] = ["sm_80.cubin", "sm_89.cubin", "sm_90a.cubin", "compute_80.ptx", "compute_90.ptx"];

    /// Of the images that are built, those that are tried, in order.
    fn tried(capability: (u32, u32)) -> Vec<String> {
        let names = candidates(&[PathBuf::from("cubins")], capability).into_iter().map(|path| path.display().to_string());
        let names = names.filter_map(|name| name.strip_prefix("cubins/tessera.").map(str::to_owned));
        names.filter(|name| BUILT.contains(&name.as_str())).collect()
    }

    #[test]
    fn the_image_made_for_a_device_comes_first_and_none_for_a_newer_one_comes_at_all() {
        assert_eq!(tried((8, 0)), ["sm_80.cubin", "compute_80.ptx"]);
        assert_eq!(tried((8, 6)), ["sm_80.cubin", "compute_80.ptx"]);
        assert_eq!(tried((8, 9)), ["sm_89.cubin", "sm_80.cubin", "compute_80.ptx"]);
        assert_eq!(tried((9, 0)), ["sm_90a.cubin", "compute_90.ptx", "compute_80.ptx"]);
        assert_eq!(tried((10, 0)), ["compute_90.ptx", "compute_80.ptx"]);
        assert_eq!(tried((12, 0)), ["compute_90.ptx", "compute_80.ptx"]);
    }

    #[test]
    fn a_folder_that_was_asked_for_comes_before_what_lies_beside_the_program() {
        let names = candidates(&[PathBuf::from("asked"), PathBuf::from("beside")], (9, 0));
        let first_beside = names.iter().position(|path| path.starts_with("beside")).unwrap();
        assert!(first_beside > 0 && names[first_beside..].iter().all(|path| path.starts_with("beside")));
        assert_eq!(names[0], PathBuf::from("asked/tessera.sm_90a.cubin"));
    }

    #[test]
    fn a_cubin_for_one_device_is_for_no_other() {
        for capability in [(9, 1), (10, 0)] {
            assert!(
                !candidates(&[PathBuf::new()], capability).contains(&PathBuf::from("tessera.sm_90a.cubin")),
                "{capability:?}"
            );
        }
    }
}
