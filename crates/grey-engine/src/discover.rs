//! Finds the user's runtimes. Looks at the file system only through the paths it is given, so that
//! every order of precedence is a test.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::engine::EngineKind;

/// What discovery may know of the environment.
#[derive(Clone, Debug, Default)]
pub struct DiscoverEnv {
    /// Roots of active Python environments, most specific first: the embedding interpreter's
    /// prefix, `VIRTUAL_ENV`, `CONDA_PREFIX`.
    pub active: Vec<PathBuf>,
    /// Grey's own environment, e.g. `~/.local/share/grey/venv`.
    pub managed: Option<PathBuf>,
    /// Roots of system-wide Pythons, e.g. `/usr`, `/usr/local`.
    pub system_prefixes: Vec<PathBuf>,
    /// Folders of shared libraries, e.g. `/usr/lib/x86_64-linux-gnu`.
    pub library_dirs: Vec<PathBuf>,
}

impl DiscoverEnv {
    /// Reads this process's environment. `python_prefix` is given by an embedding Python.
    pub fn read(python_prefix: Option<PathBuf>) -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let data_home = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")));
        DiscoverEnv {
            active: python_prefix.into_iter().chain(var("VIRTUAL_ENV")).chain(var("CONDA_PREFIX")).collect(),
            managed: data_home.map(|d| d.join("grey/venv")),
            system_prefixes: vec!["/usr/local".into(), "/usr".into()],
            library_dirs: [
                "/usr/local/lib".to_owned(),
                format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH),
                "/usr/lib64".to_owned(),
                "/usr/lib".to_owned(),
            ]
            .map(PathBuf::from)
            .into(),
        }
    }
}

/// Where a runtime was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator named it.
    Option,
    /// An active virtual environment.
    Virtualenv,
    /// Grey's own environment.
    Managed,
    /// The system.
    System,
}

impl Source {
    /// Stable word.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Option => "option",
            Source::Virtualenv => "virtualenv",
            Source::Managed => "managed",
            Source::System => "system",
        }
    }
}

/// A runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its main library.
    pub library: PathBuf,
    /// The version that its file name tells; the host asks the library itself.
    pub version: Option<String>,
    /// Where it was found.
    pub source: Source,
}

/// No runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// In words.
    pub what: String,
    /// Places looked at, in order.
    pub searched: Vec<PathBuf>,
    /// The command that installs it.
    pub install: String,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; install it with: {}", self.what, self.install)
    }
}

impl std::error::Error for NotFound {}

/// A runtime as it is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// What Grey calls it.
    pub engine: &'static str,
    /// Its name on PyPI.
    pub package: &'static str,
    /// The engine that uses it; `None` where this version of Grey has none.
    pub kind: Option<EngineKind>,
}

/// The runtimes that can be installed.
pub const PACKAGES: [Package; 4] = [
    Package { engine: "onnxruntime", package: "onnxruntime", kind: Some(EngineKind::OnnxRuntime) },
    Package { engine: "torch", package: "torch", kind: None },
    Package { engine: "tensorflow", package: "tensorflow", kind: None },
    Package { engine: "litert", package: "ai-edge-litert", kind: None },
];

/// The exact command that installs an engine's runtime where discovery will find it.
pub fn install_command(kind: EngineKind, env: &DiscoverEnv) -> String {
    let package = match kind {
        EngineKind::OnnxRuntime => "onnxruntime",
    };
    match (&env.managed, env.active.first()) {
        (Some(_), _) => format!("grey engine install {}", kind.name()),
        (None, Some(root)) => format!("{}/bin/python -m pip install {package}", root.display()),
        (None, None) => format!("python3 -m venv .venv && . .venv/bin/activate && pip install {package}"),
    }
}

/// The version of a package in a Python environment, as its metadata names it
/// (<https://packaging.python.org/en/latest/specifications/recording-installed-packages/>).
pub fn installed(root: &Path, package: &str) -> Option<String> {
    let prefix = format!("{}-", package.replace('-', "_"));
    let found = |dir: PathBuf| {
        entries(&dir).find_map(|(name, _)| {
            let version = name.strip_suffix(".dist-info")?.to_ascii_lowercase();
            Some(version.strip_prefix(&prefix)?.to_owned())
        })
    };
    package_dirs(root).into_iter().find_map(found)
}

/// ONNX Runtime: the option, the active environments, the managed one, the system. An option that
/// names no file is an error, never a reason to take another.
pub fn onnxruntime(option: Option<&Path>, env: &DiscoverEnv) -> Result<Found, NotFound> {
    let install = install_command(EngineKind::OnnxRuntime, env);
    if let Some(path) = option {
        if !path.is_file() {
            return Err(NotFound {
                what: format!("the ONNX Runtime library {} that was configured does not exist", path.display()),
                searched: vec![path.to_owned()],
                install,
            });
        }
        let library = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        return Ok(Found { version: version_in_name(path), library, source: Source::Option });
    }
    let mut searched = Vec::new();
    let roots = env.active.iter().map(|r| (r, Source::Virtualenv));
    let roots = roots.chain(env.managed.iter().map(|r| (r, Source::Managed)));
    let roots = roots.chain(env.system_prefixes.iter().map(|r| (r, Source::System)));
    for (root, source) in roots {
        for packages in package_dirs(root) {
            let dir = packages.join("onnxruntime/capi");
            if let Some(library) = newest_library(&dir) {
                return Ok(Found { version: version_in_name(&library), library, source });
            }
            searched.push(dir);
        }
    }
    for dir in &env.library_dirs {
        if let Some(library) = newest_library(dir) {
            return Ok(Found { version: version_in_name(&library), library, source: Source::System });
        }
        searched.push(dir.clone());
    }
    Err(NotFound { what: "no ONNX Runtime was found".into(), searched, install })
}

/// `lib/python3.X/{site,dist}-packages` of an environment, newest Python first.
fn package_dirs(root: &Path) -> Vec<PathBuf> {
    let lib = root.join("lib");
    let mut pythons: Vec<(Vec<u32>, PathBuf)> =
        entries(&lib).filter_map(|(name, path)| Some((numbers(name.strip_prefix("python")?), path))).collect();
    pythons.sort_by(|a, b| b.0.cmp(&a.0));
    if pythons.is_empty() {
        return vec![lib.join("python3/site-packages")];
    }
    pythons
        .into_iter()
        .flat_map(|(_, p)| [p.join("site-packages"), p.join("dist-packages")])
        .filter(|p| p.is_dir())
        .collect()
}

/// The newest `libonnxruntime.so.X.Y.Z` of a folder (or the plain `.so`).
fn newest_library(dir: &Path) -> Option<PathBuf> {
    entries(dir)
        .filter_map(|(name, path)| Some((numbers(name.strip_prefix("libonnxruntime.so")?), path)))
        .max_by(|a, b| a.0.cmp(&b.0))
        .map(|(_, path)| path)
}

fn entries(dir: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    // A folder that cannot be read holds no runtime that could be used.
    let read = std::fs::read_dir(dir).into_iter().flatten().flatten();
    read.filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())))
}

fn numbers(text: &str) -> Vec<u32> {
    text.split('.').filter_map(|n| n.parse().ok()).collect()
}

fn version_in_name(library: &Path) -> Option<String> {
    let name = library.file_name()?.to_str()?;
    let version = name.strip_prefix("libonnxruntime.so.")?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str) -> PathBuf {
        let p = root.join(path);
        std::fs::create_dir_all(p.parent().unwrap()).unwrap();
        std::fs::write(&p, b"").unwrap();
        p
    }

    const IN_VENV: &str = "lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0";

    #[test]
    fn the_order_is_option_active_managed_system() {
        let dir = tempfile::tempdir().unwrap();
        let root = |n: &str| dir.path().join(n);
        let env = DiscoverEnv {
            active: vec![root("empty"), root("venv")],
            managed: Some(root("managed")),
            system_prefixes: vec![root("usr")],
            library_dirs: vec![root("usr/lib/x")],
        };
        let missing = onnxruntime(None, &env).unwrap_err();
        assert_eq!(missing.install, "grey engine install onnxruntime");
        let homeless = DiscoverEnv { managed: None, ..env.clone() };
        let command = install_command(EngineKind::OnnxRuntime, &homeless);
        assert!(command.ends_with("empty/bin/python -m pip install onnxruntime"), "{command}");
        assert_eq!(missing.searched.len(), 5);

        let expect = |path: PathBuf, source| {
            let f = onnxruntime(None, &env).unwrap();
            assert_eq!((f.library, f.source), (path, source));
        };
        expect(put(&root("usr/lib/x"), "libonnxruntime.so.1.18.0"), Source::System);
        expect(
            put(&root("usr"), "lib/python3/dist-packages/onnxruntime/capi/libonnxruntime.so.1.19.0"),
            Source::System,
        );
        expect(put(&root("managed"), IN_VENV), Source::Managed);
        expect(put(&root("venv"), IN_VENV), Source::Virtualenv);
        let chosen = put(dir.path(), "mine/libonnxruntime.so.1.20.1");
        let f = onnxruntime(Some(&chosen), &env).unwrap();
        assert_eq!((f.version.as_deref(), f.source), (Some("1.20.1"), Source::Option));
        let e = onnxruntime(Some(&root("nowhere.so")), &env).unwrap_err();
        assert!(e.what.contains("nowhere.so that was configured does not exist"), "{e}");
    }

    #[test]
    fn a_package_tells_its_version() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "lib/python3.12/site-packages/ai_edge_litert-2.1.0.dist-info/METADATA");
        put(dir.path(), "lib/python3.12/site-packages/torch_extra-9.dist-info/METADATA");
        assert_eq!(installed(dir.path(), "ai-edge-litert").as_deref(), Some("2.1.0"));
        assert_eq!(installed(dir.path(), "torch"), None);
    }

    #[test]
    fn the_newest_of_several_counts() {
        let dir = tempfile::tempdir().unwrap();
        for v in ["1.9.0", "1.32.0", "1.4.1"] {
            put(dir.path(), &format!("lib/python3.9/site-packages/onnxruntime/capi/libonnxruntime.so.{v}"));
        }
        put(dir.path(), "lib/python3.9/site-packages/onnxruntime/capi/libonnxruntime_providers_shared.so");
        let env = DiscoverEnv { active: vec![dir.path().into()], ..DiscoverEnv::default() };
        assert_eq!(onnxruntime(None, &env).unwrap().version.as_deref(), Some("1.32.0"));
        put(dir.path(), "lib/python3.13/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0");
        assert_eq!(onnxruntime(None, &env).unwrap().version.as_deref(), Some("1.30.0"), "the newest Python's");
    }
}
