//! A server on this machine that answers in AWS's words, for tests: what a service would say, and what it was asked.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// What was asked for, such as `StartQueryExecution`; of a service that speaks REST, method and path.
    pub operation: String,
    /// The how-manieth request for that it is, from 0.
    pub n: usize,
    pub body: Value,
    /// The header that signs it.
    pub authorization: String,
}

/// A server with its questions so far. It ends with the test's runtime.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Replay {
    /// Answers each request with a status and a body.
    pub(crate) async fn start(answer: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> Replay {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let replay = Replay { endpoint, asked: Arc::default() };
        let (seen, answer) = (Arc::clone(&replay.asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                let service = service_fn(move |request| {
                    let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                    async move {
                        let asked = read(request, &seen).await;
                        let (status, body) = answer(&asked);
                        let response = Response::builder().status(status).header("x-amzn-requestid", "replayed");
                        let response = response.header("content-type", "application/x-amz-json-1.1");
                        // A text is XML, or whatever else a service writes.
                        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
                        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(text))).unwrap())
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        replay
    }

    /// Every request so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The bodies of the requests for one operation.
    pub(crate) fn bodies(&self, operation: &str) -> Vec<Value> {
        self.asked().into_iter().filter(|asked| asked.operation == operation).map(|asked| asked.body).collect()
    }

    /// How often each operation was asked for.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        self.asked().into_iter().for_each(|asked| *counts.entry(asked.operation).or_default() += 1);
        counts
    }

    /// What a client of an SDK is made from to come here; it tries again after a millisecond.
    pub(crate) fn config(&self) -> SdkConfig {
        let credentials = Credentials::new("AKIDEXAMPLE", "of-a-test", None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&self.endpoint)
            .region(Region::new("eu-central-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .retry_config(RetryConfig::standard().with_initial_backoff(std::time::Duration::from_millis(1)))
            .build()
    }
}

async fn read(request: Request<Incoming>, seen: &Mutex<Vec<Asked>>) -> Asked {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let target = header("x-amz-target");
    let mut operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    // Of a service that speaks REST.
    let place = format!("{} {}", request.method(), request.uri());
    let authorization = header("authorization");
    let bytes = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if operation.is_empty() {
        let mut form = url::form_urlencoded::parse(&bytes);
        operation = form.find(|(name, _)| name == "Action").map_or(place, |(_, action)| action.into_owned());
    }
    let mut seen = seen.lock().unwrap();
    let n = seen.iter().filter(|asked| asked.operation == operation).count();
    let asked = Asked { operation, n, body, authorization };
    seen.push(asked.clone());
    asked
}
