//! A build whose CubeCL compiles to SPIR-V that software drivers can run.
//!
//! - `lower_shared_implicit` of cubecl-spirv 0.11.3, for devices without `VK_KHR_workgroup_memory_explicit_layout`, declares
//!   workgroup memory by the type of a pointer to it, and takes its address by the type of the memory: SwiftShader computes
//!   wrongly from that, Mesa's driver crashes. The two types are exchanged.
//! - SwiftShader takes memory without end for loops with some 25 selections one after another: `mended/arms.rs`
//!   says why, and is put to work on every module.
//!
//! Cargo could be told of a patched crate, but would write it into the lock file; so this program stands before the compiler
//! (cargo's `RUSTC_WRAPPER`) and hands it that one crate from a mended copy. A version in which the text is
//! another fails the build, and says to look here.

// Its text goes to the copy; here it is only tested.
#[cfg(test)]
mod arms;

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
/// The copy's file that says how it was mended.
const DIFFERENCE: &str = "difference";

/// A text that occurs once in a file of the crate, and what it becomes.
struct Exchange {
    file: &'static str,
    wrong: &'static str,
    right: &'static str,
}

const EXCHANGES: [Exchange; 4] = [
    Exchange {
        file: "src/ops/memory.rs",
        wrong: "GlobalVariableOp::new(ctx, value_ty, StorageClass::Workgroup,",
        right: "GlobalVariableOp::new(ctx, ty, StorageClass::Workgroup,",
    },
    Exchange {
        file: "src/ops/memory.rs",
        wrong: "AddressOfOp::new(ctx, ty, name)",
        right: "AddressOfOp::new(ctx, value_ty, name)",
    },
    Exchange {
        file: "src/compiler.rs",
        wrong: "assembled_module: module.assemble(),",
        right: "assembled_module: crate::arms::without_empty_arms(module.assemble()),",
    },
    Exchange {
        file: "src/lib.rs",
        wrong: "pub mod attributes;",
        right: "mod arms;\npub mod attributes;",
    },
];

/// What the copy has more than the crate.
const ADDED: &str = "src/arms.rs";
const ARMS: &str = include_str!("mended/arms.rs");

/// Has `command`, a build of cargo's, compile the mended crate; the copy is made in `folder`.
pub fn build(command: &mut Command, folder: &Path) -> Result<(), Error> {
    let this = std::env::current_exe().map_err(of("find", Path::new("this program")))?;
    // The compiler is called in each crate's own folder.
    let folder = std::path::absolute(folder).map_err(of("find", folder))?;
    // A copy is as old as the crate, so that cargo would not see that it is to be mended otherwise; that it is gone it sees.
    let copy = folder.join("src");
    let made = fs::read_to_string(folder.join(DIFFERENCE));
    if copy.exists() && made.ok() != Some(difference()) {
        fs::remove_dir_all(&copy).map_err(of("remove", &copy))?;
    }
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
                file: CRATE,
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
    for Exchange { file, wrong, right } in EXCHANGES {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).map_err(of("read", &path))?;
        if text.matches(wrong).count() != 1 {
            return Err(Error::Unmended { file, wrong });
        }
        fs::write(&path, text.replace(wrong, right)).map_err(of("write", &path))?;
        aged(&sources.join("..").join(file), &path)?;
    }
    let added = folder.join(ADDED);
    fs::write(&added, ARMS).map_err(of("write", &added))?;
    aged(root, &added)?;
    let made = folder.join(DIFFERENCE);
    fs::write(&made, difference()).map_err(of("write", &made))?;
    Ok(copy.join("lib.rs"))
}

/// All that the copy has otherwise than the crate.
fn difference() -> String {
    let exchanges = EXCHANGES
        .iter()
        .flat_map(|it| [it.file, it.wrong, it.right]);
    exchanges.chain([ARMS]).collect::<Vec<_>>().join("\n")
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

    /// The texts that are exchanged, by file.
    fn originals() -> std::collections::BTreeMap<&'static str, String> {
        let mut all = std::collections::BTreeMap::<_, String>::new();
        for Exchange { file, wrong, .. } in EXCHANGES {
            *all.entry(file).or_default() += &format!("before {wrong} after\n");
        }
        all
    }

    #[test]
    fn a_copy_is_mended_and_the_original_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (original, copy) = (folder.path().join("original"), folder.path().join("copy"));
        fs::create_dir_all(original.join("src/ops")).unwrap();
        for (file, text) in originals() {
            fs::write(original.join(file), text).unwrap();
        }
        for _ in 0..2 {
            let root = mended(&original.join("src/lib.rs"), &copy).unwrap();
            assert_eq!(root, copy.join("src/lib.rs"));
        }
        let read = |folder: &Path, file: &str| fs::read_to_string(folder.join(file)).unwrap();
        for (file, text) in originals() {
            assert_eq!(read(&original, file), text);
        }
        let age = |folder: &Path, file: &str| {
            fs::metadata(folder.join(file)).unwrap().modified().unwrap()
        };
        for Exchange { file, wrong, right } in EXCHANGES {
            let text = read(&copy, file);
            assert!(text.contains(&format!("before {right} after\n")), "{text}");
            assert!(!text.contains(&format!("before {wrong} ")), "{text}");
            assert_eq!(age(&copy, file), age(&original, file));
        }
        assert_eq!(read(&copy, ADDED), ARMS);
    }

    #[test]
    fn another_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in originals() {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = text.replace("module.assemble()", "module.assembled()");
            fs::write(path, text).unwrap();
        }
        let copy = folder.path().join("copy");
        let error = mended(&folder.path().join("src/lib.rs"), &copy).unwrap_err();
        assert!(error.to_string().contains("src/compiler.rs"), "{error}");
    }

    #[test]
    fn a_copy_that_was_mended_otherwise_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("src");
        for (made, stays) in [("otherwise", false), (&*difference(), true)] {
            fs::create_dir_all(&copy).unwrap();
            fs::write(folder.path().join(DIFFERENCE), made).unwrap();
            build(&mut Command::new("cargo"), folder.path()).unwrap();
            assert_eq!(copy.exists(), stays);
        }
    }
}
