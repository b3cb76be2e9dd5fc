//! Values of flags and files: hex and base64, and how they are shown.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use grey_core::NONCE_BYTES;
use grey_proof::{ExpectedMeasurement, KnownModelHash, ModelHashScheme};

use crate::{failure::Failure, files};

/// Longest value that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 80;
/// Bytes of a salt.
const SALT_BYTES: usize = 32;

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

/// Shortest and longest time between two looks.
const SECONDS_MIN: f64 = 0.1;
const SECONDS_MAX: f64 = 3600.0;

/// Standard, padded base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Another's text, whole and escaped: nothing that is printed can steer a terminal.
pub(crate) fn escaped(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).collect()
}

/// Another's text, escaped; what is too long ends in `…`.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", escaped(text.get(..end).unwrap_or(text))),
        None => escaped(text),
    }
}

/// Bytes in hex of either case.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    base16ct::mixed::decode_vec(text).ok()
}

/// 32 bytes in hex, as a flag's value.
pub(crate) fn hex32(text: &str) -> Result<[u8; 32], String> {
    let bytes = unhex(text).and_then(|b| b.try_into().ok());
    bytes.ok_or_else(|| format!("expected 64 hex digits (32 bytes), found {} characters", text.chars().count()))
}

/// A measurement of any platform, as a flag's value.
pub(crate) fn measurement(text: &str) -> Result<ExpectedMeasurement, String> {
    let bytes = unhex(text).unwrap_or_default();
    let of_32 = bytes.as_slice().try_into().map(ExpectedMeasurement::Of32);
    let of_48 = bytes.as_slice().try_into().map(ExpectedMeasurement::Of48);
    of_32.or(of_48).map_err(|_| {
        format!("expected 64 or 96 hex digits (32 or 48 bytes), found {} characters", text.chars().count())
    })
}

/// A model's hash as a flag's value, with or without the scheme before it, as `grey model show` prints it.
pub(crate) fn model_hash(text: &str) -> Result<KnownModelHash, String> {
    let Some((scheme, digits)) = text.split_once(':') else {
        return Ok(KnownModelHash { hash: hex32(text)?, scheme: None });
    };
    let schemes = [ModelHashScheme::File, ModelHashScheme::Files];
    let scheme = schemes.into_iter().find(|s| s.name() == scheme).ok_or_else(|| {
        format!("unknown scheme '{}', expected {}", shown(scheme), schemes.map(ModelHashScheme::name).join(" or "))
    })?;
    Ok(KnownModelHash { hash: hex32(digits)?, scheme: Some(scheme) })
}

/// A node key that is expected, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SoftwareKey {
    Any,
    This([u8; 32]),
}

impl FromStr for SoftwareKey {
    type Err = String;

    fn from_str(text: &str) -> Result<SoftwareKey, String> {
        if text == "any" {
            return Ok(SoftwareKey::Any);
        }
        hex32(text).map(SoftwareKey::This).map_err(|e| format!("{e}; or give 'any'"))
    }
}

/// Bytes in standard base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl FromStr for Base64 {
    type Err = String;

    fn from_str(text: &str) -> Result<Base64, String> {
        STANDARD.decode(text).map(Base64).map_err(|e| format!("expected base64 (standard, padded): {e}"))
    }
}

impl fmt::Display for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64(&self.0))
    }
}

/// A time between two looks, as a flag's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        let seconds: Option<f64> = text.parse().ok();
        let seconds = seconds.filter(|s| (SECONDS_MIN..=SECONDS_MAX).contains(s));
        let seconds = seconds.ok_or_else(|| format!("expected seconds, {SECONDS_MIN} to {SECONDS_MAX}"))?;
        Ok(Seconds(Duration::from_secs_f64(seconds)))
    }
}

/// A nonce to send, as a flag's value.
pub(crate) fn nonce(text: &str) -> Result<Base64, String> {
    let nonce: Base64 = text.parse()?;
    if NONCE_BYTES.contains(&nonce.0.len()) {
        return Ok(nonce);
    }
    Err(format!("expected 8 to 64 bytes in base64, found {} bytes", nonce.0.len()))
}

/// A salt: in base64, or in the file after an `@`, which keeps it out of lists of processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SaltSource {
    Given([u8; SALT_BYTES]),
    File(PathBuf),
}

impl FromStr for SaltSource {
    type Err = String;

    fn from_str(text: &str) -> Result<SaltSource, String> {
        if let Some(path) = text.strip_prefix('@') {
            return Ok(SaltSource::File(path.into()));
        }
        let Base64(bytes) = text.parse().map_err(|e| format!("{e}; or give @FILE"))?;
        let found = bytes.len();
        let salt = bytes.try_into().map_err(|_| format!("expected {SALT_BYTES} bytes in base64, found {found} bytes"));
        salt.map(SaltSource::Given)
    }
}

impl SaltSource {
    pub(crate) fn read(&self) -> Result<[u8; SALT_BYTES], Failure> {
        match self {
            SaltSource::Given(salt) => Ok(*salt),
            SaltSource::File(path) => salt_file(path),
        }
    }
}

/// The salt in a file: its 32 bytes, or their base64.
pub(crate) fn salt_file(path: &Path) -> Result<[u8; SALT_BYTES], Failure> {
    let bytes = files::read(path)?;
    let raw: Option<[u8; SALT_BYTES]> = bytes.as_slice().try_into().ok();
    let decoded = || STANDARD.decode(bytes.trim_ascii()).ok()?.try_into().ok();
    raw.or_else(decoded).ok_or_else(|| {
        let found = bytes.len();
        Failure::refused(format!(
            "{} is no salt: expected {SALT_BYTES} bytes, or their base64, found {found} bytes",
            path.display()
        ))
        .hint(format!("make a salt with: head -c {SALT_BYTES} /dev/urandom > FILE"))
    })
}

/// An argument as a shell takes it.
pub(crate) fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=+,:@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// A path as a shell takes it, and as no command takes it for a flag.
pub(crate) fn quoted_path(path: &Path) -> String {
    let text = path.display().to_string();
    let is_flag = text.starts_with('-') && text != "-";
    quoted(&if is_flag { format!("./{text}") } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_flags() {
        assert_eq!(hex32(&"aB".repeat(32)), Ok([0xab; 32]));
        assert_eq!(hex32("ab"), Err("expected 64 hex digits (32 bytes), found 2 characters".to_owned()));
        assert!(hex32(&"é".repeat(32)).is_err());
        assert_eq!("any".parse(), Ok(SoftwareKey::Any));
        assert!("Any".parse::<SoftwareKey>().unwrap_err().ends_with("or give 'any'"));
        assert_eq!(model_hash(&format!("sha256-file:{}", "0".repeat(64))).unwrap().scheme, Some(ModelHashScheme::File));
        assert_eq!(model_hash(&"0".repeat(64)).unwrap(), KnownModelHash { hash: [0; 32], scheme: None });
        assert!(model_hash("md5:00").unwrap_err().contains("sha256-file or sha256-files"));
        assert!(matches!(measurement(&"0".repeat(96)), Ok(ExpectedMeasurement::Of48(_))));
        assert!(measurement(&"0".repeat(66)).is_err());
        assert_eq!(nonce("AAAAAAAAAAA=").unwrap().0, [0; 8]);
        assert!(nonce("AAAA").unwrap_err().contains("found 3 bytes"));
        assert!(nonce("AAAAAAAAAAA").unwrap_err().contains("base64"));
    }

    #[test]
    fn salts_come_in_three_ways() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("salt");
        let at = format!("@{}", file.display());
        for content in [vec![7; 32], format!("{}\n", base64(&[7; 32])).into_bytes()] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(at.parse::<SaltSource>().unwrap().read().unwrap(), [7; 32]);
        }
        assert_eq!(base64(&[7; 32]).parse::<SaltSource>().unwrap().read().unwrap(), [7; 32]);
        std::fs::write(&file, "short").unwrap();
        let f = at.parse::<SaltSource>().unwrap().read().unwrap_err();
        assert!(f.message.ends_with("found 5 bytes") && f.hints[0].contains("urandom"), "{f:?}");
        assert!(base64(&[7; 31]).parse::<SaltSource>().unwrap_err().contains("found 31 bytes"));
    }

    #[test]
    fn arguments_survive_a_shell() {
        assert_eq!(quoted("a/b.json"), "a/b.json");
        assert_eq!(quoted("it's mine"), r"'it'\''s mine'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted_path(Path::new("-a b")), "'./-a b'");
        assert_eq!(quoted_path(Path::new("a/-b")), "a/-b");
        assert_eq!(quoted_path(Path::new("-")), "-");
    }

    #[test]
    fn a_cut_is_marked() {
        let long = "é".repeat(SHOWN_CHARS_MAX);
        assert_eq!(shown(&long), long);
        assert_eq!(shown(&format!("{long}x")), format!("{long}…"));
        assert_eq!(escaped(&format!("{long}\u{1b}")), format!("{long}\\u{{1b}}"));
    }
}
