//! Finding the file that a group shares. Rank 0 makes it; once all have joined it has no name any more.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use tessera_types::Rank;

use super::{mapping, presence};
use crate::{AbortHandle, CollectiveError, GroupConfig, deadline::Deadline, host::FOLDER};

const PREFIX: &str = "tessera-";
/// How often a rank looks for a file that is not there yet.
const PAUSE: Duration = Duration::from_millis(1);

/// The group's file, in which this rank has its place. Rank 0's takes the name away when dropped: when all have joined,
/// or joining failed.
pub(super) struct Shared {
    pub(super) file: File,
    _name: Option<Name>,
}

struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn open(config: &GroupConfig, abort: &AbortHandle) -> Result<Shared, CollectiveError> {
    let path = path(config);
    if config.rank == Rank(0) {
        sweep();
        let (file, name) = create(&path, config)?;
        return Ok(Shared { file, _name: Some(name) });
    }
    let deadline = Deadline::after(config.deadline);
    loop {
        if let Some(file) = find(&path, config)? {
            return Ok(Shared { file, _name: None });
        }
        abort.check()?;
        deadline.check(0, "join")?;
        thread::sleep(PAUSE);
    }
}

fn path(config: &GroupConfig) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    let group: String = config.group.chars().map(plain).collect();
    Path::new(FOLDER).join(format!("{PREFIX}{group}-{}", config.epoch))
}

/// Makes the file under a passing name, whole and with this rank's place taken, before anyone can see it.
fn create(path: &Path, config: &GroupConfig) -> Result<(File, Name), CollectiveError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let passing = format!(".{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let passing = Name(Path::new(FOLDER).join(passing));
    let failed = |error: io::Error| io_error("create", &passing.0, &error);
    let file = options().create_new(true).mode(0o600).open(&passing.0).map_err(failed)?;
    presence::reserve(&file, mapping::bytes(config.size)).map_err(failed)?;
    presence::take(&file, 0).map_err(failed)?;
    match fs::hard_link(&passing.0, path) {
        Ok(()) => Ok((file, Name(path.to_owned()))),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(taken(config)),
        Err(error) => Err(io_error("name", path, &error)),
    }
}

/// Opens the file and takes this rank's place. `None` when it is not there, or its maker is gone.
fn find(path: &Path, config: &GroupConfig) -> Result<Option<File>, CollectiveError> {
    let failed = |error: io::Error| io_error("open", path, &error);
    let file = match options().open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !presence::is_taken(&file, 0).map_err(failed)? {
        return Ok(None);
    }
    if file.metadata().map_err(failed)?.len() != mapping::bytes(config.size) as u64 {
        return Err(CollectiveError::Mismatch(format!("{} is not for a group of {}", path.display(), config.size)));
    }
    if !presence::take(&file, config.rank.0.into()).map_err(failed)? {
        return Err(taken(config));
    }
    Ok(Some(file))
}

/// Removes what makers that died while joining have left.
fn sweep() {
    let Ok(folder) = fs::read_dir(FOLDER) else { return };
    for entry in folder.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let stale = || options().open(entry.path()).and_then(|file| presence::is_taken(&file, 0)).is_ok_and(|taken| !taken);
        if ours && stale() {
            drop(Name(entry.path()));
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

fn taken(config: &GroupConfig) -> CollectiveError {
    let GroupConfig { group, epoch, rank, .. } = config;
    CollectiveError::Mismatch(format!("rank {rank} of group {group}, epoch {epoch}, is taken on this host"))
}

fn io_error(what: &str, path: &Path, error: &io::Error) -> CollectiveError {
    CollectiveError::Io { context: format!("cannot {what} {}", path.display()), error: error.to_string() }
}
