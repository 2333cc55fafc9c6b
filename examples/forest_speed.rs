//! How fast the built-in model's forests are, on inputs from a file; for `benches/lightgbm/run`.
//!
//! Without arguments it prints how many inputs the head and the row forest have. With `INPUTS SUMS` it reads a `u32`
//! number of readings, then six rows of head inputs for each of them, then a row of row inputs for each (`f32`,
//! little-endian), prints readings per second of the best of five passes, and writes the sums in the same order.

use std::time::Instant;

use vitals::{
    model::{
        Model,
        forest::{Forest, LANES},
    },
    reading::VITALS,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Model::builtin();
    let [head, row] = model.forests();
    let [head_width, row_width] = Model::FOREST_INPUTS;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [inputs, sums] = arguments.as_slice() else {
        println!("{head_width} {row_width}");
        return Ok(());
    };
    let bytes = std::fs::read(inputs)?;
    let numbers: Vec<f32> = bytes[4..].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let readings = u32::from_le_bytes(bytes[..4].try_into()?) as usize;
    let (cells, rows) = numbers.split_at(readings * VITALS * head_width);
    let lanes = side_by_side(cells, head_width);

    let mut best = f64::INFINITY;
    let mut found = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let begun = Instant::now();
        found = judge(head, &lanes, head_width, row, rows, row_width);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    println!("{:.0}", readings as f64 / best);
    let sums_of: Vec<u8> = found.0.iter().chain(&found.1).flat_map(|sum| sum.to_le_bytes()).collect();
    std::fs::write(sums, sums_of)?;
    Ok(())
}

/// Six rows of each reading, input by input, as a reading's vitals are when it is scored.
fn side_by_side(cells: &[f32], width: usize) -> Vec<[f32; LANES]> {
    let reading = |rows: &[f32]| {
        let lane =
            |input: usize| std::array::from_fn(|lane| if lane < VITALS { rows[lane * width + input] } else { 0.0 });
        (0..width).map(lane).collect::<Vec<_>>()
    };
    cells.chunks_exact(VITALS * width).flat_map(reading).collect()
}

fn judge(
    head: &Forest,
    lanes: &[[f32; LANES]],
    head_width: usize,
    row: &Forest,
    rows: &[f32],
    row_width: usize,
) -> (Vec<f32>, Vec<f32>) {
    let (mut heads, mut all) = (Vec::new(), Vec::new());
    for (lanes, inputs) in lanes.chunks_exact(head_width).zip(rows.chunks_exact(row_width)) {
        heads.extend_from_slice(&head.sums(lanes)[..VITALS]);
        all.push(row.sum(inputs));
    }
    (heads, all)
}
