use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use interprocess::local_socket::traits::{Listener as _, Stream as _};
use interprocess::local_socket::{Listener, ListenerOptions, Name, Stream};

#[cfg(unix)]
use crate::layout;

/// Where a run listens. Dropping it removes what it made.
#[derive(Debug)]
pub struct ControlListener {
    listener: Option<Listener>,
    address: Address,
    /// Removed at the end: files first, then the folder they were in.
    made: Vec<PathBuf>,
}

/// A connection to a run.
#[derive(Debug)]
pub struct ControlStream(Stream);

impl ControlStream {
    /// Limits how long a read waits; it then fails with `WouldBlock` or `TimedOut`.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_recv_timeout(time)
    }

    /// Limits how long a write waits.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_send_timeout(time)
    }
}

impl Read for ControlStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for ControlStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl ControlListener {
    /// Listens for the run in `run`, whose writer the caller is: whatever lies in the place of the
    /// socket belongs to a process that is gone, and is replaced.
    ///
    /// # Errors
    ///
    /// What the system says where neither the run's directory nor the temporary one takes a socket.
    pub fn bind(run: &Path, run_id: &str) -> io::Result<Self> {
        platform::bind(run, run_id)
    }

    /// Waits for a client.
    ///
    /// # Errors
    ///
    /// What the system says; the next call may succeed.
    pub fn accept(&self) -> io::Result<ControlStream> {
        match &self.listener {
            Some(listener) => listener.accept().map(ControlStream),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// What wakes [`accept`](Self::accept), from another thread: a client that says nothing.
    pub fn waker(&self) -> impl FnOnce() + Send + use<> {
        let address = self.address.clone();
        move || {
            // Nobody waits any more if this fails.
            let _ = address.connect();
        }
    }
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        // The listener removes its own socket; what is left is the link to it and its folder.
        drop(self.listener.take());
        for path in &self.made {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// Connects to the run in `run`.
///
/// # Errors
///
/// `NotFound` or `ConnectionRefused` where no process listens; what else the system says.
pub fn connect(run: &Path) -> io::Result<ControlStream> {
    Address::of(run)?.connect()
}

#[derive(Clone, Debug)]
enum Address {
    #[cfg(unix)]
    File(PathBuf),
    #[cfg(not(unix))]
    Pipe(String),
}

impl Address {
    fn name(&self) -> io::Result<Name<'_>> {
        #[cfg(unix)]
        {
            use interprocess::local_socket::{GenericFilePath, ToFsName};
            let Self::File(path) = self;
            path.as_path().to_fs_name::<GenericFilePath>()
        }
        #[cfg(not(unix))]
        {
            use interprocess::local_socket::{GenericNamespaced, ToNsName};
            let Self::Pipe(name) = self;
            name.as_str().to_ns_name::<GenericNamespaced>()
        }
    }

    fn connect(&self) -> io::Result<ControlStream> {
        Stream::connect(self.name()?).map(ControlStream)
    }
}

#[cfg(unix)]
mod platform {
    use std::fs::{self, DirBuilder};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{DirBuilderExt, symlink};

    use interprocess::os::unix::local_socket::ListenerOptionsExt;

    use super::*;

    /// Bytes of a socket's path that every Unix takes: macOS has 104 with the end, Linux 108.
    const LONGEST_PATH: usize = 103;

    /// The folder of a socket that does not lie in its run's directory begins with this.
    const FOLDER: &str = "bellows-control-";

    impl Address {
        pub(super) fn of(run: &Path) -> io::Result<Self> {
            let path = run.join(layout::CONTROL);
            let path = match fs::read_link(&path) {
                Ok(target) => target,
                Err(_) if path.as_os_str().len() <= LONGEST_PATH => path,
                Err(_) => run.canonicalize()?.join(layout::CONTROL),
            };
            Ok(Self::File(path))
        }
    }

    pub(super) fn bind(run: &Path, _: &str) -> io::Result<ControlListener> {
        let link = run.join(layout::CONTROL);
        remove_stale(&link);
        let whole = run.canonicalize()?.join(layout::CONTROL);
        if whole.as_os_str().as_bytes().len() <= LONGEST_PATH
            && let Ok(listener) = listen(&whole, true)
        {
            return Ok(listener);
        }
        // Too long a path, a file system without sockets, or a system that cannot keep others from
        // a socket but by its folder.
        let folder = private_folder()?;
        let made = vec![link.clone(), folder.clone()];
        let bound = listen(&folder.join("sock"), true)
            .or_else(|_| listen(&folder.join("sock"), false))
            .and_then(|listener| {
                symlink(folder.join("sock"), &link)?;
                Ok(listener)
            });
        match bound {
            Ok(mut listener) => {
                listener.made = made;
                Ok(listener)
            }
            Err(error) => {
                let _ = fs::remove_dir(&folder);
                Err(error)
            }
        }
    }

    fn listen(path: &Path, own_mode: bool) -> io::Result<ControlListener> {
        let address = Address::File(path.to_owned());
        let mut options = ListenerOptions::new().name(address.name()?);
        if own_mode {
            options = options.mode(0o600);
        }
        Ok(ControlListener {
            listener: Some(options.create_sync()?),
            made: Vec::new(),
            address,
        })
    }

    fn private_folder() -> io::Result<PathBuf> {
        let mut number = 0u32;
        loop {
            let name = format!("{FOLDER}{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            // Making it is the test that nobody else did.
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Ok(folder),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What a killed process left: the socket, or the link and what it points to.
    fn remove_stale(link: &Path) {
        if let Ok(target) = fs::read_link(link)
            && let Some(folder) = target.parent()
            && folder
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(FOLDER))
        {
            let _ = fs::remove_file(&target);
            // Only an empty folder goes.
            let _ = fs::remove_dir(folder);
        }
        let _ = fs::remove_file(link);
    }
}

#[cfg(not(unix))]
mod platform {
    use super::*;

    impl Address {
        pub(super) fn of(run: &Path) -> io::Result<Self> {
            let manifest = crate::Manifest::read(run).map_err(io::Error::other)?;
            Ok(Self::Pipe(format!("bellows-{}", manifest.run_id)))
        }
    }

    pub(super) fn bind(_: &Path, run_id: &str) -> io::Result<ControlListener> {
        let address = Address::Pipe(format!("bellows-{run_id}"));
        #[allow(unused_mut)]
        let mut options = ListenerOptions::new().name(address.name()?);
        #[cfg(windows)]
        {
            use interprocess::os::windows::local_socket::ListenerOptionsExt;
            use interprocess::os::windows::security_descriptor::SecurityDescriptor;
            // Full access for the pipe's owner, none for anyone else.
            let owner_alone: Vec<u16> = "D:P(A;;GA;;;OW)\0".encode_utf16().collect();
            let owner_alone =
                widestring::U16CStr::from_slice(&owner_alone).map_err(io::Error::other)?;
            options = options.security_descriptor(SecurityDescriptor::deserialize(owner_alone)?);
        }
        Ok(ControlListener {
            listener: Some(options.create_sync()?),
            made: Vec::new(),
            address,
        })
    }
}
