//! All of it at once.

use anyhow::Result;
use tessera_tests::storm::storm;

use crate::harness::alone;

#[tokio::test]
async fn a_storm_of_faults_changes_no_token_and_leaves_nothing_behind() -> Result<()> {
    let _alone = alone().await;
    storm(25, 1, |line| println!("{line}")).await?;
    Ok(())
}
