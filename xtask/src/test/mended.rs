//! A build whose CubeCL compiles workgroup memory rightly to SPIR-V where a device lacks
//! `VK_KHR_workgroup_memory_explicit_layout`, as software drivers do.
//!
//! `lower_shared_implicit` of cubecl-spirv 0.11.3 declares such memory by the type of a pointer to it, and takes its address
//! by the type of the memory: SwiftShader computes wrongly from that, Mesa's driver crashes. Cargo could be told of a
//! patched crate, but would write it into the lock file; so this program stands before the compiler
//! (cargo's `RUSTC_WRAPPER`) and hands it that one crate from a copy with the two types exchanged. A version in which the text is
//! another fails the build, and says to look here.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::error::Error;
use crate::{cargo, ui};

/// Holds the folder for the copy, and says to this program that it is called as a compiler.
const VARIABLE: &str = "XTASK_MENDED_SOURCES";
const CRATE: &str = "cubecl_spirv";
const FILE: &str = "src/ops/memory.rs";
const EXCHANGES: [(&str, &str); 2] = [
    (
        "GlobalVariableOp::new(ctx, value_ty, StorageClass::Workgroup,",
        "GlobalVariableOp::new(ctx, ty, StorageClass::Workgroup,",
    ),
    (
        "AddressOfOp::new(ctx, ty, name)",
        "AddressOfOp::new(ctx, value_ty, name)",
    ),
];

/// Has `command`, a build of cargo's, compile the mended crate; the copy is made in `folder`.
pub fn build(command: &mut Command, folder: &Path) -> Result<(), Error> {
    let this = std::env::current_exe().map_err(of("find", Path::new("this program")))?;
    // The compiler is called in each crate's own folder.
    let folder = std::path::absolute(folder).map_err(of("find", folder))?;
    command.env("RUSTC_WRAPPER", this).env(VARIABLE, folder);
    Ok(())
}

/// The compiler's work, if cargo called this program in the compiler's place.
pub fn as_compiler() -> Option<ExitCode> {
    let folder = PathBuf::from(std::env::var_os(VARIABLE)?);
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    Some(
        compile(&compiler, arguments, &folder).unwrap_or_else(|error| {
            ui::error(&error);
            ExitCode::FAILURE
        }),
    )
}

fn compile(
    compiler: &OsStr,
    mut arguments: Vec<OsString>,
    folder: &Path,
) -> Result<ExitCode, Error> {
    let named = |pair: &[OsString]| pair[0] == "--crate-name" && pair[1] == CRATE;
    if arguments.windows(2).any(named) {
        let root = arguments
            .iter_mut()
            .find(|argument| Path::new(argument).ends_with("src/lib.rs"))
            .ok_or(Error::Unmended {
                file: FILE,
                wrong: "src/lib.rs",
            })?;
        *root = mended(Path::new(root), folder)?.into();
    }
    let mut command = Command::new(compiler);
    command.args(arguments).env_remove(VARIABLE);
    let status = cargo::status(&mut command, "Is the toolchain complete?")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Copies the crate whose root is `root` into `folder`, mended; returns the copy's root.
fn mended(root: &Path, folder: &Path) -> Result<PathBuf, Error> {
    // Cargo calls the compiler in the crate's folder, so that a relative path would do as well.
    let sources = root.parent().unwrap_or(Path::new("src"));
    let copy = folder.join("src");
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(of("remove", &copy))?;
    }
    copied(sources, &copy)?;
    let path = folder.join(FILE);
    let text = fs::read_to_string(&path).map_err(of("read", &path))?;
    fs::write(&path, exchanged(&text)?).map_err(of("write", &path))?;
    aged(&sources.join("..").join(FILE), &path)?;
    Ok(copy.join("lib.rs"))
}

fn exchanged(text: &str) -> Result<String, Error> {
    let mut text = text.to_owned();
    for (wrong, right) in EXCHANGES {
        if text.matches(wrong).count() != 1 {
            return Err(Error::Unmended { file: FILE, wrong });
        }
        text = text.replace(wrong, right);
    }
    Ok(text)
}

fn copied(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(of("create", to))?;
    for entry in fs::read_dir(from).map_err(of("read", from))? {
        let entry = entry.map_err(of("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copied(&source, &target)?;
        } else {
            // The text alone: a registry's files may be read-only.
            let text = fs::read(&source).map_err(of("read", &source))?;
            fs::write(&target, text).map_err(of("write", &target))?;
            aged(&source, &target)?;
        }
    }
    Ok(())
}

/// Makes `copy` as old as `original`: sources that are younger than the start of their compilation
/// are compiled again at the next call, with all that depends on them.
fn aged(original: &Path, copy: &Path) -> Result<(), Error> {
    let modified = fs::metadata(original)
        .and_then(|about| about.modified())
        .map_err(of("read", original))?;
    fs::File::options()
        .write(true)
        .open(copy)
        .and_then(|file| file.set_modified(modified))
        .map_err(of("write", copy))
}

/// What a failed `action` on `path` becomes.
fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARY: &str = "mod ops;";
    const MEMORY: &str = "let var = GlobalVariableOp::new(ctx, value_ty, StorageClass::Workgroup, name.clone(), None);\n\
                          let addr = AddressOfOp::new(ctx, ty, name);\n";

    #[test]
    fn a_copy_is_mended_and_the_original_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
        fs::create_dir_all(original.join("src/ops")).unwrap();
        fs::write(original.join("src/lib.rs"), LIBRARY).unwrap();
        fs::write(original.join(FILE), MEMORY).unwrap();
        for _ in 0..2 {
            let root = mended(&original.join("src/lib.rs"), &copy).unwrap();
            assert_eq!(fs::read_to_string(root).unwrap(), LIBRARY);
        }
        assert_eq!(fs::read_to_string(original.join(FILE)).unwrap(), MEMORY);
        let age = |folder: &Path| fs::metadata(folder.join(FILE)).unwrap().modified().unwrap();
        assert_eq!(age(&copy), age(&original));
        assert_eq!(
            fs::read_to_string(copy.join(FILE)).unwrap(),
            "let var = GlobalVariableOp::new(ctx, ty, StorageClass::Workgroup, name.clone(), None);\n\
             let addr = AddressOfOp::new(ctx, value_ty, name);\n"
        );
    }

    #[test]
    fn another_text_is_refused() {
        let mended_already = exchanged(MEMORY).unwrap();
        let error = exchanged(&mended_already).unwrap_err().to_string();
        assert!(error.contains(FILE), "{error}");
    }
}
