//! The table for people: as wide as the terminal, one line a row, what does not fit is cut.
//!
//! Rows are laid out a page at a time, with the widths of the first page, so a table of any length takes the memory of
//! one page.

use std::io::{self, Write};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, SchemaRef},
};
use comfy_table::{
    Attribute, Cell as TableCell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Row, Table,
};

use super::{Cell, Column, Counts, Writer, cell::columns_of, escaped};
use crate::reading::{Vital, time::format_rfc3339_ms};

/// Rows that are laid out together.
const PAGE: usize = 1_000;

/// The space between two columns.
const GAP: usize = 2;

/// How narrow a long column of any query may become.
const FLOOR: usize = 12;

/// How a column of a known query is shown.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// Its heading.
    pub title: &'static str,
    /// The column of the rows.
    pub column: &'static str,
    /// Its values' form.
    pub show: Show,
    /// How narrow it may become; 0 where it is never cut.
    pub floor: usize,
    /// Columns with the highest number give way first where there is no room; 0 never does.
    pub rank: usize,
}

/// The form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// By its type.
    Plain,
    /// With so many decimals.
    Decimals(usize),
    /// This word where it is true, nothing else.
    Flag(&'static str),
    /// A NEWS2 sum, which is urgent from 5 and an emergency from 7.
    News2,
    /// Of `vital`: what was observed and what is usual, `heart rate 118 bpm (usual 72)`, with the columns `observed` and
    /// `usual`.
    StandsOut,
    /// Of a start: how long it is to the column `ended_at`, `1h 20m`.
    Lasted,
}

/// The columns that a table of a known query has.
pub type Shape = &'static [Shown];

/// How a table looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Its columns; all of them where it has no shape.
    pub shape: Option<Shape>,
    /// How many characters wide it may be; `None` for as wide as it is.
    pub width: Option<usize>,
    /// Whether the terminal takes colours.
    pub colour: bool,
}

/// A column of the table: where it comes from and how it is shown.
struct Planned {
    title: String,
    source: usize,
    show: Show,
    floor: usize,
    rank: usize,
    right: bool,
}

/// Where the columns are that say more of others; `None` where the rows have none such.
#[derive(Default)]
struct Beside {
    observed: Option<usize>,
    usual: Option<usize>,
    ended: Option<usize>,
    artifact: Option<usize>,
}

pub(super) struct TableWriter<'a> {
    out: Box<dyn Write + Send + 'a>,
    style: Style,
    planned: Vec<Planned>,
    beside: Beside,
    page: Vec<Vec<TableCell>>,
    /// The width of each column, `None` where it is hidden; known after the first page.
    widths: Option<Vec<Option<usize>>>,
    cut: bool,
}

impl<'a> TableWriter<'a> {
    pub(super) fn new(schema: &SchemaRef, style: Style, out: Box<dyn Write + Send + 'a>) -> TableWriter<'a> {
        let at = |name: &str| schema.index_of(name).ok();
        let (planned, beside) = match style.shape {
            Some(shape) => {
                let planned =
                    shape.iter().filter_map(|shown| Some(Planned::of_shape(shown, at(shown.column)?, schema)));
                let beside = Beside {
                    observed: at("observed"),
                    usual: at("usual"),
                    ended: at("ended_at"),
                    artifact: at("artifact"),
                };
                (planned.collect(), beside)
            }
            None => (plan_any(schema), Beside::default()),
        };
        TableWriter { out, style, planned, beside, page: Vec::new(), widths: None, cut: false }
    }

    fn row(&self, columns: &[Column], row: usize) -> Vec<TableCell> {
        let at = |source: Option<usize>| source.map_or(Cell::Null, |source| columns[source].cell(row));
        let dim = at(self.beside.artifact) == Cell::Bool(true);
        let cells = self.planned.iter().map(|planned| {
            let value = columns[planned.source].cell(row);
            let text = match planned.show {
                Show::StandsOut => stands_out(&value, &at(self.beside.observed), &at(self.beside.usual)),
                Show::Lasted => lasted(&value, &at(self.beside.ended)),
                show => shown(show, &value),
            };
            let mut cell = TableCell::new_owned(escaped(&text).into_owned());
            if planned.right {
                cell = cell.set_alignment(CellAlignment::Right);
            }
            match (planned.show, &value) {
                (Show::News2, Cell::Int(sum)) if *sum >= 7 => cell.fg(Color::Red),
                (Show::News2, Cell::Int(sum)) if *sum >= 5 => cell.fg(Color::Yellow),
                _ if dim => cell.add_attribute(Attribute::Dim),
                _ => cell,
            }
        });
        cells.collect()
    }

    /// Lays out and writes the rows that wait; the first time with the heading.
    fn write_page(&mut self) -> io::Result<()> {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING).force_no_tty().set_truncation_indicator("…");
        if self.style.colour {
            table.enforce_styling();
        }
        let first = self.widths.is_none();
        if first {
            let heading = |planned: &Planned| {
                let cell = TableCell::new(escaped(&planned.title)).add_attribute(Attribute::Bold);
                if planned.right { cell.set_alignment(CellAlignment::Right) } else { cell }
            };
            let mut heading = Row::from(self.planned.iter().map(heading).collect::<Vec<_>>());
            heading.max_height(1);
            table.set_header(heading);
        }
        for cells in self.page.drain(..) {
            let mut row = Row::from(cells);
            row.max_height(1);
            table.add_row(row);
        }
        let natural: Vec<usize> = table.column_max_content_widths().into_iter().map(usize::from).collect();
        let widths = match self.widths.take() {
            Some(widths) => widths,
            None => fit(&natural, &self.planned, self.style.width.unwrap_or(usize::MAX)),
        };
        let last = widths.iter().rposition(Option::is_some);
        // Dynamic, so that contents are cut to the widths; all of these are fixed.
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(u16::MAX);
        for (i, (column, width)) in table.column_iter_mut().zip(&widths).enumerate() {
            let gap = if Some(i) == last { 0 } else { GAP as u16 };
            column.set_padding((0, gap));
            column.set_constraint(match width {
                None => ColumnConstraint::Hidden,
                Some(width) => {
                    let width = u16::try_from(*width).unwrap_or(u16::MAX / 2);
                    ColumnConstraint::Absolute(comfy_table::Width::Fixed(width.saturating_add(gap)))
                }
            });
        }
        self.cut |= widths.iter().zip(&natural).any(|(width, natural)| width.is_none_or(|width| width < *natural));
        self.widths = Some(widths);
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Writer for TableWriter<'_> {
    fn rows(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let columns = columns_of(batch).map_err(io::Error::other)?;
        for row in 0..batch.num_rows() {
            let cells = self.row(&columns, row);
            self.page.push(cells);
            if self.page.len() == PAGE {
                self.write_page()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _counts: &Counts) -> io::Result<()> {
        if !self.page.is_empty() {
            self.write_page()?;
        }
        self.out.flush()
    }

    fn remark(&self) -> Option<String> {
        let widths = self.widths.as_ref().filter(|_| self.cut)?;
        let hidden: Vec<_> = self
            .planned
            .iter()
            .zip(widths)
            .filter(|(_, width)| width.is_none())
            .map(|(p, _)| p.title.as_str())
            .collect();
        let width = self.style.width.unwrap_or_default();
        let what = match hidden.as_slice() {
            [] => "long values are cut".to_owned(),
            few if few.len() <= 6 => format!("no room for {}", few.join(", ")),
            many => format!("no room for {} of {} columns", many.len(), widths.len()),
        };
        Some(format!("table cut to {width} characters: {what}; `--output json` or `csv` shows everything"))
    }
}

impl Planned {
    fn of_shape(shown: &Shown, source: usize, schema: &SchemaRef) -> Planned {
        let right = is_number(schema.field(source).data_type()) || shown.show == Show::Lasted;
        Planned { title: shown.title.to_owned(), source, show: shown.show, floor: shown.floor, rank: shown.rank, right }
    }
}

/// Every column of any query; those on the right give way first.
fn plan_any(schema: &SchemaRef) -> Vec<Planned> {
    let plan = |(i, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| Planned {
        title: field.name().clone(),
        source: i,
        show: Show::Plain,
        floor: if is_number(field.data_type()) || matches!(field.data_type(), DataType::Timestamp(..)) {
            0
        } else {
            FLOOR
        },
        rank: i,
        right: is_number(field.data_type()),
    };
    schema.fields().iter().enumerate().map(plan).collect()
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

/// The width of each column, `None` for those that have no room: as wide as their content where that fits.
fn fit(natural: &[usize], planned: &[Planned], total: usize) -> Vec<Option<usize>> {
    let least = |i: usize| if planned[i].floor == 0 { natural[i] } else { natural[i].min(planned[i].floor) };
    let mut widths: Vec<Option<usize>> = (0..natural.len()).map(|i| Some(least(i))).collect();
    let needed = |widths: &[Option<usize>]| {
        let shown = widths.iter().flatten().count();
        widths.iter().flatten().sum::<usize>() + GAP * shown.saturating_sub(1)
    };
    while needed(&widths) > total {
        let shown = (0..widths.len()).filter(|i| widths[*i].is_some());
        match shown.max_by_key(|i| planned[*i].rank).filter(|i| planned[*i].rank > 0) {
            Some(gives_way) => widths[gives_way] = None,
            None => break,
        }
    }
    // What room is left goes to those that need least of it to be whole.
    let mut spare = total.saturating_sub(needed(&widths));
    let mut order: Vec<usize> = (0..widths.len()).filter(|i| widths[*i].is_some()).collect();
    order.sort_by_key(|i| natural[*i] - least(*i));
    for i in order {
        if let Some(width) = &mut widths[i] {
            let more = (natural[i] - *width).min(spare);
            *width += more;
            spare -= more;
        }
    }
    // Where even the columns that never give way are too wide, the last of them is cut.
    let over = needed(&widths).saturating_sub(total);
    if let Some(width) = widths.iter_mut().flatten().next_back() {
        *width = width.saturating_sub(over).max(1);
    }
    widths
}

fn shown(show: Show, cell: &Cell<'_>) -> String {
    match (show, cell) {
        (_, Cell::Null) => String::new(),
        (Show::Decimals(decimals), Cell::Float(value)) => format!("{value:.decimals$}"),
        (Show::Flag(word), Cell::Bool(set)) => if *set { word } else { "" }.to_owned(),
        (_, Cell::Bool(value)) => value.to_string(),
        (_, Cell::Int(value)) => value.to_string(),
        (_, Cell::UInt(value)) => value.to_string(),
        (_, Cell::Float(value)) => number(*value),
        (_, Cell::Time(ms)) => moment(*ms),
        (_, Cell::Text(text)) => text.clone().into_owned(),
    }
}

/// A number with at most four decimals.
fn number(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e15).contains(&value.abs()) {
        return format!("{value:e}");
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `2026-11-23 05:00:00Z`, with milliseconds where there are any.
pub fn moment(ms: i64) -> String {
    format_rfc3339_ms(ms).replace('T', " ").replace(".000Z", "Z")
}

/// `45s`, `20m`, `1h 20m`, `3d 4h`: the two greatest units.
fn lasted(started: &Cell<'_>, ended: &Cell<'_>) -> String {
    let (Cell::Time(started), Cell::Time(ended)) = (started, ended) else { return String::new() };
    let seconds = (ended.saturating_sub(*started)).max(0) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let pair = |great, unit, small, small_unit| {
        if small == 0 { format!("{great}{unit}") } else { format!("{great}{unit} {small}{small_unit}") }
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => pair(minutes, "m", seconds % 60, "s"),
        (0, _, _) => pair(hours, "h", minutes, "m"),
        _ => pair(days, "d", hours, "h"),
    }
}

fn stands_out(vital: &Cell<'_>, observed: &Cell<'_>, usual: &Cell<'_>) -> String {
    let Cell::Text(name) = vital else { return String::new() };
    let Some(vital) = Vital::from_column(name) else { return name.clone().into_owned() };
    let decimals = if vital.resolution() < 1.0 { 1 } else { 0 };
    let mut text = vital.label().to_owned();
    if let Cell::Float(observed) = observed {
        text += &format!(" {observed:.decimals$} {}", vital.unit());
    }
    if let Cell::Float(usual) = usual {
        text += &format!(" (usual {usual:.decimals$})");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(floor: usize, rank: usize) -> Planned {
        Planned { title: String::new(), source: 0, show: Show::Plain, floor, rank, right: false }
    }

    #[test]
    fn columns_share_the_room() {
        let columns = [planned(0, 0), planned(5, 1), planned(8, 2)];
        assert_eq!(fit(&[10, 20, 30], &columns, 200), [Some(10), Some(20), Some(30)]);
        // 10 + 5 + 8 + 4 = 27 at least; the column that lacks least gets the rest first.
        assert_eq!(fit(&[10, 20, 30], &columns, 30), [Some(10), Some(8), Some(8)]);
        assert_eq!(fit(&[10, 20, 30], &columns, 26), [Some(10), Some(14), None]);
        assert_eq!(fit(&[10, 20, 30], &columns, 12), [Some(10), None, None]);
        assert_eq!(fit(&[10, 20, 30], &columns, 4), [Some(4), None, None]);
        assert_eq!(fit(&[], &[], 4), []);
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(72.0, "72"), (36.66667, "36.6667"), (0.0, "0"), (-1.5, "-1.5"), (1e20, "1e20"), (1e-5, "1e-5")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn what_stands_out_has_its_unit() {
        let said = |vital: &'static str, observed, usual| stands_out(&Cell::Text(vital.into()), &observed, &usual);
        assert_eq!(said("heart_rate", Cell::Float(118.4), Cell::Float(71.6)), "heart rate 118 bpm (usual 72)");
        assert_eq!(said("temperature", Cell::Float(39.05), Cell::Null), "temperature 39.0 °C");
        assert_eq!(said("spo2", Cell::Null, Cell::Null), "SpO2");
        assert_eq!(stands_out(&Cell::Null, &Cell::Null, &Cell::Null), "");
    }

    #[test]
    fn lengths_have_their_two_greatest_units() {
        let said = |seconds: i64| lasted(&Cell::Time(5), &Cell::Time(5 + seconds * 1000));
        let cases = [(0, "0s"), (59, "59s"), (90, "1m 30s"), (4800, "1h 20m"), (7200, "2h"), (273_600, "3d 4h")];
        for (seconds, text) in cases {
            assert_eq!(said(seconds), text);
        }
        assert_eq!(lasted(&Cell::Null, &Cell::Time(1)), "");
    }

    #[test]
    fn times_are_in_utc_to_the_second() {
        assert_eq!(moment(1_700_000_000_000), "2023-11-14 22:13:20Z");
        assert_eq!(moment(1_700_000_000_250), "2023-11-14 22:13:20.250Z");
    }
}
