//! Reflection, in the version of today and in the one that many tools still ask for.

use tonic::service::RoutesBuilder;
use tonic_reflection::server::Builder;

/// Descriptors that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("reflection cannot be served: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// Adds reflection v1 and v1alpha over `services` of Tessera's schema, health, and reflection itself.
pub fn reflection(routes: &mut RoutesBuilder, services: &[&str]) -> Result<(), ReflectionError> {
    let builder = || {
        let described = Builder::configure()
            .register_encoded_file_descriptor_set(tessera_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        services.iter().fold(described, |builder, service| builder.with_service_name(*service))
    };
    routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    Ok(())
}
