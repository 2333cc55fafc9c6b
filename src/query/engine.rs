//! What an engine does: a statement in, rows out.
//!
//! An engine sees one consistent picture of the lake, and keeps it from statement to statement while it can, so that the
//! rows of one answer and their count belong together.

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use async_trait::async_trait;
use futures::{TryStreamExt, stream::BoxStream};
use object_store::path::Path;

use super::{QueryError, Statement};
use crate::lake::View;

/// The rows of an answer, as they come.
pub struct Answer {
    /// Their columns.
    pub schema: SchemaRef,
    /// The rows; nothing may be taken as complete before the stream has ended without an error.
    pub batches: BoxStream<'static, Result<RecordBatch, QueryError>>,
}

impl Answer {
    /// All rows at once, for answers that are known to be small.
    pub async fn collect(self) -> Result<Vec<RecordBatch>, QueryError> {
        self.batches.try_collect().await
    }
}

/// An engine that runs statements over a lake's views.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Starts a statement. Dropping the answer stops it.
    async fn run(&self, statement: &Statement) -> Result<Answer, QueryError>;

    /// The picture of the lake that statements see now.
    async fn current_view(&self) -> Result<View, QueryError>;

    /// Leaves out files of the lake that can't be read now; whoever asks says so. Athena leaves them out by itself.
    fn leave_out(&self, _keys: &[Path]) {}

    /// What people should know beside the rows, each said once: files that were left out, and why.
    fn take_warnings(&self) -> Vec<String>;

    /// The bytes of data that were read for all statements so far.
    fn bytes_scanned(&self) -> u64;

    /// What those statements cost, in US dollars, where they cost anything but time.
    fn dollars(&self) -> Option<f64> {
        None
    }
}
