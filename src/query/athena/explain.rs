//! What Athena and its engine say, in words that help.

use aws_sdk_athena::{
    error::{ProvideErrorMetadata, SdkError},
    types::{QueryExecution, QueryExecutionState},
};

use super::{QueryError, Target};
use crate::{
    aws::clients::{self, causes},
    query::hint::{nearest, tidy},
};

/// A call that AWS refused, or that did not reach it; `doing` is the beginning of a sentence.
pub(super) fn refused<E, R>(doing: &str, error: &SdkError<E, R>, target: &Target) -> QueryError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let Some(said) = error.as_service_error() else {
        let causes = causes(error);
        // Credentials are looked for when the first request is signed.
        let no_access = causes.contains("no AWS credentials") || causes.contains("credentials provider");
        return QueryError::Refused { what: format!("{doing}: {causes}"), hint: None, no_access };
    };
    let (code, message) = (said.code().unwrap_or("an error"), said.message().unwrap_or("no reason"));
    let what = format!("{doing}: {} ({code})", message.trim_end_matches('.'));
    let no_access = clients::NOT_GOOD.contains(&code);
    let Target { work_group, region, .. } = target;
    let hint = if no_access {
        Some("`aws sso login`, or new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN".to_owned())
    } else if code == "AccessDeniedException" {
        Some(format!(
            "who asks needs athena:StartQueryExecution, GetQueryExecution, GetQueryResults and StopQueryExecution on \
             the work group `{work_group}`"
        ))
    } else if code == "TooManyRequestsException" || code == "ThrottlingException" {
        Some("the account runs many queries now: try again in a while".to_owned())
    } else if message.contains("WorkGroup") && message.contains("not found") {
        Some(format!("`vitals status` shows whether the stack is there in {region}; `vitals deploy` makes it"))
    } else if message.contains("utput location") {
        Some(format!("the work group `{work_group}` has no place for results: `vitals deploy` gives it one"))
    } else {
        None
    };
    match message.strip_prefix("Queries of this type are not supported").or(message.strip_prefix("line ")) {
        Some(_) => of_engine(message, target),
        None => QueryError::Refused { what, hint, no_access },
    }
}

/// The same of a call that names a query.
pub(super) fn of_query<E, R>(id: &str, error: &SdkError<E, R>, target: &Target) -> QueryError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    let message = error.as_service_error().and_then(|said| said.message()).unwrap_or_default();
    let unknown = message.contains("not found") || message.contains("malformed");
    if unknown && error.as_service_error().and_then(|said| said.code()) == Some("InvalidRequestException") {
        return QueryError::NoSuchQuery { id: id.to_owned() };
    }
    refused(&format!("following query {id}"), error, target)
}

/// How a query ended.
pub(super) fn outcome(query: &QueryExecution, target: &Target) -> Result<(), QueryError> {
    let status = query.status();
    let reason = status.and_then(|status| status.state_change_reason());
    let reason = reason.or_else(|| status.and_then(|status| status.athena_error()).and_then(|e| e.error_message()));
    match status.and_then(|status| status.state()) {
        Some(QueryExecutionState::Succeeded) => Ok(()),
        Some(QueryExecutionState::Cancelled) if reason.is_none_or(|reason| !reason.contains("limit was exceeded")) => {
            let id = query.query_execution_id().unwrap_or_default();
            Err(QueryError::Failed(format!("query {id} was cancelled: {}", reason.unwrap_or("somebody stopped it"))))
        }
        _ => Err(of_engine(reason.unwrap_or("Athena gives no reason"), target)),
    }
}

/// What the engine said of a query that failed.
fn of_engine(reason: &str, target: &Target) -> QueryError {
    let Target { work_group, database, .. } = target;
    let refused =
        |what: String, hint: &str| QueryError::Refused { what, hint: Some(hint.to_owned()), no_access: false };
    let plain = without_place(reason);
    let has = |text: &str| reason.contains(text);
    if has("Bytes scanned limit was exceeded") {
        return refused(
            format!("the query read more than the work group `{work_group}` allows, and was stopped"),
            "ask for a shorter time (`--since`, `--until`, `WHERE ts >= …`); what it read is billed",
        );
    }
    if has("TABLE_NOT_FOUND") || has("SCHEMA_NOT_FOUND") || (has("does not exist") && has("able ")) {
        return refused(
            format!("a table or view of the database `{database}` is missing: {plain}"),
            "`vitals compact --catalogue-only --target aws` puts them in force, `vitals deploy` makes the database; \
             `vitals status` shows the stack",
        );
    }
    if has("VIEW_IS_STALE") || has("HIVE_METASTORE_ERROR") {
        return refused(
            plain.to_owned(),
            "`vitals compact --catalogue-only --target aws` puts the tables and views in force again",
        );
    }
    if has("COLUMN_NOT_FOUND") || has("cannot be resolved") {
        let column = reason.split('\'').nth(1).unwrap_or_default().rsplit('.').next().unwrap_or_default().to_owned();
        let columns: Vec<String> = crate::lake::Table::ALL
            .iter()
            .flat_map(|table| table.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>())
            .collect();
        let near = nearest(&column, columns.iter().map(String::as_str), 1);
        let hint = near.first().map(|near| format!("did you mean `{near}`?"));
        return QueryError::Sql { message: format!("there is no column `{column}`"), hint };
    }
    if has("Access Denied") || has("AccessDenied") || has("nsufficient permissions") || has("not authorized") {
        return refused(
            plain.to_owned(),
            "who asks needs s3:GetObject and s3:ListBucket on the lake, kms:Decrypt with its key, and to read Glue's tables",
        );
    }
    if has("exhausted resources") {
        return refused(plain.to_owned(), "ask for a shorter time, or for less at once");
    }
    // What the person wrote, rather than what the engine met.
    let codes = ["SYNTAX_ERROR", "TYPE_MISMATCH", "FUNCTION_NOT_FOUND", "INVALID_", "mismatched input", "line 1:"];
    if codes.iter().any(|code| has(code)) {
        return QueryError::Sql { message: tidy(plain), hint: None };
    }
    QueryError::Failed(tidy(plain))
}

/// `CODE: line 1:8: what is wrong. If a data manifest file …` without what says nothing to people.
fn without_place(reason: &str) -> &str {
    let mut text = reason.trim();
    let is_code = |code: &str| code.contains('_') && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if let Some((code, rest)) = text.split_once(": ")
        && is_code(code)
    {
        text = rest;
    }
    let is_place = |place: &str| place.bytes().all(|b| b.is_ascii_digit() || b == b':');
    if let Some((place, rest)) = text.strip_prefix("line ").and_then(|rest| rest.split_once(": "))
        && is_place(place)
    {
        text = rest;
    }
    text.split(" If a data manifest file").next().unwrap_or(text).trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(reason: &str) -> (String, String) {
        let target = Target { region: "eu-west-1".into(), work_group: "vitals".into(), database: "vitals_db".into() };
        let error = of_engine(reason, &target);
        (error.to_string(), error.hint().unwrap_or_default())
    }

    #[test]
    fn reasons_become_words_with_what_to_do() {
        let (text, hint) = said("Query cancelled! : Bytes scanned limit was exceeded");
        assert!(text.contains("more than the work group `vitals` allows") && hint.contains("--since"), "{text} {hint}");
        let (text, hint) = said("TABLE_NOT_FOUND: line 3:6: Table 'awsdatacatalog.vitals_db.readings' does not exist");
        assert!(text.ends_with("missing: Table 'awsdatacatalog.vitals_db.readings' does not exist"), "{text}");
        assert!(hint.contains("vitals deploy") && hint.contains("vitals status"), "{hint}");
        let (text, hint) = said(
            "COLUMN_NOT_FOUND: line 1:8: Column 'hart_rate' cannot be resolved or requester is not \
             authorized to access requested resources",
        );
        assert_eq!((text.as_str(), hint.as_str()), ("there is no column `hart_rate`", "did you mean `heart_rate`?"));
        let (text, _) = said("SYNTAX_ERROR: line 1:8: Unexpected parameters (varchar) for function sqrt.");
        assert_eq!(text, "unexpected parameters (varchar) for function sqrt");
        let (text, hint) = said("Access Denied (Service: Amazon S3; Status Code: 403)");
        assert!(text.contains("Status Code: 403") && hint.contains("s3:GetObject"), "{text}");
        let (text, _) = said("GENERIC_INTERNAL_ERROR: something broke");
        assert_eq!(text, "the query engine failed: something broke");
    }
}
