//! Reflection, in the version of today and in the one that many tools still ask for.

use tonic::{codec::CompressionEncoding::Gzip, service::RoutesBuilder};
use tonic_reflection::{pb, server::Builder};

/// Services that every process has.
const COMMON: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
const DESCRIPTORS: [&[u8]; 4] = [
    tessera_proto::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    pb::v1::FILE_DESCRIPTOR_SET,
    pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Descriptors that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reflection cannot be served: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// Adds reflection v1 and v1alpha over `services` of Tessera's schema, health, and reflection itself.
pub fn reflection(routes: &mut RoutesBuilder, services: &[&str]) -> Result<(), ReflectionError> {
    let builder = || {
        let builder = Builder::configure().include_reflection_service(false);
        let builder = DESCRIPTORS.iter().fold(builder, |builder, set| builder.register_encoded_file_descriptor_set(set));
        services.iter().chain(&COMMON).fold(builder, |builder, service| builder.with_service_name(*service))
    };
    routes.add_service(builder().build_v1()?.accept_compressed(Gzip).send_compressed(Gzip));
    routes.add_service(builder().build_v1alpha()?.accept_compressed(Gzip).send_compressed(Gzip));
    Ok(())
}
