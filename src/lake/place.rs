//! Where a lake is: a folder of this machine, or a bucket of S3.

use std::{
    ffi::OsString,
    fmt,
    path::{Path as FsPath, PathBuf},
    str::FromStr,
};

use object_store::path::Path;

/// The place of a lake, as people write it: a folder, or `s3://BUCKET/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine.
    Folder(PathBuf),
    /// The keys below a prefix of a bucket, of S3 or of anything that speaks its protocol.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What every key of the lake begins with; empty where the whole bucket is the lake.
        prefix: Path,
    },
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There is no text.
    #[error("it is empty: write a folder, or s3://BUCKET/PREFIX")]
    Empty,
    /// It is an address, and not one of S3.
    #[error("`{0}` can't hold a lake: write a folder, or s3://BUCKET/PREFIX")]
    Scheme(String),
    /// No bucket can have this name.
    #[error(
        "`{bucket}` is no name of a bucket: {why}; write s3://BUCKET/PREFIX with a name of 3 to 63 lower-case letters, \
         digits, dots and hyphens"
    )]
    Bucket {
        /// The name.
        bucket: String,
        /// What is against it.
        why: &'static str,
    },
    /// No keys can begin with this.
    #[error("`{prefix}` is no prefix of keys: {why}")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// What is against it.
        why: String,
    },
}

impl Place {
    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&FsPath> {
        match self {
            Place::Folder(folder) => Some(folder),
            Place::S3 { .. } => None,
        }
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Place, PlaceError> {
        if text.is_empty() {
            return Err(PlaceError::Empty);
        }
        // A folder whose name looks like an address is written `./…`.
        let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Ok(Place::Folder(text.into()));
        };
        if scheme != "s3" {
            return Err(PlaceError::Scheme(text.to_owned()));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(why) = against(bucket) {
            return Err(PlaceError::Bucket { bucket: bucket.to_owned(), why });
        }
        let refused = |why: String| PlaceError::Prefix { prefix: prefix.to_owned(), why };
        if prefix.starts_with('/') {
            return Err(refused("it begins with `/`".to_owned()));
        }
        let prefix = Path::parse(prefix).map_err(|e| refused(e.to_string()))?;
        Ok(Place::S3 { bucket: bucket.to_owned(), prefix })
    }
}

impl TryFrom<OsString> for Place {
    type Error = PlaceError;

    /// A folder's name need not be text.
    fn try_from(name: OsString) -> Result<Place, PlaceError> {
        name.into_string().map_or_else(|name| Ok(Place::Folder(name.into())), |text| text.parse())
    }
}

impl From<PathBuf> for Place {
    fn from(folder: PathBuf) -> Place {
        Place::Folder(folder)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder(folder) => folder.display().fmt(f),
            Place::S3 { bucket, prefix } if prefix.as_ref().is_empty() => write!(f, "s3://{bucket}"),
            Place::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// What is against a bucket's name, by the rules of S3.
fn against(bucket: &str) -> Option<&'static str> {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if bucket.is_empty() {
        return Some("it is empty");
    }
    if bucket.chars().any(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')) {
        return Some("it has other characters");
    }
    if !(3..=63).contains(&bucket.len()) {
        return Some("it is too short or too long");
    }
    if !end(bucket.chars().next()) || !end(bucket.chars().next_back()) || bucket.contains("..") {
        return Some("it begins or ends with a dot or a hyphen, or has two dots in a row");
    }
    bucket.parse::<std::net::Ipv4Addr>().is_ok().then_some("it is an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, prefix: &str) -> Place {
        Place::S3 { bucket: bucket.to_owned(), prefix: prefix.into() }
    }

    #[test]
    fn a_bucket_and_a_prefix_are_read_and_written() {
        for (text, place, written) in [
            ("s3://ward", s3("ward", ""), "s3://ward"),
            ("s3://ward/", s3("ward", ""), "s3://ward"),
            ("s3://ward/a", s3("ward", "a"), "s3://ward/a"),
            ("s3://my-ward.2/a/b=c/", s3("my-ward.2", "a/b=c"), "s3://my-ward.2/a/b=c"),
        ] {
            let parsed: Place = text.parse().unwrap();
            assert_eq!((&parsed, parsed.to_string().as_str()), (&place, written), "{text}");
            assert_eq!(written.parse::<Place>().unwrap(), place);
        }
    }

    #[test]
    fn everything_else_is_a_folder() {
        for text in [".vitals", "s3", "s3:/ward", "a/s3://ward", "./s3://ward", "C:\\lake", "ward 7", "://"] {
            assert_eq!(text.parse::<Place>().unwrap(), Place::Folder(text.into()));
        }
    }

    #[test]
    fn what_can_be_no_lake_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "empty"),
            ("gs://ward/a", "`gs://ward/a` can't hold a lake"),
            ("S3://ward", "can't hold a lake"),
            ("s3://", "it is empty"),
            ("s3:///a", "it is empty"),
            ("s3://Ward", "other characters"),
            ("s3://ward_7", "other characters"),
            ("s3://w", "too short"),
            ("s3://-ward", "begins or ends"),
            ("s3://wa..rd", "two dots"),
            ("s3://127.0.0.1/a", "an address"),
            ("s3://ward//a", "no prefix of keys"),
            ("s3://ward//", "no prefix of keys"),
            ("s3://ward/a//", "no prefix of keys"),
            ("s3://ward/a//b", "no prefix of keys"),
            ("s3://ward/../b", "no prefix of keys"),
        ] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_need_not_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(vec![b'a', 0xff]);
        assert_eq!(Place::try_from(name.clone()).unwrap(), Place::Folder(name.into()));
    }
}
