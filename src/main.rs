//! The program. All of it is in the library, so that it is compiled once for the program and the tests.

fn main() -> std::process::ExitCode {
    vitals::cli::main()
}
