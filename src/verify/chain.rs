//! Whether the landing files of every partition follow each other without hole or overlap.
//!
//! Files below the cut may have been cleaned up, so a hole there says nothing; from the cut on there may be none, as these
//! records are nowhere else. Only the footers are read.

use futures::{StreamExt, stream};

use super::report::{Chains, Place};
use crate::lake::{
    State, Store, StoreError,
    landing::{self, Footer, Kind, SliceFile},
    layout,
};

/// How many footers are read at once.
const AT_ONCE: usize = 16;

/// Checks every chain. `state` must have been read before the call: files that are listed after it cover all that it
/// leaves to landing.
pub(super) async fn check(store: &Store, state: &State) -> Result<Chains, StoreError> {
    let files = landing::list(store, &layout::LANDING.into()).await?;
    let mut chains = Chains { files: files.len() as u64, ..Chains::default() };
    for partition in files.chunk_by(|a, b| (&a.chain, a.partition) == (&b.chain, b.partition)) {
        let cut = state.cut(&partition[0].chain, partition[0].partition).offset;
        let mut link = Links::begin(&mut chains, &partition[0].chain, partition[0].partition, cut);
        let mut footers = stream::iter(partition.to_vec()).map(|file| footer(store.clone(), file)).buffered(AT_ONCE);
        while let Some((file, footer)) = footers.next().await {
            link.follow(&file, footer)?;
        }
        link.end();
    }
    for (chain, partitions) in &state.cut {
        for (&partition, cut) in partitions {
            // A clean-up leaves the last file of each chain.
            if cut.offset > 0 && !files.iter().any(|file| file.chain == *chain && file.partition == partition) {
                Links::begin(&mut chains, chain, partition, cut.offset).end();
            }
        }
    }
    Ok(chains)
}

async fn footer(store: Store, file: SliceFile) -> (SliceFile, Result<Footer, StoreError>) {
    let footer = landing::footer(&store, &file.key).await;
    (file, footer)
}

/// One chain being followed.
struct Links<'a> {
    chains: &'a mut Chains,
    chain: &'a str,
    partition: i32,
    cut: i64,
    /// Where the next file must begin; `None` where that can't be known.
    expected: Option<i64>,
    /// Where the last file ends, or where it begins if that is all there is to know.
    end: i64,
}

impl<'a> Links<'a> {
    fn begin(chains: &'a mut Chains, chain: &'a str, partition: i32, cut: i64) -> Links<'a> {
        chains.chains += 1;
        // What came before the cut may be gone, but not what comes after it.
        Links { chains, chain, partition, cut, expected: Some(0), end: 0 }
    }

    fn place(&self, first: i64, next: i64, what: &str) -> Place {
        Place { chain: self.chain.to_owned(), partition: self.partition, first, next, what: what.to_owned() }
    }

    fn follow(&mut self, file: &SliceFile, footer: Result<Footer, StoreError>) -> Result<(), StoreError> {
        let footer = match footer {
            Ok(footer) => footer,
            // Cleaned up since it was listed: it is below the cut, and nobody misses it.
            Err(StoreError::NotFound { .. }) if file.first < self.cut => {
                self.expected = None;
                return Ok(());
            }
            Err(StoreError::Damaged { what, .. }) => {
                if file.first >= self.cut {
                    let place = self.place(file.first, file.first, &what);
                    self.chains.damaged.add(1, place);
                }
                (self.expected, self.end) = (None, file.first);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(expected) = self.expected {
            self.compare(expected, footer.first);
        }
        if footer.kind == Kind::Gap {
            let place = self.place(footer.first, footer.next, "the log no longer had them");
            self.chains.gap.add(footer.next.abs_diff(footer.first), place);
        }
        // After an overlap the chain goes on where it came farthest.
        self.expected = Some(footer.next.max(self.expected.unwrap_or(footer.next)));
        self.end = footer.next;
        Ok(())
    }

    fn compare(&mut self, expected: i64, first: i64) {
        let missing = expected.max(self.cut);
        if first < expected {
            let place = self.place(first, expected, "the file before it covers them too");
            self.chains.overlap.add(expected.abs_diff(first), place);
        } else if first > missing {
            let place = self.place(missing, first, "no file covers them");
            self.chains.hole.add(first.abs_diff(missing), place);
        }
    }

    /// Ends the chain: its last file must not end below the cut.
    fn end(self) {
        if self.end < self.cut && self.expected.is_some() {
            let what = "the chain's last file is gone, which says where it goes on";
            let place = self.place(self.end, self.cut, what);
            self.chains.hole.add(self.cut.abs_diff(self.end), place);
        }
    }
}
