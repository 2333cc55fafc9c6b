//! The page: one HTML file that needs nothing else.
//!
//! Its parts are in `templates/report/`. What may run or style it is named by hash in a content security policy, so that
//! nothing else does, whatever a device calls itself. Data is text in a script element that is not run, written such that
//! it can't end that element.

use std::sync::LazyLock;

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::data::Data;

const SKELETON: &str = include_str!("../../templates/report/page.html");
/// The scripts in the order in which they run.
const SCRIPTS: [&str; 2] =
    [include_str!("../../templates/report/uPlot.iife.min.js"), include_str!("../../templates/report/app.js")];
/// The styles, the later ones counting more.
const STYLES: [&str; 2] =
    [include_str!("../../templates/report/uPlot.min.css"), include_str!("../../templates/report/style.css")];

/// The page with a report in it.
#[derive(Debug, Clone, Copy)]
pub struct Page;

/// Where a page is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    File,
    Server,
}

impl Page {
    /// As a file of its own, which never asks anybody for anything.
    pub fn file(data: &Data) -> anyhow::Result<String> {
        assemble(&json(data)?, Home::File)
    }

    /// As it is served, with [`Page::served_csp`] as a header; it fetches newer data from where it came.
    pub fn served(data: &Data) -> anyhow::Result<String> {
        assemble(&json(data)?, Home::Server)
    }

    /// The value of the header `Content-Security-Policy` of the served page.
    pub fn served_csp() -> &'static str {
        static CSP: LazyLock<String> = LazyLock::new(|| format!("{}; frame-ancestors 'none'", csp(Home::Server)));
        &CSP
    }
}

/// Any value as JSON for an HTML page as well as for anybody else.
pub fn json(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string(value).context("writing a report as JSON")?;
    Ok(escaped(&text))
}

/// JSON without a character that means something to HTML, or that ends a line of JavaScript. Outside of JSON's own
/// strings none of them can stand.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + json.len() / 64);
    for character in json.chars() {
        match character {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text
}

/// The skeleton, line by line, with what its placeholders stand for. What is put in is not looked at again.
fn assemble(json: &str, home: Home) -> anyhow::Result<String> {
    let mut page = String::with_capacity(SKELETON.len() + json.len() + 256 * 1024);
    let mut put = 0;
    for line in SKELETON.lines() {
        let wrapped = |open: &str, parts: [&str; 2], close: &str| {
            parts.map(|part| format!("<{open}>{}</{close}>", as_hashed(part))).join("\n")
        };
        let part = match line.trim() {
            "<!--{csp}-->" if home == Home::Server => String::new(),
            "<!--{csp}-->" => format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{}\">", csp(home)),
            "<!--{style}-->" => wrapped("style", STYLES, "style"),
            "<!--{scripts}-->" => wrapped("script", SCRIPTS, "script"),
            "<!--{data}-->" => format!("<script type=\"application/json\" id=\"data\">{json}</script>"),
            _ => {
                page.push_str(line);
                page.push('\n');
                continue;
            }
        };
        put += 1;
        page.push_str(&part);
        page.push('\n');
    }
    anyhow::ensure!(put == 4, "the page's skeleton has {put} of its 4 placeholders; this is a fault of the program");
    Ok(page)
}

/// A script or style as the browser hashes it: with line ends of one character, as HTML reads all of them.
fn as_hashed(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fn csp(home: Home) -> String {
    let hashes = |parts: [&str; 2]| parts.map(|part| format!("'sha256-{}'", hash(&as_hashed(part)))).join(" ");
    let connect = match home {
        Home::File => "'none'",
        Home::Server => "'self'",
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src {connect}; img-src data:; base-uri 'none'; \
         form-action 'none'",
        hashes(SCRIPTS),
        hashes(STYLES)
    )
}

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::data::Device;
    use super::*;

    fn hostile(name: &str) -> Data {
        let device = Device {
            device_id: name.to_owned(),
            episodes: 1,
            artifacts: 0,
            peak_score: Some(1.0),
            news2: None,
            readings: 1,
            last_seen_ms: 0,
            last_outlier_ms: None,
            cause: Some(name.to_owned()),
            why: Some(name.to_owned()),
        };
        Data { lake: name.to_owned(), devices: vec![device], ..Data::default() }
    }

    /// What stands in the page's data element, by the rule of HTML: up to the first `</script`.
    fn data_of(page: &str) -> serde_json::Value {
        let from = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
        let to = page[from..].to_ascii_lowercase().find("</script").unwrap();
        serde_json::from_str(&page[from..from + to]).unwrap()
    }

    /// The texts of the elements of a name and without attributes, as a browser cuts them out.
    fn elements<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
        let (open, close) = (format!("<{name}>"), format!("</{name}"));
        page.match_indices(&open)
            .map(|(at, _)| {
                let from = at + open.len();
                &page[from..from + page[from..].to_ascii_lowercase().find(&close).unwrap()]
            })
            .collect()
    }

    const NASTY: [&str; 8] = [
        "</script><script>alert(1)</script>",
        "</SCRIPT >",
        "<!--<script>",
        "]]>&lt;/script&gt;",
        "<!--{scripts}-->",
        "\u{2028}\u{2029}\"\\\u{0}\n",
        "'; alert(1) //",
        "<img src=x onerror=alert(1)>",
    ];

    #[test]
    fn no_text_of_a_device_can_end_the_data() {
        for name in NASTY {
            let data = hostile(name);
            for page in [Page::file(&data).unwrap(), Page::served(&data).unwrap()] {
                assert_eq!(data_of(&page)["devices"][0]["device_id"], name);
                assert_eq!(data_of(&page)["lake"], name);
                assert_eq!(elements(&page, "script").len(), 2, "{name}");
                assert_eq!(page.matches("<script").count(), 3, "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn escaped_json_says_the_same_and_has_nothing_of_html(name in ".{0,60}", more in "[<>&/!a-z-]{0,40}") {
            let data = hostile(&format!("{name}{more}"));
            let text = json(&data).unwrap();
            let none = !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']);
            prop_assert!(none, "{}", text);
            let back: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back, serde_json::to_value(&data).unwrap());
        }
    }

    #[test]
    fn the_policy_allows_exactly_what_the_page_holds() {
        let page = Page::file(&Data::default()).unwrap();
        let from = page.find("content=\"default-src").unwrap() + "content=\"".len();
        let policy = &page[from..from + page[from..].find('"').unwrap()];
        for (name, directive) in [("script", "script-src "), ("style", "style-src ")] {
            let allowed = policy.split("; ").find_map(|part| part.strip_prefix(directive)).unwrap();
            let held: Vec<String> =
                elements(&page, name).iter().map(|text| format!("'sha256-{}'", hash(text))).collect();
            assert_eq!(allowed, held.join(" "));
            assert_eq!(held.len(), 2);
        }
        assert!(policy.contains("connect-src 'none'") && policy.starts_with("default-src 'none'"), "{policy}");
        assert!(Page::served_csp().contains("connect-src 'self'"));
        assert!(!Page::served(&Data::default()).unwrap().contains("http-equiv"));
        // The hash of the empty text is known.
        assert_eq!(hash(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn the_page_asks_nobody_else_for_anything() {
        let skeleton = SKELETON.to_ascii_lowercase();
        for wrong in ["src=", "href=\"http", "href=\"//", " onclick=", " onload=", " style=", "<script", "<style"] {
            assert!(!skeleton.contains(wrong), "the page has `{wrong}`");
        }
        for style in STYLES.map(str::to_ascii_lowercase) {
            assert!(!style.contains("@import") && !style.contains("url("), "{style}");
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_null() {
        let data = Data {
            model: super::super::data::ModelCard { threshold: Some(f64::NAN), ..Default::default() },
            ..Data::default()
        };
        assert!(json(&data).unwrap().contains("\"threshold\":null"));
    }
}
