//! Files: fetched over a line that is online, and over no other.

use crate::provider::contract::FetchError;
use crate::session::Verb;
use crate::session::testing::*;

#[tokio::test]
async fn a_file_comes_over_the_line_while_it_is_online() {
    let h = Harness::new(quick()).await;
    let name = h.online("a").await;
    let mut chunks = h.supervisor.fetch(&name, b"a file").await.unwrap();
    assert_eq!(chunks.recv().await.unwrap(), "a file");
    assert_eq!(chunks.recv().await, None);

    h.supervisor.command(&name, Verb::Stop, None).await.unwrap();
    h.reach(&name, "STOPPED").await;
    let refused = h.supervisor.fetch(&name, b"a file").await;
    assert_eq!(refused.unwrap_err(), FetchError::NotConnected);
}
