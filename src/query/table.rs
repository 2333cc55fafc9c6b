//! A table over an exact list of the lake's files.
//!
//! Nothing is listed when a statement runs: which files make up a table follows from one state of the lake. Files whose
//! times or day lie outside what is asked for are not opened at all, and row groups and pages are passed over by their
//! statistics.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, StringArray, TimestampMillisecondArray},
    datatypes::{DataType, Field, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{Column, DFSchema, ScalarValue, Statistics, pruning::PruningStatistics, stats::Precision},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    error::{DataFusionError, Result},
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown, TableType, utils::conjunction},
    physical_optimizer::pruning::PruningPredicateBuilder,
    physical_plan::{ExecutionPlan, empty::EmptyExec},
};

use super::files::{Files, LakeFile, Readers};

/// The column of closed days' tables that names the day.
pub(super) const DAY_COLUMN: &str = "dt";

#[derive(Debug)]
pub(super) struct LakeTable {
    /// The columns that the files have.
    file_schema: SchemaRef,
    /// Those and the day.
    table: TableSchema,
    /// The column whose least and greatest value is known of each file.
    time_column: &'static str,
    listed: Vec<LakeFile>,
    files: Arc<Files>,
    url: ObjectStoreUrl,
}

impl LakeTable {
    /// A table of `listed` files; with `days`, each of them lies in one.
    pub(super) fn new(
        file_schema: SchemaRef,
        days: bool,
        time_column: &'static str,
        listed: Vec<LakeFile>,
        files: Arc<Files>,
        url: ObjectStoreUrl,
    ) -> LakeTable {
        let day: Vec<_> = days.then(|| Arc::new(Field::new(DAY_COLUMN, DataType::Utf8, false))).into_iter().collect();
        let table = TableSchema::builder(Arc::clone(&file_schema)).with_table_partition_cols(day).build();
        LakeTable { file_schema, table, time_column, listed, files, url }
    }

    /// The files that may hold rows that the filters let through.
    fn pruned(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<LakeFile>> {
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(self.listed.clone()) };
        let schema = self.table.table_schema();
        let filter = state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(schema))?)?;
        let pruning = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).build(filter);
        let Some(pruning) = pruning else { return Ok(self.listed.clone()) };
        let keep = pruning.prune(&Bounds(self))?;
        Ok(self.listed.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file.clone()).collect())
    }

    fn partitioned(&self, file: &LakeFile) -> PartitionedFile {
        let mut partitioned = PartitionedFile::new("", file.bytes);
        // Set as it is: making a path from text would encode it again.
        partitioned.object_meta.location = file.key.clone();
        let day = file.dt.iter().map(|day| ScalarValue::Utf8(Some(day.clone()))).collect();
        partitioned.with_partition_values(day)
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.table.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let candidates = self.pruned(state, filters)?;
        let checked = self.files.check(candidates, &self.file_schema).await;
        let checked = checked.map_err(|e| DataFusionError::External(Box::new(e)))?;
        if checked.is_empty() {
            let schema: SchemaRef = match projection {
                Some(columns) => Arc::new(self.schema().project(columns)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let mut statistics = Statistics::new_unknown(self.table.table_schema());
        let total = |count: u64| Precision::Inexact(usize::try_from(count).unwrap_or(usize::MAX));
        // Told so that a join puts the small side (the cuts) into memory, not this one.
        statistics.num_rows = total(checked.iter().map(|(_, rows)| rows).sum());
        statistics.total_byte_size = total(checked.iter().map(|(file, _)| file.bytes).sum());
        let files: Vec<_> = checked.iter().map(|(file, _)| self.partitioned(file)).collect();
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let readers = Arc::new(Readers(Arc::clone(&self.files)));
        let source = ParquetSource::new(self.table.clone()).with_parquet_file_reader_factory(readers);
        let scan = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // Files and pages are passed over by their statistics; the rows that remain are filtered above.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// What is known of each file without opening it.
struct Bounds<'a>(&'a LakeTable);

impl Bounds<'_> {
    fn of(&self, column: &Column, time: impl Fn((i64, i64)) -> i64) -> Option<ArrayRef> {
        let listed = &self.0.listed;
        if column.name == DAY_COLUMN {
            let days: StringArray = listed.iter().map(|file| file.dt.as_deref()).collect();
            return Some(Arc::new(days));
        }
        if column.name == self.0.time_column {
            let times: TimestampMillisecondArray = listed.iter().map(|file| file.times_ms.map(&time)).collect();
            return Some(Arc::new(times.with_timezone("UTC")));
        }
        None
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |(min, _)| min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column, |(_, max)| max)
    }

    fn num_containers(&self) -> usize {
        self.0.listed.len()
    }

    fn null_counts(&self, _column: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
