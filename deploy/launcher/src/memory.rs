//! Memory that this process may still take: the machine's, or that of its control group where that has less.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the system keeps its control groups.
const GROUPS: &str = "/sys/fs/cgroup";
/// Where nothing can be told.
const UNKNOWN: u64 = 4 << 30;

/// Memory that can be had without swapping, or being killed for it, in bytes.
pub(crate) fn free_memory() -> u64 {
    free(&|path| fs::read_to_string(path).ok())
}

/// Reads a file, if it is there.
type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

fn free(read: Read<'_>) -> u64 {
    let meminfo = read(Path::new("/proc/meminfo")).unwrap_or_default();
    let machine = field(&meminfo, "MemAvailable:").map_or(UNKNOWN, |kib| kib << 10);
    let entries = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    entries
        .lines()
        .flat_map(|entry| groups(entry).filter_map(|group| room(&group, read)).collect::<Vec<_>>())
        .fold(machine, u64::min)
}

/// The group that a line of `/proc/self/cgroup` names, and those it is in. A container may see its own as the outermost.
fn groups(entry: &str) -> impl Iterator<Item = PathBuf> {
    let mut parts = entry.splitn(3, ':').skip(1);
    let root = match parts.next() {
        Some("") => Some(PathBuf::from(GROUPS)),
        Some(controllers) if controllers.split(',').any(|one| one == "memory") => Some(Path::new(GROUPS).join("memory")),
        _ => None,
    };
    let inner = parts.next().unwrap_or_default().trim_start_matches('/').to_owned();
    root.into_iter().flat_map(move |root| {
        let groups: Vec<_> = Path::new(&inner).ancestors().map(|inner| root.join(inner)).collect();
        groups
    })
}

/// What a group has left of its limit, if it has one; files that were read and can be read again do not count.
fn room(group: &Path, read: Read<'_>) -> Option<u64> {
    let number = |file: &str| read(&group.join(file))?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes")).unwrap_or(0);
    let stat = read(&group.join("memory.stat")).unwrap_or_default();
    let files = field(&stat, "total_inactive_file ").or_else(|| field(&stat, "inactive_file ")).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

/// The number behind a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().trim_end_matches(" kB").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> u64 {
        let text = |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned());
        free(&text)
    }

    const MACHINE: (&str, &str) = ("/proc/meminfo", "MemTotal:       8388608 kB\nMemAvailable:   4096 kB\n");

    #[test]
    fn a_control_group_has_what_is_left_of_the_least_limit_above_it() {
        let entry = ("/proc/self/cgroup", "0::/pods/one\n");
        assert_eq!(with(&[MACHINE, entry]), 4 << 20);
        let (max, current) = ("/sys/fs/cgroup/pods/one/memory.max", "/sys/fs/cgroup/pods/one/memory.current");
        assert_eq!(with(&[MACHINE, entry, (max, "max\n"), (current, "900\n")]), 4 << 20);
        let stat = ("/sys/fs/cgroup/pods/one/memory.stat", "anon 600\ninactive_file 300\n");
        assert_eq!(with(&[MACHINE, entry, (max, "1000\n"), (current, "900\n"), stat]), 400);
        let above = ("/sys/fs/cgroup/pods/memory.max", "50\n");
        assert_eq!(with(&[MACHINE, entry, (max, "1000\n"), (current, "900\n"), stat, above]), 50);
        assert_eq!(with(&[MACHINE, entry, (max, "8000000000\n")]), 4 << 20, "the machine has less");
    }

    #[test]
    fn a_container_that_sees_its_own_group_alone_has_its_limit() {
        for entry in ["0::/\n", "0::/../../not/seen\n"] {
            assert_eq!(with(&[MACHINE, ("/proc/self/cgroup", entry), ("/sys/fs/cgroup/memory.max", "77")]), 77);
        }
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let entry = ("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n");
        let (limit, used) = ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/a/memory.usage_in_bytes");
        assert_eq!(with(&[MACHINE, entry, (limit, "1000\n"), (used, "400\n")]), 600);
        assert_eq!(with(&[]), UNKNOWN);
    }
}
