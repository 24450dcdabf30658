//! Where the Vulkan loader is, and where it would look for drivers: the search order of the Khronos loader on Linux.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

const LOADER: &str = "libvulkan.so.1";

/// The machine to look at: its files and its environment.
pub struct Machine<'a> {
    /// What stands for `/`.
    pub root: &'a Path,
    /// The value of an environment variable, `None` where it is unset or empty.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "ICD")]
    icd: Icd,
}

#[derive(Deserialize)]
struct Icd {
    library_path: PathBuf,
    library_arch: Option<String>,
}

impl Machine<'_> {
    /// The manifests of drivers that the loader could load.
    pub fn drivers(&self) -> Vec<PathBuf> {
        let mut candidates: Vec<PathBuf> = match self.override_variable() {
            Some((_, value)) => std::env::split_paths(&value).collect(),
            None => self.driver_folders(),
        };
        candidates.extend(self.paths("VK_ADD_DRIVER_FILES"));
        candidates
            .iter()
            .flat_map(|path| manifests(path))
            .filter(|path| is_usable(path))
            .collect()
    }

    /// The variable that replaces the search, and its value. The newer name wins.
    pub fn override_variable(&self) -> Option<(&'static str, OsString)> {
        ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
            .into_iter()
            .find_map(|name| (self.variable)(name).map(|value| (name, value)))
    }

    fn driver_folders(&self) -> Vec<PathBuf> {
        let home = (self.variable)("HOME").map(PathBuf::from);
        let in_home = |variable: &str, default: &str| {
            let given = (self.variable)(variable).map(PathBuf::from);
            given.or_else(|| home.as_ref().map(|home| home.join(default)))
        };
        let listed = |variable: &str, defaults: &[&str]| match (self.variable)(variable) {
            Some(value) => std::env::split_paths(&value).collect(),
            None => self.rooted(defaults),
        };
        let mut folders: Vec<PathBuf> = Vec::new();
        folders.extend(in_home("XDG_CONFIG_HOME", ".config"));
        folders.extend(listed("XDG_CONFIG_DIRS", &["etc/xdg"]));
        folders.extend(self.rooted(&["usr/local/etc", "etc"]));
        folders.extend(in_home("XDG_DATA_HOME", ".local/share"));
        folders.extend(listed("XDG_DATA_DIRS", &["usr/local/share", "usr/share"]));
        // NixOS patches its loader to look here too.
        folders.extend(self.rooted(&["run/opengl-driver/share"]));
        folders
            .iter()
            .map(|folder| folder.join("vulkan").join("icd.d"))
            .collect()
    }

    /// Whether the dynamic linker would find the loader library.
    pub fn has_loader(&self) -> bool {
        let architecture = std::env::consts::ARCH;
        let multiarch = format!("{architecture}-linux-gnu");
        let standard = [
            "lib",
            "usr/lib",
            "lib64",
            "usr/lib64",
            "usr/local/lib",
            "usr/local/lib64",
        ];
        let mut folders = self.paths("LD_LIBRARY_PATH");
        folders.extend(self.rooted(&standard));
        folders.extend(
            self.rooted(&["lib", "usr/lib"])
                .iter()
                .map(|lib| lib.join(&multiarch)),
        );
        folders.iter().any(|folder| folder.join(LOADER).exists())
            || fs::read(self.root.join("etc/ld.so.cache")).is_ok_and(|cache| {
                cache
                    .windows(LOADER.len())
                    .any(|part| part == LOADER.as_bytes())
            })
    }

    fn rooted(&self, paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(|path| self.root.join(path)).collect()
    }

    fn paths(&self, variable: &str) -> Vec<PathBuf> {
        (self.variable)(variable)
            .iter()
            .flat_map(std::env::split_paths)
            .collect()
    }
}

/// The manifests that a path stands for: itself, or the JSON files of a folder.
fn manifests(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return vec![path.to_owned()];
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    found.sort_unstable();
    found
}

/// Whether the manifest can be read, is for this word size, and names a library that is there. A bare library name is
/// left to the dynamic linker.
fn is_usable(path: &Path) -> bool {
    let manifest = fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
    let Some(Manifest { icd }) = manifest else {
        return false;
    };
    let word_size = if cfg!(target_pointer_width = "64") {
        "64"
    } else {
        "32"
    };
    let fits = icd.library_arch.is_none_or(|bits| bits == word_size);
    let bare = icd.library_path.components().count() == 1;
    let library = path
        .parent()
        .unwrap_or(Path::new("/"))
        .join(&icd.library_path);
    fits && (bare || library.exists())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Scene {
        root: tempfile::TempDir,
        variables: BTreeMap<&'static str, OsString>,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
                variables: BTreeMap::new(),
            }
        }

        fn write(&self, path: &str, text: &str) -> PathBuf {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        /// Writes a manifest whose library exists beside it.
        fn driver(&self, path: &str) -> PathBuf {
            let manifest = self.write(path, r#"{"ICD": {"library_path": "./driver.so"}}"#);
            fs::write(manifest.with_file_name("driver.so"), "").unwrap();
            manifest
        }

        fn set(&mut self, name: &'static str, value: &Path) {
            self.variables.insert(name, value.into());
        }

        fn look<T>(&self, question: impl FnOnce(&Machine) -> T) -> T {
            let variable = |name: &str| self.variables.get(name).cloned();
            question(&Machine {
                root: self.root.path(),
                variable: &variable,
            })
        }

        fn drivers(&self) -> Vec<PathBuf> {
            self.look(|machine| machine.drivers())
        }
    }

    #[test]
    fn an_empty_machine_has_neither_loader_nor_driver() {
        let scene = Scene::new();
        assert!(scene.drivers().is_empty());
        assert!(!scene.look(|machine| machine.has_loader()));
    }

    #[test]
    fn every_default_folder_is_searched() {
        for folder in [
            "usr/share",
            "usr/local/share",
            "etc",
            "usr/local/etc",
            "etc/xdg",
            "run/opengl-driver/share",
        ] {
            let scene = Scene::new();
            let manifest = scene.driver(&format!("{folder}/vulkan/icd.d/some.json"));
            assert_eq!(scene.drivers(), [manifest], "{folder}");
        }
    }

    #[test]
    fn xdg_variables_replace_their_defaults_only() {
        let mut scene = Scene::new();
        scene.driver("usr/share/vulkan/icd.d/hidden.json");
        let system = scene.driver("etc/vulkan/icd.d/system.json");
        let listed = scene.driver("opt/share/vulkan/icd.d/listed.json");
        let home = scene.driver("home/.local/share/vulkan/icd.d/home.json");
        let (opt, person) = (
            scene.root.path().join("opt/share"),
            scene.root.path().join("home"),
        );
        scene.set("XDG_DATA_DIRS", &opt);
        scene.set("HOME", &person);
        assert_eq!(scene.drivers(), [system, home, listed]);
    }

    #[test]
    fn driver_files_hide_the_older_variable_and_the_folders() {
        let mut scene = Scene::new();
        scene.driver("usr/share/vulkan/icd.d/hidden.json");
        let old = scene.driver("old/old.json");
        let new = scene.driver("new/new.json");
        scene.set("VK_ICD_FILENAMES", &old);
        assert_eq!(scene.drivers(), [old]);
        scene.set("VK_DRIVER_FILES", &new);
        assert_eq!(scene.drivers(), std::slice::from_ref(&new));
        scene.set("VK_DRIVER_FILES", new.parent().unwrap());
        assert_eq!(scene.drivers(), [new], "a folder stands for its manifests");
        scene.set("VK_DRIVER_FILES", Path::new("/nowhere/at/all.json"));
        assert!(scene.drivers().is_empty());
    }

    #[test]
    fn manifests_left_behind_by_a_removed_driver_do_not_count() {
        let scene = Scene::new();
        let folder = "usr/share/vulkan/icd.d";
        scene.write(
            &format!("{folder}/gone.json"),
            r#"{"ICD": {"library_path": "/nowhere/gone.so"}}"#,
        );
        scene.write(&format!("{folder}/broken.json"), "{");
        scene.write(
            &format!("{folder}/notes.txt"),
            r#"{"ICD": {"library_path": "a.so"}}"#,
        );
        let other = if cfg!(target_pointer_width = "64") {
            "32"
        } else {
            "64"
        };
        scene.write(
            &format!("{folder}/other.json"),
            &format!(r#"{{"ICD": {{"library_path": "a.so", "library_arch": "{other}"}}}}"#),
        );
        assert!(scene.drivers().is_empty());
        let bare = scene.write(
            &format!("{folder}/bare.json"),
            r#"{"ICD": {"library_path": "libGLX_x.so.0"}}"#,
        );
        assert_eq!(
            scene.drivers(),
            [bare],
            "the dynamic linker finds a bare name"
        );
    }

    #[test]
    fn the_loader_is_found_in_folders_on_the_library_path_and_in_the_cache() {
        let scene = Scene::new();
        scene.write(
            &format!("usr/lib/{}-linux-gnu/{LOADER}", std::env::consts::ARCH),
            "",
        );
        assert!(scene.look(|machine| machine.has_loader()));

        let mut scene = Scene::new();
        let library = scene.write(&format!("opt/vulkan/{LOADER}"), "");
        assert!(!scene.look(|machine| machine.has_loader()));
        scene.set("LD_LIBRARY_PATH", library.parent().unwrap());
        assert!(scene.look(|machine| machine.has_loader()));

        let scene = Scene::new();
        scene.write(
            "etc/ld.so.cache",
            "\0libfoo.so.1\0libvulkan.so.1\0/opt/libvulkan.so.1\0",
        );
        assert!(scene.look(|machine| machine.has_loader()));
    }
}
