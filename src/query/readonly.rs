//! What a person's own SQL may be: one query over the lake's views that reads and does nothing else.
//!
//! The text is parsed and its tree is looked through; nothing is searched for in the text. What is not known to be
//! harmless is refused.

use std::{collections::BTreeSet, ops::ControlFlow};

use datafusion::sql::sqlparser::{
    ast::{Expr, ObjectName, Query, Select, SetExpr, Statement, TableFactor, Visit, Visitor},
    dialect::GenericDialect,
    parser::Parser,
    tokenizer::{Token, Tokenizer},
};

use super::QueryError;

/// The tables that a person sees, for messages.
pub const TABLES_IN_WORDS: &str = "the tables `readings`, `outliers` and `dead_letters` \
     (their columns: SELECT table_name, column_name, data_type FROM information_schema.columns)";

/// A longer text is refused: going through its tree takes stack.
const MAX_TOKENS: usize = 4_000;

/// How deep parentheses and subqueries may go.
const MAX_NESTING: usize = 50;

/// How long a chain of operators may be (`a OR b OR c …` is a tree that is as deep as the chain is long). Engines recurse
/// through it: at 800 one overflows a stack of 2 MiB.
const MAX_CHAIN: usize = 200;

/// How many tables and SELECTs a query may put together, for the same reason.
const MAX_PARTS: usize = 200;

/// What a query is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The tables that it reads, but for those that it defines itself; without quotes, in lower case.
    pub tables: BTreeSet<String>,
    /// Whether it says itself how many rows it gives at most.
    pub limited: bool,
}

/// Checks that `text` is one query that only reads, and says what it is like.
pub fn check(text: &str) -> Result<Facts, QueryError> {
    let dialect = GenericDialect {};
    let unreadable = |message: String| QueryError::Sql { message: super::hint::tidy(&message), hint: None };
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location().map_err(|e| unreadable(e.to_string()))?;
    let words = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).count();
    if words > MAX_TOKENS {
        return Err(refused(format!("it has {words} words, at most {MAX_TOKENS} are taken")));
    }
    let statements = Parser::new(&dialect)
        .with_recursion_limit(MAX_NESTING)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|e| unreadable(e.to_string()))?;
    let statement = match statements.as_slice() {
        [one] => one,
        [] => return Err(refused("there is none".to_owned())),
        more => return Err(refused(format!("it is {} statements, not one", more.len()))),
    };
    let mut reader = Reader::default();
    if let ControlFlow::Break(what) = statement.visit(&mut reader) {
        return Err(refused(what.into()));
    }
    let limited = |query: &Query| query.limit_clause.is_some() || query.fetch.is_some();
    let limited = matches!(statement, Statement::Query(query) if limited(query));
    Ok(Facts { tables: reader.tables.difference(&reader.defined).cloned().collect(), limited })
}

fn refused(what: String) -> QueryError {
    QueryError::NotReadOnly { what }
}

/// Goes through the tree and stops at the first thing that is more than reading, or too much of it.
#[derive(Default)]
struct Reader {
    depth: usize,
    parts: usize,
    /// Every table that is named, and those that the query itself defines.
    tables: BTreeSet<String>,
    defined: BTreeSet<String>,
}

impl Reader {
    fn part(&mut self) -> ControlFlow<Box<str>> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return stop(format!("it puts together more than {MAX_PARTS} tables and SELECTs"));
        }
        ControlFlow::Continue(())
    }
}

fn stop(what: impl Into<String>) -> ControlFlow<Box<str>> {
    ControlFlow::Break(what.into().into_boxed_str())
}

impl Visitor for Reader {
    type Break = Box<str>;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Self::Break> {
        // Also those inside: `WITH x AS (DELETE …) SELECT …` has a statement in its tree.
        if matches!(statement, Statement::Query(_)) {
            return ControlFlow::Continue(());
        }
        let text = statement.to_string();
        let word = text.split_whitespace().next().unwrap_or("it").to_owned();
        stop(format!("{word} is not a query"))
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let mut bodies = vec![query.body.as_ref()];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) | SetExpr::Table(_) => {}
                SetExpr::SetOperation { left, right, .. } => bodies.extend([left.as_ref(), right.as_ref()]),
                SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                    return stop("it changes data");
                }
            }
        }
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        self.defined.extend(with.map(|table| table.alias.name.value.to_lowercase()));
        if !query.locks.is_empty() {
            return stop("it locks rows");
        }
        if query.settings.is_some() || query.format_clause.is_some() {
            return stop("it changes settings");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if select.into.is_some() { stop("SELECT INTO makes a table") } else { self.part() }
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<Self::Break> {
        // A name in quotes may be a file's or a place's to some engine; a table of ours never looks like one.
        let text = name.to_string();
        if text.chars().any(|c| matches!(c, '/' | '\\' | ':' | '\'')) {
            return stop(format!("{text} is not a table but a file's name"));
        }
        self.tables.insert(text.replace(['"', '`'], "").to_lowercase());
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table { args: None, version: None, .. }
            | TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. }
            | TableFactor::UNNEST { .. } => self.part(),
            other => stop(format!("{other} is not a table")),
        }
    }

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<Self::Break> {
        self.depth += 1;
        if self.depth > MAX_CHAIN {
            return stop(format!("it chains more than {MAX_CHAIN} operators: `x IN (…)` can be as long as you like"));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_taken() {
        for sql in [
            "SELECT 1",
            "select * from readings;",
            "WITH a AS (SELECT * FROM readings) SELECT count(*) FROM a",
            "(SELECT device_id FROM readings) UNION (SELECT device_id FROM outliers) ORDER BY 1",
            "VALUES (1, 'a'), (2, 'b')",
            "SELECT * FROM readings r JOIN outliers o USING (device_id) WHERE EXISTS (SELECT 1)",
            "SELECT 'drop table readings; insert into' AS x -- delete from readings",
            "SELECT * FROM information_schema.columns",
            "SELECT \"update\" FROM (SELECT 1 AS \"update\") AS t",
        ] {
            assert!(check(sql).is_ok(), "{sql}: {:?}", check(sql));
        }
    }

    #[test]
    fn whatever_is_more_than_one_query_is_refused() {
        for sql in [
            "",
            ";",
            "-- nothing",
            "DROP TABLE readings",
            "DELETE FROM readings",
            "INSERT INTO readings SELECT * FROM readings",
            "UPDATE readings SET heart_rate = 0",
            "MERGE INTO readings USING outliers ON true WHEN MATCHED THEN DELETE",
            "CREATE TABLE x AS SELECT * FROM readings",
            "CREATE VIEW x AS SELECT 1",
            "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE FUNCTION f() RETURNS INT AS 'x'",
            "COPY readings TO '/tmp/x.parquet'",
            "COPY (SELECT * FROM readings) TO '/tmp/x.csv'",
            "SET datafusion.execution.batch_size = 1",
            "RESET ALL",
            "SHOW ALL",
            "EXPLAIN ANALYZE DELETE FROM readings",
            "TRUNCATE TABLE readings",
            "ALTER TABLE readings ADD COLUMN x INT",
            "GRANT ALL ON readings TO public",
            "BEGIN",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "CALL x()",
            "USE x",
            "ATTACH 'x' AS y",
            "UNLOAD (SELECT * FROM readings) TO 's3://x'",
            "SELECT 1; SELECT 2",
            "SELECT 1; DROP TABLE readings",
            "SELECT * INTO x FROM readings",
            "WITH gone AS (DELETE FROM readings RETURNING *) SELECT * FROM gone",
            "WITH new AS (INSERT INTO readings VALUES (1) RETURNING *) SELECT * FROM new",
            "SELECT * FROM (INSERT INTO readings VALUES (1)) AS x",
            "WITH x AS (SELECT 1) INSERT INTO readings SELECT * FROM x",
            "WITH x AS (SELECT 1) UPDATE readings SET heart_rate = 0",
            "WITH x AS (SELECT 1) DELETE FROM readings",
            "SELECT 1 UNION ALL (SELECT * INTO y FROM readings)",
            "SELECT (SELECT * INTO y FROM readings)",
            "SELECT * FROM readings FOR UPDATE",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM \"/etc/passwd\"",
            "SELECT * FROM 'x.parquet'",
            "SELECT * FROM \"s3://bucket/key\"",
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM generate_series(1, 1000000000000)",
            "SELECT * FROM readings, LATERAL read_parquet('x')",
            "SELECT * FROM TABLE(read_csv('x'))",
            "SELECT 1 FROM readings WHERE heart_rate = (SELECT max(a) FROM read_csv('x') AS t(a))",
            "SELECT * FROM readings FOR SYSTEM_TIME AS OF '2020-01-01'",
        ] {
            assert!(check(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn the_tables_of_a_query_are_known() {
        let tables = |sql: &str| check(sql).unwrap().tables.into_iter().collect::<Vec<_>>();
        assert_eq!(tables("SELECT 1"), [""; 0]);
        assert_eq!(tables("WITH a AS (SELECT * FROM Readings) SELECT * FROM a, \"Other\".t"), ["other.t", "readings"]);
        assert_eq!(tables("SELECT (SELECT max(x) FROM b) FROM c WHERE y IN (SELECT z FROM d)"), ["b", "c", "d"]);
    }

    #[test]
    fn a_refusal_says_why() {
        let said = |sql: &str| check(sql).unwrap_err().to_string();
        assert_eq!(said("drop table readings"), "this SQL is not run: DROP is not a query");
        assert_eq!(said("SELECT 1; SELECT 2"), "this SQL is not run: it is 2 statements, not one");
        assert_eq!(said("SELECT * INTO x FROM readings"), "this SQL is not run: SELECT INTO makes a table");
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let refused = |sql: String| matches!(check(&sql), Err(QueryError::NotReadOnly { .. } | QueryError::Sql { .. }));
        assert!(refused(format!("SELECT {}", vec!["1"; 100_000].join("+"))));
        assert!(refused(format!("SELECT {}", vec!["1"; 1_900].join("+"))));
        assert!(refused(format!("SELECT 1{}", "::int".repeat(300))));
        assert!(refused(format!("SELECT 1{}", " IS NULL".repeat(300))));
        assert!(refused(format!("SELECT {}1{}", "(".repeat(1_500), ")".repeat(1_500))));
        assert!(refused(format!("{}SELECT 1{}", "SELECT * FROM (".repeat(900), ")".repeat(900))));
        assert!(refused(vec!["SELECT 1"; 300].join(" UNION ALL ")));
        assert!(refused(format!("SELECT 1 FROM {}", vec!["readings"; 300].join(" CROSS JOIN "))));
        let ids = vec!["'device_1'"; 1_900].join(",");
        assert!(check(&format!("SELECT * FROM readings WHERE device_id IN ({ids})")).is_ok());
    }
}
