//! What a lake can't answer yet, and what to run then: never an unexplained empty table.

use object_store::path::Path;

use crate::lake::{Store, StoreError, View, landing};

/// How many footers of unscored files are read to count what waits; more are not worth the time.
const FOOTERS: usize = 64;

/// How far the scoring of a lake has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether the lake has nothing at all.
    pub empty: bool,
    /// Whether anything has been scored.
    pub scored: bool,
    /// Closed days with readings that were not scored, in order.
    pub unscored_days: Vec<String>,
    /// Readings that have landed and wait for the scorer; at least so many.
    pub waiting: u64,
    /// The model in force.
    pub model: String,
}

/// Looks at a picture of the lake.
pub async fn standing(store: &Store, view: &View) -> Result<Standing, StoreError> {
    let days = &view.state.days;
    let unscored = days.iter().filter(|(_, runs)| runs.readings.is_some() && runs.scored_by.is_none());
    let scored_days = days.values().any(|runs| runs.scored_by.is_some());
    let mut waiting = 0;
    for key in unscored_files(view).into_iter().take(FOOTERS) {
        match landing::footer(store, &key).await {
            Ok(footer) => waiting += footer.readings,
            // A query says so of files that are damaged, and a file that is gone has been compacted.
            Err(StoreError::Damaged { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Standing {
        empty: view.is_empty(),
        scored: scored_days || !view.scored.is_empty(),
        unscored_days: unscored.map(|(day, _)| day.to_string()).collect(),
        waiting,
        model: view.state.model().to_owned(),
    })
}

/// Landing files above their partition's cut that have no scored file, and none after them has one.
fn unscored_files(view: &View) -> Vec<Path> {
    let mut heads = std::collections::BTreeMap::new();
    for file in &view.scored {
        let head = heads.entry((file.chain.as_str(), file.partition)).or_insert(file.first);
        *head = file.first.max(*head);
    }
    let waits = |file: &&landing::SliceFile| {
        heads.get(&(file.chain.as_str(), file.partition)).is_none_or(|head| file.first > *head)
    };
    view.landing.iter().filter(waits).map(|file| file.key.clone()).collect()
}

impl Standing {
    /// What people should know before they trust an answer about outliers, with what to run; nothing where all is well.
    pub fn remarks(&self, place: &str) -> Vec<String> {
        if self.empty {
            return vec![format!(
                "the lake `{place}` is empty: fill it with `vitals import FILE`, or run `vitals up` and `vitals simulate`; \
                 `vitals demo` shows it all"
            )];
        }
        if !self.scored {
            return vec![
                "nothing has been scored yet: run `vitals score` (with the built-in model), or `vitals train` first"
                    .to_owned(),
            ];
        }
        let mut remarks = Vec::new();
        if let [first, .., last] = self.unscored_days.as_slice() {
            let days = self.unscored_days.len();
            remarks.push(format!("{days} days from {first} to {last} are not scored yet: run `vitals score`"));
        } else if let [day] = self.unscored_days.as_slice() {
            remarks.push(format!("{day} is not scored yet: run `vitals score`"));
        }
        if self.waiting > 0 {
            let waiting = self.waiting;
            remarks.push(format!("{waiting} readings have landed that are not scored yet: run `vitals score`"));
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_standing_says_what_to_run() {
        let empty = Standing { empty: true, ..Standing::default() };
        assert!(empty.remarks("/x")[0].contains("`/x` is empty") && empty.remarks("/x")[0].contains("vitals import"));
        let unscored = Standing { waiting: 5, ..Standing::default() };
        assert!(unscored.remarks("")[0].starts_with("nothing has been scored yet"));
        let days = vec!["2026-01-01".to_owned(), "2026-01-02".to_owned()];
        let partly = Standing { scored: true, unscored_days: days, waiting: 7, ..Standing::default() };
        assert_eq!(
            partly.remarks(""),
            [
                "2 days from 2026-01-01 to 2026-01-02 are not scored yet: run `vitals score`",
                "7 readings have landed that are not scored yet: run `vitals score`",
            ]
        );
        assert!(Standing { scored: true, ..Standing::default() }.remarks("").is_empty());
    }
}
