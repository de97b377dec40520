//! Reflection, as grpcurl asks for it: in both versions.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorProto;
use tokio_stream::once;

use crate::support::{INFERENCE, Process, soon};

const LISTED: [&str; 4] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", INFERENCE];

/// Asks in the version `$version`; gives the services listed, and the files that describe `$symbol`.
macro_rules! ask {
    ($version:ident, $channel:expr, $symbol:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new($channel);
        let mut answers = Vec::new();
        for message in [MessageRequest::ListServices(String::new()), MessageRequest::FileContainingSymbol($symbol.to_owned())] {
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
            let mut stream = soon(client.server_reflection_info(once(request))).await.unwrap().into_inner();
            answers.push(soon(stream.message()).await.unwrap().unwrap().message_response.unwrap());
        }
        let [MessageResponse::ListServicesResponse(list), MessageResponse::FileDescriptorResponse(files)] = &answers[..] else {
            panic!("{answers:?}");
        };
        let services: BTreeSet<_> = list.service.iter().map(|service| service.name.clone()).collect();
        let files: Vec<_> =
            files.file_descriptor_proto.iter().map(|file| FileDescriptorProto::decode(&file[..]).unwrap()).collect();
        (services, files)
    }};
}

fn check((services, files): (BTreeSet<String>, Vec<FileDescriptorProto>), package: &str, service: &str, method: &str) {
    assert_eq!(services, LISTED.map(String::from).into());
    let file = files.iter().find(|file| file.package() == package).expect("the package's file");
    let service = file.service.iter().find(|described| described.name() == service).expect("the service");
    assert!(service.method.iter().any(|described| described.name() == method), "{service:?}");
}

#[tokio::test]
async fn both_versions_list_every_service_and_describe_ours_and_healths() {
    let process = Process::start(std::time::Duration::from_secs(1), std::time::Duration::ZERO).await;
    check(ask!(v1, process.channel(), INFERENCE), "tessera.v1", "Inference", "Generate");
    check(ask!(v1alpha, process.channel(), INFERENCE), "tessera.v1", "Inference", "Generate");
    check(ask!(v1, process.channel(), "grpc.health.v1.Health"), "grpc.health.v1", "Health", "Check");
    check(
        ask!(v1alpha, process.channel(), "grpc.reflection.v1.ServerReflection"),
        "grpc.reflection.v1",
        "ServerReflection",
        "ServerReflectionInfo",
    );
}
