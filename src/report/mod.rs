//! Reports: what the lake says of devices, as one HTML page.
//!
//! ```text
//! lake ─ collect ─▶ Data ─ page ─▶ one HTML file
//!                     └─── server ─▶ the same page, which fetches newer data by itself
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`data`] | what a report says, in the form that the page reads |
//! | [`collect`] | gathers it from a lake, over one consistent picture |
//! | `device`, [`series`] | one device: few points that keep extremes and outliers, bands, gaps, episodes |
//! | `standing` | what waits for the scorer, what was lost, the model's card: from footers and the state |
//! | `rows` | answers of an engine as columns |
//! | [`page`] | the HTML: parts, data, security policy |
//! | [`server`], `guard`, `shared` | serves it: who may ask, and one collection at a time |

pub mod collect;
pub mod data;
mod device;
mod guard;
pub mod page;
mod rows;
pub mod series;
pub mod server;
mod shared;
mod standing;
#[cfg(test)]
mod tests;

pub use self::{
    collect::{ReportOptions, collect, device_series},
    data::{Data, Series},
    page::Page,
    server::{Access, LakeSource, Server, Source},
};
