//! Days that are archived in S3, so that an answer lacks them.

use std::collections::BTreeSet;

use object_store::path::Path;

use crate::{
    aws::archive::{Archive, Standing},
    lake::{Place, State, Table},
};

/// Objects of days that are asked for and can't be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub keys: Vec<Path>,
    /// Which days they are.
    pub what: String,
    /// How they come back.
    pub hint: String,
}

impl Missing {
    /// What an answer without them says.
    pub fn warning(&self) -> String {
        format!("{} and missing from this answer; {}", self.what, self.hint)
    }
}

/// The archived objects of some tables of a lake with rows of a time, milliseconds since 1970 UTC; `None` where there are
/// none, as in a folder.
///
/// # Errors
/// Where S3 does not say.
pub async fn missing(
    place: &Place,
    state: &State,
    tables: impl Iterator<Item = Table>,
    range_ms: (i64, i64),
) -> anyhow::Result<Option<Missing>> {
    let Some(archive) = Archive::of(place).await? else { return Ok(None) };
    let mut missing = Vec::new();
    for table in tables {
        let days = state.days_with(table, range_ms);
        let archived = archive.of_days(state, table, &days).await?;
        missing.extend(archived.into_iter().filter(|object| !matches!(object.standing, Standing::Here { .. })));
    }
    let days: BTreeSet<_> = missing.iter().map(|object| object.day).collect();
    let (Some(first), Some(last)) = (days.first(), days.last()) else { return Ok(None) };
    let count =
        if days.len() == 1 { format!("{first} is") } else { format!("{} days from {first} to {last} are", days.len()) };
    let hint = if missing.iter().all(|object| object.standing == Standing::Coming) {
        "they were asked for and are on their way: `vitals restore status` shows it".to_owned()
    } else {
        format!("`vitals restore --from {first} --to {last}` brings them back within 12 hours")
    };
    let keys = missing.iter().map(|object| object.key.clone()).collect();
    Ok(Some(Missing { keys, what: format!("{count} archived"), hint }))
}
