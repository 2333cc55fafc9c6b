//! Reads a lake from Rust: `cargo run --release --example read_lake -- demo-lake`
//!
//! `vitals demo --keep demo-lake` makes one. It prints what is in force, which files make up the view, and the answer to a
//! query of your own, the second argument: `… -- demo-lake 'SELECT count(*) FROM readings'`.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use futures::TryStreamExt;
use vitals::{
    lake::{Store, Table, View, landing},
    query::{
        Engine, LocalEngine, Options, Statement,
        output::{Format, Style, writer},
    },
};

const SQL: &str = "SELECT device_id, count(*) AS readings, min(ts) AS first, max(ts) AS last \
                   FROM readings GROUP BY device_id ORDER BY device_id LIMIT 10";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().context("usage: read_lake FOLDER [SELECT]")?);
    let sql = args.next().unwrap_or_else(|| SQL.to_owned());
    // `Store::folder` makes a folder that is not there, which is not what somebody who reads wants.
    ensure!(folder.is_dir(), "there is no folder `{}`", folder.display());

    let store = Store::folder(&folder)?;
    let view = View::open(&store).await?;
    show_state(&view);
    show_files(&store, &view).await?;
    ask(&store, &sql).await
}

/// What the newest state says.
fn show_state(view: &View) {
    let state = &view.state;
    let upto = state.upto.map_or_else(|| "none".to_owned(), |day| day.to_string());
    println!("state {}: model {}, last closed day {upto}", state.n, state.model());
    for (day, runs) in &state.days {
        let rows = |table| runs.of(table).map_or(0, |run| run.rows);
        let scored = runs.scored_by.as_deref().unwrap_or("no model");
        println!("  {day}: {} readings, {} outliers, scored by {scored}", rows(Table::Readings), rows(Table::Outliers));
    }
    for (chain, partitions) in &state.cut {
        for (partition, cut) in partitions {
            println!("  {chain}/{partition}: closed days hold everything below offset {}", cut.offset);
        }
    }
}

/// The files that the view is made of.
async fn show_files(store: &Store, view: &View) -> anyhow::Result<()> {
    for table in Table::ALL {
        let files = view.run_files(table);
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        println!("{}: {} files of closed days, {bytes} bytes", table.name(), files.len());
    }
    for file in &view.landing {
        let footer = landing::footer(store, &file.key).await?;
        println!(
            "{}: offsets {} to {}, {} readings, {} dead letters",
            file.key, footer.first, footer.next, footer.readings, footer.dead
        );
    }
    println!();
    Ok(())
}

/// A person's SQL over the views, as a Markdown table. Rows come in batches: none is held longer than it takes to write it.
async fn ask(store: &Store, sql: &str) -> anyhow::Result<()> {
    let engine = LocalEngine::open(store.clone(), Options::default()).await?;
    let mut answer = engine.run(&Statement::of_person(sql)?).await?;
    let out = Box::new(std::io::stdout());
    let mut writer = writer(Format::Markdown, "sql", &answer.schema, Style::default(), false, out)?;
    while let Some(batch) = answer.batches.try_next().await? {
        writer.rows(&batch)?;
    }
    writer.finish(&Default::default())?;
    engine.take_warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    Ok(())
}
