//! Verdicts as rows of the lake.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
        TimestampMillisecondBuilder,
    },
    datatypes::SchemaRef,
    error::ArrowError,
};

use crate::{
    model::Verdict,
    reading::{Reading, VITALS, Vitals, columns},
};

/// Where a row came from.
#[derive(Debug, Clone, Copy)]
pub struct RowOrigin<'a> {
    pub chain: &'a str,
    pub partition: i32,
    pub first: i64,
    pub offset: i64,
    pub item: i32,
}

/// Rows of outliers being gathered.
pub struct OutlierRows {
    model: String,
    device: StringBuilder,
    ts: TimestampMillisecondBuilder,
    episode: TimestampMillisecondBuilder,
    score: Float64Builder,
    artifact: BooleanBuilder,
    cause: StringBuilder,
    vital: StringBuilder,
    usual: Float64Builder,
    observed: Float64Builder,
    why: StringBuilder,
    contributions: [Float64Builder; VITALS],
    risk: Float64Builder,
    news2: Int32Builder,
    vitals: [Float64Builder; VITALS],
    arrived: TimestampMillisecondBuilder,
    seq: Int64Builder,
    models: StringBuilder,
    origin: Option<OriginRows>,
}

#[derive(Default)]
struct OriginRows {
    chain: StringBuilder,
    partition: Int32Builder,
    first: Int64Builder,
    offset: Int64Builder,
    item: Int32Builder,
}

fn number(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn append(builders: &mut [Float64Builder; VITALS], values: &Vitals) {
    builders.iter_mut().zip(values).for_each(|(builder, &value)| builder.append_option(number(value)));
}

impl OutlierRows {
    /// No rows yet; `with_origin` for those of a landing file.
    pub fn new(model: &str, with_origin: bool) -> OutlierRows {
        let times = || TimestampMillisecondBuilder::new().with_timezone("UTC");
        OutlierRows {
            model: model.to_owned(),
            device: StringBuilder::new(),
            ts: times(),
            episode: times(),
            score: Float64Builder::new(),
            artifact: BooleanBuilder::new(),
            cause: StringBuilder::new(),
            vital: StringBuilder::new(),
            usual: Float64Builder::new(),
            observed: Float64Builder::new(),
            why: StringBuilder::new(),
            contributions: Default::default(),
            risk: Float64Builder::new(),
            news2: Int32Builder::new(),
            vitals: Default::default(),
            arrived: times(),
            seq: Int64Builder::new(),
            models: StringBuilder::new(),
            origin: with_origin.then(OriginRows::default),
        }
    }

    /// One outlier or artifact.
    pub fn push(&mut self, device: &str, reading: &Reading, verdict: &Verdict, origin: Option<RowOrigin<'_>>) {
        self.device.append_value(device);
        self.ts.append_value(reading.ts_ms);
        self.episode.append_value(verdict.episode_start_ms.unwrap_or(reading.ts_ms));
        self.score.append_value(if verdict.score.is_finite() { verdict.score } else { f64::MAX });
        self.artifact.append_value(verdict.artifact);
        self.cause.append_value(verdict.cause.code());
        self.vital.append_option(verdict.vital.map(|vital| vital.column()));
        self.usual.append_option(number(verdict.usual));
        self.observed.append_option(number(verdict.observed));
        self.why.append_value(verdict.sentence());
        let contributions = verdict.contributions.map(|c| if c.is_finite() { c } else { 0.0 });
        append(&mut self.contributions, &contributions);
        self.risk.append_value(number(verdict.risk).unwrap_or(0.0));
        self.news2.append_option(verdict.news2.map(i32::from));
        append(&mut self.vitals, &reading.vitals);
        self.arrived.append_value(reading.arrived_ms);
        self.seq.append_option(reading.seq);
        self.models.append_value(&self.model);
        if let (Some(rows), Some(origin)) = (&mut self.origin, origin) {
            rows.chain.append_value(origin.chain);
            rows.partition.append_value(origin.partition);
            rows.first.append_value(origin.first);
            rows.offset.append_value(origin.offset);
            rows.item.append_value(origin.item);
        }
    }

    /// The rows gathered so far, in the order in which they came.
    pub fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(self.device.finish()),
            Arc::new(self.ts.finish()),
            Arc::new(self.episode.finish()),
            Arc::new(self.score.finish()),
            Arc::new(self.artifact.finish()),
            Arc::new(self.cause.finish()),
            Arc::new(self.vital.finish()),
            Arc::new(self.usual.finish()),
            Arc::new(self.observed.finish()),
            Arc::new(self.why.finish()),
        ];
        arrays.extend(self.contributions.iter_mut().map(|c| Arc::new(c.finish()) as ArrayRef));
        arrays.extend([Arc::new(self.risk.finish()) as ArrayRef, Arc::new(self.news2.finish())]);
        arrays.extend(self.vitals.iter_mut().map(|v| Arc::new(v.finish()) as ArrayRef));
        arrays.extend([
            Arc::new(self.arrived.finish()) as ArrayRef,
            Arc::new(self.seq.finish()),
            Arc::new(self.models.finish()),
        ]);
        let mut schema: SchemaRef = Arc::clone(&columns::OUTLIER);
        if let Some(mut rows) = self.origin {
            schema = Arc::clone(&columns::SCORED);
            arrays.extend([
                Arc::new(rows.chain.finish()) as ArrayRef,
                Arc::new(rows.partition.finish()),
                Arc::new(rows.first.finish()),
                Arc::new(rows.offset.finish()),
                Arc::new(rows.item.finish()),
            ]);
        }
        RecordBatch::try_new(schema, arrays)
    }
}
