//! What of a lake in S3 is archived, and how it is brought back. Told by the objects' storage class, never by their age.
//!
//! An archived object has to be restored before anything can read it, and stays readable for as many days as were asked for.
//! Athena passes over one that is not, in silence: so it is looked for before a query, in the days that the query needs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use chrono::DateTime;
use object_store::path::Path;

use super::signed::{Asks, Signed};
use crate::lake::{Day, Place, State, Table, layout};

/// How long an archived object takes at most until it can be read, by how it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Within 12 hours
    Standard,
    /// Within 48 hours from Deep Archive, at a fraction of the price
    Bulk,
}

impl Tier {
    const fn name(self) -> &'static str {
        match self {
            Tier::Standard => "Standard",
            Tier::Bulk => "Bulk",
        }
    }
}

/// How an object stands that has an archive's storage class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It can't be read.
    Archived,
    /// It was asked for, and can't be read yet.
    Coming,
    /// It can be read until then, milliseconds since 1970 UTC.
    Here { until_ms: i64 },
}

/// An object with an archive's storage class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    pub table: Table,
    pub day: Day,
    /// Its key in the lake.
    pub key: Path,
    pub bytes: u64,
    /// Whether it is in Deep Archive, from which Bulk takes two days.
    pub deep: bool,
    pub standing: Standing,
}

/// The bucket of a lake, as far as archives are concerned.
pub struct Archive {
    signed: Signed,
    /// The address of the bucket, without `/` at its end.
    bucket: String,
    prefix: Path,
}

impl Archive {
    /// That of a lake; `None` for a folder, which has none.
    ///
    /// # Errors
    /// Where no region is known.
    pub async fn of(place: &Place) -> anyhow::Result<Option<Archive>> {
        let Place::S3 { bucket, prefix } = place else { return Ok(None) };
        let endpoint = super::endpoint("S3").await;
        let region = match (super::region().await, &endpoint) {
            (None, Some(_)) => "us-east-1".to_owned(),
            (region, _) => super::region_or(region.as_deref()).await?,
        };
        let usual = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.{usual}"));
        let bucket = format!("{}/{bucket}", endpoint.trim_end_matches('/'));
        Ok(Some(Archive { signed: Signed::new("s3", &region)?, bucket, prefix: prefix.clone() }))
    }

    /// The archived objects of a table that the state has in force in some days, with how they stand.
    ///
    /// # Errors
    /// Where S3 does not say.
    pub async fn of_days(&self, state: &State, table: Table, days: &BTreeSet<Day>) -> anyhow::Result<Vec<Archived>> {
        let mut keys = BTreeMap::new();
        for day in days {
            let Some(run) = state.days.get(day).and_then(|runs| runs.of(table)) else { continue };
            keys.extend((0..run.parts.len()).map(|part| (layout::run_part(table, *day, &run.run, part), *day)));
        }
        let mut archived = Vec::new();
        for listed in self.list(table.name()).await? {
            let Some(deep) = is_deep(&listed.class) else { continue };
            let Some(day) = keys.get(&listed.key) else { continue };
            let standing = self.standing(&listed.key).await?;
            archived.push(Archived { table, day: *day, key: listed.key, bytes: listed.bytes, deep, standing });
        }
        Ok(archived)
    }

    /// Asks for an object, or for more days of one that is here.
    ///
    /// # Errors
    /// Where S3 does not take it.
    pub async fn restore(&self, key: &Path, days: u32, tier: Tier) -> anyhow::Result<()> {
        let body = format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>{days}</Days>\
             <GlacierJobParameters><Tier>{}</Tier></GlacierJobParameters></RestoreRequest>",
            tier.name()
        );
        let address = format!("{}?restore=", self.address(key));
        let (status, _, said) =
            self.asked("POST", &address, &body).await.with_context(|| format!("restoring `{key}`"))?;
        let said = String::from_utf8_lossy(&said);
        match element(&said, "Code") {
            _ if (200..300).contains(&status) => Ok(()),
            Some("RestoreAlreadyInProgress") => Ok(()),
            code => {
                let message = element(&said, "Message").unwrap_or("no reason");
                let hint = if code == Some("AccessDenied") { "\nhint: who asks needs s3:RestoreObject" } else { "" };
                anyhow::bail!("can't restore `{key}`: {message} ({}){hint}", code.unwrap_or("no code"))
            }
        }
    }

    async fn standing(&self, key: &Path) -> anyhow::Result<Standing> {
        let doing = || format!("asking how `{key}` stands");
        let (status, headers, _) = self.asked("HEAD", &self.address(key), "").await.with_context(doing)?;
        anyhow::ensure!((200..300).contains(&status), "{}: S3 answers {status}", doing());
        Ok(standing(headers.get("x-amz-restore").and_then(|value| value.to_str().ok())))
    }

    /// Every object below a folder of the lake.
    async fn list(&self, folder: &str) -> anyhow::Result<Vec<Listed>> {
        let below = self.full(&Path::from(folder));
        let (mut listed, mut token) = (Vec::new(), None);
        loop {
            let more =
                token.map(|token: String| format!("continuation-token={}&", encoded(&token))).unwrap_or_default();
            let address = format!("{}?{more}list-type=2&prefix={}%2F", self.bucket, encoded(below.as_ref()));
            let (status, _, said) = self.asked("GET", &address, "").await.context("listing what is archived")?;
            let said = String::from_utf8_lossy(&said);
            if !(200..300).contains(&status) {
                anyhow::bail!(
                    "listing what is archived: {} ({status})",
                    element(&said, "Message").unwrap_or("S3 gives no reason")
                );
            }
            for text in said.split("<Contents>").skip(1) {
                let Some(key) = element(text, "Key").and_then(|key| Path::parse(key).ok()) else { continue };
                let Some(key) = key.prefix_match(&self.prefix).map(|parts| parts.collect::<Path>()) else { continue };
                let bytes = element(text, "Size").and_then(|size| size.parse().ok()).unwrap_or(0);
                let class = element(text, "StorageClass").unwrap_or("STANDARD").to_owned();
                listed.push(Listed { key, bytes, class });
            }
            token = element(&said, "NextContinuationToken").map(|token| token.replace("&amp;", "&"));
            if token.is_none() {
                return Ok(listed);
            }
        }
    }

    async fn asked(
        &self,
        method: &'static str,
        address: &str,
        body: &str,
    ) -> anyhow::Result<(u16, reqwest::header::HeaderMap, bytes::Bytes)> {
        /// How often it is tried while S3 is busy.
        const ATTEMPTS: u32 = 6;
        let mut pause = std::time::Duration::from_millis(200);
        for attempt in 1.. {
            let request = self.signed.request(&Asks { method, address, headers: &[], body }).await?;
            match self.signed.send(request).await {
                Ok((status, ..)) if (status >= 500 || status == 429) && attempt < ATTEMPTS => {}
                Ok(answer) => return Ok(answer),
                Err(_) if attempt < ATTEMPTS => {}
                Err(what) => anyhow::bail!("{}: {what}", self.bucket),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        anyhow::bail!("{} does not answer", self.bucket)
    }

    fn full(&self, key: &Path) -> Path {
        self.prefix.parts().chain(key.parts()).collect()
    }

    fn address(&self, key: &Path) -> String {
        let parts: Vec<_> = self.full(key).parts().map(|part| encoded(part.as_ref())).collect();
        format!("{}/{}", self.bucket, parts.join("/"))
    }
}

/// An object as a listing has it.
struct Listed {
    key: Path,
    bytes: u64,
    class: String,
}

/// Whether a storage class is an archive that has to be asked, and whether it is the deep one.
fn is_deep(class: &str) -> Option<bool> {
    match class {
        "DEEP_ARCHIVE" => Some(true),
        "GLACIER" => Some(false),
        // Instant Retrieval (GLACIER_IR) is read like any other.
        _ => None,
    }
}

/// What S3's header says of a restored object: `ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"`.
fn standing(header: Option<&str>) -> Standing {
    let Some(header) = header else { return Standing::Archived };
    if header.contains("ongoing-request=\"true\"") {
        return Standing::Coming;
    }
    let until = header.split("expiry-date=\"").nth(1).and_then(|rest| rest.split('"').next());
    let until = until.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    until.map_or(Standing::Archived, |until| Standing::Here { until_ms: until.timestamp_millis() })
}

/// The text of the first element of this name. The lake's keys have no letter that XML writes in another way.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let from = xml.split(&format!("<{name}>")).nth(1)?;
    from.split("</").next()
}

/// As an address writes it.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, b| {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => all.push(char::from(b)),
            _ => all.push_str(&format!("%{b:02X}")),
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_object_says_until_when() {
        assert_eq!(standing(None), Standing::Archived);
        assert_eq!(standing(Some("ongoing-request=\"true\"")), Standing::Coming);
        let here = "ongoing-request=\"false\", expiry-date=\"Fri, 23 Nov 2029 00:00:00 GMT\"";
        assert_eq!(standing(Some(here)), Standing::Here { until_ms: 1_890_086_400_000 });
    }

    #[test]
    fn only_classes_that_must_be_asked_are_archives() {
        let classes = ["STANDARD", "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE"];
        assert_eq!(classes.map(is_deep), [None, None, None, None, Some(false), Some(true)]);
    }

    #[test]
    fn listings_and_addresses_are_read_and_written() {
        let xml = "<A><Contents><Key>a/b=1/c.parquet</Key><Size>7</Size></Contents></A>";
        assert_eq!((element(xml, "Key"), element(xml, "Size")), (Some("a/b=1/c.parquet"), Some("7")));
        assert_eq!(element(xml, "StorageClass"), None);
        assert_eq!(encoded("dt=2026-01-05/ä"), "dt%3D2026-01-05%2F%C3%A4");
    }
}
