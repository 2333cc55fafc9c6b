//! Makes the built-in model anew, after a change of the model's arithmetic: `cargo run --release --example make_builtin`
//! writes `src/model/builtin.bin`. A test checks that the file is what this gives.

fn main() -> std::io::Result<()> {
    let model = vitals::model::training::make_builtin(0);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/builtin.bin");
    std::fs::write(&path, model.to_bytes())?;
    println!("{} bytes in {}", model.to_bytes().len(), path.display());
    Ok(())
}
