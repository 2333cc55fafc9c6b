//! When to train again.

use std::time::Duration;

use crate::lake::{State, Store, layout, now_ms};

/// How long until training is due: an interval after the last model was kept, or after the first readings came; `None`
/// where nothing has come yet.
pub async fn due_in(store: &Store, every: Duration) -> anyhow::Result<Option<Duration>> {
    let kept = store.list(&layout::MODELS.into()).await?;
    let is_model = |key: &object_store::path::Path| key.filename() == Some("model.bin");
    let last = kept.iter().filter(|entry| is_model(&entry.key)).map(|entry| entry.modified_ms).max();
    let since_ms = match last {
        Some(last) => last,
        None => match first_ms(store).await? {
            Some(first) => first,
            None => return Ok(None),
        },
    };
    let passed = Duration::from_millis(u64::try_from(now_ms() - since_ms).unwrap_or(0));
    Ok(Some(every.saturating_sub(passed)))
}

/// When the lake got its first readings, as far as it still knows; `None` where it has none.
async fn first_ms(store: &Store) -> anyhow::Result<Option<i64>> {
    let landed = store.list(&layout::LANDING.into()).await?.into_iter().map(|entry| entry.modified_ms).min();
    let closed = State::load(store).await?.days.keys().next().map(|day| day.start_ms());
    Ok(landed.into_iter().chain(closed).min())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::lake::{Created, Day, state::DayRuns};

    #[tokio::test]
    async fn training_is_due_an_interval_after_the_first_readings_or_the_last_model() {
        let store = Store::memory();
        let hour = Duration::from_secs(3_600);
        assert_eq!(due_in(&store, hour).await.unwrap(), None);
        let touch = async |key| {
            let _: Created = store.create(&key, Bytes::from_static(b"x")).await.unwrap();
        };
        touch(layout::landing_file("c", 0, 0)).await;
        let wait = due_in(&store, hour).await.unwrap().unwrap();
        assert!(wait > hour / 2 && wait <= hour, "{wait:?}");
        assert_eq!(due_in(&store, Duration::ZERO).await.unwrap(), Some(Duration::ZERO));

        // A history of long ago without any model wants one at once; a model that was just kept does not.
        let mut state = State::default();
        state.days.insert(Day::of(0), DayRuns::default());
        state.commit(&store).await.unwrap();
        assert_eq!(due_in(&store, hour).await.unwrap(), Some(Duration::ZERO));
        touch(layout::model_artifact("m-1")).await;
        assert!(due_in(&store, hour).await.unwrap() > Some(hour / 2));
    }
}
