//! Calls to the registry, bounded.

use std::time::Duration;

use tessera_registry::RegistryError;
use tokio::time::timeout;

/// The call's outcome, or that there was none in time.
pub(crate) async fn bounded<T>(
    bound: Duration,
    call: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    timeout(bound, call).await.unwrap_or_else(|_| Err(RegistryError::Unavailable(format!("no answer within {bound:?}"))))
}
