//! Reports of small lakes, and the server's rules.

mod lakes;
mod serving;
